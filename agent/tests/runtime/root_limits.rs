//! Limits that really limit.

use futures::StreamExt as _;
use shoal_agent_planning::oci::{ContainerConfig, Rlimit};
use shoal_agent_runtime::{LogQuery, Runtime};

use crate::host::{Host, able, command, id, shell, wait_for};

#[tokio::test]
async fn out_of_memory_is_reported_as_such() {
    if !able() {
        return;
    }
    let mut host = Host::new();
    let limited = |mut config: ContainerConfig| {
        config.resources.memory_bytes = Some(32 << 20);
        config
    };
    // tail keeps the last line, which never ends.
    let greedy = "tail -n 1 /dev/zero";
    let (status, ..) = host.run(&limited(shell(&format!("exec {greedy}")))).await;
    assert!(status.oom_killed, "{status:?}");
    assert!(status.to_string().contains("out of memory"), "{status}");
    // What is killed by anybody else is not, under the same limit.
    let (plain, starved) = (id("plain"), id("starved"));
    host.start(&plain, &limited(shell("sleep 1000"))).await;
    host.runtime.signal(&plain, 9).await.unwrap();
    let status = host.exit(&plain).await;
    assert_eq!((status.signal, status.oom_killed, status.message), (Some(9), false, None));
    // Nor is what lives on when a child was, however it ends then.
    let note = Some("processes in it were killed for want of memory: 1");
    for code in [0, 3] {
        let (status, ..) = host.run(&limited(shell(&format!("{greedy}; exit {code}")))).await;
        assert_eq!((status.code, status.oom_killed), (Some(code), false), "{status:?}");
        assert_eq!(status.message.as_deref(), note);
    }
    host.start(&starved, &limited(shell(&format!("{greedy}; echo over; sleep 1000")))).await;
    let follow = LogQuery { follow: true, ..LogQuery::default() };
    let mut lines = host.runtime.logs(&starved, follow).await.unwrap();
    while !lines.next().await.unwrap().unwrap().text.starts_with(b"over") {}
    host.runtime.signal(&starved, 9).await.unwrap();
    let status = host.exit(&starved).await;
    assert_eq!((status.signal, status.oom_killed), (Some(9), false), "{status:?}");
    for id in [&plain, &starved] {
        host.runtime.remove(id).await.unwrap();
    }
    host.assert_clean().await;
}

#[tokio::test]
async fn a_fork_bomb_stays_within_its_limit() {
    if !able() {
        return;
    }
    let host = Host::new();
    let mut config = shell("(f() { f | f & }; f) & exec sleep 1000");
    config.resources.pids = Some(20);
    let id = id("bomb");
    host.start(&id, &config).await;
    let mut most = 0;
    let parent = host.config.cgroup_parent.clone();
    let current = move || {
        let own = format!("{parent}/ctr-bomb");
        let at = [format!("/sys/fs/cgroup/pids{own}"), format!("/sys/fs/cgroup{own}")];
        let read = |at: &String, f: &str| std::fs::read_to_string(format!("{at}/{f}")).ok();
        let count = at.iter().find_map(|a| read(a, "pids.current")).unwrap();
        let events = at.iter().find_map(|a| read(a, "pids.events")).unwrap();
        (count.trim().parse::<u64>().unwrap(), !events.contains("max 0"))
    };
    wait_for("the limit to bite", || {
        let (count, bitten) = current();
        most = most.max(count);
        bitten
    })
    .await
    .unwrap();
    assert!(most <= 20, "{most} processes");
    host.runtime.remove(&id).await.unwrap();
    host.assert_clean().await;
}

#[tokio::test]
async fn a_processor_quota_throttles() {
    if !able() {
        return;
    }
    let host = Host::new();
    let mut config = shell("while :; do :; done");
    config.resources.nano_cpus = Some(100_000_000);
    let id = id("busy");
    host.start(&id, &config).await;
    let begin = std::time::Instant::now();
    let before = host.runtime.stats(&id).await.unwrap().cpu_nanos;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let used = host.runtime.stats(&id).await.unwrap().cpu_nanos - before;
    let share = used as f64 / begin.elapsed().as_nanos() as f64;
    assert!(share < 0.2, "a tenth of a processor was allowed, {share:.2} used");
    host.runtime.remove(&id).await.unwrap();
}

