//! What nodes have and use, seen and removed from the command line.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::Value;
use shoal_tests::cluster::at;
use shoal_tests::host::Said;
use shoal_tests::skip::skip;

use crate::world::{World, service, web};

/// Bytes that the service writes into its volume, in one file.
const DATA: u64 = 4 << 20;

#[test]
fn what_nodes_have_is_seen_and_removed() {
    if skip() {
        return;
    }
    let world = World::start(2);
    usage(&world);
    in_use(&world);
    a_silent_node(&world);
    unused(&world);
    ended(&world);
    draining(&world);
    world.end();
}

/// Who waits for a node to be empty hears what is left there, in time or when time has run out.
fn draining(world: &World) {
    let lines = "command: [sh, -c, 'trap : TERM; while :; do sleep 1; done']\n\
                 stop_grace_period: 6s\n\
                 deploy: {replicas: 2}";
    let yaml = web(lines).replacen("    stop_grace_period: 1s\n", "", 1);
    world.deploy("drain", &yaml);
    let on = |host: &str| {
        let mut tasks = world.tasks("drain_web").unwrap();
        tasks.retain(|task| task.host == host && task.state == "running");
        tasks.len()
    };
    assert_eq!((on("h1"), on("h2")), (1, 1));
    let drain = ["node", "update", "--availability", "drain", "--wait", "--timeout"];
    let said = world.cluster.ctl(&[&drain[..], &["1s", "h2"]].concat());
    assert_eq!(said.code, 5, "{}", said.both());
    assert!(said.err.contains("not empty after 1 s: drain_web."), "{}", said.both());
    let began = Instant::now();
    let said = world.cluster.ctl(&[&drain[..], &["60s", "h2"]].concat());
    assert_eq!(said.code, 0, "{}", said.both());
    // The fact, not the wish: when it is said, nothing runs there any more.
    assert!(world.cluster.named("h2").supervisors().is_empty(), "after {:?}", began.elapsed());
    // What is waited for is told, as it takes its six seconds.
    let waited = said.out.contains("h2: 1 task left\n  waiting for drain_web.");
    assert!(waited && said.out.trim_end().ends_with("\nh2: empty"), "{}", said.both());
    world.until("both run on the other host", || {
        ensure!((on("h1"), on("h2")) == (2, 0));
        Ok(())
    });
    let again = world.cluster.ctl(&[&drain[..], &["5s", "h2"]].concat());
    assert_eq!((again.code, again.out.trim()), (0, "h2\nh2: empty"), "{}", again.both());
    world.ok(&["node", "update", "--availability", "active", "h2"]);
    world.remove("drain");
}

