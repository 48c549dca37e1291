//! Names follow what becomes of tasks.

use std::fs;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_agent_runtime::ExitStatus;
use shoal_types::id::TaskId;
use shoal_types::object::TaskStatus;
use shoal_types::spec::{DnsConfig, Healthcheck};
use shoal_types::task_state::{DesiredState, TaskState};

use super::Lab;
use super::lab::task;

fn container(id: u128) -> String {
    TaskId::from(id).to_string()
}

fn ended() -> ExitStatus {
    ExitStatus { code: Some(0), ..ExitStatus::default() }
}

/// What a task is told of a name is so, or becomes so.
async fn until_told(lab: &Lab, id: u128, name: &str, count: usize) -> Vec<IpAddr> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let told = lab.names.ask(&container(id), name);
        if let Some(told) = told.filter(|told| told.len() == count) {
            return told;
        }
        let known = lab.names.ask(&container(id), name);
        assert!(Instant::now() < end, "{name} leads to {known:?}, expected {count} addresses");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn resolv_conf(lab: &Lab, id: u128) -> String {
    let dir = lab.dir.path().join("run/files").join(container(id));
    fs::read_to_string(dir.join("resolv.conf")).unwrap()
}

#[tokio::test]
async fn a_name_leads_to_tasks_as_long_as_they_are_ready_and_not_asked_to_stop() {
    let mut lab = Lab::new().await;
    let test = ["CMD", "check"].map(str::to_owned).to_vec();
    let check =
        Healthcheck { test, interval: Some(Duration::from_secs(5)), ..Healthcheck::default() };
    lab.assign([task(1, |_| {}), task(2, |c| c.healthcheck = Some(check))]);
    lab.until_state(1, TaskState::Running).await;
    lab.until_state(2, TaskState::Starting).await;
    assert!(resolv_conf(&lab, 1).starts_with("nameserver 127.0.0.11\n"));
    let first = until_told(&lab, 1, "web", 1).await;
    assert_eq!(until_told(&lab, 2, "web", 1).await, first, "it is not healthy yet itself");
    assert_eq!(lab.names.ask(&container(1), "web.2"), Some(Vec::new()));
    assert_eq!(lab.names.ask(&container(1), "db"), None);
    lab.clock.advance(Duration::from_secs(6));
    lab.until_state(2, TaskState::Running).await;
    until_told(&lab, 1, "web", 2).await;

    // Its end takes a while, and its names are gone before.
    lab.want(1, DesiredState::Shutdown);
    let second = until_told(&lab, 2, "web", 1).await;
    assert_ne!(second, first);
    lab.until_state(1, TaskState::Shutdown).await;
    assert_eq!(lab.names.askers().len(), 1, "nothing keeps its namespace");
    lab.drop_task(1);
    lab.runtime.exit(&TaskId::from(2).into(), ended());
    lab.until_state(2, TaskState::Complete).await;
    lab.drop_task(2);
    lab.until_empty().await;
}

#[tokio::test]
async fn a_container_runs_also_where_names_cannot_be_answered() {
    let mut lab = Lab::new().await;
    lab.names.set_broken(true);
    lab.assign([task(1, |_| {})]);
    let status = lab.until_state(1, TaskState::Running).await;
    let said = "names of other services do not resolve in it: no process answers names";
    assert!(status.message.contains(said), "{}", status.message);
    assert!(!resolv_conf(&lab, 1).contains("127.0.0.11"));
    assert_eq!(lab.names.askers(), []);
    // When there is somebody again, those who come are answered, and so are those who are there.
    lab.names.set_broken(false);
    lab.assign([task(1, |_| {}), task(2, |_| {})]);
    let status = lab.until_state(2, TaskState::Running).await;
    assert!(!status.message.contains("names"), "{}", status.message);
    until_told(&lab, 2, "web", 2).await;
    lab.worker.look_around();
    until_told(&lab, 1, "web", 2).await;
    assert!(lab.names.looks() > 0);
}

#[tokio::test]
async fn who_has_a_server_of_its_own_asks_that_one() {
    let mut lab = Lab::new().await;
    let own =
        |server: &str| DnsConfig { nameservers: vec![server.to_owned()], ..DnsConfig::default() };
    lab.assign([
        task(1, |c| c.dns_config = Some(own("127.0.0.1"))),
        task(2, |c| c.dns_config = Some(own("9.9.9.9"))),
    ]);
    lab.until_state(1, TaskState::Running).await;
    lab.until_state(2, TaskState::Running).await;
    assert!(resolv_conf(&lab, 1).starts_with("nameserver 127.0.0.1\n"));
    assert!(resolv_conf(&lab, 2).starts_with("nameserver 127.0.0.11\n"));
    let askers = lab.names.askers();
    assert_eq!(askers.len(), 1, "{askers:?}");
    assert_eq!(askers[0].container, container(2));
    until_told(&lab, 2, "web", 2).await;
}

#[tokio::test]
async fn who_is_on_internal_networks_only_is_told_that_its_servers_are_not_asked() {
    let mut lab = Lab::new().await;
    for network in lab.assignment.networks.values_mut() {
        Arc::make_mut(network).spec.internal = true;
    }
    let own = DnsConfig { nameservers: vec!["9.9.9.9".to_owned()], ..DnsConfig::default() };
    lab.assign([task(1, |c| c.dns_config = Some(own)), task(2, |_| {})]);
    let message = |status: TaskStatus| status.message;
    let told = message(lab.until_state(1, TaskState::Running).await);
    assert!(told.contains("its name servers (dns) are not asked: all its networks"), "{told}");
    let told = message(lab.until_state(2, TaskState::Running).await);
    assert!(!told.contains("dns"), "{told}");
    until_told(&lab, 1, "web", 2).await;
}

#[tokio::test]
async fn an_agent_that_begins_anew_finds_names_or_makes_them_again() {
    let mut lab = Lab::new().await;
    lab.assign([task(1, |_| {}), task(2, |_| {})]);
    lab.until_state(1, TaskState::Running).await;
    lab.until_state(2, TaskState::Running).await;
    until_told(&lab, 1, "web", 2).await;
    // One ends while nobody looks.
    let exit = |lab: &Lab| lab.runtime.exit(&TaskId::from(2).into(), ended());
    lab.crash_and(exit).await;
    until_told(&lab, 1, "web", 1).await;
    // The process that answers dies with the agent.
    lab.crash_and(|lab| lab.names.lose_everything()).await;
    until_told(&lab, 1, "web", 1).await;
    lab.worker.leave().await.unwrap();
    assert_eq!(lab.names.askers(), []);
    lab.until_empty().await;
}
