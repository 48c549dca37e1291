//! The real driver. Everything is done on a thread of its own: in the network namespace of whoever opened it,
//! one call after the other.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::thread;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use shoal_agent_planning::tunnel::{Action, Desired, LinkKind, Observed, Side, Told, choose, plan};
use shoal_types::object::TunnelKind;
use tokio::sync::{mpsc, oneshot, watch};

use crate::key::{self, PrivateKey};
use crate::link::Links;
use crate::{
    Comparison, EpochKey, Seen, Tunnel, TunnelConfig, TunnelError, TunnelState, kernel, process,
    userspace,
};

/// Calls under way at most.
const QUEUE: usize = 16;
/// How often what was done is looked at and completed, before something else is blamed.
const ROUNDS: usize = 3;

type Reply<T> = oneshot::Sender<Result<T, TunnelError>>;

enum Call {
    Turn(u64, Reply<EpochKey>),
    Forget(Reply<()>),
    Ensure(Desired, Reply<TunnelState>),
    Observe(Reply<Option<Seen>>),
    Compare(Desired, Reply<Comparison>),
    Wires(BTreeSet<IpAddr>, Reply<BTreeSet<u32>>),
    Remove(Reply<()>),
}

/// One interface of the tunnel of this host. Dropping it leaves the tunnel as it is.
pub struct Tunnels {
    key: watch::Receiver<Option<EpochKey>>,
    ifname: String,
    calls: mpsc::Sender<Call>,
}

impl Tunnels {
    /// Reads the key, if there is one: of several, which is what a crash leaves, that of the last epoch. The tunnel is in
    /// the network namespace of the calling thread.
    ///
    /// # Errors
    /// The key cannot be read, the program cannot be opened, the kernel gives no thread.
    pub fn open(config: TunnelConfig) -> Result<Self, TunnelError> {
        kernel::name(&config.ifname)?;
        let failed = |source| TunnelError::Keys { path: config.state_dir.clone(), source };
        let last = key::epochs(&config.state_dir, config.side).map_err(failed)?.pop_last();
        let key = match last {
            Some(epoch) => Some((epoch, PrivateKey::of_epoch(&config.state_dir, epoch)?)),
            None => None,
        };
        let open = |path: &PathBuf| {
            File::open(path).map_err(|source| TunnelError::Open { path: path.clone(), source })
        };
        let program = open(&config.program)?;
        let ifname = config.ifname.clone();
        let (calls, receiver) = mpsc::channel(QUEUE);
        let (said, known) = watch::channel(key.as_ref().map(said));
        let worker = Worker { config, key, said, program, told: Told::new() };
        let thread = thread::Builder::new().name("tunnel".to_owned());
        let began = thread.spawn(move || worker.run(receiver));
        began.map_err(|source| TunnelError::Thread { ifname: ifname.clone(), source })?;
        Ok(Self { key: known, ifname, calls })
    }

    fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(Reply<T>) -> Call,
    ) -> BoxFuture<'_, Result<T, TunnelError>> {
        let (reply, answer) = oneshot::channel();
        let call = call(reply);
        async move {
            let gone = || TunnelError::Gone { ifname: self.ifname.clone() };
            self.calls.send(call).await.map_err(|_| gone())?;
            answer.await.unwrap_or_else(|_| Err(gone()))
        }
        .boxed()
    }
}

impl Tunnel for Tunnels {
    fn key(&self) -> Option<EpochKey> {
        *self.key.borrow()
    }

    fn turn(&self, epoch: u64) -> BoxFuture<'_, Result<EpochKey, TunnelError>> {
        self.call(|reply| Call::Turn(epoch, reply))
    }

    fn forget(&self) -> BoxFuture<'_, Result<(), TunnelError>> {
        self.call(Call::Forget)
    }

    fn ensure(&self, desired: Desired) -> BoxFuture<'_, Result<TunnelState, TunnelError>> {
        self.call(|reply| Call::Ensure(desired, reply))
    }

    fn observe(&self) -> BoxFuture<'_, Result<Option<Seen>, TunnelError>> {
        self.call(Call::Observe)
    }

    fn compare(&self, desired: Desired) -> BoxFuture<'_, Result<Comparison, TunnelError>> {
        self.call(|reply| Call::Compare(desired, reply))
    }

    fn wires(&self, to: BTreeSet<IpAddr>) -> BoxFuture<'_, Result<BTreeSet<u32>, TunnelError>> {
        self.call(|reply| Call::Wires(to, reply))
    }

    fn remove(&self) -> BoxFuture<'_, Result<(), TunnelError>> {
        self.call(Call::Remove)
    }
}

/// What is said of a key.
fn said((epoch, key): &(u64, PrivateKey)) -> EpochKey {
    EpochKey { epoch: *epoch, public_key: key.public() }
}

