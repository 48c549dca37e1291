//! What is refused, and where the refusal points.

use super::{Input, Source, Variables, load, load_all, memory, problems, web};

/// Each line of `expected` must be a whole line of the findings, and there are no others.
fn check(text: &str, expected: &[&str]) {
    let found = problems(text);
    let lines: Vec<&str> = found.lines().collect();
    assert_eq!(lines.len(), expected.len(), "of\n{text}\nfound\n{found}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.contains(expected), "of\n{text}\nfound\n{found}\nexpected\n{expected}");
    }
}

#[test]
fn unknown_keys_name_the_nearest() {
    check(
        "services:\n  web:\n    imgae: nginx\n    image: x\n    enviroment: {}\n    zzz: 1\n    deploy:\n      \
         replica: 2\nservice: {}\n",
        &[
            "f.yaml:3:5: services.web.imgae: unknown key: did you mean \"image\"?",
            "f.yaml:5:5: services.web.enviroment: unknown key: did you mean \"environment\"?",
            "f.yaml:6:5: services.web.zzz: unknown key",
            "f.yaml:8:7: services.web.deploy.replica: unknown key: did you mean \"replicas\"?",
            "f.yaml:9:1: service: unknown key: did you mean \"services\"?",
        ],
    );
}

#[test]
fn refused_keys_say_why() {
    check(
        &web("build: .\nprivileged: true\nmem_limit: 1g\ndepends_on: [db]\nscale: 2"),
        &[
            "4:5: services.web.build: is not supported: shoal does not build images; build and push",
            "5:5: services.web.privileged: is not supported yet",
            "6:5: services.web.mem_limit: is not supported yet; use deploy.resources.limits.memory",
            "7:5: services.web.depends_on: is not supported yet",
            "8:5: services.web.scale: is not supported yet; use deploy.replicas",
        ],
    );
}

#[test]
fn wrong_types() {
    let cases: [(&str, &str); 20] = [
        ("user: [a]", "4:11: services.web.user: is a list: expected a text"),
        ("ports: 80", "4:12: services.web.ports: is \"80\": expected a list"),
        ("ports: [{}]", "ports[0].target: is missing"),
        ("ports: ['80:http']", "4:13: services.web.ports[0]: \"80:http\" is not a port"),
        ("ports: [{target: 99999}]", "ports[0].target: is \"99999\": expected 1 to 65535"),
        ("ports: [{target: 80, mode: mesh}]", "mode: is \"mesh\": expected one of host, ingress"),
        ("deploy: {replicas: three}", "deploy.replicas: \"three\" is not a whole number"),
        ("deploy: {replicas: -1}", "deploy.replicas: \"-1\" is not a whole number"),
        ("deploy: []", "4:13: services.web.deploy: is a list: expected a mapping"),
        ("stop_grace_period: 30", "\"30\" has no unit: expected such as"),
        ("read_only: maybe", "read_only: is \"maybe\": expected true or false"),
        ("environment: text", "is \"text\": expected a mapping or a list of KEY=VALUE"),
        ("environment: [=x]", "services.web.environment: an entry has no name"),
        ("environment: {A: [1]}", "services.web.environment.A: is a list: expected a text"),
        ("command: \"echo 'a\"", "is not a command line: a single quote is never closed"),
        ("volumes: ['a:b:c:d']", "\"a:b:c:d\" is not a mount"),
        ("volumes: ['/a:/b:bad']", "option \"bad\" of \"/a:/b:bad\" is unknown: expected ro, rw"),
        ("volumes: [{type: npipe, target: /x}]", "type \"npipe\" is for Windows only"),
        ("deploy: {resources: {limits: {memory: lots}}}", "\"lots\" is not a number of bytes"),
        ("deploy: {resources: {limits: {cpus: many}}}", "\"many\" is not an amount of CPU"),
    ];
    for (lines, expected) in cases {
        check(&web(lines), &[expected]);
    }
}

