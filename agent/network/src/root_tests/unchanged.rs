//! Looks at tables that nobody has changed: nothing is read, and what somebody has changed is found all the same.

use std::sync::atomic::{AtomicUsize, Ordering};

use imbl::OrdSet;
use serde_json::Value;
use shoal_agent_ground::testing::skip_without_root;
use shoal_agent_planning::network::ruleset::{Change, Vips};

use super::*;

/// The real filter, of which is counted how often it is read.
struct Counting {
    inner: NftProgram,
    lists: Arc<AtomicUsize>,
}

impl Firewall for Counting {
    fn apply(&self, script: String) -> BoxFuture<'_, Result<(), FirewallError>> {
        self.inner.apply(script)
    }

    fn change(&self, table: String, change: Change) -> BoxFuture<'_, Result<(), FirewallError>> {
        self.inner.change(table, change)
    }

    fn generation(&self) -> BoxFuture<'_, Option<u32>> {
        self.inner.generation()
    }

    fn list(&self, table: String) -> BoxFuture<'_, Result<Option<Value>, FirewallError>> {
        self.lists.fetch_add(1, Ordering::Relaxed);
        self.inner.list(table)
    }

    fn gates(&self) -> BoxFuture<'_, Result<Vec<Value>, FirewallError>> {
        self.inner.gates()
    }
}

#[test]
fn tables_are_read_only_where_somebody_has_changed_the_filter() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    let lists = Arc::<AtomicUsize>::default();
    lab.block_on(async || {
        let (inner, counted) = (NftProgram::default(), Arc::clone(&lists));
        let driver = lab.driver_with(Counting { inner, lists: counted });
        driver.ensure_network(net("front")).await.unwrap();
        let (_web, _) = container(&driver, "web", &["front"]).await;
        let read = || lists.swap(0, Ordering::Relaxed);
        let look = async |strange: bool, reads: bool, why: &str| {
            let repaired = driver.repair().await.unwrap();
            assert_eq!(repaired.table_replaced, strange, "{why}: {repaired:?}");
            assert_eq!(read() > 0, reads, "{why}");
        };
        driver.repair().await.unwrap();
        read();
        for _ in 0..3 {
            look(false, false, "nobody has changed anything").await;
        }
        // What the agent itself changes, however often and in whatever way.
        let (_other, _) = container(&driver, "other", &["front"]).await;
        driver.publish("other".to_owned(), vec![tcp(8080, 80)]).await.unwrap();
        let at = |last: u8| IpAddr::from([10, 9, 9, last]);
        let vips = Vips::from(vec![(at(9), vec![at(8)])]);
        driver.lead(OrdSet::new(), vips, Ingress::default()).await.unwrap();
        driver.release("other".to_owned()).await.unwrap();
        look(false, false, "the agent has").await;
        // Somebody else: an element, a rule, all rules of a chain, and something that is none of ours.
        let bridge = links_of(&lab.host).into_iter().find(|link| link.starts_with("shb")).unwrap();
        let element = format!("{{ \"{bridge}\" }}");
        let nft = |words: &[&str]| lab.host.run("nft", words);
        nft(&["delete", "element", "inet", "shoal", "bridges", &element]);
        look(true, true, "an element is gone").await;
        assert!(nft(&["list", "set", "inet", "shoal", "bridges"]).contains(&bridge));
        look(false, false, "it is back").await;
        nft(&["insert", "rule", "inet", "shoal", "forward", "accept"]);
        look(true, true, "a rule has come").await;
        nft(&["flush", "chain", "inet", "shoal", "forward"]);
        look(true, true, "rules are gone").await;
        assert!(nft(&["list", "chain", "inet", "shoal", "forward"]).contains("drop"));
        look(false, false, "they are back").await;
        nft(&["add", "table", "inet", "other"]);
        look(false, true, "somebody else has a table").await;
        look(false, false, "and is content").await;
        // Right before a change of the agent's, which fits all the same.
        nft(&["add", "element", "inet", "shoal", "bridges", "{ \"eth7\" }"]);
        let (_third, _) = container(&driver, "third", &["front"]).await;
        look(true, true, "an element too much").await;
        assert!(!nft(&["list", "set", "inet", "shoal", "bridges"]).contains("eth7"));
        driver.cleanup_all().await.unwrap();
    });
}