struct Worker {
    config: TunnelConfig,
    /// With its epoch.
    key: Option<(u64, PrivateKey)>,
    said: watch::Sender<Option<EpochKey>>,
    program: File,
    told: Told,
}

impl Worker {
    fn run(mut self, mut calls: mpsc::Receiver<Call>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(%error, "cannot start the async runtime of the tunnel");
                return;
            }
        };
        runtime.block_on(async {
            while let Some(call) = calls.recv().await {
                // Whoever does not wait for the answer any more has called all the same.
                match call {
                    Call::Turn(epoch, reply) => {
                        let _ = reply.send(self.turn(epoch));
                    }
                    Call::Forget(reply) => {
                        let _ = reply.send(self.forget().await);
                    }
                    Call::Ensure(desired, reply) => {
                        let _ = reply.send(self.ensure(&desired).await);
                    }
                    Call::Observe(reply) => {
                        let _ = reply.send(self.seen().await);
                    }
                    Call::Compare(desired, reply) => {
                        let _ = reply.send(self.compared(&desired).await);
                    }
                    Call::Wires(to, reply) => {
                        let _ = reply.send(self.wires(&to).await);
                    }
                    Call::Remove(reply) => {
                        let _ = reply.send(self.remove().await);
                    }
                }
            }
        });
    }

    fn turn(&mut self, epoch: u64) -> Result<EpochKey, TunnelError> {
        let TunnelConfig { state_dir, side, ifname, .. } = &self.config;
        if Side::of(epoch) != *side {
            return Err(TunnelError::OtherSide { ifname: ifname.clone(), epoch });
        }
        if self.key.as_ref().is_none_or(|(known, _)| *known != epoch) {
            self.take(Some((epoch, PrivateKey::of_epoch(state_dir, epoch)?)));
        }
        self.keep(Some(epoch))?;
        self.public()
    }

    /// Also of what a crash has left.
    fn keep(&self, epoch: Option<u64>) -> Result<(), TunnelError> {
        let TunnelConfig { state_dir, side, .. } = &self.config;
        let failed = |source| TunnelError::Keys { path: state_dir.clone(), source };
        key::keep(state_dir, *side, epoch).map_err(failed)
    }

    fn take(&mut self, key: Option<(u64, PrivateKey)>) {
        self.said.send_replace(key.as_ref().map(said));
        self.key = key;
        // Others know the host by another key, and may be elsewhere.
        self.told.clear();
    }

    async fn forget(&mut self) -> Result<(), TunnelError> {
        self.remove().await?;
        self.take(None);
        self.keep(None)
    }

    fn public(&self) -> Result<EpochKey, TunnelError> {
        self.key.as_ref().map(said).ok_or_else(|| self.no_key())
    }

    fn no_key(&self) -> TunnelError {
        TunnelError::NoKey { ifname: self.config.ifname.clone() }
    }

    async fn ensure(&mut self, desired: &Desired) -> Result<TunnelState, TunnelError> {
        let own = self.public()?.public_key;
        desired.check(own)?;
        let links = &Links::open(&self.config.ifname)?;
        let kind = self.kind(links).await?;
        let mut done = Vec::new();
        for _ in 0..ROUNDS {
            let observed = self.observe(links, kind).await?;
            let actions = plan(kind, own, desired, &self.told, &observed);
            if actions.is_empty() {
                self.told = desired.told();
                return Ok(TunnelState {
                    public_key: own,
                    kind,
                    port: desired.listen_port,
                    ifname: self.config.ifname.clone(),
                    done,
                });
            }
            for action in actions {
                self.perform(links, kind, desired.listen_port, &action).await?;
                self.remember(desired, &action);
                done.push(action);
            }
        }
        let observed = self.observe(links, kind).await?;
        let left = plan(kind, own, desired, &self.told, &observed);
        let left = left.first().map_or_else(String::new, |action| format!("{action:?}"));
        Err(TunnelError::Unsettled { ifname: self.config.ifname.clone(), left })
    }

    /// Where a peer was told to be is not told again in the next round.
    fn remember(&mut self, desired: &Desired, action: &Action) {
        if let Action::Configure(change) = action {
            let peers = change.peers.keys();
            let told = peers.filter_map(|key| Some((*key, desired.peers.get(key)?.endpoint)));
            self.told.extend(told);
        }
    }

    /// What encrypts here. An interface of the kernel's is made to see whether it can.
    async fn kind(&self, links: &Links) -> Result<TunnelKind, TunnelError> {
        let (config, link) = (&self.config, links.observe().await?);
        let process = process::find(&config.run_dir, &config.ifname)?.is_some();
        let observed = Observed { link, process, ..Observed::default() };
        if let Some(kind) = choose(config.kind, &observed) {
            return Ok(kind);
        }
        if link.is_some() {
            // By its name it is ours, and it is of no use.
            links.remove().await?;
        }
        Ok(if links.create().await? { TunnelKind::Kernel } else { TunnelKind::Userspace })
    }

    async fn observe(&self, links: &Links, kind: TunnelKind) -> Result<Observed, TunnelError> {
        let TunnelConfig { ifname, run_dir, .. } = &self.config;
        let link = links.observe().await?;
        let process = process::find(run_dir, ifname)?.is_some();
        let device = match kind {
            TunnelKind::Kernel if link.is_some_and(|link| link.kind == LinkKind::Wireguard) => {
                kernel::observe(ifname)?
            }
            TunnelKind::Userspace if process => userspace::observe(run_dir, ifname).await?,
            TunnelKind::Kernel | TunnelKind::Userspace => None,
        };
        let addresses = if link.is_some() { links.addresses().await? } else { BTreeSet::new() };
        let strict = link.is_some() && links.is_strict()?;
        Ok(Observed { link, addresses, strict, process, device })
    }

    async fn seen(&self) -> Result<Option<Seen>, TunnelError> {
        let links = &Links::open(&self.config.ifname)?;
        let TunnelConfig { ifname, run_dir, kind, .. } = &self.config;
        let link = links.observe().await?;
        let process = process::find(run_dir, ifname)?.is_some();
        let observed = Observed { link, process, ..Observed::default() };
        let (Some(kind), Some(_)) = (choose(*kind, &observed), link) else { return Ok(None) };
        let observed = self.observe(links, kind).await?;
        Ok(observed.device.map(|device| Seen { kind, device }))
    }

    async fn compared(&self, desired: &Desired) -> Result<Comparison, TunnelError> {
        let own = self.public()?.public_key;
        desired.check(own)?;
        let links = &Links::open(&self.config.ifname)?;
        let TunnelConfig { ifname, run_dir, kind, .. } = &self.config;
        let link = links.observe().await?;
        let process = process::find(run_dir, ifname)?.is_some();
        let observed = Observed { link, process, ..Observed::default() };
        // Where there is nothing, it does not matter what would be tried first.
        let kind = choose(*kind, &observed).unwrap_or(TunnelKind::Kernel);
        let observed = self.observe(links, kind).await?;
        let steps = plan(kind, own, desired, &self.told, &observed);
        Ok(Comparison { ifname: ifname.clone(), observed, steps })
    }

    async fn wires(&self, to: &BTreeSet<IpAddr>) -> Result<BTreeSet<u32>, TunnelError> {
        Links::open(&self.config.ifname)?.wires(to).await
    }

    async fn perform(
        &self,
        links: &Links,
        kind: TunnelKind,
        port: u16,
        action: &Action,
    ) -> Result<(), TunnelError> {
        let TunnelConfig { ifname, run_dir, .. } = &self.config;
        match action {
            Action::EndProcess => self.end_process(),
            Action::RemoveLink => links.remove().await,
            Action::CreateLink => match links.create().await? {
                true => Ok(()),
                false => Err(TunnelError::NoKernel),
            },
            Action::StartProcess => {
                self.make_run_dir()?;
                if let Some(why) = process::last_words(run_dir) {
                    tracing::warn!(ifname, why, "the process of the tunnel had ended");
                }
                let offload = process::start(&self.program, run_dir, ifname).await?;
                tracing::info!(ifname, %offload, "started the process of the tunnel");
                Ok(())
            }
            Action::Configure(change) => {
                let (_, key) = self.key.as_ref().ok_or_else(|| self.no_key())?;
                match kind {
                    TunnelKind::Kernel => kernel::configure(ifname, change, key),
                    TunnelKind::Userspace => {
                        userspace::configure(run_dir, ifname, change, key).await
                    }
                }
            }
            Action::Loosen => links.loosen(),
            Action::SetMtu(mtu) => links.set_mtu(*mtu).await,
            Action::SetUp => links.set_up(port).await,
            Action::AddAddress(address) => links.add_address(*address).await,
            Action::RemoveAddress(address) => links.remove_address(*address).await,
        }
    }

    fn make_run_dir(&self) -> Result<(), TunnelError> {
        let path = &self.config.run_dir;
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|source| TunnelError::Open { path: path.clone(), source })
    }

    fn end_process(&self) -> Result<(), TunnelError> {
        let TunnelConfig { ifname, run_dir, .. } = &self.config;
        match process::find(run_dir, ifname)? {
            Some(process) => process::end(process, ifname),
            None => Ok(()),
        }
    }

    async fn remove(&mut self) -> Result<(), TunnelError> {
        let links = Links::open(&self.config.ifname)?;
        self.told.clear();
        self.end_process()?;
        links.remove().await?;
        process::sweep(&self.config.run_dir)
    }
}
