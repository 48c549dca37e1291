//! Start, output, exit, removal.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_agent_runtime::oci::OciRuntime;
use shoal_agent_runtime::{ContainerSpec, LogLimits, LogQuery, Runtime, RuntimeError, contract};

use crate::host::{Host, able, command, id, shell, wait_for};

#[tokio::test]
async fn the_real_runtime_honours_the_contract() {
    if !able() {
        return;
    }
    let host = Host::new();
    let runtime = || OciRuntime::new(host.config.clone()).unwrap();
    let script = "trap 'exit 0' TERM; while :; do usleep 20000; done";
    contract::honour(runtime(), host.spec(&shell(script)), |_| runtime()).await;
    host.assert_clean().await;
}

#[tokio::test]
async fn exit_codes_and_signals_are_what_they_were() {
    if !able() {
        return;
    }
    let mut host = Host::new();
    let (status, out, err) = host.run(&shell("echo out; echo err >&2; exit 7")).await;
    assert_eq!((status.code, status.signal, status.oom_killed), (Some(7), None, false));
    assert_eq!((out.as_str(), err.as_str()), ("out\n", "err\n"));
    let (status, ..) = host.run(&command(&["true"])).await;
    assert!(status.is_success());
    let id = id("signalled");
    host.start(&id, &command(&["sleep", "1000"])).await;
    host.runtime.signal(&id, 9).await.unwrap();
    let status = host.exit(&id).await;
    assert_eq!((status.code, status.signal, status.oom_killed), (None, Some(9), false));
    assert!(matches!(host.runtime.signal(&id, 15).await, Err(RuntimeError::NotRunning { .. })));
    host.runtime.remove(&id).await.unwrap();
    host.assert_clean().await;
}