#[test]
fn wrong_meanings() {
    let cases = [
        ("restart: sometimes", "restart: is \"sometimes\": expected no, always"),
        ("restart: on-failure:x", "restart: is \"on-failure:x\""),
        (
            "restart: no\ndeploy: {restart_policy: {}}",
            "cannot be combined with deploy.restart_policy",
        ),
        (
            "deploy: {mode: globl}",
            "is \"globl\": expected replicated, global; did you mean \"global\"?",
        ),
        (
            "deploy: {mode: replicated-job}",
            "\"replicated-job\" is not supported yet: expected replicated or global",
        ),
        ("deploy: {mode: global, replicas: 2}", "replicas: does not go with mode: global"),
        ("networks: [nope]", "4:16: services.web.networks: network \"nope\" is not declared"),
        ("network_mode: service:wob", "service \"wob\" is not in the stack: did you mean \"web\"?"),
        ("network_mode: service:db", "service \"db\" is not in the stack: expected one that is"),
        ("network_mode: service:web", "\"web\" is the service itself: expected another one"),
        ("network_mode: container:db", "\"container:db\": containers have no names that last"),
        (
            "network_mode: host\nnetworks: [default]",
            "network_mode: cannot be combined with networks",
        ),
        ("volumes: [data:/d]", "4:15: services.web.volumes[0]: volume \"data\" is not declared"),
        (
            "env_file: none.env",
            "4:15: services.web.env_file[0]: there is no file \"/app/none.env\"",
        ),
        ("env_file: bad.env", "env_file[0]: /app/bad.env: line 2: \"\" is not a variable name"),
        ("env_file: secret.env", "file \"/app/secret.env\" cannot be read: permission denied"),
        ("healthcheck: {test: a, disable: true}", "test cannot be combined with disable"),
        ("user: $", "'$' that begins no variable"),
        ("user: ${U:?who}", "4:11: required variable U is missing: who"),
        ("networks: {default: {priority: 1}}", "networks.default.priority: is not supported yet"),
        ("networks: {default: {aliases: [a b]}}", "networks[0].aliases[0]: \"a b\" is no name"),
        ("deploy: {endpoint_mode: x}", "endpoint_mode: \"x\" is unknown: expected vip or dnsrr"),
        (
            "deploy: {endpoint_affinity: x}",
            "endpoint_affinity: \"x\" is unknown: expected none or client-ip",
        ),
        (
            "deploy: {endpoint_locality: x}",
            "endpoint_locality: \"x\" is unknown: expected any or prefer-local",
        ),
        ("deploy: {drain_timeout: 30}", "\"30\" has no unit: expected such as"),
        ("tmpfs: /run:noexec", "tmpfs[0]: option \"noexec\" is not supported"),
        ("tty: !reset true", "4:17: tag !reset is not supported"),
    ];
    for (lines, expected) in cases {
        check(&web(lines), &[expected]);
    }
}

#[test]
fn violations_of_specs_point_into_the_file() {
    let cases = [
        ("user: u\nhostname: a b", "5:15: services.web.hostname: \"a b\" is not a host name"),
        ("ports: ['80:80', '80:81']", "ports[1]"),
        ("working_dir: here", "4:18: services.web.working_dir: \"here\" is not absolute"),
        ("stop_signal: SIGNO", "services.web.stop_signal: \"SIGNO\" is not a signal"),
        (
            "deploy: {placement: {constraints: [a==b]}}",
            "4:40: services.web.deploy.placement.constraints[0]: constraint \"a==b\" has unknown key",
        ),
        (
            "deploy: {resources: {limits: {memory: 1k}}}",
            "deploy.resources.limits.memory: \"1024\" is too little",
        ),
        (
            "deploy: {drain_timeout: 2h}",
            "4:29: services.web.deploy.drain_timeout: \"7200s\" is too long: expected at most 3600s",
        ),
        ("healthcheck: {test: [curl]}", "services.web.healthcheck.test"),
        ("volumes: ['/a:b']", "services.web.volumes[0].target: \"b\" is not absolute"),
    ];
    for (lines, expected) in cases {
        check(&web(lines), &[expected]);
    }
    check("services:\n  a.b:\n    image: i\n", &["f.yaml:2:3: services.a.b"]);
    check("services:\n  web:\n    image: UPPER\n", &["f.yaml:3:12: services.web.image"]);
    check(
        "services: {a: {image: i}}\nnetworks:\n  n:\n    driver: weave\n",
        &[
            "f.yaml:4:13: networks.n.driver: \"weave\" is not supported yet: expected bridge, overlay, mac",
        ],
    );
    check(
        "services: {a: {image: i}}\nnetworks:\n  n:\n    driver: macvlan\n    driver_opts:\n      parent: lo\n",
        &[
            "f.yaml:6:15: networks.n.driver_opts.parent: \"lo\" is no interface: expected the one of each",
        ],
    );
    check(
        "services: {a: {image: i}}\nnetworks: {n: {driver_opts: {a: b}}}\n",
        &[
            "networks.n.driver_opts: not supported yet: driver options, but for those of macvlan and ipvlan",
        ],
    );
}

#[test]
fn the_file_itself() {
    check("", &["f.yaml:1:1: the file is empty"]);
    check("[a]", &["is a list: expected a mapping"]);
    check("services: {}", &["services: the stack has no services"]);
    check("services:\n  web:\n", &["f.yaml:2:3: services.web: has no image"]);
    check("a: b: c", &["f.yaml:1:5: this is not YAML"]);
    check("services: {a: {image: i}}\n---\nx: 1\n", &["the file holds more than one document"]);
    check(
        "services:\n  a: {image: i}\n  a: {image: j}\n",
        &["f.yaml:3:3: duplicate key \"a\": it is already given at line 2 column 3"],
    );
    check(
        "services: {a: {image: *no}}",
        &["has no image", "f.yaml:1:23: alias *no refers to no anchor"],
    );
    check(
        "x-a: &a [*a]\nservices: {a: {image: i}}",
        &["an alias refers to the node that contains it"],
    );
    check("[a]: b\nservices: {a: {image: i}}", &["a key is a list or a mapping"]);
    check("services: {a: {image: i, <<: text}}", &["<< merges \"text\": expected a mapping"]);
}

