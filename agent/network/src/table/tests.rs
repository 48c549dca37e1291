use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex as StdMutex};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::json;
use shoal_agent_planning::network::NetworkConfig;
use shoal_agent_planning::network::leases::{Leases, Rules};
use shoal_agent_planning::network::ruleset::HostFacts;
use tempfile::TempDir;
use tokio::sync::Semaphore;

use super::*;

/// Records scripts; each waits for a permit and gets the next answer.
#[derive(Clone)]
struct Fake {
    scripts: Arc<StdMutex<Vec<String>>>,
    answers: Arc<StdMutex<Vec<FirewallError>>>,
    permits: Arc<Semaphore>,
    run_dir: Arc<TempDir>,
    /// What it shows; without tables at first.
    shows: Arc<StdMutex<Value>>,
}

impl Fake {
    fn new() -> Self {
        let permits = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        let run_dir = Arc::new(tempfile::tempdir().unwrap());
        let shows = Arc::new(StdMutex::new(json!({ "nftables": [] })));
        Self { scripts: Arc::default(), answers: Arc::default(), permits, run_dir, shows }
    }

    fn table(&self) -> Table {
        Table::open("t".to_owned(), Box::new(self.clone()), self.run_dir.path().to_owned())
    }

    fn fail_next(&self, error: FirewallError) {
        self.answers.lock().unwrap().push(error);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.scripts.lock().unwrap())
    }
}

impl Firewall for Fake {
    fn apply(&self, script: String) -> BoxFuture<'_, Result<(), FirewallError>> {
        self.scripts.lock().unwrap().push(script);
        async {
            self.permits.acquire().await.unwrap().forget();
            self.answers.lock().unwrap().pop().map_or(Ok(()), Err)
        }
        .boxed()
    }

    fn list(&self, _: String) -> BoxFuture<'_, Result<Option<Value>, FirewallError>> {
        async { Ok(Some(self.shows.lock().unwrap().clone())) }.boxed()
    }

    fn gates(&self) -> BoxFuture<'_, Result<Vec<Value>, FirewallError>> {
        async { Ok(Vec::new()) }.boxed()
    }
}

fn desired(networks: u64) -> (u64, Ruleset) {
    let mut leases = Leases::default();
    for id in 0..networks {
        let config = NetworkConfig { id: id.to_string(), ..NetworkConfig::default() };
        leases.ensure_network(&config, &Rules::default(), &[]).unwrap();
    }
    (networks, Ruleset::of(&leases, &HostFacts::default()))
}

fn is_whole(script: &str) -> bool {
    script.starts_with("add table inet t\ndelete table inet t\n")
}

/// A host without tables, at some generation, of which is counted how often it is read.
#[derive(Clone, Default)]
struct Bare {
    generation: Arc<AtomicU32>,
    lists: Arc<AtomicU32>,
}

impl Firewall for Bare {
    fn apply(&self, _: String) -> BoxFuture<'_, Result<(), FirewallError>> {
        async { Ok(()) }.boxed()
    }

    fn generation(&self) -> BoxFuture<'_, Option<u32>> {
        async { Some(self.generation.load(Ordering::Relaxed)) }.boxed()
    }

    fn list(&self, _: String) -> BoxFuture<'_, Result<Option<Value>, FirewallError>> {
        self.lists.fetch_add(1, Ordering::Relaxed);
        async { Ok(None) }.boxed()
    }

    fn gates(&self) -> BoxFuture<'_, Result<Vec<Value>, FirewallError>> {
        async { Ok(Vec::new()) }.boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn what_nobody_has_changed_is_read_every_ten_minutes() {
    let (bare, run_dir) = (Bare::default(), tempfile::tempdir().unwrap());
    let table = Table::open("t".to_owned(), Box::new(bare.clone()), run_dir.path().to_owned());
    table.sync(1, || desired(0)).await.unwrap();
    let reads = async || {
        table.look(|| desired(0)).await.unwrap();
        bare.lists.swap(0, Ordering::Relaxed)
    };
    assert_eq!((reads().await, reads().await), (1, 0));
    let nearly = PROOF - Duration::from_secs(1);
    tokio::time::advance(nearly).await;
    assert_eq!(reads().await, 0);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!((reads().await, reads().await), (1, 0));
    // Somebody has, and who has read it since knows it again for as long.
    bare.generation.fetch_add(1, Ordering::Relaxed);
    assert_eq!(reads().await, 1);
    tokio::time::advance(nearly).await;
    assert_eq!(reads().await, 0);
}

#[tokio::test]
async fn whole_once_and_then_by_changes() {
    let fake = Fake::new();
    let table = fake.table();
    table.sync(1, || desired(1)).await.unwrap();
    table.sync(2, || desired(2)).await.unwrap();
    // Known to be there already.
    table.sync(2, || panic!("nobody needs to know")).await.unwrap();
    table.sync(3, || (3, desired(2).1)).await.unwrap();
    let scripts = fake.take();
    assert_eq!(scripts.len(), 2, "{scripts:?}");
    assert!(is_whole(&scripts[0]));
    assert!(scripts[1].starts_with("add element inet t bridges"), "{}", scripts[1]);
    // The last network gone: no table at all.
    let table_of = json!({ "table": { "family": "inet", "name": "t", "handle": 1 } });
    *fake.shows.lock().unwrap() = json!({ "nftables": [table_of] });
    table.sync(4, || (4, desired(0).1)).await.unwrap();
    let gone = |family| format!("add table {family} t\ndelete table {family} t\n");
    assert_eq!(fake.take(), [gone("inet") + &gone("bridge") + &gone("netdev")]);
}

