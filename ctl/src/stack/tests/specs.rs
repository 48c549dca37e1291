//! What files mean.

use serde_json::Value;

use super::{load_all, load_in, web};
use crate::stack::to_yaml;

/// Checks values of the spec by JSON pointer; `null` is for absence.
fn check(name: &str, texts: &[&str], expected: &[(&str, &str)]) {
    let loaded = load_all(texts).unwrap_or_else(|p| panic!("{name}:\n{p}"));
    let spec = serde_json::to_value(&loaded.spec).unwrap();
    for (pointer, json) in expected {
        let found = spec.pointer(pointer).unwrap_or(&Value::Null);
        let wanted: Value = serde_json::from_str(json).unwrap();
        assert_eq!(*found, wanted, "{name}: {pointer} in\n{spec:#}");
    }
}

const C: &str = "/Services/web/TaskTemplate/ContainerSpec";
const T: &str = "/Services/web/TaskTemplate";

fn check_web(lines: &str, expected: &[(&str, &str)]) {
    let expected: Vec<(String, &str)> = expected
        .iter()
        .map(|(pointer, json)| match pointer.strip_prefix("C/") {
            Some(rest) => (format!("{C}/{rest}"), *json),
            None => match pointer.strip_prefix("T/") {
                Some(rest) => (format!("{T}/{rest}"), *json),
                None => (format!("/Services/web/{pointer}"), *json),
            },
        })
        .collect();
    let expected: Vec<(&str, &str)> = expected.iter().map(|(p, j)| (p.as_str(), *j)).collect();
    check(lines, &[&web(lines)], &expected);
}

