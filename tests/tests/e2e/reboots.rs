//! A host comes back while no manager can be reached.

use anyhow::{Context as _, ensure};
use shoal_tests::host::Host;
use shoal_tests::skip::skip;

use crate::world::{World, page, web};

/// A page, and a word in the log for every start.
const PORT: u16 = 8080;

#[test]
fn containers_come_back_with_their_host_before_any_manager_answers() {
    if skip() {
        return;
    }
    let world = World::start(2);
    let yaml = web(&format!(
        "{}\nports: [{{target: {PORT}, published: {PORT}, mode: host}}]\n\
         deploy: {{placement: {{constraints: [node.hostname == h2]}}}}",
        page("home").replace("mkdir", "echo began; mkdir"),
    ));
    world.deploy("shop", &yaml);
    let once = web("command: [sh, -c, 'echo began; sleep 1000']\n\
         deploy: {restart_policy: {condition: none}, placement: {constraints: [node.hostname == h2]}}");
    world.deploy("job", &once);
    world.page("h2", PORT, "home");
    world.logged("job_web", "began");
    let task = world.runs("shop_web", 1).remove(0);
    let (manager, host) = (world.cluster.host(1), world.cluster.named("h2"));

    manager.set_link(false).unwrap();
    // The plug is pulled; nothing but the disk is left.
    host.boot().unwrap();
    world.page("h2", PORT, "home");
    let log = || began(host, &task.id);
    let starts = world.until("both starts are in one log", || {
        let starts = log()?;
        ensure!(starts >= 2, "{starts}");
        Ok(starts)
    });
    assert_eq!(starts, 2);
    assert_eq!(host.supervisors().len(), 1, "what is to run once at most does not run again");

    // What managers made of it meanwhile, if anything, wins.
    manager.set_link(true).unwrap();
    world.until("one task runs, and is what managers know", || {
        let running = world.running("shop_web")?;
        ensure!(running.len() == 1 && host.supervisors().len() == 1, "{running:#?}");
        let process = format!("/proc/{}", running[0].pid);
        ensure!(std::path::Path::new(&process).exists(), "{running:#?}");
        Ok(())
    });
    world.page("h2", PORT, "home");
    world.fails("job_web", "the host was restarted");
    for stack in ["shop", "job"] {
        world.remove(stack);
    }
    world.end();
}

/// How often a task has begun, by its log.
fn began(host: &Host, task: &str) -> anyhow::Result<usize> {
    let dir = host.state_dir().join("containers").join(task).join("log");
    let mut count = 0;
    for file in std::fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
        count += std::fs::read_to_string(file?.path())?.matches("began").count();
    }
    Ok(count)
}
