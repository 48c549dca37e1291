//! The agent's tables in the packet filter, kept equal to what should be.

use std::time::Duration;

use serde_json::Value;
use shoal_agent_planning::network::gates::{GateAction, Gates};
use shoal_agent_planning::network::ruleset::{Change, FRAMES, Ruleset, frame, kernel_probe};
use shoal_agent_planning::node::host::Tables;
use shoal_agent_planning::verify::Difference;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{Firewall, FirewallError};

/// How often the tables are read although nobody has changed anything, as a proof.
const PROOF: Duration = Duration::from_secs(600);

/// The table. Changes that arrive while one is on its way travel together in the next.
pub(super) struct Table {
    name: String,
    firewall: Box<dyn Firewall>,
    slot: Mutex<Slot>,
}

#[derive(Default)]
struct Slot {
    /// What the filter holds, as far as we know; `None` when we do not.
    applied: Option<Ruleset>,
    /// The book's generation that `applied` is as new as.
    generation: u64,
    /// The generation of the filter at which it held what was `applied`, and when that was seen last; `None` where it is
    /// not known, as while something is on its way.
    clean_at: Option<u32>,
    seen: Option<Instant>,
    /// The declarations and rules as the filter shows them, seen right after it got them from us.
    frame: Option<Vec<Value>>,
    /// The kernel cannot judge the frames of bridges.
    without_frames: bool,
    /// There can be no table of what leaves by the mesh, for want of its device or of the kernel.
    without_egress: bool,
    /// The kernel can judge what leaves by one device; `None` before it was asked.
    judges_devices: Option<bool>,
}

impl Slot {
    fn can(&self, (generation, ruleset): (u64, Ruleset)) -> (u64, Ruleset) {
        let ruleset = if self.without_frames { ruleset.without_frames() } else { ruleset };
        let ruleset = if self.without_egress { ruleset.without_egress() } else { ruleset };
        (generation, ruleset)
    }
}

impl Slot {
    /// All was read, at this generation, and is as it should be.
    fn sees(&mut self, generation: Option<u32>) {
        (self.clean_at, self.seen) = (generation, Some(Instant::now()));
    }
}

/// The generation behind one. The kernel has no zero.
fn following(generation: u32) -> u32 {
    generation.wrapping_add(1).max(1)
}

/// What a look at the filter found.
pub(super) struct Looked {
    pub(super) tables: Tables,
    /// Somebody has changed it, or it was left behind by somebody who had something else in mind.
    pub(super) strange: bool,
}

fn holds(applied: &Ruleset) -> Tables {
    if applied.is_empty() { Tables::Absent } else { Tables::Hold(Box::new(applied.clone())) }
}

