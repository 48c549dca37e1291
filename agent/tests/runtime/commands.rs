//! What people see who type a command that the agent keeps for its helpers.

use std::process::{Command, Stdio};

#[test]
fn an_internal_command_says_that_it_is_one() {
    let table: [(&[&str], &str); 5] = [
        (&["join"], "shoalctl join ADDRESS"),
        (&["join", "--token", "SHOAL-1-x", "10.0.0.1:4242"], "shoalctl join"),
        (&["join", "/tmp"], "shoalctl join"),
        (&["supervise"], "shoal-agent run"),
        (&["supervise", "/tmp"], "shoal-agent run"),
    ];
    for (arguments, hint) in table {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shoal-agent"));
        let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains("keeps for itself") && said.contains(hint), "{said}");
    }
}

/// The manager runs as somebody else, and containers are strangers.
#[test]
fn what_the_agent_was_started_with_goes_no_further() {
    if !crate::host::able() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    // In a network of its own, as the agent looks after its host's.
    let script = format!(
        "exec 9>{lock}; exec {agent} run --state-dir {state} --run-dir {run} \
         --cgroup-parent /shoal-test-fds-{pid} --hostname fds",
        lock = at("lock"),
        agent = env!("CARGO_BIN_EXE_shoal-agent"),
        state = at("state"),
        run = at("run"),
        pid = std::process::id(),
    );
    let log = std::fs::File::create(at("log")).unwrap();
    let mut command = Command::new("unshare");
    command.args(["-n", "sh", "-c", &script]).stdin(Stdio::null()).stderr(log);
    let mut agent = command.spawn().unwrap();
    let fds = format!("/proc/{}/fdinfo", agent.id());
    let deadline = std::time::Instant::now() + crate::host::PATIENCE;
    let socket = dir.path().join("run/agent.sock");
    while !socket.exists() && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let flags = std::fs::read_to_string(format!("{fds}/9")).unwrap_or_default();
    let all = std::fs::read_dir(&fds).map(|dir| dir.flatten().collect::<Vec<_>>());
    let handed_on: Vec<String> = all
        .unwrap_or_default()
        .iter()
        .filter(|e| e.file_name().to_str().is_some_and(|n| n.parse::<u32>().is_ok_and(|n| n > 2)))
        .filter_map(|e| {
            let info = std::fs::read_to_string(e.path()).ok()?;
            let flags = info.lines().find_map(|l| l.strip_prefix("flags:"))?.trim().to_owned();
            let flags = u32::from_str_radix(&flags, 8).ok()?;
            // O_CLOEXEC.
            (flags & 0o2_000_000 == 0).then(|| format!("{:?}: {info}", e.file_name()))
        })
        .collect();
    let said = std::fs::read_to_string(at("log")).unwrap();
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert!(socket.exists(), "the agent starts: {said}");
    assert!(flags.contains("flags:"), "it was started with the file");
    assert_eq!(handed_on, [""; 0], "would be handed on to whatever it starts");
}