#[tokio::test]
async fn a_supervisors_children_are_its_guard_and_the_container() {
    if !able() {
        return;
    }
    let host = Host::new();
    let id = id("alone");
    let spec = host.spec(&shell("sleep 1000"));
    let supervisor = host.runtime.prepare(&id, spec).await.unwrap().supervisor_pid;
    let file = format!("/proc/{supervisor}/task/{supervisor}/children");
    let guard = std::fs::read_to_string(&file).unwrap().trim().to_owned();
    assert_eq!(std::fs::read_to_string(format!("/proc/{guard}/comm")).unwrap(), "shoal-guard\n");
    let line = std::fs::read_to_string(format!("/proc/{guard}/cmdline")).unwrap();
    assert!(line.starts_with("shoal-guard\0alone\0"), "{line:?}");
    let container = host.runtime.start(&id).await.unwrap().pid;
    // Those that have ended and were not collected are listed as well.
    let mut children = String::new();
    for _ in 0..1000 {
        children = std::fs::read_to_string(&file).unwrap();
        if children.trim() == format!("{guard} {container}") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(children.trim(), format!("{guard} {container}"));
    host.runtime.remove(&id).await.unwrap();
    host.assert_clean().await;
}

#[tokio::test]
async fn usage_is_counted() {
    if !able() {
        return;
    }
    let host = Host::new();
    let mut config = shell("sleep 1000 & sleep 1000 & wait");
    config.resources.memory_bytes = Some(64 << 20);
    let id = id("usage");
    host.start(&id, &config).await;
    let mut stats = host.runtime.stats(&id).await.unwrap();
    for _ in 0..1000 {
        if stats.pids == 3 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        stats = host.runtime.stats(&id).await.unwrap();
    }
    assert_eq!(stats.pids, 3, "{stats:?}");
    assert_eq!(stats.memory_limit, Some(64 << 20));
    assert!(stats.memory_bytes > 0 && stats.cpu_nanos > 0, "{stats:?}");
    host.runtime.remove(&id).await.unwrap();
    host.assert_clean().await;
}

/// The kernel takes no quota below 1 ms, so a thousandth of a CPU needs a longer period.
#[tokio::test]
async fn a_thousandth_of_a_cpu_is_a_limit_that_containers_start_under() {
    if !able() {
        return;
    }
    let mut host = Host::new();
    let mut config = shell("echo runs; sleep 1000");
    config.resources.nano_cpus = Some(1_000_000);
    let id = id("slow");
    host.start(&id, &config).await;
    let own = format!("{}/ctr-slow", host.config.cgroup_parent);
    let read = |path: String| std::fs::read_to_string(path).ok();
    let limit = read(format!("/sys/fs/cgroup{own}/cpu.max")).or_else(|| {
        let v1 = format!("/sys/fs/cgroup/cpu{own}");
        let quota = read(format!("{v1}/cpu.cfs_quota_us"))?;
        Some(format!("{} {}", quota.trim(), read(format!("{v1}/cpu.cfs_period_us"))?))
    });
    assert_eq!(limit.unwrap().trim(), "1000 1000000");
    host.runtime.signal(&id, 9).await.unwrap();
    host.exit(&id).await;
    host.runtime.remove(&id).await.unwrap();
    host.assert_clean().await;
}

#[tokio::test]
async fn programs_without_root_use_low_ports_and_ping() {
    if !able() {
        return;
    }
    let mut host = Host::new();
    // The server ends without an answer if it learns first that the client has nothing to say.
    let script = "id -u; while :; do echo served | nc -l -p 80; done & \
        for i in $(seq 100); do x=$(nc 127.0.0.1 80 </dev/null); [ \"$x\" ] && break; usleep 50000; \
        done; echo $x";
    let mut spec = host.spec(&shell(script));
    spec.user = "app".to_owned();
    let (status, out, err) = host.run_spec(spec).await;
    assert_eq!((status.code, out.as_str()), (Some(0), "1000\nserved\n"), "{err}");
    let id = id("pings");
    let pid = host.start(&id, &command(&["sleep", "1000"])).await;
    std::thread::spawn(move || ping_from(pid)).join().unwrap().unwrap();
    host.runtime.signal(&id, 9).await.unwrap();
    host.exit(&id).await;
    host.runtime.remove(&id).await.unwrap();
    // Whoever wants it otherwise says so.
    let mut config = shell("nc -l -p 80 -w 1");
    config.sysctls.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "1024".to_owned());
    let mut spec = host.spec(&config);
    spec.user = "app".to_owned();
    let (status, _, err) = host.run_spec(spec).await;
    assert!(status.code != Some(0) && err.contains("ermission denied"), "{status:?}: {err}");
    host.assert_clean().await;
}