#[test]
fn the_smallest_stack() {
    let label = r#"{"com.docker.stack.namespace": "shop"}"#;
    check(
        "smallest",
        &["version: '3.8'\nservices:\n  web:\n    image: nginx\n"],
        &[
            ("/Name", "\"shop\""),
            ("/Services/web/Name", "\"shop_web\""),
            ("/Services/web/Labels", label),
            ("/Services/web/Mode", r#"{"Replicated": {"Replicas": 1}}"#),
            (C, &format!(r#"{{"Image": "nginx", "Labels": {label}}}"#)),
            ("/Services/web/TaskTemplate/Networks", r#"[{"Target": "shop_default"}]"#),
            ("/Networks/default/Name", "\"shop_default\""),
            ("/Networks/default/Labels", label),
            ("/Networks/default/Driver", "\"overlay\""),
            ("/Services/web/EndpointSpec", "null"),
            ("/Services/web/TaskTemplate/RestartPolicy", "null"),
        ],
    );
}

#[test]
fn containers() {
    check_web(
        "command: nginx -g 'daemon off;'",
        &[("C/Args", r#"["nginx", "-g", "daemon off;"]"#)],
    );
    check_web("entrypoint: [/run, a b]", &[("C/Command", r#"["/run", "a b"]"#)]);
    check_web("command:\nentrypoint: ~", &[("C/Args", "null"), ("C/Command", "null")]);
    for none in ["[]", "''", "\"\""] {
        let lines = format!("command: {none}\nentrypoint: {none}");
        check_web(&lines, &[("C/Args", "[]"), ("C/Command", "[]")]);
    }
    check_web(
        "user: 1000:1000\nworking_dir: /srv\nhostname: h1\nread_only: yes\ntty: true\n\
         stop_signal: SIGQUIT\nstop_grace_period: 1m30s",
        &[
            ("C/User", "\"1000:1000\""),
            ("C/Dir", "\"/srv\""),
            ("C/Hostname", "\"h1\""),
            ("C/ReadOnly", "true"),
            ("C/TTY", "true"),
            ("C/StopSignal", "\"SIGQUIT\""),
            ("C/StopGracePeriod", "90000000000"),
        ],
    );
    check_web("labels: [a=1, b]", &[("C/Labels/a", "\"1\""), ("C/Labels/b", "\"\"")]);
    check_web("privileged: false\ninit: no", &[("C/Image", "\"nginx\"")]);
}

#[test]
fn confinement_and_surroundings() {
    check_web(
        "cap_add: [net_admin, CAP_KILL]\ncap_drop: [all]\noom_score_adj: -5\nstdin_open: true\n\
         sysctls: {net.core.somaxconn: 1024}\nsecurity_opt: ['no-new-privileges:true']",
        &[
            ("C/CapabilityAdd", r#"["CAP_NET_ADMIN", "CAP_KILL"]"#),
            ("C/CapabilityDrop", r#"["ALL"]"#),
            ("C/OomScoreAdj", "-5"),
            ("C/OpenStdin", "true"),
            ("C/Sysctls", r#"{"net.core.somaxconn": "1024"}"#),
            ("C/Privileges/NoNewPrivileges", "true"),
        ],
    );
    check_web("sysctls: [net.a=1]", &[("C/Sysctls", r#"{"net.a": "1"}"#)]);
    check_web("security_opt: ['no-new-privileges:false']", &[("C/Privileges", "null")]);
    check_web(
        "ulimits: {nofile: {soft: 1024, hard: 2048}, core: -1}",
        &[(
            "C/Ulimits",
            r#"[{"Name": "nofile", "Soft": 1024, "Hard": 2048},
                {"Name": "core", "Soft": -1, "Hard": -1}]"#,
        )],
    );
    check_web(
        "extra_hosts: ['db:10.0.0.9', six=::1]\ndns: 10.0.0.53\ndns_search: [a, b]\n\
         dns_opt: ['ndots:2']",
        &[
            ("C/Hosts", r#"["10.0.0.9 db", "::1 six"]"#),
            (
                "C/DNSConfig",
                r#"{"Nameservers": ["10.0.0.53"], "Search": ["a", "b"], "Options": ["ndots:2"]}"#,
            ),
        ],
    );
    check_web(
        "extra_hosts: {db: 10.0.0.9, two: [10.0.0.1, 10.0.0.2]}",
        &[("C/Hosts", r#"["10.0.0.9 db", "10.0.0.1 two", "10.0.0.2 two"]"#)],
    );
    check_web(
        "shm_size: 128m",
        &[
            ("C/Mounts/0/Target", "\"/dev/shm\""),
            ("C/Mounts/0/TmpfsOptions/SizeBytes", "134217728"),
        ],
    );
}

#[test]
fn environment() {
    check_web(
        "environment:\n  B: 010\n  A: true\n  SHELL_VAR:\n  GONE:\n  E: ''\n  V: 1.0",
        &[("C/Env", r#"["A=true", "B=010", "E=", "GONE", "SHELL_VAR=s", "V=1.0"]"#)],
    );
    check_web("environment: [A=1=2, A=3]", &[("C/Env", r#"["A=3"]"#)]);
    check_web(
        "env_file: [web.env, {path: more.env}, {path: none.env, required: false}]\n\
         environment: {C: c}",
        &[("C/Env", r#"["A=2", "B=two words", "C=c", "SHELL_VAR=s"]"#)],
    );
    check_web(
        "env_file: ./web.env",
        &[("C/Env", r#"["A=1", "B=two words", "C=$A", "SHELL_VAR=s"]"#)],
    );
    check_web("environment: {A: \"$$x-${TAG}-${NO:-d}\"}", &[("C/Env", r#"["A=$x-1.2-d"]"#)]);
}

#[test]
fn ports() {
    check_web(
        "ports: ['8080:80', '127.0.0.1:53:53/udp', 90]",
        &[(
            "EndpointSpec/Ports",
            r#"[{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "ingress"},
                {"Protocol": "udp", "TargetPort": 53, "PublishedPort": 53, "PublishMode": "host",
                 "HostIP": "127.0.0.1"},
                {"Protocol": "tcp", "TargetPort": 90, "PublishedPort": 0, "PublishMode": "ingress"}]"#,
        )],
    );
    check_web(
        "ports:\n- {target: 80, published: 8080, mode: host, name: http}\n- 8000-8001:90-91",
        &[
            ("EndpointSpec/Ports/0/Name", "\"http\""),
            ("EndpointSpec/Ports/0/PublishedPort", "8080"),
            ("EndpointSpec/Ports/2/PublishedPort", "8001"),
            ("EndpointSpec/Ports/2/TargetPort", "91"),
        ],
    );
}

#[test]
fn services_that_publish_on_an_address_are_known_once() {
    let text = "services:\n  a:\n    image: i\n    ports: ['127.0.0.1:1:1']\n  b:\n    image: i\n    ports: \
                ['2:2', '127.0.0.2:3:3', '127.0.0.1:4:4']\n  c:\n    image: i\n    ports: [{target: 4, published: 4, host_ip: 127.0.0.1, mode: host}]\n  d:\n    image: i\n    ports: [{target: 5, host_ip: 127.0.0.1, mode: ingress}]\n  e:\n    image: i\n    ports: ['6:6', {target: 7, mode: ingress}]\n";
    let loaded = load_all(&[text]).unwrap();
    assert_eq!(loaded.narrow_ports, ["a", "b", "d"]);
    assert!(loaded.warnings.is_empty(), "a file that is only looked at warns of nothing");
}

#[test]
fn a_network_that_names_no_driver_stays_what_it_was() {
    let text = "services: {a: {image: i, networks: [own, said, new, default]}}\nnetworks:\n  own: {}\n  said: \
                {driver: overlay}\n  new: {}\n";
    let mut loaded = load_all(&[text]).unwrap();
    assert_eq!(loaded.unsaid_drivers, ["own", "new", "default"]);
    let mut before = loaded.spec.clone();
    assert_eq!(loaded.keep_drivers(&before), [""; 0]);
    for (key, network) in &mut before.networks {
        network.driver.name = "bridge".to_owned();
        if key == "new" {
            network.name = "another".to_owned();
        }
    }
    let names = ["own", "default"].map(|key| loaded.spec.networks[key].name.clone());
    assert_eq!(loaded.keep_drivers(&before), names);
    let drivers: Vec<_> =
        loaded.spec.networks.iter().map(|(key, n)| (&**key, &*n.driver.name)).collect();
    let expected =
        [("default", "bridge"), ("new", "overlay"), ("own", "bridge"), ("said", "overlay")];
    assert_eq!(drivers, expected);
}

#[test]
fn mounts() {
    let volumes = "volumes:\n  data:\n    driver_opts: {type: tmpfs}\n    labels: {k: v}\n  \
                   ext: {external: true, name: real}\n  own: {name: mine}\n";
    let text = format!(
        "{}{volumes}",
        web(
            "volumes:\n- data:/data:ro,nocopy\n- ./conf:/etc/conf:ro,rprivate\n- ~/x:/x\n- ext:/ext\n\
             - own:/own\n- /anon\n- {type: tmpfs, target: /t, tmpfs: {size: 1m, mode: 0755}}\n\
             - {type: bind, source: ../up, target: /up, bind: {create_host_path: true}}\n\
             tmpfs: /run:size=64m"
        )
    );
    let mount = |i: usize, field: &str| format!("{C}/Mounts/{i}/{field}");
    let expected = [
        (mount(0, "Source"), "\"shop_data\""),
        (mount(0, "ReadOnly"), "true"),
        (mount(0, "VolumeOptions/NoCopy"), "true"),
        (mount(0, "VolumeOptions/Labels/k"), "\"v\""),
        (mount(0, "VolumeOptions/Labels/com.docker.stack.namespace"), "\"shop\""),
        (mount(0, "VolumeOptions/DriverConfig/Options/type"), "\"tmpfs\""),
        (mount(1, "Type"), "\"bind\""),
        (mount(1, "Source"), "\"/app/conf\""),
        (mount(1, "BindOptions/Propagation"), "\"rprivate\""),
        (mount(2, "Source"), "\"/root/x\""),
        (mount(3, "Source"), "\"real\""),
        (mount(3, "VolumeOptions"), "null"),
        (mount(4, "Source"), "\"mine\""),
        (mount(5, "Type"), "\"volume\""),
        (mount(5, "Source"), "null"),
        (mount(6, "TmpfsOptions/SizeBytes"), "1048576"),
        (mount(6, "TmpfsOptions/Mode"), "493"),
        (mount(7, "Source"), "\"/up\""),
        (mount(7, "BindOptions/CreateMountpoint"), "true"),
        (mount(8, "Target"), "\"/run\""),
        (mount(8, "TmpfsOptions/SizeBytes"), "67108864"),
        ("/Volumes/data/Name".to_owned(), "\"shop_data\""),
        ("/Volumes/ext".to_owned(), "null"),
    ];
    let expected: Vec<(&str, &str)> = expected.iter().map(|(p, j)| (p.as_str(), *j)).collect();
    check("mounts", &[&text], &expected);
}

#[test]
fn the_network_of_another_service() {
    let sharing = format!(
        "{}  side: {{image: a, network_mode: 'service:web'}}\n  late: {{image: a, network_mode: 'service:web'}}\n",
        web("tty: true")
    );
    let of = |service: &str| format!("/Services/{service}/TaskTemplate/NetworkOf");
    check("shop", &[&sharing], &[(&of("side"), "\"shop_web\""), (&of("late"), "\"shop_web\"")]);
    let chain = sharing.replace(
        "late: {image: a, network_mode: 'service:web'",
        "late: {image: a, network_mode: 'service:side'",
    );
    let found = load_all(&[&chain]).unwrap_err().to_string();
    let why = "services.late.network_mode: service \"side\" itself shares the network of \"web\": expected service:web";
    assert!(found.contains(why), "{found}");
    let both =
        web("network_mode: 'service:db'\nhostname: me\nports: ['80:80']") + "  db: {image: a}\n";
    let found = load_all(&[&both]).unwrap_err().to_string();
    for key in ["hostname: \"me\"", "ports: \"80\""] {
        let why = format!(
            "services.web.{key} cannot be combined with sharing the network of service \"shop_db\""
        );
        assert!(found.contains(&why) || found.contains(&why.replace("shop_", "")), "{found}");
    }
}

#[test]
fn networks() {
    let text = format!(
        "{}networks:\n  front: {{internal: true, ipam: {{config: [{{subnet: 10.9.0.0/24, gateway: \
         10.9.0.1}}]}}}}\n  back: {{name: real, external: true}}\n  idle: {{driver: overlay}}\n",
        web("networks: [front, back]")
    );
    check(
        "networks",
        &[&text],
        &[
            (&format!("{T}/Networks"), r#"[{"Target": "real"}, {"Target": "shop_front"}]"#),
            ("/Networks/front/Internal", "true"),
            ("/Networks/front/IPAM/Config/0/Subnet", "\"10.9.0.0/24\""),
            ("/Networks/idle/Name", "\"shop_idle\""),
            ("/Networks/idle/Driver", "\"overlay\""),
            ("/Networks/back", "null"),
            ("/Networks/default", "null"),
        ],
    );
    let text = format!(
        "{}networks:\n  front: {{attachable: true, enable_ipv6: true, ipam: {{config: [{{subnet: 10.9.0.0/24, ip_range: \
         10.9.0.128/25, aux_addresses: {{router: 10.9.0.200}}}}]}}}}\n",
        web("networks: [front]")
    );
    let config = |field: &str| format!("/Networks/front/IPAM/Config/0/{field}");
    check(
        "addresses",
        &[&text],
        &[
            (&config("IPRange"), "\"10.9.0.128/25\""),
            (&config("AuxiliaryAddresses"), r#"{"router": "10.9.0.200"}"#),
            ("/Networks/front/Attachable", "true"),
            ("/Networks/front/EnableIPv6", "true"),
        ],
    );
    let lan = format!(
        "{}networks:\n  lan: {{driver: macvlan, driver_opts: {{parent: eth0.50, macvlan_mode: vepa}}}}\n",
        web("networks: [lan]")
    );
    let options = r#"{"parent": "eth0.50", "macvlan_mode": "vepa"}"#;
    check(
        "wire",
        &[&lan],
        &[("/Networks/lan/Driver", "\"macvlan\""), ("/Networks/lan/Options", options)],
    );
    let warned = load_all(&[&text]).unwrap().warnings;
    assert_eq!(warned, ["networks.front.attachable has no effect: only tasks join networks"]);
    check_web("network_mode: host", &[("T/Networks", r#"[{"Target": "host"}]"#)]);
    let aliases = r#"[{"Target": "shop_default", "Aliases": ["a", "b"]}]"#;
    let fixed = r#"[{"Target": "shop_default", "Addresses": ["10.0.3.7", "fd00::7"]}]"#;
    let said = "networks: {default: {ipv6_address: 'fd00::7', ipv4_address: 10.0.3.7}}";
    check_web(said, &[("T/Networks", fixed)]);
    check_web("networks: {default: {aliases: [a, b]}}", &[("T/Networks", aliases)]);
    check_web("deploy: {endpoint_mode: dnsrr}", &[("EndpointSpec/Mode", "\"dnsrr\"")]);
    check_web("deploy: {endpoint_mode: vip}", &[("EndpointSpec", "null")]);
    let stays = "deploy: {endpoint_affinity: client-ip}";
    check_web(stays, &[("EndpointSpec/Affinity", "\"client-ip\"")]);
    check_web("deploy: {endpoint_affinity: none}", &[("EndpointSpec", "null")]);
    let local = "deploy: {endpoint_locality: prefer-local}";
    check_web(local, &[("EndpointSpec/Locality", "\"prefer-local\"")]);
    check_web("deploy: {endpoint_locality: any}", &[("EndpointSpec", "null")]);
    check_web("networks: {default: null}", &[("T/Networks", r#"[{"Target": "shop_default"}]"#)]);
    let text = format!("{}networks: {{default: {{name: n1}}}}\n", web(""));
    check(
        "default renamed",
        &[&text],
        &[
            (&format!("{T}/Networks"), r#"[{"Target": "n1"}]"#),
            ("/Networks/default/Name", "\"n1\""),
        ],
    );
}

#[test]
fn families_of_networks() {
    for (text, v4, v6) in [
        ("{enable_ipv4: false, enable_ipv6: true}", "false", "true"),
        ("{enable_ipv4: true}", "true", "false"),
        ("{enable_ipv6: true}", "null", "true"),
    ] {
        let text = format!("{}networks:\n  front: {text}\n", web("networks: [front]"));
        let expected = [("/Networks/front/EnableIPv4", v4), ("/Networks/front/EnableIPv6", v6)];
        check("families", &[&text], &expected);
    }
}

#[test]
fn health() {
    check_web(
        "healthcheck: {test: curl -f x, interval: 5s, retries: 2, start_period: 1m}",
        &[
            ("C/Healthcheck/Test", r#"["CMD-SHELL", "curl -f x"]"#),
            ("C/Healthcheck/Interval", "5000000000"),
            ("C/Healthcheck/StartPeriod", "60000000000"),
            ("C/Healthcheck/Retries", "2"),
        ],
    );
    check_web("healthcheck: {test: [CMD, a]}", &[("C/Healthcheck/Test", r#"["CMD", "a"]"#)]);
    check_web("healthcheck: {disable: true}", &[("C/Healthcheck/Test", r#"["NONE"]"#)]);
}

#[test]
fn deploy() {
    check_web("deploy: {drain_timeout: 1m30s}", &[("C/DrainTimeout", "90000000000")]);
    check_web("deploy: {mode: global}", &[("Mode", r#"{"Global": {}}"#)]);
    check_web("deploy: {replicas: '${N}'}", &[("Mode/Replicated/Replicas", "3")]);
    check_web(
        "deploy:\n  labels: {l: 1}\n  resources:\n    limits: {cpus: '0.5', memory: 64m, pids: 10}\n    \
         reservations: {cpus: .25, memory: 32M}\n  placement:\n    constraints: [node.role == \
         worker]\n    max_replicas_per_node: 2\n  restart_policy: {condition: on-failure, delay: 1s, \
         max_attempts: 3, window: 1m}\n  update_config: {parallelism: 2, delay: 3s, failure_action: \
         rollback, monitor: 4s, max_failure_ratio: 0.5, order: start-first}",
        &[
            ("Labels/l", "\"1\""),
            (
                "T/Resources/Limits",
                r#"{"NanoCPUs": 500000000, "MemoryBytes": 67108864, "Pids": 10}"#,
            ),
            ("T/Resources/Reservations", r#"{"NanoCPUs": 250000000, "MemoryBytes": 33554432}"#),
            ("T/Placement/Constraints", r#"["node.role == worker"]"#),
            ("T/Placement/MaxReplicas", "2"),
            (
                "T/RestartPolicy",
                r#"{"Condition": "on-failure", "Delay": 1000000000, "MaxAttempts": 3, "Window": 60000000000}"#,
            ),
            (
                "UpdateConfig",
                r#"{"Parallelism": 2, "Delay": 3000000000, "FailureAction": "rollback",
                    "Monitor": 4000000000, "MaxFailureRatio": 0.5, "Order": "start-first"}"#,
            ),
        ],
    );
    check_web("deploy: {update_config: {delay: 1s}}", &[("UpdateConfig/Parallelism", "1")]);
}

#[test]
fn restart() {
    let cases = [
        ("no", r#"{"Condition": "none", "MaxAttempts": 0}"#),
        ("always", r#"{"Condition": "any", "MaxAttempts": 0}"#),
        ("unless-stopped", r#"{"Condition": "any", "MaxAttempts": 0}"#),
        ("on-failure", r#"{"Condition": "on-failure", "MaxAttempts": 0}"#),
        ("on-failure:5", r#"{"Condition": "on-failure", "MaxAttempts": 5}"#),
    ];
    for (word, policy) in cases {
        check_web(&format!("restart: {word}"), &[("T/RestartPolicy", policy)]);
    }
}

#[test]
fn anchors_and_merge_keys() {
    let text = "x-base: &base\n  image: base\n  environment: &env {A: 1}\n  user: u1\nservices:\n  \
                web:\n    <<: *base\n    user: u2\n  two:\n    <<: [{user: u3}, *base]\n    \
                environment: {<<: *env, B: 2}\n";
    check(
        "merge keys",
        &[text],
        &[
            (&format!("{C}/Image"), "\"base\""),
            (&format!("{C}/User"), "\"u2\""),
            ("/Services/two/TaskTemplate/ContainerSpec/User", "\"u3\""),
            ("/Services/two/TaskTemplate/ContainerSpec/Env", r#"["A=1", "B=2"]"#),
        ],
    );
}

#[test]
fn several_files() {
    let base = "services:\n  web:\n    image: a\n    command: [one]\n    environment: [A=1, B=1]\n    \
                ports: ['80:80', '81:81']\n    networks: [n1]\n    volumes: ['/a:/x', '/b:/y']\n    \
                deploy: {replicas: 2, placement: {constraints: [node.role==worker]}}\nnetworks:\n  n1:\n";
    let over = "services:\n  web:\n    command: [two]\n    environment: {B: 2}\n    ports: ['80:90']\n    \
                networks: [n2]\n    volumes: ['/c:/x']\n    deploy: {placement: {constraints: \
                [node.hostname==h]}}\n  more:\n    image: ${NO_IMAGE:-b}\nnetworks:\n  n2: {}\n";
    check(
        "merged",
        &[base, over],
        &[
            (&format!("{C}/Image"), "\"a\""),
            (&format!("{C}/Args"), r#"["two"]"#),
            (&format!("{C}/Env"), r#"["A=1", "B=2"]"#),
            (&format!("{C}/Mounts/0/Source"), "\"/c\""),
            (&format!("{C}/Mounts/1/Source"), "\"/b\""),
            ("/Services/web/EndpointSpec/Ports/0/TargetPort", "90"),
            ("/Services/web/EndpointSpec/Ports/1/TargetPort", "81"),
            ("/Services/web/Mode/Replicated/Replicas", "2"),
            (&format!("{T}/Networks"), r#"[{"Target": "shop_n1"}, {"Target": "shop_n2"}]"#),
            (&format!("{T}/Placement/Constraints"), r#"["node.role==worker", "node.hostname==h"]"#),
            ("/Services/more/TaskTemplate/ContainerSpec/Image", "\"b\""),
        ],
    );
}

#[test]
fn variables_that_are_not_set_are_warned_of() {
    let loaded = load_all(&[&web("user: '$NOBODY'\nworking_dir: /${EMPTY}x")]).unwrap();
    assert_eq!(loaded.warnings, ["variable NOBODY is not set: an empty text takes its place"]);
}

#[test]
fn variables_of_files_that_are_not_set_are_warned_of() {
    let loaded = load_all(&[&web("env_file: dollar.env")]).unwrap();
    assert_eq!(loaded.warnings.len(), 1);
    assert!(loaded.warnings[0].starts_with("/app/dollar.env: variable word is not set"));
}

#[test]
fn no_networks_is_the_stacks_own() {
    for text in ["networks: []", "networks: {}", "networks:"] {
        let loaded = load_all(&[&web(text)]).unwrap();
        let service = &loaded.spec.services["web"];
        assert_eq!(service.task_template.networks[0].target, "shop_default", "{text}");
        assert!(loaded.spec.networks.contains_key("default"), "{text}");
    }
}

#[test]
fn the_printed_file_means_the_same() {
    let text = format!(
        "{}volumes:\n  data: {{labels: [a=b]}}\nnetworks:\n  n: {{internal: true}}\n",
        web("command: echo $$HOME '5'\nports: ['8080-8081:80-81/udp', '10.0.0.1:1:1']\nvolumes: \
             [data:/d:ro, './here:/h', '~/x:/x']\nenv_file: [web.env]\nenvironment: {A: 'true', B: '', C: '010'}\nread_only: true\n\
             healthcheck: {test: 'x', retries: 3}\ndeploy: {replicas: 0, resources: {limits: {cpus: \
             1.50, memory: 1g}}}\nnetworks: [n, default]\nrestart: no\ntmpfs: [/a, /b]")
    );
    let first = load_all(&[&text]).unwrap();
    let printed = to_yaml(&first.config).unwrap();
    let second = load_in("/elsewhere", &[&printed]).unwrap_or_else(|p| panic!("{printed}\n{p}"));
    assert_eq!(first.spec, second.spec, "{printed}");
    assert_eq!(first.config, second.config);
}

#[test]
fn what_readers_of_yaml_1_1_would_turn_is_printed_in_quotes() {
    let text = web(
        "environment: {A: '12:30', B: 'yes', C: '2024-05-06', D: '0o17', E: '1_0', F: '~',\n  \
                    G: \"a\\nb\\n\", H: 'plain text', I: '', J: 'null', K: '1e3', L: 'n', M: ' x'}",
    );
    let loaded = load_all(&[&text]).unwrap();
    let printed = to_yaml(&loaded.config).unwrap();
    for quoted in ["12:30", "yes", "2024-05-06", "0o17", "1_0", "~", "null", "1e3", "n", " x"] {
        let either = [format!(": '{quoted}'\n"), format!(": \"{quoted}\"\n")];
        assert!(either.iter().any(|e| printed.contains(e)), "{quoted:?} in\n{printed}");
    }
    assert!(printed.contains("H: plain text\n"), "{printed}");
    let again = load_all(&[&printed]).unwrap_or_else(|p| panic!("{printed}\n{p}"));
    assert_eq!(loaded.spec, again.spec, "{printed}");
}

#[test]
fn numbers_have_the_base_they_are_written_in() {
    let tmpfs =
        |mode: &str| format!("volumes: [{{type: tmpfs, target: /t, tmpfs: {{mode: {mode}}}}}]");
    // 511 is what `docker compose config` makes of 0777.
    for mode in ["511", "0777", "0o777", "'777'", "'0777'", "0x1ff", "'0o777'"] {
        check_web(&tmpfs(mode), &[("C/Mounts/0/TmpfsOptions/Mode", "511")]);
    }
    let warned = load_all(&[&web(&tmpfs("755"))]).unwrap().warnings;
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(warned[0].contains("755 without quotes is decimal, 0o1363"), "{warned:?}");
    assert!(load_all(&[&web(&tmpfs("511"))]).unwrap().warnings.is_empty());
    let refused = load_all(&[&web(&tmpfs("9999"))]).unwrap_err().to_string();
    assert!(refused.contains("which is no file mode"), "{refused}");
    check_web("deploy: {replicas: 010}", &[("Mode/Replicated/Replicas", "8")]);
    check_web("deploy: {replicas: '010'}", &[("Mode/Replicated/Replicas", "10")]);
    check_web(
        "ports: [{target: 0x50, published: 0x50}]",
        &[("EndpointSpec/Ports/0/PublishedPort", "80")],
    );
    check_web("ulimits: {nofile: 0x400}", &[("C/Ulimits/0/Hard", "1024")]);
    check_web("oom_score_adj: -0x10", &[("C/OomScoreAdj", "-16")]);
    check_web("shm_size: 0x100000", &[("C/Mounts/0/TmpfsOptions/SizeBytes", "1048576")]);
    check_web(
        "deploy: {resources: {limits: {cpus: '0.001', memory: 0x4000000}}}",
        &[("T/Resources/Limits", r#"{"NanoCPUs": 1000000, "MemoryBytes": 67108864}"#)],
    );
    let little = web("deploy: {resources: {limits: {cpus: '0.0005'}}}");
    let little = load_all(&[&little]).unwrap_err().to_string();
    assert!(little.contains("\"0.0005\" is too little: expected at least 0.001 CPU"), "{little}");
}
