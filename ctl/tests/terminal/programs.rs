//! What programs and people who wait get from the same manager: ends, records, placeholders.

use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_ends_what_waits_while_the_manager_is_silent() {
    // Waiting for tasks to end, for a rollout, for what is used, for an answer.
    let lines = [
        ("stack rm k", "list_tasks", true),
        ("service create nginx", "get_deployment", true),
        ("stats", "get_usage", false),
        ("network rm n n", "remove_network", true),
    ];
    for (line, method, says_so) in lines {
        for (signal, code, word) in
            [(Signal::INT, 130, "interrupted"), (Signal::TERM, 143, "terminated")]
        {
            let hangs = Arc::<Notify>::default();
            let later = Some((method, Later::Hangs));
            let dir = served(Hostile { later, hangs: hangs.clone(), ..Hostile::default() }).await;
            let child = spawn(dir.path(), "table", line);
            tokio::time::timeout(Duration::from_secs(60), hangs.notified()).await.unwrap();
            kill_process(Pid::from_child(&child), signal).unwrap();
            let ran = ended(child).await;
            let told = String::from_utf8(ran.stderr).unwrap();
            assert_eq!(ran.status.code(), Some(code), "{line}: {told}");
            assert_eq!(told.contains(&format!("error: {word}")), says_so, "{line}: {told}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_refuses_is_not_waited_for() {
    let codes = [
        Code::PermissionDenied,
        Code::Unauthenticated,
        Code::InvalidArgument,
        Code::FailedPrecondition,
        Code::Unimplemented,
    ];
    for (line, method) in [("stack rm k", "list_tasks"), ("service create nginx", "get_deployment")]
    {
        for code in codes {
            let later = Some((method, Later::Refuses(code)));
            let dir = served(Hostile { later, ..Hostile::default() }).await;
            let begun = Instant::now();
            let ran = ended(spawn(dir.path(), "table", line)).await;
            let told = String::from_utf8([ran.stdout, ran.stderr].concat()).unwrap();
            assert_eq!(ran.status.code(), Some(1), "{line}, {code:?}: {told}");
            assert!(told.contains("error: not for you"), "{line}, {code:?}: {told}");
            assert!(!told.contains("away"), "{line}, {code:?}: {told}");
            assert!(begun.elapsed() < Duration::from_secs(30), "{line}: {:?}", begun.elapsed());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn placeholders_that_scripts_for_docker_use() {
    let dir = served(Hostile::default()).await;
    let task: String = TaskId::from(1).to_string().chars().take(12).collect();
    let cases = [
        ("node ls", "{{.TLSStatus}}/{{.Self}}", "Ready/false".to_owned()),
        ("node ls", "{{.ID}}", NodeId::from(1).to_string()),
        ("network ls", "{{.IPv4}}/{{.IPv6}}/{{.Internal}}", "true/false/false".to_owned()),
        ("stats --no-stream", "{{.Container}}|{{.BlockIO}}", format!("{task}|--")),
        ("stats --no-stream --no-trunc", "{{.Container}}", TaskId::from(1).to_string()),
    ];
    for (line, template, expected) in cases {
        let ran = ended(spawn(dir.path(), template, line)).await;
        let told = String::from_utf8(ran.stderr).unwrap();
        let out = String::from_utf8(ran.stdout).unwrap();
        assert_eq!(out.trim_end(), expected, "{line} --format {template}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_on_an_address_of_a_host_are_taken_with_one_note() {
    let dir = served(Hostile::default()).await;
    let file = dir.path().join("stack.yaml");
    let line = format!("stack deploy -d -c {} k", file.display());
    for (port, noted) in [
        ("'80:80'", false),
        ("{target: 80, published: 80, mode: ingress}", false),
        ("{target: 80, published: 80, mode: host}", false),
        ("'127.0.0.1:80:80', '127.0.0.1:81:80'", true),
        ("{target: 80, published: 80, host_ip: 127.0.0.1, mode: ingress}", true),
        ("{target: 80, published: 80, host_ip: 127.0.0.1, mode: host}", false),
    ] {
        std::fs::write(&file, format!("services: {{web: {{image: i, ports: [{port}]}}}}\n"))
            .unwrap();
        let ran = ended(spawn(dir.path(), "table", &line)).await;
        let told = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(ran.status.code(), Some(0), "{port}: {told}");
        let notes = told.matches("warning: ports of web that name an address").count();
        assert_eq!(notes, usize::from(noted), "{port}: {told}");
    }
}

/// Each with what must be among its records.
const RECORDED: [(&str, &[&str]); 11] = [
    ("events", &["change"]),
    ("service logs s", &["news", "line"]),
    ("stats", &["usage"]),
    ("service stats", &["usage"]),
    ("node stats", &["usage"]),
    ("user rm u v", &["applied"]),
    ("volume rm v", &["applied"]),
    ("network rm n m", &["news"]),
    ("node rm h", &[]),
    ("stack rm -d k", &["applied"]),
    ("service create --timeout 1s nginx", &["applied", "progress"]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_programs_read_is_documented_and_ends_with_its_outcome() {
    use std::io::BufRead as _;
    let documented = include_str!("../../../docs/outcomes.md");
    let dir = served(Hostile::default()).await;
    for (line, expected) in RECORDED {
        let mut child = spawn(dir.path(), "json", line);
        let read = move || {
            let mut records: Vec<serde_json::Value> = Vec::new();
            for text in std::io::BufReader::new(child.stdout.take().unwrap()).lines() {
                let record: serde_json::Value = serde_json::from_str(&text.unwrap()).unwrap();
                if record["Event"] == "usage" && records.is_empty() {
                    // It would go on.
                    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
                }
                records.push(record);
            }
            (child.wait().unwrap(), records)
        };
        let read = tokio::task::spawn_blocking(read);
        let (status, records) =
            tokio::time::timeout(Duration::from_secs(60), read).await.unwrap().unwrap();
        let events: Vec<&str> = records.iter().map(|r| r["Event"].as_str().unwrap()).collect();
        assert!(expected.iter().all(|event| events.contains(event)), "{line}: {events:?}");
        let last = records.last().unwrap();
        assert_eq!(last["Event"], "outcome", "{line}: {last}");
        assert_eq!(last["ExitCode"], status.code().unwrap(), "{line}: {last}");
        for record in &records {
            let event = format!("| `{}` |", record["Event"].as_str().unwrap());
            let row = documented.lines().find(|row| row.starts_with(&event));
            let row = row.unwrap_or_else(|| panic!("docs/outcomes.md has no row {event}"));
            assert_eq!(record["Version"], 1, "{line}: {record}");
            assert!(record["Time"].as_str().unwrap().ends_with('Z'), "{line}: {record}");
            for field in record.as_object().unwrap().keys() {
                let known = ["Version", "Time", "Event"].contains(&field.as_str())
                    || row.contains(&format!("`{field}`"));
                assert!(known, "docs/outcomes.md does not tell of {field} in {record}");
            }
        }
    }
}