#[test]
fn what_comes_of_a_mistake_is_not_told_beside_it() {
    check(
        "services:\n  web:\n    imgae: nginx\n",
        &["f.yaml:3:5: services.web.imgae: unknown key: did you mean \"image\"?"],
    );
    check("services:\n  web:\n    zzz: nginx\n", &["f.yaml:3:5: services.web.zzz: unknown key"]);
    check(&web("healthcheck: {test: [[]]}"), &["healthcheck.test[0]: is a list: expected a text"]);
    check(&web("volumes: ['nope:/a', '/b:c']"), &["volumes[0]: volume \"nope\" is not declared"]);
}

#[test]
fn violations_are_told_beside_other_mistakes() {
    check(
        &web("zzz: 1\nhostname: a b\nworking_dir: here\ncap_add: [ROOT]"),
        &[
            "f.yaml:4:5: services.web.zzz: unknown key",
            "f.yaml:5:15: services.web.hostname: \"a b\" is not a host name",
            "f.yaml:6:18: services.web.working_dir: \"here\" is not absolute",
            "f.yaml:7:15: services.web.cap_add[0]: \"CAP_ROOT\" is no capability",
        ],
    );
    check(
        &web("healthcheck: {test: [curl], retries: x}"),
        &["healthcheck.test: \"curl\" is no kind of test", "retries: \"x\" is not a whole number"],
    );
}

#[test]
fn confinement_that_makes_no_sense() {
    let cases = [
        ("ulimits: {nofile: many}", "4:23: services.web.ulimits.nofile: \"many\" is not a limit"),
        ("ulimits: {nofile: {soft: 1}}", "services.web.ulimits.nofile: needs both soft and hard"),
        ("ulimits: {nofile: {soft: 1, hard: 2, x: 3}}", "ulimits.nofile.x: unknown key"),
        ("ulimits: {files: 1}", "\"files\" is no resource limit: expected one of core"),
        ("ulimits: {nofile: {soft: 2, hard: 1}}", "\"2\" is a soft limit above the hard limit 1"),
        ("sysctls: {kernel.panic: 1}", "services.web.sysctls: \"kernel.panic\" is not the"),
        ("network_mode: host\nsysctls: {net.a: 1}", "\"net.a\" is not the container's own"),
        ("security_opt: [seccomp=unconfined]", "4:20: services.web.security_opt[0]: \"seccomp="),
        (
            "networks: {default: {ipv4_address: 'fd00::7'}}",
            "networks.default.ipv4_address: \"fd00::7\" is not an IPv4 address",
        ),
        (
            "extra_hosts: ['x:host-gateway']",
            "extra_hosts[0]: \"x:host-gateway\" is not supported yet",
        ),
        ("extra_hosts: {x: nine}", "4:22: services.web.extra_hosts.x: \"x=nine\" is not a host"),
        ("dns: [names]", "services.web.dns[0]: \"names\" is no address"),
        ("oom_score_adj: 2000", "oom_score_adj: \"2000\" is out of range"),
        ("oom_score_adj: much", "oom_score_adj: \"much\" is not a whole number"),
        ("shm_size: big", "shm_size: \"big\" is not a number of bytes"),
        ("shm_size: 1m\ntmpfs: /dev/shm", "/dev/shm"),
    ];
    for (lines, expected) in cases {
        check(&web(lines), &[expected]);
    }
}

#[test]
fn a_wrong_name_of_the_stack_is_one_finding() {
    let sources = [Source { name: "f.yaml".to_owned(), text: format!("name: Bad_!\n{}", web("")) }];
    let input = Input {
        name: None,
        fallback_name: Some("stack"),
        sources: &sources,
        variables: &Variables::new(),
        dir: "/app",
        files: &memory(),
    };
    let found = load(&input).unwrap_err().to_string();
    assert!(found.starts_with("f.yaml:1:7: name of the stack: \"Bad_!\" is not a name"), "{found}");
    assert_eq!(found.lines().count(), 1, "{found}");
}

#[test]
fn templates_are_refused_where_they_stand() {
    let cases = [
        ("environment: {A: '{{.Task.Slot}}'}", "4:18: services.web.environment[0]: "),
        ("volumes: ['/srv/{{.Task.Slot}}:/data']", "volumes[0].source: "),
        ("volumes: ['/srv:/data/{{.Node.ID}}']", "volumes[0].target: "),
    ];
    for (lines, expected) in cases {
        check(&web(lines), &[expected]);
    }
    check(
        &web("environment: {A: '{{.Task.Slot}}'}"),
        &["not supported yet: templates ({{.…}}), in A"],
    );
    // What is none is left alone.
    assert!(load_all(&[&web("environment: {A: '{{ x }}', B: '{{'}")]).is_ok());
}

#[test]
fn findings_of_several_files_name_their_file() {
    let found = load_all(&[&web("user: []"), &web("usre: x")]).unwrap_err().to_string();
    assert_eq!(
        found,
        "f.yaml:4:11: services.web.user: is a list: expected a text\n\
         f2.yaml:4:5: services.web.usre: unknown key: did you mean \"user\"?"
    );
}
