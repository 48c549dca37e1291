//! What every driver promises.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use shoal_agent_ground::testing::skip_without_root;
use shoal_agent_planning::network::{Attached, AttachedV4, Mac};
use shoal_agent_planning::zone::{Asker, Forwards, Roll, Speaker};
use shoal_types::assignment::AssignedTask;
use shoal_types::id::{NetworkId, TaskId};
use shoal_types::level::Level;
use shoal_types::object::{Meta, Network, Slot};
use shoal_types::spec::{ContainerSpec, NetworkSpec, TaskRuntime, TaskSpec};
use shoal_types::task_state::DesiredState;

use super::driver::{NamesDriver, NodeNames};
use super::fake::FakeNames;
use super::keeper_tests::real;
use super::root_tests::{Space, ask};
use super::tests::addresses;

const NETWORK: u128 = 11;
const TASK: u128 = 21;

/// Asks for a name as the container does; `None` if it is not answered, or not with addresses.
type AskIn<'a> = &'a dyn Fn(&'static str) -> BoxFuture<'a, Option<Vec<IpAddr>>>;

/// So many tasks of `web` that serve.
pub(crate) fn roll(tasks: u8) -> Roll {
    let mut roll = Roll::default();
    let id = NetworkId::from(NETWORK);
    let spec = NetworkSpec { name: "back".to_owned(), ..NetworkSpec::default() };
    let (meta, subnets) = (Meta::default(), Vec::new());
    let network = Network { id, meta, spec, stack_id: None, predefined: false, subnets };
    roll.set_networks(Arc::new([(id, Arc::new(network))].into()));
    for n in 0..tasks {
        let task = AssignedTask {
            id: (TASK + u128::from(n)).into(),
            service_id: 1.into(),
            service_name: "web".to_owned(),
            service_labels: BTreeMap::new(),
            slot: Slot::Replica(u64::from(n)),
            node_id: 2.into(),
            spec: Arc::new(TaskSpec::of(TaskRuntime::Container(ContainerSpec::default()))),
            ports: Vec::new(),
            networks: Vec::new(),
            payloads: Default::default(),
            partner: None,
            desired_state: DesiredState::Running,
            level: Level::FIRST,
        };
        let attached = Attached {
            container: task.id.to_string(),
            network: id.to_string(),
            mac: Mac([0; 6]),
            ifname: "eth0".to_owned(),
            host_ifname: "v1".to_owned(),
            mtu: 1500,
            v4: Some(AttachedV4 {
                address: format!("10.0.1.{}/24", n + 2).parse().unwrap(),
                gateway: Ipv4Addr::UNSPECIFIED,
                default_route: true,
                behind_gateway: Vec::new(),
            }),
            v6: None,
            aliases: BTreeSet::new(),
            wire: None,
        };
        roll.set_speaker(task.id, Speaker::of(&task, vec![attached], true));
    }
    roll
}

fn asker() -> Asker {
    Asker {
        container: TaskId::from(TASK).to_string(),
        networks: vec![NetworkId::from(NETWORK).to_string()],
        hostname: "own".to_owned(),
        forwards: Forwards::Nobody,
    }
}

async fn until_told(ask: AskIn<'_>, name: &'static str, expected: &[[u8; 4]]) {
    let expected: BTreeSet<IpAddr> = expected.iter().copied().map(Into::into).collect();
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let told = ask(name).await.map(|all| all.into_iter().collect::<BTreeSet<_>>());
        if told.as_ref() == Some(&expected) {
            return;
        }
        assert!(Instant::now() < end, "{name}: {told:?}, expected {expected:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Runs the suite on a driver that has nothing yet.
async fn honour(driver: &dyn NamesDriver, ask: AskIn<'_>, netns: PathBuf) {
    let (first, second) = ([10, 0, 1, 2], [10, 0, 1, 3]);
    let container = asker().container;
    let only = BTreeMap::from([(container.clone(), asker())]);
    driver.look().await.unwrap();
    driver.let_go(container.clone()).await.unwrap();
    assert_eq!(driver.served().await, Some(BTreeMap::new()));

    // What was said before is known to who is served after, and the other way round.
    driver.tell(roll(1));
    driver.serve(asker(), netns.clone()).await.unwrap();
    until_told(ask, "web", &[first]).await;
    driver.tell(roll(2));
    until_told(ask, "web", &[first, second]).await;
    until_told(ask, "own", &[first]).await;
    driver.serve(asker(), netns.clone()).await.unwrap();
    assert_eq!(driver.served().await, Some(only));
    driver.tell(roll(1));
    until_told(ask, "web", &[first]).await;
    driver.look().await.unwrap();
    // It leaves its network, and joins it again.
    let outside = Asker { networks: Vec::new(), ..asker() };
    driver.serve(outside.clone(), netns.clone()).await.unwrap();
    assert_eq!(driver.served().await, Some([(container.clone(), outside)].into()));
    driver.serve(asker(), netns.clone()).await.unwrap();
    until_told(ask, "web", &[first]).await;

    for _ in 0..2 {
        driver.let_go(container.clone()).await.unwrap();
        assert_eq!(driver.served().await, Some(BTreeMap::new()));
        assert_eq!(ask("web").await, None);
    }
    let end = Instant::now() + Duration::from_secs(10);
    // Sockets are closed a moment after they were let go of.
    while let Err(error) = driver.serve(asker(), netns.clone()).await {
        assert!(Instant::now() < end, "{error}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    until_told(ask, "web", &[first]).await;

    for _ in 0..2 {
        driver.end().await;
        assert_eq!(driver.served().await, Some(BTreeMap::new()));
        assert_eq!(ask("web").await, None);
    }
    // It can be begun anew, and what was known is forgotten.
    driver.serve(asker(), netns).await.unwrap();
    assert_eq!(ask("web").await.unwrap_or_default(), Vec::<IpAddr>::new());
    driver.tell(roll(1));
    until_told(ask, "web", &[first]).await;
    driver.end().await;
}

#[tokio::test]
async fn the_fake_keeps_the_contract() {
    let fake = FakeNames::default();
    let container = asker().container;
    let ask = |name: &'static str| {
        let told = fake.ask(&container, name);
        futures::future::ready(told).boxed()
    };
    honour(&fake, &ask, PathBuf::from("/proc/1/ns/net")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_one_keeps_the_contract() {
    if skip_without_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let space = Space::new();
    let (start, _started) = real();
    let resolv_conf = dir.path().join("resolv.conf");
    let names = NodeNames::open(dir.path().join("names.sock"), resolv_conf, start).await.unwrap();
    let inside = |name: &'static str| {
        let asked = space.inside(move || ask(&format!("{name}.")));
        asked.map(|answer| Some(addresses(&answer?).into_iter().collect())).boxed()
    };
    honour(&names, &inside, space.path()).await;
    assert!(!dir.path().join("names.sock").exists());
}
