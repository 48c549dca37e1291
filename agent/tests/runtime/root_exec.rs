//! Further processes in a container.

use bytes::Bytes;
use shoal_agent_runtime::{ExecSpec, Runtime, RuntimeError, Stream, TermSize};

use crate::host::{Host, PATIENCE, able, command, finish, id, shell, text, wait_for};

fn exec(argv: &[&str]) -> ExecSpec {
    ExecSpec { argv: argv.iter().map(ToString::to_string).collect(), ..ExecSpec::default() }
}

#[tokio::test]
async fn an_execution_leaves_no_file() {
    if !able() {
        return;
    }
    let host = Host::new();
    let id = id("box");
    host.start(&id, &command(&["sleep", "1000"])).await;
    let before = host.files();
    for tty in [None, Some(TermSize { rows: 24, cols: 80 })] {
        for argv in [&["true"][..], &["false"], &["no-such-program"]] {
            // One that cannot be started leaves nothing either.
            if let Ok(session) = host.runtime.exec(&id, ExecSpec { tty, ..exec(argv) }).await {
                finish(session).await;
            }
        }
    }
    wait_for("nothing is left", || host.files() == before)
        .await
        .unwrap_or_else(|_| panic!("left behind: {:#?}", host.files()));
}

#[tokio::test]
async fn pipes_codes_environment_and_confinement() {
    if !able() {
        return;
    }
    let host = Host::new();
    let id = id("box");
    let mut config = command(&["sleep", "1000"]);
    config.env = vec!["FROM=container".to_owned()];
    host.start(&id, &config).await;
    let mut spec = exec(&["sh", "-c", "echo $FROM $MORE $HOME; id -u; pwd; echo oops >&2; exit 3"]);
    spec.env = vec!["MORE=exec".to_owned()];
    spec.user = Some("app".to_owned());
    spec.cwd = Some("/tmp".into());
    let (code, output) = finish(host.runtime.exec(&id, spec).await.unwrap()).await;
    assert_eq!(code, Some(3));
    assert_eq!(text(&output, Stream::Stdout), "container exec /tmp\n1000\n/tmp\n");
    assert_eq!(text(&output, Stream::Stderr), "oops\n");
    for (cwd, why) in [("/no/such", "No such file"), ("/bin/busybox", "Not a directory")] {
        let mut spec = exec(&["true"]);
        spec.cwd = Some(cwd.into());
        let Err(error) = host.runtime.exec(&id, spec).await else { panic!("{cwd}: no error") };
        let error = error.to_string();
        assert!(error.contains(&format!("entering {cwd}: {why}")), "{error}");
    }
    let mut spec = exec(&["sh", "-c", "echo $HOME"]);
    spec.env = vec!["HOME=".to_owned()];
    let (_, output) = finish(host.runtime.exec(&id, spec).await.unwrap()).await;
    assert_eq!(text(&output, Stream::Stdout), "/root\n", "as without a user and a home");
    let session = host.runtime.exec(&id, exec(&["cat", "/proc/self/status"])).await.unwrap();
    let status = text(&finish(session).await.1, Stream::Stdout);
    for line in ["Seccomp:\t2", "CapEff:\t00000000a80425fb", "CapBnd:\t00000000a80425fb"] {
        assert!(status.contains(line), "{line} in {status}");
    }
    let session = host.runtime.exec(&id, exec(&["cat", "/proc/self/cgroup"])).await.unwrap();
    let groups = text(&finish(session).await.1, Stream::Stdout);
    // On version 2 there is one group for everything: that of the execution, below the container's.
    let own = |line: &str| line.ends_with(":memory:/") || line.starts_with("0::/exec-");
    assert!(groups.lines().any(own) && !groups.contains("shoal"), "{groups}");
    let session = host.runtime.exec(&id, exec(&["unshare", "-m", "true"])).await.unwrap();
    assert_ne!(finish(session).await.0, Some(0));
    let mut spec = exec(&["cat"]);
    spec.stdin = true;
    let mut session = host.runtime.exec(&id, spec).await.unwrap();
    session.stdin.send(Bytes::from_static(b"through\n")).await.unwrap();
    let (closed, _) = tokio::sync::mpsc::channel(1);
    drop(std::mem::replace(&mut session.stdin, closed));
    let (code, output) = finish(session).await;
    assert_eq!((code, text(&output, Stream::Stdout).as_str()), (Some(0), "through\n"));
    let refused = host.runtime.exec(&id, exec(&["nope"])).await.unwrap_err();
    assert_eq!(refused.shell_code(), Some(127), "{refused}");
    host.runtime.remove(&id).await.unwrap();
    let gone = host.runtime.exec(&id, exec(&["true"])).await.unwrap_err();
    assert!(matches!(gone, RuntimeError::NotFound { .. }), "{gone}");
    host.assert_clean().await;
}

