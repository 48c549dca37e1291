//! A host comes back while no manager can be reached.

use anyhow::{Context as _, ensure};
use shoal_tests::host::Host;
use shoal_tests::skip::skip;

use crate::overlay::vip;
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

/// One that answers, on the third host; one that asks, on the second; and one with an address of its own, on
/// whichever has a label.
fn net() -> String {
    let service = |name: &str, command: &str, network: &str, place: &str| {
        format!(
            "  {name}:\n    image: REGISTRY/busybox:1\n    stop_grace_period: 1s\n    {command}\n    \
             networks: {network}\n    deploy: {{placement: {{constraints: [{place}]}}, update_config: {{monitor: 1s}}}}\n"
        )
    };
    let fixed = "{back: {ipv4_address: 10.77.0.7}}";
    format!(
        "services:\n{}{}{}networks:\n  back:\n    driver: overlay\n    ipam: {{config: [{{subnet: 10.77.0.0/24}}]}}\n",
        service("web", &page("web"), "[back]", "node.hostname == h3"),
        service("asker", "command: [sleep, '12345']", "[back]", "node.hostname == h2"),
        service("keeper", &page("keeper"), fixed, "node.labels.keeper == yes"),
    )
}

/// Does something in a container of a host, without any manager: in that of the process that has these words.
fn inside(host: &Host, words: &str, script: &str) -> anyhow::Result<String> {
    let all = host.processes();
    let process = all.iter().find(|process| process.command.contains(words));
    let process = process.with_context(|| format!("no {words} on {}", host.name))?;
    let mut command = std::process::Command::new("nsenter");
    command.args(["--target", &process.pid.to_string(), "--mount", "--net", "sh", "-c", script]);
    let said = command.output().context("enter the container")?;
    Ok(String::from_utf8_lossy(&said.stdout).into_owned())
}

/// What somebody gets who asks a page of the network.
fn asks(host: &Host, words: &str, address: &str) -> anyhow::Result<String> {
    let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {address} 8080 | tail -1");
    inside(host, words, &script)
}

#[test]
fn a_host_that_comes_back_reaches_others_before_any_manager_answers() {
    if skip() {
        return;
    }
    let world = World::start(3);
    let label = |host: &str| world.ok(&["node", "update", "--label-add", "keeper=yes", host]);
    label("h2");
    world.deploy("net", &net());
    let (manager, host, other) =
        (world.cluster.host(1), world.cluster.named("h2"), world.cluster.named("h3"));
    world.runs("net_web", 1);
    let web = vip(&world, "net_web");
    let reaches = || {
        let told = inside(host, "sleep 12345", "nslookup -type=a web 127.0.0.11")?;
        let address = told.lines().skip_while(|line| !line.trim().is_empty());
        let address = address.filter_map(|line| line.strip_prefix("Address: ")).next();
        let address = address.with_context(|| format!("no name: {told}"))?.trim().to_owned();
        let said = asks(host, "sleep 12345", &address)?;
        ensure!(said.starts_with("web "), "{address}: {said:?}");
        Ok(())
    };
    world.until("the other host is reached", reaches);

    // The plug is pulled, and nobody is there who would say where the others are.
    manager.set_link(false).unwrap();
    host.boot().unwrap();
    world.until("it is reached again", reaches);
    manager.set_link(true).unwrap();
    world.runs("net_asker", 1);
    world.runs("net_keeper", 1);

    // This time it is away until managers have given it up: its address is another's when it comes back.
    host.kill().unwrap();
    // Whoever is given up on the other one later has his successor there, too.
    world.ok(&["node", "update", "--label-rm", "keeper", "h2"]);
    label("h3");
    world.until("another one has the address", || {
        let running = world.running("net_keeper")?;
        let found = running.into_iter().find(|task| task.host == "h3");
        found.context("nobody on h3")
    });
    let own = |said: &str| said.starts_with("keeper ");
    let heard = world.until("who is there answers", || {
        let said = asks(other, "httpd", "10.77.0.7")?;
        ensure!(own(&said), "{said:?}");
        Ok(said)
    });
    manager.set_link(false).unwrap();
    host.boot().unwrap();
    world.until("the old one is back on its host", || {
        let said = asks(host, "sleep 12345", "10.77.0.7")?;
        ensure!(own(&said) && said != heard, "{said:?}");
        Ok(())
    });
    // Its host leads to others as it was told before, and these hear nothing from addresses that are not its any more.
    let route = host.command("ip").unwrap().args(["route", "show", "dev", "shwg0"]).output();
    let routes = String::from_utf8_lossy(&route.unwrap().stdout).into_owned();
    assert!(routes.contains("10.77.0."), "nothing is led into the tunnel: {routes:?}");
    for _ in 0..3 {
        let said = asks(host, "httpd", &web).unwrap();
        assert_eq!(said, "", "it reaches {web} with an address of somebody else");
        assert_eq!(asks(other, "httpd", "10.77.0.7").unwrap(), heard);
    }
    manager.set_link(true).unwrap();
    // Who was cut off may have been given up as well, and has a successor on its host then.
    world.until("managers have said what is so now", || {
        let running = world.running("net_keeper")?;
        ensure!(running.len() == 1 && running[0].host == "h3", "{running:#?}");
        let (here, there) =
            (asks(host, "sleep 12345", "10.77.0.7")?, asks(other, "httpd", "10.77.0.7")?);
        ensure!(own(&here) && here == there, "{here:?} is not {there:?}");
        reaches()
    });
    world.remove("net");
    world.end();
}
