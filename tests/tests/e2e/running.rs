//! What containers are given, and what they are held to.

use anyhow::ensure;
use shoal_tests::cluster::busybox_image;
use shoal_tests::skip::skip;

use crate::world::{World, service, web};

#[test]
fn containers_get_what_was_asked_for() {
    if skip() {
        return;
    }
    let world = World::start(1);
    surroundings(&world);
    settings(&world);
    mounts(&world);
    limits(&world);
    confinement(&world);
    health(&world);
    networks(&world);
    exec(&world);
    logs_and_events(&world);
    world.end();
}

fn once(lines: &str) -> String {
    web(&format!("{lines}\ndeploy: {{restart_policy: {{condition: none}}}}"))
}

/// Runs a job to its end and gives what it logged, once it has logged something.
fn job(world: &World, lines: &str, expected: &str) -> String {
    let file = world.cluster.stack_file("job", &once(lines));
    world.ok(&["stack", "deploy", "--detach", "-c", &file.to_string_lossy(), "job"]);
    let logs = world.logged("job_web", expected);
    world.remove("job");
    logs
}

fn surroundings(world: &World) {
    let lines = "entrypoint: [sh, -c]\n\
                 command: ['id; pwd; hostname; env; cat /proc/self/cgroup >/dev/null; echo end']\n\
                 user: app\nworking_dir: /tmp\nhostname: named\nenvironment: {A: one, B: two words}";
    let logs = job(world, lines, "end");
    for expected in
        ["uid=1000(app) gid=1001(app)", "/tmp", "named", "A=one", "B=two words", "PATH=/bin"]
    {
        assert!(logs.lines().any(|l| l.starts_with(expected)), "{expected:?} in:\n{logs}");
    }
}

/// What a container is told of the network, and what it is allowed beside the usual.
fn settings(world: &World) {
    let lines = "command: [sh, -c, 'cat /etc/hosts /etc/resolv.conf; ulimit -n; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; grep CapEff /proc/self/status; df -k /dev/shm | tail -1; echo end']\n\
                 extra_hosts: ['db:192.0.2.7']\ndns: [192.0.2.53]\ndns_search: [lan.example]\n\
                 ulimits: {nofile: 1234}\nsysctls: {net.ipv4.ip_unprivileged_port_start: 7}\n\
                 cap_drop: [ALL]\ncap_add: [NET_BIND_SERVICE]\nshm_size: 1M";
    let logs = job(world, lines, "end");
    for expected in [
        "192.0.2.7",
        "nameserver 127.0.0.11",
        "search lan.example",
        "1234",
        "CapEff:\t0000000000000400",
    ] {
        assert!(logs.contains(expected), "{expected:?} in:\n{logs}");
    }
    assert!(logs.lines().any(|line| line == "7"), "the sysctl: {logs}");
    assert!(
        logs.lines().any(|line| line.contains(" 1024 ") && line.contains("/dev/shm")),
        "{logs}"
    );
}

fn mounts(world: &World) {
    let shared = world.cluster.lab.dir.join("shared");
    std::fs::create_dir_all(&shared).unwrap();
    std::fs::write(shared.join("given"), "from the host\n").unwrap();
    let lines = format!(
        "command: [sh, -c, 'cat /bound/given; touch /bound/x || echo refused; df /scratch | tail -1; echo kept >>/data/file; wc -l </data/file; echo end']\n\
         volumes:\n\
         - {{type: bind, source: {}, target: /bound, read_only: true}}\n\
         - {{type: tmpfs, target: /scratch, tmpfs: {{size: 1M}}}}\n\
         - keep:/data",
        shared.display()
    );
    for round in 1..=2 {
        let yaml = format!("{}volumes: {{keep: {{}}}}\n", once(&lines));
        let file = world.cluster.stack_file("job", &yaml);
        world.ok(&["stack", "deploy", "--detach", "-c", &file.to_string_lossy(), "job"]);
        let logs = world.logged("job_web", "end");
        world.remove("job");
        assert!(logs.contains("from the host") && logs.contains("refused"), "{logs}");
        assert!(logs.contains("tmpfs"), "{logs}");
        let count = logs.lines().find_map(|line| line.trim().parse::<u32>().ok());
        assert_eq!(count, Some(round), "a volume keeps its data: {logs}");
    }
}