#[tokio::test]
async fn streams_belong_to_the_user_who_joins() {
    if !able() {
        return;
    }
    let host = Host::new();
    let id = id("streams");
    host.start(&id, &command(&["sleep", "1000"])).await;
    let script = "echo out > /dev/stdout && echo err > /dev/stderr && : < /dev/stdin && echo read";
    let size = TermSize { rows: 24, cols: 80 };
    for (user, tty, stdin) in [
        ("1000:1000", None, false),
        ("1000:1000", None, true),
        ("app", Some(size), true),
        ("0", None, true),
    ] {
        let user = Some(user.to_owned());
        let spec = ExecSpec { user, tty, stdin, ..exec(&["sh", "-c", script]) };
        let (code, output) = finish(host.runtime.exec(&id, spec).await.unwrap()).await;
        let all = text(&output, Stream::Stdout) + &text(&output, Stream::Stderr);
        assert_eq!(code, Some(0), "tty {tty:?}, stdin {stdin}: {all}");
        for line in ["out", "err", "read"] {
            assert!(all.lines().any(|l| l.trim_end() == line), "tty {tty:?}: {all}");
        }
    }
    host.runtime.remove(&id).await.unwrap();
    host.assert_clean().await;
}

#[tokio::test]
async fn on_a_terminal() {
    if !able() {
        return;
    }
    let host = Host::new();
    let id = id("term");
    host.start(&id, &command(&["sleep", "1000"])).await;
    let mut spec = exec(&["sh", "-c", "test -t 0 && stty size; read x; echo got $x; stty size"]);
    spec.tty = Some(TermSize { rows: 12, cols: 34 });
    let mut session = host.runtime.exec(&id, spec).await.unwrap();
    let mut output = Vec::new();
    while !text(&output, Stream::Stdout).contains("12 34") {
        let chunk = tokio::time::timeout(PATIENCE, session.output.recv()).await;
        output.push(chunk.expect("no output in time").expect("output ended"));
    }
    session.resize.send(TermSize { rows: 56, cols: 78 }).await.unwrap();
    session.stdin.send(Bytes::from_static(b"word\n")).await.unwrap();
    let (code, rest) = finish(session).await;
    let rest = text(&rest, Stream::Stdout);
    assert!(rest.contains("got word"), "{rest}");
    assert_eq!(code, Some(0));
    host.runtime.remove(&id).await.unwrap();
    host.assert_clean().await;
}

#[tokio::test]
async fn many_at_once_with_and_without_terminals() {
    if !able() {
        return;
    }
    let host = Host::new();
    let id = id("busy");
    host.start(&id, &command(&["sleep", "1000"])).await;
    let all = (0..20).map(|i| {
        let mut spec = exec(&["sh", "-c", &format!("echo {i}; exit {i}")]);
        spec.tty = (i % 2 == 0).then_some(TermSize { rows: 24, cols: 80 });
        let (host, id) = (&host, &id);
        async move { finish(host.runtime.exec(id, spec).await.unwrap()).await }
    });
    for (i, (code, output)) in futures::future::join_all(all).await.into_iter().enumerate() {
        assert_eq!(code, Some(i as i32));
        assert_eq!(text(&output, Stream::Stdout).trim(), i.to_string());
    }
    host.runtime.remove(&id).await.unwrap();
    host.assert_clean().await;
}

#[tokio::test]
async fn dropping_a_session_kills_its_process() {
    if !able() {
        return;
    }
    let host = Host::new();
    let id = id("drop");
    host.start(&id, &shell("sleep 1000")).await;
    let session = host.runtime.exec(&id, exec(&["sleep", "1000"])).await.unwrap();
    let pid = session.pid;
    assert!(crate::host::alive(pid));
    drop(session);
    wait_for("the process to die", || !crate::host::alive(pid)).await.unwrap();
    host.runtime.remove(&id).await.unwrap();
    host.assert_clean().await;
}