/// A service that computes all the time, and one that holds 32 MiB.
fn usage(world: &World) {
    let busy = service("busy", "command: [sh, -c, 'while :; do :; done']");
    let hog = "command: [sh, -c, 'dd if=/dev/zero of=/dev/shm/x bs=1024 count=32768; echo end; sleep 1000 & wait']\n\
               deploy: {resources: {limits: {memory: 128M}}, placement: {constraints: [node.hostname==h2]}}";
    let hog = service("hog", hog);
    let (_, hog) = hog.split_once('\n').unwrap();
    world.deploy("use", &format!("{busy}{hog}"));
    world.logged("use_hog", "end");
    let read = |words: &[&str]| {
        let words: Vec<&str> = words.iter().copied().chain(["--no-stream"]).collect();
        world.cluster.json(&words).unwrap()
    };
    let tasks = read(&["stats"]);
    let of = |rows: &[Value], name: &str| {
        rows.iter().find(|row| at(row, "/Name") == name).cloned().unwrap_or_default()
    };
    let number = |row: &Value, key: &str| row[key].as_f64().unwrap_or(-1.0);
    let (busy, hog) = (of(&tasks, "use_busy.1"), of(&tasks, "use_hog.1"));
    // The machine may have much else to do.
    let cpu = number(&busy, "CPUPercent");
    assert!((5.0..115.0).contains(&cpu), "{busy}");
    assert!((0.0..5.0).contains(&number(&hog, "CPUPercent")), "{hog}");
    let memory = number(&hog, "MemoryBytes") / f64::from(1 << 20);
    assert!((32.0..48.0).contains(&memory), "{hog}");
    assert!(number(&busy, "MemoryBytes") < f64::from(16 << 20), "{busy}");
    assert_eq!(hog["MemoryLimitBytes"], 128 << 20, "{hog}");
    assert_eq!(at(&hog, "/Node"), "h2");
    // A shell and what it waits for.
    assert_eq!(hog["PIDs"], 2, "{hog}");
    assert!(number(&hog, "ReceivedBytes") >= 0.0 && number(&hog, "SentBytes") >= 0.0, "{hog}");

    let services = read(&["service", "stats"]);
    let names: Vec<&str> = services.iter().map(|row| at(row, "/Name")).collect();
    assert_eq!(names, ["use_busy", "use_hog"]);
    assert_eq!(services[1]["MemoryLimitBytes"], 128 << 20);
    let one = read(&["stats", "use_hog"]);
    assert_eq!(one.iter().map(|row| at(row, "/Name")).collect::<Vec<_>>(), ["use_hog.1"]);
    let nodes = read(&["node", "stats"]);
    assert_eq!(nodes.iter().map(|row| at(row, "/Name")).collect::<Vec<_>>(), ["h1", "h2"]);
    for node in &nodes {
        assert!(number(node, "CPUs") >= 1.0 && number(node, "CPUPercent") > 0.0, "{node}");
        assert!(number(node, "MemoryBytes") > f64::from(32 << 20), "{node}");
        assert!(number(node, "PIDs") > 2.0, "{node}");
    }
    let said = world.ok(&["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "use_hog"]);
    assert_eq!(said.trim(), "use_hog.1 2");
    let said = world.cluster.ctl(&["stats", "--no-stream", "nothing"]);
    refused(&said, "nothing");
    world.remove("use");
}

/// A service on the second host, with a named volume and one without a name.
fn in_use(world: &World) {
    let lines = format!(
        "command: [sh, -c, 'dd if=/dev/zero of=/data/file bs=1024 count={}; echo end; sleep 1000']\n\
         volumes: ['data:/data', /scratch]\n\
         deploy: {{placement: {{constraints: [node.hostname==h2]}}}}",
        DATA >> 10
    );
    world.deploy("vol", &format!("{}volumes: {{data: {{}}}}\n", web(&lines)));
    world.logged("vol_web", "end");
    let found = volumes(world);
    let seen: Vec<(&str, &str, &Value)> =
        found.iter().map(|v| (at(v, "/Hostname"), at(v, "/Driver"), &v["UsedBy"])).collect();
    let used = serde_json::json!(["vol_web.1"]);
    assert_eq!(seen, [("h2", "local", &used), ("h2", "local", &used)]);
    let named = found.iter().find(|v| at(v, "/Name") == "vol_data").unwrap();
    assert!(at(named, "/Mountpoint").ends_with("volumes/vol_data/_data"), "{named}");
    let shown = world.ok(&["volume", "inspect", "--format", "{{.Name}}@{{.Hostname}}", "vol_data"]);
    assert_eq!(shown.trim(), "vol_data@h2");
    assert_eq!(world.ok(&["volume", "ls", "-q", "--filter", "dangling=true"]), "");

    let said = world.cluster.ctl(&["volume", "rm", "vol_data"]);
    refused(&said, "volume vol_data is in use by vol_web.1 on h2");
    let said = world.ok(&["volume", "prune", "--all", "--force"]);
    assert_eq!(said.trim(), "Total reclaimed space: 0 B");
    let said = world.cluster.ctl(&["volume", "rm", "nothing"]);
    refused(&said, "there is no volume nothing");
    world.ok(&["volume", "rm", "--force", "nothing"]);
    assert_eq!(volumes(world).len(), 2);

    let disk = disk(world, "h2");
    let number = |pointer: &str| disk.pointer(pointer).and_then(Value::as_u64).unwrap();
    assert_eq!((number("/Volumes/Count"), number("/Volumes/Active")), (2, 2), "{disk}");
    assert!((DATA..DATA + 65_536).contains(&number("/Volumes/Bytes")), "{disk}");
    assert_eq!(number("/Volumes/ReclaimableBytes"), 0, "{disk}");
    assert_eq!((number("/Images/Count"), number("/Images/Active")), (1, 1), "{disk}");
    assert!(number("/Images/Bytes") > 100_000, "{disk}");
    assert_eq!(number("/Images/ReclaimableBytes"), 0, "{disk}");
    assert_eq!((number("/Containers/Count"), number("/Containers/Active")), (1, 1), "{disk}");
    assert_eq!(disk["Whole"], true, "{disk}");
}

fn disk(world: &World, host: &str) -> Value {
    let all = world.cluster.json(&["system", "df"]).unwrap();
    all.into_iter().find(|node| at(node, "/Hostname") == host).unwrap()
}

/// A task that has ended keeps its log, and an image that no task uses stays, until they are pruned.
fn ended(world: &World) {
    let lines = "command: [sh, -c, 'seq 1 20000; exit 0']\n\
                 deploy: {restart_policy: {condition: none}, placement: {constraints: [node.hostname==h2]}}";
    let file = world.cluster.stack_file("job", &web(lines));
    world.ok(&["stack", "deploy", "--detach", "-c", &file.to_string_lossy(), "job"]);
    world.logged("job_web", "20000");
    let seen = world.until("the task has ended and is cleaned up", || {
        let disk = disk(world, "h2");
        ensure!(disk["Containers"]["Active"] == 0 && disk["Images"]["Active"] == 0, "{disk}");
        Ok(disk)
    });
    let number =
        |disk: &Value, pointer: &str| disk.pointer(pointer).and_then(Value::as_u64).unwrap();
    // 20,000 lines of five digits or less, each with a time and a name around it.
    let logs = number(&seen, "/Logs/Bytes");
    assert!((1_000_000..4_000_000).contains(&logs), "{seen}");
    assert_eq!(number(&seen, "/Logs/ReclaimableBytes"), logs, "{seen}");
    assert_eq!(number(&seen, "/Images/ReclaimableBytes"), number(&seen, "/Images/Bytes"));

    let task = world.tasks("job_web").unwrap().remove(0);
    let of_h2 = |said: &Value| {
        let nodes = said["Nodes"].as_array().unwrap();
        nodes.iter().find(|node| at(node, "/Hostname") == "h2").unwrap().clone()
    };
    let said = pruned(world, &["system", "prune", "--force"]);
    let node = of_h2(&said);
    assert_eq!(node["Containers"], serde_json::json!([task.id]), "{said}");
    assert_eq!(node["Images"], serde_json::json!([]), "an image with a tag stays: {said}");
    assert!((logs..logs + 65_536).contains(&number(&said, "/ReclaimedBytes")), "{said}");
    assert_eq!(number(&disk(world, "h2"), "/Logs/Bytes"), 0);
    let said = pruned(world, &["system", "prune", "--force", "--all", "--node", "h2"]);
    let images = number(&seen, "/Images/Bytes");
    let node = of_h2(&said);
    assert!(node["Images"][0].as_str().unwrap().ends_with("/busybox:1"), "{said}");
    assert_eq!(number(&said, "/ReclaimedBytes"), images, "{said}");
    assert_eq!(number(&disk(world, "h2"), "/Images/Bytes"), 0);
    assert_eq!(at(&world.cluster.json(&["ps"]).unwrap()[0], "/Status/State"), "complete");
    world.remove("job");
}

/// A host that is cut off is named, and costs no more than its time.
fn a_silent_node(world: &World) {
    let host = world.cluster.named("h2");
    host.set_link(false).unwrap();
    let began = Instant::now();
    let said = world.cluster.ctl(&["volume", "ls"]);
    let took = began.elapsed();
    assert_eq!(said.code, 0, "{}", said.both());
    assert!(said.err.contains("warning: node h2 is missing here: it "), "{}", said.both());
    assert!(took < Duration::from_secs(9), "{took:?}");
    host.set_link(true).unwrap();
    world.until("the host is back", || {
        ensure!(volumes(world).len() == 2);
        Ok(())
    });
}

/// When the service is gone, its volume without a name is, too. What an agent that was killed left
/// behind is told apart from what was named.
fn unused(world: &World) {
    world.remove("vol");
    world.until("the volume without a name is gone", || {
        let left = volumes(world);
        ensure!(left.len() == 1 && at(&left[0], "/Name") == "vol_data", "{left:?}");
        ensure!(left[0]["UsedBy"] == serde_json::json!([]), "{left:?}");
        Ok(())
    });
    let left = left_behind(world);
    let said = world.cluster.ctl(&["volume", "prune"]);
    refused(&said, "nothing was removed: it was not confirmed");
    assert!(said.err.contains("This will remove anonymous volumes on all nodes"), "{}", said.err);
    assert!(left.exists());

    let said = pruned(world, &["volume", "prune", "--force"]);
    assert_eq!(names(&said, "h1"), ["left-i0"]);
    assert_eq!(names(&said, "h2"), [""; 0]);
    let bytes = said["ReclaimedBytes"].as_u64().unwrap();
    assert!((1 << 20..(1 << 20) + 65_536).contains(&bytes), "{bytes}");
    assert!(!left.exists());

    let said = pruned(world, &["volume", "prune", "--force", "--all", "--filter", "label=none"]);
    assert_eq!(said["ReclaimedBytes"], 0);
    let said = pruned(world, &["volume", "prune", "--force", "--all"]);
    assert_eq!(names(&said, "h2"), ["vol_data"]);
    let bytes = said["ReclaimedBytes"].as_u64().unwrap();
    assert!((DATA..DATA + 65_536).contains(&bytes), "{bytes}");
    assert!(!world.cluster.named("h2").state_dir().join("volumes/vol_data").exists());
    assert_eq!(volumes(world).len(), 0);
}

/// An anonymous volume of a task that nobody knows, with a mebibyte in it.
fn left_behind(world: &World) -> PathBuf {
    let dir = world.cluster.named("h1").state_dir().join("volumes/left-i0");
    std::fs::create_dir_all(dir.join("_data")).unwrap();
    let config = serde_json::json!({
        "name": "left-i0", "driver": "", "options": {},
        "labels": { "io.shoal.anonymous": "left" },
    });
    std::fs::write(dir.join("volume.json"), config.to_string()).unwrap();
    std::fs::write(dir.join("_data/file"), vec![1; 1 << 20]).unwrap();
    dir
}

fn volumes(world: &World) -> Vec<Value> {
    world.cluster.json(&["volume", "ls"]).unwrap()
}

fn pruned(world: &World, words: &[&str]) -> Value {
    world.cluster.json(words).unwrap().remove(0)
}

/// What was removed of volumes on a host.
fn names<'a>(said: &'a Value, host: &str) -> Vec<&'a str> {
    let nodes = said["Nodes"].as_array().unwrap();
    let node = nodes.iter().find(|node| at(node, "/Hostname") == host).unwrap();
    node["Volumes"].as_array().unwrap().iter().filter_map(Value::as_str).collect()
}

fn refused(said: &Said, expected: &str) {
    assert_ne!(said.code, 0, "{}", said.both());
    assert!(said.err.contains(expected), "{}", said.both());
}