fn limits(world: &World) {
    let hungry = "command: [sh, -c, 'echo start; tail /dev/zero']\n\
                  deploy: {resources: {limits: {memory: 16M}}, restart_policy: {condition: none}}";
    let file = world.cluster.stack_file("oom", &web(hungry));
    world.ok(&["stack", "deploy", "--detach", "-c", &file.to_string_lossy(), "oom"]);
    let task = world.fails("oom_web", "memory");
    assert_eq!(task.exit, Some(137), "{task:?}");
    world.remove("oom");

    let forks = "command: [sh, -c, 'for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 5 & done; echo end']\n\
                 deploy: {resources: {limits: {pids: 6}}, restart_policy: {condition: none}}";
    let file = world.cluster.stack_file("pids", &web(forks));
    world.ok(&["stack", "deploy", "--detach", "-c", &file.to_string_lossy(), "pids"]);
    world.logged("pids_web", "can't fork");
    world.remove("pids");

    // A busy loop with a tenth of a processor takes about ten times as long as it works.
    let busy = "command: [sh, -c, 'i=0; while [ $$i -lt 300000 ]; do i=$$((i+1)); done; cat /proc/uptime; cat /proc/self/stat; sleep 1000']\n\
                deploy: {resources: {limits: {cpus: \"0.10\"}}}";
    world.deploy("cpu", &web(busy));
    let task = world.runs("cpu_web", 1).remove(0);
    let throttled = world.until("the processor is held back", || {
        let text = throttling(&world.cluster.host(1).cgroup())?;
        ensure!(text > 0, "task {} was never throttled", task.id);
        Ok(text)
    });
    assert!(throttled > 0);
    world.remove("cpu");
}

/// How often the groups below one were held back.
fn throttling(parent: &str) -> anyhow::Result<u64> {
    let mut count = 0;
    for root in ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup"] {
        let dir = format!("{root}{parent}");
        for entry in walk(std::path::Path::new(&dir)) {
            let text = std::fs::read_to_string(entry.join("cpu.stat")).unwrap_or_default();
            let lines = text.lines().filter_map(|l| l.strip_prefix("nr_throttled "));
            count += lines.filter_map(|n| n.parse::<u64>().ok()).sum::<u64>();
        }
    }
    Ok(count)
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = entries.map(|e| e.path()).filter(|p| p.is_dir());
    dirs.flat_map(|d| walk(&d).into_iter().chain([d]).collect::<Vec<_>>()).collect()
}

fn confinement(world: &World) {
    let lines = "command: [sh, -c, 'unshare -m true || echo no namespaces; mount -t tmpfs x /tmp || echo no mounts; grep -E \"Seccomp:|CapEff|NoNewPrivs\" /proc/self/status; echo end']";
    let logs = job(world, lines, "end");
    assert!(logs.contains("no namespaces") && logs.contains("no mounts"), "{logs}");
    assert!(logs.contains("Seccomp:\t2"), "a filter is in force: {logs}");
    assert!(logs.contains("CapEff:\t00000000a80425fb"), "Docker's default capabilities: {logs}");
}

fn health(world: &World) {
    let sick = "command: [sleep, '1000']\n\
                healthcheck: {test: [CMD, 'false'], interval: 200ms, retries: 2, start_period: 0s}\n\
                deploy: {restart_policy: {delay: 1s}}";
    let said = world.deploy_badly("sick", &web(sick));
    assert!(said.contains("health"), "{said}");
    world.fails("sick_web", "health");
    world.remove("sick");

    // A task runs, for the cluster, once it is healthy and not before.
    let late = "command: [sh, -c, 'sleep 2; touch /tmp/well; sleep 1000']\n\
                healthcheck: {test: [CMD, test, -e, /tmp/well], interval: 200ms, start_period: 20s, start_interval: 200ms}";
    let file = world.cluster.stack_file("late", &web(late));
    world.ok(&["stack", "deploy", "--detach", "-c", &file.to_string_lossy(), "late"]);
    world.until("it is starting", || {
        let tasks = world.tasks("late_web")?;
        ensure!(tasks.iter().any(|t| t.state == "starting"), "{tasks:#?}");
        Ok(())
    });
    world.runs("late_web", 1);
    world.remove("late");

    // What a check writes is its user's to write.
    let prints = "user: '1000:1000'\n\
                  command: [sleep, '1000']\n\
                  healthcheck: {test: [CMD, sh, -c, 'echo well > /dev/stdout && echo bad > /dev/stderr'], interval: 200ms, retries: 1, start_period: 0s}";
    world.deploy("prints", &web(prints));
    world.remove("prints");
}