impl Table {
    pub(super) fn new(name: String, firewall: Box<dyn Firewall>) -> Self {
        Self { name, firewall, slot: Mutex::default() }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns when the filter holds the desired table of generation `wanted` or a later one.
    /// `desired` tells the newest with its generation.
    pub(super) async fn sync(
        &self,
        wanted: u64,
        desired: impl Fn() -> (u64, Ruleset),
    ) -> Result<(), FirewallError> {
        let mut slot = self.slot.lock().await;
        if slot.applied.is_some() && slot.generation >= wanted {
            return Ok(());
        }
        let (generation, ruleset) = slot.can(desired());
        // Unknown until it is known again, also when this future is dropped half way.
        let clean_at = slot.clean_at.take();
        if let Some(applied) = slot.applied.take()
            && applied.same_chains(&ruleset)
        {
            let change = ruleset.change(&applied);
            let result =
                if change.is_empty() { Ok(clean_at) } else { self.change(change, clean_at).await };
            match result {
                Ok(clean_at) => {
                    slot.clean_at = clean_at;
                    slot.applied = Some(ruleset);
                    slot.generation = generation;
                    return Ok(());
                }
                // A change that does not fit is drift: replace everything.
                Err(FirewallError::Refused { .. }) => {}
                Err(other) => return Err(other),
            }
        }
        self.replace(&mut slot, generation, ruleset).await
    }

    /// One transaction, and at which generation the filter holds what it leads to, if it held what was before at this
    /// one, and nobody else has changed anything meanwhile.
    async fn change(
        &self,
        change: Change,
        clean_at: Option<u32>,
    ) -> Result<Option<u32>, FirewallError> {
        let before = self.firewall.generation().await.filter(|now| Some(*now) == clean_at);
        self.firewall.change(self.name.clone(), change).await?;
        let Some(before) = before else { return Ok(None) };
        let now = self.firewall.generation().await;
        Ok(now.filter(|now| *now == following(before)))
    }

    /// What the filter holds, and at which generation, if that is still the one from `before`.
    async fn read(
        &self,
        before: Option<u32>,
    ) -> Result<(Option<Value>, Option<u32>), FirewallError> {
        let listed = self.firewall.list(self.name.clone()).await?;
        let after = self.firewall.generation().await;
        Ok((listed, before.filter(|_| before == after)))
    }

    /// What the filter holds as far as we know, without a look at it.
    pub(super) async fn known(&self) -> Tables {
        match &self.slot.lock().await.applied {
            Some(applied) => holds(applied),
            None => Tables::Differ,
        }
    }

    /// Compares the filter with what it was told last. What differs is replaced by the next
    /// [`sync`](Self::sync). Where nobody has changed anything since it was known to be right, nothing is read but
    /// that: to list tens of thousands of elements takes most of a second.
    pub(super) async fn look(
        &self,
        desired: impl Fn() -> (u64, Ruleset),
    ) -> Result<Looked, FirewallError> {
        let mut slot = self.slot.lock().await;
        let before = self.firewall.generation().await;
        let is_new = slot.seen.is_some_and(|seen| seen.elapsed() < PROOF);
        if let Some(applied) = &slot.applied
            && is_new
            && before.is_some()
            && slot.clean_at == before
        {
            return Ok(Looked { tables: holds(applied), strange: false });
        }
        slot.clean_at = None;
        let (listed, at) = self.read(before).await?;
        let intact = match (&slot.applied, &listed) {
            (None, _) => false,
            (Some(applied), None) => applied.is_empty(),
            (Some(applied), Some(listed)) => {
                applied.matches(listed) && slot.frame.as_ref() == Some(&frame(listed))
            }
        };
        if let Some(applied) = slot.applied.clone().filter(|_| intact) {
            slot.sees(at);
            return Ok(Looked { tables: holds(&applied), strange: false });
        }
        // The first look after a start finds the table of the agent before.
        let (_, ruleset) = slot.can(desired());
        let found = match &listed {
            Some(listed) => ruleset.matches(listed),
            None => ruleset.is_empty(),
        };
        let strange = slot.applied.is_some() || !found;
        slot.applied = None;
        let tables = if listed.is_none() { Tables::Absent } else { Tables::Differ };
        Ok(Looked { tables, strange })
    }

    /// What the filter has that is not as it was told last, or as is `desired` where it was told nothing yet. Nothing
    /// follows from it.
    pub(super) async fn compare(
        &self,
        desired: impl Fn() -> (u64, Ruleset),
    ) -> Result<Vec<Difference>, FirewallError> {
        let slot = self.slot.lock().await;
        let wanted = slot.applied.clone().unwrap_or_else(|| slot.can(desired()).1);
        let listed = match self.firewall.list(self.name.clone()).await {
            // A host without nftables needs none as long as it has no networks.
            Err(FirewallError::Missing) if wanted.is_empty() => return Ok(Vec::new()),
            listed => listed?,
        };
        Ok(match listed {
            None if wanted.is_empty() => Vec::new(),
            None => vec![Difference::new("nftables tables", "those of the agent", "missing")],
            Some(_) if wanted.is_empty() => {
                vec![Difference::new("nftables tables", "absent", "present")]
            }
            Some(listed) => wanted.differences(&listed, slot.frame.as_deref()),
        })
    }

    async fn replace(
        &self,
        slot: &mut Slot,
        generation: u64,
        ruleset: Ruleset,
    ) -> Result<(), FirewallError> {
        (slot.frame, slot.clean_at) = (None, None);
        let (generation, ruleset) =
            match self.firewall.apply(ruleset.replace_text(&self.name)).await {
                Err(FirewallError::Refused { message })
                    if !slot.without_frames || !slot.without_egress =>
                {
                    self.look_what_is_missing(slot, message, &ruleset).await?;
                    let (generation, ruleset) = slot.can((generation, ruleset));
                    self.firewall.apply(ruleset.replace_text(&self.name)).await?;
                    (generation, ruleset)
                }
                result => result.map(|()| (generation, ruleset))?,
            };
        if !ruleset.is_empty() {
            let before = self.firewall.generation().await;
            let (listed, at) = self.read(before).await?;
            slot.frame = listed.as_ref().map(frame);
            if listed.is_some_and(|listed| ruleset.matches(&listed)) {
                slot.sees(at);
            }
        }
        slot.applied = Some(ruleset);
        slot.generation = generation;
        Ok(())
    }

    /// What others do with packets that are forwarded.
    pub(super) async fn gates(&self, prefix: &str) -> Result<Gates, FirewallError> {
        Ok(Gates::read(&self.firewall.gates().await?, &self.name, prefix))
    }

    /// Changes what somebody else lets pass.
    pub(super) async fn perform_on_gate(
        &self,
        prefix: &str,
        action: &GateAction,
    ) -> Result<(), FirewallError> {
        self.firewall.apply(action.text(prefix)).await
    }

    /// Whether the kernel can judge what leaves by one device (`CONFIG_NETFILTER_EGRESS`), without which there
    /// is no mesh. It is asked once.
    pub(super) async fn judges_devices(&self) -> Result<bool, FirewallError> {
        let mut slot = self.slot.lock().await;
        if let Some(known) = slot.judges_devices {
            return Ok(known);
        }
        let missing = self.refusal(kernel_probe(&self.name)).await?;
        if let Some(missing) = &missing {
            tracing::warn!(
                %missing,
                "this kernel has no nftables for what leaves by one device (Linux 5.16): published ports lead \
                 to tasks of this node alone here, and other nodes do not reach those"
            );
        }
        Ok(*slot.judges_devices.insert(missing.is_none()))
    }

    /// There is a device now whose packets are to be judged, by a table that is still to be made: one that there
    /// was before is gone with its device, or is not.
    pub(super) async fn has_device(&self) {
        let mut slot = self.slot.lock().await;
        (slot.without_egress, slot.applied, slot.clean_at) = (false, None, None);
    }

    /// Finds out whether a refusal came from a kernel that cannot judge the frames of bridges
    /// (`CONFIG_NF_TABLES_BRIDGE`), or has no table for the mesh's device, which may just be away; any other
    /// refusal is the answer.
    async fn look_what_is_missing(
        &self,
        slot: &mut Slot,
        message: String,
        ruleset: &Ruleset,
    ) -> Result<(), FirewallError> {
        let name = &self.name;
        let frames = format!("add table {FRAMES} {name}\ndelete table {FRAMES} {name}\n");
        let mut found = false;
        if !slot.without_frames
            && let Some(missing) = self.refusal(frames).await?
        {
            tracing::warn!(
                %missing,
                "this kernel has no nftables for bridges: containers on one network can speak \
                 for each other's addresses"
            );
            (slot.without_frames, found) = (true, true);
        }
        if !slot.without_egress
            && let Some(missing) = self.refusal(ruleset.egress_probe(name)).await?
        {
            tracing::debug!(%missing, "no table of what leaves by the mesh");
            (slot.without_egress, found) = (true, true);
        }
        if found { Ok(()) } else { Err(FirewallError::Refused { message }) }
    }

    async fn refusal(&self, probe: String) -> Result<Option<String>, FirewallError> {
        match self.firewall.apply(probe).await {
            Err(FirewallError::Refused { message }) => Ok(Some(message)),
            result => result.map(|()| None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Arc, Mutex as StdMutex};

    use futures::FutureExt as _;
    use futures::future::BoxFuture;
    use serde_json::json;
    use shoal_agent_planning::network::NetworkConfig;
    use shoal_agent_planning::network::leases::{Leases, Rules};
    use shoal_agent_planning::network::ruleset::HostFacts;
    use tokio::sync::Semaphore;

    use super::*;

    /// Records scripts; each waits for a permit and gets the next answer.
    #[derive(Clone)]
    struct Fake {
        scripts: Arc<StdMutex<Vec<String>>>,
        answers: Arc<StdMutex<Vec<FirewallError>>>,
        permits: Arc<Semaphore>,
    }

    impl Fake {
        fn new() -> Self {
            let permits = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
            Self { scripts: Arc::default(), answers: Arc::default(), permits }
        }

        fn table(&self) -> Table {
            Table::new("t".to_owned(), Box::new(self.clone()))
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
            // Enough for the frame; its elements are those of nothing.
            async { Ok(Some(json!({ "nftables": [] }))) }.boxed()
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
        let bare = Bare::default();
        let table = Table::new("t".to_owned(), Box::new(bare.clone()));
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
        let mut waiting: Vec<_> =
            (2..=20).map(|wanted| table.sync(wanted, newest).boxed()).collect();
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
}