/// Pings as ping does it without root, in a container's network. Changes the calling thread for good.
fn ping_from(pid: i32) -> std::io::Result<()> {
    use rustix::net::{AddressFamily, SocketType, ipproto, socket};
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    use rustix::thread::{set_thread_res_gid, set_thread_res_uid};
    let network = std::fs::File::open(format!("/proc/{pid}/ns/net"))?;
    let kind = Some(LinkNameSpaceType::Network);
    move_into_link_name_space(std::os::fd::AsFd::as_fd(&network), kind)?;
    let (group, user) =
        (rustix::process::Gid::from_raw(1001), rustix::process::Uid::from_raw(1000));
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)?;
    let echo = socket(AddressFamily::INET, SocketType::DGRAM, Some(ipproto::ICMP))?;
    let to = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    // Echo request, code, a checksum that the kernel fills in, id, sequence.
    let flags = rustix::net::SendFlags::empty();
    rustix::net::sendto(&echo, &[8, 0, 0, 0, 0, 0, 0, 1], flags, &to)?;
    let mut answer = [0u8; 64];
    rustix::net::sockopt::set_socket_timeout(
        &echo,
        rustix::net::sockopt::Timeout::Recv,
        Some(std::time::Duration::from_secs(10)),
    )?;
    let (n, _) = rustix::net::recv(&echo, &mut answer, rustix::net::RecvFlags::empty())?;
    assert!(n >= 8 && answer[0] == 0, "an echo reply: {:?}", &answer[..n]);
    Ok(())
}

#[tokio::test]
async fn a_ulimit_above_the_hosts_is_named() {
    if !able() {
        return;
    }
    let mut host = Host::new();
    // Who may not raise limits passes on its own.
    let may = rustix::thread::capabilities(None).unwrap().effective;
    let most: u64 = match may.contains(rustix::thread::CapabilitySet::SYS_RESOURCE) {
        true => std::fs::read_to_string("/proc/sys/fs/nr_open").unwrap().trim().parse().unwrap(),
        false => {
            let own = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
            own.expect("a limit of open files")
        }
    };
    let limited = |nofile: u64| {
        let mut config = shell("ulimit -Hn");
        let limit = |name: &str, n| Rlimit { name: name.to_owned(), soft: n, hard: n };
        config.rlimits = vec![limit("core", 1), limit("nofile", nofile)];
        config
    };
    let (status, out, _) = host.run(&limited(most)).await;
    assert_eq!((status.code, out.trim()), (Some(0), most.to_string().as_str()));
    let refusal = host.refusal(host.spec(&limited(most + 1))).await.to_string();
    let asked = (most + 1).to_string();
    let allowed = format!("this host allows at most {most}");
    for part in ["ulimit nofile", asked.as_str(), &allowed] {
        assert!(refusal.contains(part), "{part} in {refusal}");
    }
    host.assert_clean().await;
}