#[tokio::test]
async fn what_cannot_be_started_is_named() {
    if !able() {
        return;
    }
    let host = Host::new();
    let refusal = |config| host.refusal(host.spec(&config));
    let error = refusal(command(&["no-such-command", "x"])).await;
    assert_eq!(error.shell_code(), Some(127));
    assert!(error.to_string().contains("no-such-command"), "{error}");
    for (argv, reason) in
        [("/bin/plain", "permission denied"), ("/bin", "directory"), ("/bin/odd", "interpreter")]
    {
        let error = refusal(command(&[argv])).await;
        assert_eq!(error.shell_code(), Some(126), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
    let mut spec = host.spec(&command(&["true"]));
    spec.user = "nobody-here".to_owned();
    let error = host.refusal(spec).await;
    assert!(matches!(error, RuntimeError::UnknownUser { .. }), "{error}");
    host.assert_clean().await;
}

#[tokio::test]
async fn user_directory_environment_and_host_name() {
    if !able() {
        return;
    }
    let mut host = Host::new();
    let mut config = shell("id -u; id -g; id -G; pwd; echo $A; hostname; echo $HOME");
    config.cwd = "/made/for/me".into();
    config.env = vec!["A=b c".to_owned()];
    config.hostname = Some("box".to_owned());
    let spec = ContainerSpec { user: "app".to_owned(), ..host.spec(&config) };
    let (status, log, _) = host.run_spec(spec).await;
    assert_eq!(log, "1000\n1001\n1001 2002\n/made/for/me\nb c\nbox\n/tmp\n", "{status}");
}

#[tokio::test]
async fn home_and_groups_follow_from_the_user() {
    if !able() {
        return;
    }
    let mut host = Host::new();
    let table = [
        ("", "HOME=/srv", "0 2003 /srv"),
        ("", "A=b", "0 2003 /root"),
        ("app", "HOME=", "1001 2002 /tmp"),
        ("1000", "A=b", "1001 2002 /tmp"),
        ("app:2003", "A=b", "2003 /tmp"),
        ("4242:4343", "A=b", "4343 /"),
    ];
    for (user, env, expected) in table {
        let mut config = shell("echo $(grep Groups /proc/self/status | cut -f 2) $HOME");
        config.env = vec![env.to_owned()];
        let spec = ContainerSpec { user: user.to_owned(), ..host.spec(&config) };
        let (status, log, errors) = host.run_spec(spec).await;
        assert_eq!(log.trim_end(), expected, "{user:?} {env}: {status} {errors}");
    }
}

#[tokio::test]
async fn removal_can_be_repeated_and_come_at_any_time() {
    if !able() {
        return;
    }
    let mut host = Host::new();
    let id = id("again");
    host.runtime.remove(&id).await.unwrap();
    host.runtime.prepare(&id, host.spec(&command(&["sleep", "1000"]))).await.unwrap();
    let again = host.runtime.prepare(&id, host.spec(&command(&["true"]))).await;
    assert!(matches!(again, Err(RuntimeError::AlreadyExists { .. })));
    host.runtime.remove(&id).await.unwrap();
    host.assert_clean().await;
    let pid = host.start(&id, &command(&["sleep", "1000"])).await;
    assert_eq!(host.runtime.start(&id).await.unwrap().pid, pid, "starting twice is starting once");
    host.runtime.remove(&id).await.unwrap();
    host.runtime.remove(&id).await.unwrap();
    assert_eq!(host.exit(&id).await.signal, Some(9));
    host.assert_clean().await;
}

#[tokio::test]
async fn logs_are_rotated_bounded_and_followed() {
    if !able() {
        return;
    }
    let host = Host::new();
    let id = id("talker");
    let mut spec = host.spec(&shell("seq 1 20000; sleep 1000"));
    spec.log = LogLimits { max_bytes: 100_000, max_files: 100 };
    host.runtime.prepare(&id, spec).await.unwrap();
    host.runtime.start(&id).await.unwrap();
    let expected: String = (1..=20000).map(|i| format!("{i}\n")).collect();
    let follow = LogQuery { follow: true, ..LogQuery::default() };
    let (all, ()) = tokio::join!(host.lines(&id, follow), async {
        let dir = host.config.state_dir.join("talker/log");
        let done = || {
            let files = std::fs::read_dir(&dir).unwrap().flatten();
            files
                .map(|f| std::fs::read_to_string(f.path()).unwrap())
                .any(|t| t.contains("\"20000\\n"))
        };
        wait_for("the last line", done).await.unwrap();
        host.runtime.signal(&id, 9).await.unwrap();
    });
    assert!(all == expected, "{} of {} bytes", all.len(), expected.len());
    let files = std::fs::read_dir(host.config.state_dir.join("talker/log")).unwrap().count();
    assert!(files > 5, "{files} files");
    host.runtime.remove(&id).await.unwrap();
    host.assert_clean().await;
}

#[tokio::test]
async fn a_terminal_is_a_terminal() {
    if !able() {
        return;
    }
    let mut host = Host::new();
    let mut config =
        shell("test -t 0 && test -t 1 && echo yes; readlink /proc/self/fd/0; sleep 1000");
    config.tty = true;
    let id = id("tty");
    host.start(&id, &config).await;
    let log = host.config.state_dir.join("tty/log/0000000000.log");
    let written = || std::fs::read_to_string(&log).unwrap().contains("/dev/pts");
    wait_for("its output", written).await.unwrap();
    host.runtime.signal(&id, 9).await.unwrap();
    host.exit(&id).await;
    let log = host.log(&id).await;
    assert!(log.starts_with("yes\r\n/dev/pts/0\r\n"), "{log:?}");
    host.runtime.remove(&id).await.unwrap();
    host.assert_clean().await;
}

#[tokio::test]
async fn fifty_at_once() {
    if !able() {
        return;
    }
    let mut host = Host::new();
    let ids: Vec<_> = (0..50).map(|i| id(&format!("many-{i}"))).collect();
    let starts = ids.iter().enumerate().map(|(i, id)| {
        let host = &host;
        async move {
            host.start(id, &shell(&format!("echo {i}; exit {i}"))).await;
        }
    });
    futures::future::join_all(starts).await;
    let mut codes = BTreeMap::new();
    while codes.len() < 50 {
        let exit = host.exits.recv().await.unwrap();
        codes.insert(exit.id.to_string(), exit.status.code);
    }
    for (i, id) in ids.iter().enumerate() {
        assert_eq!(codes[id.as_str()], Some(i as i32));
        assert_eq!(host.log(id).await, format!("{i}\n"));
    }
    let removed = futures::future::join_all(ids.iter().map(|id| host.runtime.remove(id))).await;
    assert!(removed.iter().all(Result::is_ok), "{removed:?}");
    host.assert_clean().await;
}

#[tokio::test]
async fn namespaces_parameters_limits_and_mounts_are_as_asked() {
    use shoal_agent_planning::oci::{MountConfig, MountKind, Rlimit};
    use shoal_agent_runtime::NetworkMode;
    if !able() {
        return;
    }
    let mut host = Host::new();
    let own = |kind: &str| {
        std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().to_str().unwrap().to_owned()
    };
    let mut config = shell("readlink /proc/self/ns/net; readlink /proc/self/ns/pid");
    config.foreign_network = true;
    let mut spec = host.spec(&config);
    spec.network = NetworkMode::Host;
    let id = id("hostnet");
    host.runtime.prepare(&id, spec).await.unwrap();
    host.runtime.start(&id).await.unwrap();
    let status = host.exit(&id).await;
    let log = host.log(&id).await;
    host.runtime.remove(&id).await.unwrap();
    assert!(status.is_success(), "{status}: {log}");
    assert_eq!(log.lines().next(), Some(own("net").as_str()));
    assert_ne!(log.lines().nth(1), Some(own("pid").as_str()));

    let volume = host.home().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let mut config = shell(
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start; ulimit -n; echo kept > /data/file; \
         echo lost > /scratch/file; readlink /proc/self/ns/net; cat /proc/self/oom_score_adj",
    );
    config.oom_score_adj = 321;
    config.sysctls.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "123".to_owned());
    config.rlimits = vec![Rlimit { name: "nofile".to_owned(), soft: 77, hard: 88 }];
    let mount = |destination: &str, kind| MountConfig {
        destination: destination.into(),
        kind,
        read_only: false,
    };
    config.mounts = vec![
        mount("/data", MountKind::Bind { source: volume.clone() }),
        mount("/scratch", MountKind::Tmpfs { size_bytes: Some(1 << 20), mode: 0o1777 }),
    ];
    let (status, out, err) = host.run(&config).await;
    assert!(status.is_success(), "{status}: {err}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..2], ["123", "77"], "{err}");
    assert_ne!(lines[2], own("net"));
    assert_eq!(lines[3], "321");
    assert_eq!(std::fs::read_to_string(volume.join("file")).unwrap(), "kept\n");
    host.assert_clean().await;
}

#[tokio::test]
async fn the_parent_group_goes_with_the_last_container() {
    if !able() {
        return;
    }
    let host = Host::new();
    let parents = || host.parent_groups();
    let mark = host.config.run_dir.with_extension("cgroup-parent");
    host.start(&id("one"), &command(&["sleep", "1000"])).await;
    assert!(!parents().is_empty());
    host.start(&id("two"), &command(&["sleep", "1000"])).await;
    host.runtime.remove(&id("one")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!parents().is_empty(), "another container is there");
    host.runtime.remove(&id("two")).await.unwrap();
    let gone = || parents().is_empty() && !mark.exists();
    wait_for("the parent group to go", gone).await.unwrap();
    host.start(&id("three"), &command(&["sleep", "1000"])).await;
    host.runtime.remove(&id("three")).await.unwrap();
    wait_for("the parent group to go again", gone).await.unwrap();
}

#[tokio::test]
async fn a_parent_group_that_was_there_before_stays() {
    if !able() {
        return;
    }
    let host = Host::new();
    let made = host.make_parent_groups();
    host.start(&id("one"), &command(&["true"])).await;
    host.runtime.remove(&id("one")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(host.parent_groups(), made);
}