fn networks(world: &World) {
    let host = "command: [sh, -c, 'ip address; echo end']\nnetworks: [outside]";
    let yaml = format!("{}networks: {{outside: {{external: true, name: host}}}}\n", once(host));
    let file = world.cluster.stack_file("job", &yaml);
    world.ok(&["stack", "deploy", "--detach", "-c", &file.to_string_lossy(), "job"]);
    let logs = world.logged("job_web", "end");
    assert!(logs.contains(&world.cluster.host(1).address), "the host's own network: {logs}");
    world.remove("job");
}

fn exec(world: &World) {
    world.deploy("idle", &web("command: [sleep, '1000']"));
    let said =
        world.cluster.ctl(&["exec", "idle_web", "sh", "-c", "echo out; echo err >&2; exit 9"]);
    assert_eq!((said.code, said.out.trim(), said.err.trim()), (9, "out", "err"));
    let said = world.cluster.ctl(&[
        "exec",
        "-e",
        "X=1",
        "-u",
        "app",
        "-w",
        "/tmp",
        "idle_web",
        "sh",
        "-c",
        "echo $X $(id -u) $(pwd)",
    ]);
    assert_eq!(said.out.trim(), "1 1000 /tmp", "{}", said.both());
    let said = world.cluster.ctl(&["exec", "-t", "idle_web", "tty"]);
    assert!(said.code == 0 && said.out.contains("/dev/"), "{}", said.both());
    let said = world.cluster.ctl(&["exec", "idle_web", "nothing-of-that-name"]);
    assert_eq!(said.code, 127, "{}", said.both());
    assert!(said.both().contains("nothing-of-that-name"), "{}", said.both());
    world.remove("idle");
}

fn logs_and_events(world: &World) {
    let dir = &world.cluster.lab.dir;
    // From before it begins to listen: a deployment may be quicker.
    let words = ["events", "--since", "10m", "--filter", "type=service"];
    let events = world.background(&words, &dir.join("events"));
    world.deploy("talk", &service("web", "command: [sh, -c, 'echo first; while [ ! -e /tmp/go ]; do usleep 50000; done; printf \"%040000d\\n\" 0; echo second; sleep 1000']"));
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
    let follow = world.background(&["service", "logs", "-f", "talk_web"], &dir.join("follow"));
    world.until("the first line", || {
        ensure!(read("follow").contains("first"), "{}", read("follow"));
        Ok(())
    });
    world.ok(&["exec", "talk_web", "touch", "/tmp/go"]);
    world.until("the second line", || {
        ensure!(read("follow").contains("second"), "{}", read("follow"));
        Ok(())
    });
    drop(follow);
    let tail = world.ok(&["service", "logs", "--raw", "--tail", "1", "talk_web"]);
    assert_eq!(tail.trim(), "second");
    // A line is what the program ended, however long.
    let long = "0".repeat(40_000);
    let raw = world.ok(&["service", "logs", "--raw", "talk_web"]);
    assert_eq!(raw.lines().collect::<Vec<_>>(), ["first", &*long, "second"]);
    let timed = world.ok(&["service", "logs", "--timestamps", "talk_web"]);
    let timed: Vec<&str> = timed.lines().collect();
    assert_eq!(timed.len(), 3, "{timed:.200?}");
    assert!(timed.iter().all(|line| line.starts_with("20") && line.contains("Z talk_web.1")));
    assert!(timed[1].ends_with(&format!("    | {long}")));
    world.remove("talk");
    world.until("the service's life in events", || {
        let seen = read("events");
        ensure!(
            seen.contains("create") && seen.contains("remove") && seen.contains("talk_web"),
            "{seen}"
        );
        Ok(())
    });
    drop(events);
    // Nothing of an image that no task uses is in anybody's way.
    let image = busybox_image().unwrap().cmd(&["sleep", "1000"]);
    world.cluster.push(&image, "sleeper", "1").unwrap();
    world.deploy("image", &web("image: REGISTRY/sleeper:1"));
    world.remove("image");
}
