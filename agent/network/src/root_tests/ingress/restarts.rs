//! An agent that begins anew on a host where everything is as it should be changes nothing there, so that no packet
//! gets lost; and where something is not, that alone.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use ipnet::IpNet;
use shoal_agent_planning::network::ruleset::Change;

use super::*;

/// Writes down what is done to the packet filter.
#[derive(Clone, Default)]
struct Recording {
    inner: NftProgram,
    scripts: Arc<Mutex<Vec<String>>>,
}

impl Recording {
    fn scripts(&self) -> Vec<String> {
        std::mem::take(&mut self.scripts.lock().unwrap())
    }
}

impl Firewall for Recording {
    fn apply(&self, script: String) -> BoxFuture<'_, Result<(), FirewallError>> {
        self.scripts.lock().unwrap().push(script.clone());
        self.inner.apply(script)
    }

    fn change(&self, table: String, change: Change) -> BoxFuture<'_, Result<(), FirewallError>> {
        self.scripts.lock().unwrap().push(change.text(&table));
        self.inner.change(table, change)
    }

    fn generation(&self) -> BoxFuture<'_, Option<u32>> {
        self.inner.generation()
    }

    fn list(&self, table: String) -> BoxFuture<'_, Result<Option<Value>, FirewallError>> {
        self.inner.list(table)
    }

    fn gates(&self) -> BoxFuture<'_, Result<Vec<Value>, FirewallError>> {
        self.inner.gates()
    }
}

/// Hears what changes of links, addresses, routes and routing rules.
struct Monitor<'a> {
    space: &'a Space,
    child: Child,
    heard: tempfile::NamedTempFile,
    marks: AtomicU32,
}

