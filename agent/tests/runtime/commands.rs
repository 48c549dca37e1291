//! What people see who type a command that the agent keeps for its helpers.

use std::process::{Command, Stdio};

#[test]
fn an_internal_command_says_that_it_is_one() {
    let table: [(&[&str], &str); 5] = [
        (&["join"], "shoalctl join --token TOKEN ADDRESS"),
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
