//! The real driver. Everything is done on a thread of its own: in the network namespace of whoever opened it,
//! one call after the other.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::thread;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use shoal_agent_planning::tunnel::{Action, Desired, LinkKind, Observed, Told, choose, plan};
use shoal_types::object::{TunnelKey, TunnelKind};
use tokio::sync::{mpsc, oneshot};

use crate::key::PrivateKey;
use crate::link::Links;
use crate::{
    Comparison, Seen, Tunnel, TunnelConfig, TunnelError, TunnelState, kernel, process, userspace,
};

/// Calls under way at most.
const QUEUE: usize = 16;
/// How often what was done is looked at and completed, before something else is blamed.
const ROUNDS: usize = 3;

type Reply<T> = oneshot::Sender<Result<T, TunnelError>>;

enum Call {
    Ensure(Desired, Reply<TunnelState>),
    Observe(Reply<Option<Seen>>),
    Compare(Desired, Reply<Comparison>),
    Remove(Reply<()>),
}

/// The tunnel of this host. Dropping it leaves the tunnel as it is.
pub struct Tunnels {
    public_key: TunnelKey,
    ifname: String,
    calls: mpsc::Sender<Call>,
}

impl Tunnels {
    /// Makes the host's key if it has none. Nothing else is done before [`Tunnel::ensure`]. The tunnel is in
    /// the network namespace of the calling thread.
    ///
    /// # Errors
    /// The key cannot be read or written, the program cannot be opened, the kernel gives no thread.
    pub fn open(config: TunnelConfig) -> Result<Self, TunnelError> {
        kernel::name(&config.ifname)?;
        let key = PrivateKey::of_host(&config.state_dir)?;
        let open = |path: &PathBuf| {
            File::open(path).map_err(|source| TunnelError::Open { path: path.clone(), source })
        };
        let program = open(&config.program)?;
        let (public_key, ifname) = (key.public(), config.ifname.clone());
        let (calls, receiver) = mpsc::channel(QUEUE);
        let worker = Worker { config, key, public_key, program, told: Told::new() };
        let thread = thread::Builder::new().name("tunnel".to_owned());
        let began = thread.spawn(move || worker.run(receiver));
        began.map_err(|source| TunnelError::Thread { ifname: ifname.clone(), source })?;
        Ok(Self { public_key, ifname, calls })
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
    fn public_key(&self) -> TunnelKey {
        self.public_key
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

    fn remove(&self) -> BoxFuture<'_, Result<(), TunnelError>> {
        self.call(Call::Remove)
    }
}

struct Worker {
    config: TunnelConfig,
    key: PrivateKey,
    public_key: TunnelKey,
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
                    Call::Ensure(desired, reply) => {
                        let _ = reply.send(self.ensure(&desired).await);
                    }
                    Call::Observe(reply) => {
                        let _ = reply.send(self.seen().await);
                    }
                    Call::Compare(desired, reply) => {
                        let _ = reply.send(self.compared(&desired).await);
                    }
                    Call::Remove(reply) => {
                        let _ = reply.send(self.remove().await);
                    }
                }
            }
        });
    }

    async fn ensure(&mut self, desired: &Desired) -> Result<TunnelState, TunnelError> {
        desired.check(self.public_key)?;
        let links = &Links::open(&self.config.ifname)?;
        let kind = self.kind(links).await?;
        let mut done = Vec::new();
        for _ in 0..ROUNDS {
            let observed = self.observe(links, kind).await?;
            let actions = plan(kind, self.public_key, desired, &self.told, &observed);
            if actions.is_empty() {
                self.told = desired.told();
                return Ok(TunnelState {
                    public_key: self.public_key,
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
        let left = plan(kind, self.public_key, desired, &self.told, &observed);
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
        Ok(Observed { link, addresses, process, device })
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
        desired.check(self.public_key)?;
        let links = &Links::open(&self.config.ifname)?;
        let TunnelConfig { ifname, run_dir, kind, .. } = &self.config;
        let link = links.observe().await?;
        let process = process::find(run_dir, ifname)?.is_some();
        let observed = Observed { link, process, ..Observed::default() };
        // Where there is nothing, it does not matter what would be tried first.
        let kind = choose(*kind, &observed).unwrap_or(TunnelKind::Kernel);
        let observed = self.observe(links, kind).await?;
        let steps = plan(kind, self.public_key, desired, &self.told, &observed);
        Ok(Comparison { ifname: ifname.clone(), observed, steps })
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
            Action::Configure(change) => match kind {
                TunnelKind::Kernel => kernel::configure(ifname, change, &self.key),
                TunnelKind::Userspace => {
                    userspace::configure(run_dir, ifname, change, &self.key).await
                }
            },
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