impl<'a> Monitor<'a> {
    fn new(space: &'a Space) -> Self {
        let heard = tempfile::NamedTempFile::new().unwrap();
        let name = space.path().file_name().unwrap().to_string_lossy().into_owned();
        let all = ["monitor", "link", "address", "route", "rule"];
        let child = Command::new("ip")
            .args(["-n", &name])
            .args(all)
            .stdout(File::create(heard.path()).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let monitor = Self { space, child, heard, marks: AtomicU32::default() };
        // Until it listens nothing is heard of.
        let began = Instant::now();
        while !monitor.marked() {
            assert!(began.elapsed() < Duration::from_secs(10), "nothing is heard");
        }
        monitor.heard();
        monitor
    }

    /// Changes something, and says whether that is heard.
    fn marked(&self) -> bool {
        let mark = format!("192.0.2.{}", self.marks.fetch_add(1, Ordering::Relaxed) + 1);
        self.space.run("ip", &["address", "add", &mark, "dev", "lo"]);
        self.space.run("ip", &["address", "del", &mark, "dev", "lo"]);
        for _ in 0..50 {
            std::thread::sleep(Duration::from_millis(2));
            let heard = std::fs::read_to_string(self.heard.path()).unwrap();
            if heard.contains(&format!("Deleted local {mark} ")) {
                return true;
            }
        }
        false
    }

    /// What was heard since it was asked last, but for the marks.
    fn heard(&self) -> Vec<String> {
        assert!(self.marked());
        let text = std::fs::read_to_string(self.heard.path()).unwrap();
        File::options().write(true).truncate(true).open(self.heard.path()).unwrap();
        let lines = text.trim_matches('\0').lines().filter(|line| !line.contains("192.0.2."));
        let lines = lines.filter(|line| !line.trim_start().starts_with("valid_lft"));
        lines.map(str::to_owned).collect()
    }
}

impl Drop for Monitor<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What an agent does for its tasks when it begins.
async fn begin(cluster: &Cluster, driver: &BridgeNetworks, web: &Space) -> Repaired {
    let first = driver.repair().await.unwrap();
    let wide = ["10.0.5.0/24", "fd00:5::/64"].map(|one| one.parse::<IpNet>().unwrap().into());
    let wide = NetworkConfig { subnets: wide.to_vec(), routed: true, ipv6: true, ..net("wide") };
    driver.ensure_network(wide).await.unwrap();
    driver.ensure_network(NetworkConfig { ipv6: true, ..net("front") }).await.unwrap();
    let at = |last: u8| IpAddr::from([10, 0, 5, last]);
    let remote = [at(9), "fd00:5::9".parse().unwrap(), home(0).into()].into_iter().collect();
    let vips = Vips::from(vec![(at(50), vec![at(2), at(9)])]);
    driver.part(OrdSet::new()).await.unwrap();
    driver.fit(1420, [(at(9), 1300)].into()).await.unwrap();
    driver.lead(remote, vips, cluster.ingress(1, &WEB)).await.unwrap();
    let address = Some([10, 0, 5, 2].into());
    let address_v6 = Some("fd00:5::2".parse().unwrap());
    let requests =
        [request("web", "front"), AttachRequest { address, address_v6, ..request("web", "wide") }];
    for request in requests {
        driver.attach(request, web.netns()).await.unwrap();
    }
    let ports = [(TCP, 80), (COUNTING, 81), (UDP, 53)];
    let shared = ports.map(|((protocol, port), to)| SharedPort { protocol, port, target_port: to });
    driver.share("web".to_owned(), shared.to_vec()).await.unwrap();
    driver.publish("web".to_owned(), vec![tcp(8090, 80)]).await.unwrap();
    driver.repair().await.unwrap();
    first
}

/// Rules and sets with their numbers in the kernel: who has another one was made anew.
fn numbered(host: &Space) -> BTreeSet<String> {
    let text = host.run("nft", &["-a", "-s", "list", "ruleset"]);
    let mut chain = String::new();
    let mut all = BTreeSet::new();
    for line in text.lines().filter(|line| line.contains("# handle")) {
        if line.trim_start().starts_with("chain") {
            chain = line.trim().to_owned();
        }
        all.insert(format!("{chain}: {line}"));
    }
    all
}

#[test]
fn who_begins_anew_changes_nothing_of_what_is_right() {
    if skip_without_root() {
        return;
    }
    let cluster = Cluster::new(2);
    let (lab, web) = (&cluster.hosts[1], Space::new("web"));
    lab.block_on(async || {
        let driver = lab.driver();
        begin(&cluster, &driver, &web).await;
        drop(driver);
        // Of nobody's doing: the kernel looks whether somebody else has an address.
        let began = Instant::now();
        while !lab.host.run("ip", &["address", "show", "tentative"]).is_empty() {
            assert!(began.elapsed() < Duration::from_secs(10), "addresses stay tentative");
        }
        let monitor = Monitor::new(&lab.host);
        let before = lab.host.run("nft", &["-a", "list", "ruleset"]);
        let filter = Recording::default();
        let generation = filter.generation().await.unwrap();
        let driver = lab.driver_with(filter.clone());
        let repaired = begin(&cluster, &driver, &web).await;
        assert!(repaired.is_clean(), "{repaired:?}");
        assert_eq!(filter.scripts(), [""; 0]);
        assert_eq!(filter.generation().await.unwrap(), generation);
        assert_eq!(lab.host.run("nft", &["-a", "list", "ruleset"]), before);
        assert_eq!(monitor.heard(), [""; 0]);
        driver.lead(OrdSet::new(), Vips::new(), Ingress::default()).await.unwrap();
        driver.cleanup_all().await.unwrap();
        assert!(!lab.state.path().join("run/network-tables.json").exists());
    });
}

#[test]
fn who_begins_anew_changes_what_is_not_right_and_nothing_else() {
    if skip_without_root() {
        return;
    }
    let cluster = Cluster::new(2);
    let (lab, web) = (&cluster.hosts[1], Space::new("web"));
    lab.block_on(async || {
        begin(&cluster, &lab.driver(), &web).await;
        let nft = |words: &str| lab.host.run("nft", &words.split(' ').collect::<Vec<_>>());
        let right = nft("-s list ruleset");
        let before = numbered(&lab.host);
        nft("delete element inet shoal published_any { tcp . 8090 }");
        nft("add element inet shoal bridges { \"eth7\" }");
        nft("add element inet shoal subnets { 10.77.0.0/16 }");
        nft("add element bridge shoal held_addresses { 10.7.7.7 }");
        nft("add rule inet shoal forward accept");
        let filter = Recording::default();
        let driver = lab.driver_with(filter.clone());
        let repaired = driver.repair().await.unwrap();
        assert!(repaired.table_replaced, "{repaired:?}");
        let scripts = filter.scripts();
        let [script] = &scripts[..] else { panic!("{scripts:#?}") };
        let done = ["flush chain inet shoal forward\n", "\"eth7\" }\n", "\"10.77.0.0\"/16 }\n"];
        for deed in done {
            assert!(script.contains(deed), "{script}");
        }
        assert_eq!(script.matches("delete element").count(), 3, "{script}");
        assert_eq!(script.matches("add element").count(), 1, "{script}");
        assert_eq!(nft("-s list ruleset"), right);
        let made: Vec<String> = numbered(&lab.host).difference(&before).cloned().collect();
        assert!(!made.is_empty() && made.iter().all(|line| line.starts_with("chain forward ")));
        // And that is how the next one finds it.
        drop(driver);
        let driver = lab.driver_with(filter.clone());
        assert!(begin(&cluster, &driver, &web).await.is_clean());
        assert_eq!(filter.scripts(), [""; 0]);
        // A table that is gone comes back, and the others stay.
        drop(driver);
        nft("delete table bridge shoal");
        let driver = lab.driver_with(filter.clone());
        assert!(driver.repair().await.unwrap().table_replaced);
        let scripts = filter.scripts();
        assert_eq!(scripts.len(), 1, "{scripts:#?}");
        assert!(!scripts[0].contains(" inet ") && !scripts[0].contains(" netdev "));
        assert_eq!(nft("-s list table bridge shoal"), right_table(&right, "bridge"));
        // Who does not know how they were shown has them replaced, once.
        drop(driver);
        std::fs::remove_file(lab.state.path().join("run/network-tables.json")).unwrap();
        for count in [1, 0] {
            let driver = lab.driver_with(filter.clone());
            let repaired = driver.repair().await.unwrap();
            assert!(repaired.is_clean(), "{repaired:?}");
            assert_eq!(filter.scripts().len(), count);
        }
        let driver = lab.driver();
        driver.lead(OrdSet::new(), Vips::new(), Ingress::default()).await.unwrap();
        driver.cleanup_all().await.unwrap();
    });
}

/// One table of a listing.
fn right_table(all: &str, family: &str) -> String {
    let start = all.find(&format!("table {family} shoal {{\n")).unwrap();
    let rest = &all[start..];
    rest[..rest.find("\n}\n").unwrap() + 3].to_owned()
}
