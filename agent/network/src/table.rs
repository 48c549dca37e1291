//! The agent's tables in the packet filter, kept equal to what should be.
//!
//! What is there is looked at before anything is done about it, at the start of an agent above all: its predecessor has
//! left the tables as they should be, and packets pass through them ([`Ruleset::mend`]).

mod shown;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use shoal_agent_planning::network::gates::{GateAction, Gates};
use shoal_agent_planning::network::ruleset::{
    Change, EGRESS, FRAMES, Mend, Ruleset, Shown, kernel_probe,
};
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
    /// Where is written down how the tables are shown.
    run_dir: PathBuf,
    slot: Mutex<Slot>,
}

#[derive(Default)]
struct Slot {
    /// What the filter holds, as far as we know; `None` when we do not.
    applied: Option<Ruleset>,
    /// The filter was put right or taken over since the start of the agent.
    is_ours: bool,
    /// The book's generation that `applied` is as new as.
    generation: u64,
    /// The generation of the filter at which it held what was `applied`, and when that was seen last; `None` where it is
    /// not known, as while something is on its way.
    clean_at: Option<u32>,
    seen: Option<Instant>,
    /// How the filter shows the tables, seen right after it got them from us, or from an agent before.
    shown: Option<Shown>,
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
    /// The filter has this now.
    fn holds(&mut self, generation: u64, ruleset: Ruleset) {
        (self.applied, self.generation, self.is_ours) = (Some(ruleset), generation, true);
    }

    /// A kernel that has the table of what leaves by one device can judge that.
    fn judges(&mut self, listed: Option<&Value>) {
        let objects = listed.and_then(|listed| listed["nftables"].as_array());
        if objects.into_iter().flatten().any(|object| object["chain"]["family"] == EGRESS) {
            self.judges_devices = Some(true);
        }
    }

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
    /// Somebody has changed it since this agent saw it last.
    pub(super) strange: bool,
}

fn holds(applied: &Ruleset) -> Tables {
    if applied.is_empty() { Tables::Absent } else { Tables::Hold(Box::new(applied.clone())) }
}

impl Table {
    /// Reads how the tables of an earlier agent are shown.
    pub(super) fn open(name: String, firewall: Box<dyn Firewall>, run_dir: PathBuf) -> Self {
        let slot = Slot { shown: shown::read(&run_dir), ..Slot::default() };
        Self { name, firewall, run_dir, slot: Mutex::new(slot) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns when the filter holds the desired table of generation `wanted` or a later one: whether it had to be put
    /// right because it was not as an earlier agent should have left it. `desired` tells the newest with its
    /// generation.
    pub(super) async fn sync(
        &self,
        wanted: u64,
        desired: impl Fn() -> (u64, Ruleset),
    ) -> Result<bool, FirewallError> {
        let mut slot = self.slot.lock().await;
        if slot.applied.is_some() && slot.generation >= wanted {
            return Ok(false);
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
                    slot.holds(generation, ruleset);
                    return Ok(false);
                }
                // A change that does not fit is drift.
                Err(FirewallError::Refused { .. }) => {}
                Err(other) => return Err(other),
            }
        }
        self.mend(&mut slot, generation, ruleset).await
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
        slot.judges(listed.as_ref());
        let (told, (generation, newest)) = (slot.applied.take(), slot.can(desired()));
        let was_told = told.is_some();
        // The first look after a start finds the tables of the agent before.
        let ruleset = told.unwrap_or_else(|| newest.clone());
        if ruleset.mend(&self.name, listed.as_ref(), slot.shown.as_ref()) == Mend::Nothing {
            let generation = if was_told { slot.generation } else { generation };
            slot.holds(generation, ruleset.clone());
            slot.sees(at);
            return Ok(Looked { tables: holds(&ruleset), strange: false });
        }
        let tables = if listed.is_none() { Tables::Absent } else { Tables::Differ };
        Ok(Looked { tables, strange: was_told })
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
            Some(listed) => wanted.differences(&listed, slot.shown.as_ref().map(Shown::frame)),
        })
    }

    /// Makes the filter hold these tables, whatever there is, and changes only what differs where that can be told. Says
    /// whether an earlier agent should have left something else.
    async fn mend(
        &self,
        slot: &mut Slot,
        generation: u64,
        wanted: Ruleset,
    ) -> Result<bool, FirewallError> {
        slot.clean_at = None;
        let (mut ruleset, mut in_parts, mut strange) = (wanted.clone(), true, false);
        loop {
            let before = self.firewall.generation().await;
            let (listed, at) = self.read(before).await?;
            slot.judges(listed.as_ref());
            let mend = ruleset.mend(&self.name, listed.as_ref(), slot.shown.as_ref());
            let left = listed.as_ref().is_some_and(|listed| ruleset.matches(listed));
            strange |= !slot.is_ours && mend != Mend::Nothing && !left;
            match mend {
                Mend::Nothing => {
                    slot.sees(at);
                    break;
                }
                Mend::Parts(script) if in_parts => {
                    in_parts = false;
                    match self.firewall.apply(script).await {
                        // What it has made of them is seen next; refused, they are replaced.
                        Ok(()) | Err(FirewallError::Refused { .. }) => {}
                        Err(other) => return Err(other),
                    }
                }
                Mend::Parts(_) | Mend::Whole => match self.replace(slot, &ruleset).await {
                    Err(FirewallError::Refused { message })
                        if !slot.without_frames || !slot.without_egress =>
                    {
                        self.look_what_is_missing(slot, message, &ruleset).await?;
                        ruleset = slot.can((generation, wanted.clone())).1;
                    }
                    result => {
                        result?;
                        break;
                    }
                },
            }
        }
        slot.holds(generation, ruleset);
        Ok(strange)
    }

    /// Puts these tables in the place of whatever is there.
    async fn replace(&self, slot: &mut Slot, ruleset: &Ruleset) -> Result<(), FirewallError> {
        slot.shown = None;
        self.firewall.apply(ruleset.replace_text(&self.name)).await?;
        if !ruleset.is_empty() {
            let before = self.firewall.generation().await;
            let (listed, at) = self.read(before).await?;
            slot.shown = listed.as_ref().map(|listed| ruleset.shown(&self.name, listed));
            if listed.is_some_and(|listed| ruleset.matches(&listed)) {
                slot.sees(at);
            }
        }
        shown::write(&self.run_dir, slot.shown.as_ref());
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
    /// is no mesh. It is asked once, where there is no such table of an earlier agent.
    pub(super) async fn judges_devices(&self) -> Result<bool, FirewallError> {
        let mut slot = self.slot.lock().await;
        if slot.judges_devices.is_none() && !slot.is_ours {
            let listed = self.firewall.list(self.name.clone()).await?;
            slot.judges(listed.as_ref());
        }
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
mod tests;