#[tokio::test]
async fn a_kernel_without_frames_is_told_from_a_bad_table() {
    let refused = || FirewallError::Refused { message: "no".to_owned() };
    // The table and then the probes are refused: it is the kernel.
    let fake = Fake::new();
    let table = fake.table();
    for _ in 0..3 {
        fake.fail_next(refused());
    }
    table.sync(1, || desired(1)).await.unwrap();
    let scripts = fake.take();
    assert_eq!(scripts.len(), 4, "{scripts:?}");
    assert!(scripts[0].contains("table bridge t {") && !scripts[3].contains("bridge t"));
    assert!(scripts[0].contains("netdev t") && !scripts[3].contains("netdev t"));
    // From then on it is not asked for, but for what a device was missing for that is there now.
    table.sync(2, || desired(2)).await.unwrap();
    assert!(!fake.take().concat().contains("element bridge"));
    table.has_device().await;
    fake.fail_next(FirewallError::Missing);
    assert!(table.sync(3, || desired(3)).await.is_err());
    table.sync(3, || desired(3)).await.unwrap();
    let scripts = fake.take().concat();
    assert!(scripts.contains("netdev t") && !scripts.contains("bridge t"), "{scripts}");
    // Only the table is refused: it is the table.
    let fake = Fake::new();
    fake.fail_next(refused());
    assert!(fake.table().sync(1, || desired(1)).await.is_err());
}

#[tokio::test]
async fn the_kernel_is_asked_once_what_it_can() {
    let fake = Fake::new();
    let table = fake.table();
    // What says nothing of the kernel is no answer.
    fake.fail_next(FirewallError::Missing);
    assert!(table.judges_devices().await.is_err());
    fake.fail_next(FirewallError::Refused { message: "not supported".to_owned() });
    assert!(!table.judges_devices().await.unwrap());
    assert!(!table.judges_devices().await.unwrap());
    let scripts = fake.take();
    assert_eq!(scripts.len(), 2, "{scripts:?}");
    assert!(scripts[1].contains("table netdev t_probe {"), "{}", scripts[1]);
    assert!(scripts[1].ends_with("delete table netdev t_probe\n"), "{}", scripts[1]);
    assert!(fake.table().judges_devices().await.unwrap());
}

#[tokio::test]
async fn what_arrives_together_travels_together() {
    let fake = Fake::new();
    let table = fake.table();
    table.sync(1, || desired(1)).await.unwrap();
    fake.take();
    fake.permits.forget_permits(Semaphore::MAX_PERMITS);
    let newest = || desired(20);
    let mut waiting: Vec<_> = (2..=20).map(|wanted| table.sync(wanted, newest).boxed()).collect();
    // The first is on its way, the others wait for it.
    let mut first = waiting.remove(0);
    assert!(futures::poll!(&mut first).is_pending());
    for future in &mut waiting {
        assert!(futures::poll!(future).is_pending());
    }
    fake.permits.add_permits(1);
    first.await.unwrap();
    // It took along all that was desired when it left.
    futures::future::try_join_all(waiting).await.unwrap();
    assert_eq!(fake.take().len(), 1);
}

#[tokio::test]
async fn a_change_that_does_not_fit_replaces_everything() {
    let fake = Fake::new();
    let table = fake.table();
    table.sync(1, || desired(1)).await.unwrap();
    fake.fail_next(FirewallError::Refused { message: "no such set".to_owned() });
    table.sync(2, || desired(2)).await.unwrap();
    let wholes: Vec<bool> = fake.take().iter().map(|script| is_whole(script)).collect();
    assert_eq!(wholes, [true, false, true]);
}

#[tokio::test]
async fn after_a_failure_or_a_cancelled_call_everything_is_replaced() {
    let fake = Fake::new();
    let table = fake.table();
    table.sync(1, || desired(1)).await.unwrap();
    fake.fail_next(FirewallError::Missing);
    assert!(table.sync(2, || desired(2)).await.is_err());
    table.sync(2, || desired(2)).await.unwrap();
    let wholes: Vec<bool> = fake.take().iter().map(|script| is_whole(script)).collect();
    assert_eq!(wholes, [true, false, true]);

    fake.permits.forget_permits(Semaphore::MAX_PERMITS);
    {
        let newest = || desired(3);
        let mut cancelled = table.sync(3, newest).boxed();
        assert!(futures::poll!(&mut cancelled).is_pending());
    }
    fake.permits.add_permits(10);
    table.sync(3, || desired(3)).await.unwrap();
    let wholes: Vec<bool> = fake.take().iter().map(|script| is_whole(script)).collect();
    assert_eq!(wholes, [false, true]);
}
