//! Drivers and a ledger whose every call is counted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::{BoxFuture, pending, ready};
use shoal_agent_dns::{FakeNames, NamesDriver, NamesError};
use shoal_agent_image::{Held, ImageError, Pin, PullPolicy, PullProgress, RegistryAuth};
use shoal_agent_network::{
    AttachRequest, Attached, Contested, FakeNetworks, Lost, Netns, NetworkConfig, NetworkDriver,
    NetworkError, NetworkState, PublishedPort, Repaired, SharedPort,
};
use shoal_agent_planning::network::ingress::Ingress;
use shoal_agent_planning::network::ruleset::Vips;
use shoal_agent_planning::overlay::{OverlayView, Remote};
use shoal_agent_planning::verify::Compared;
use shoal_agent_planning::zone::{Asker, Roll};
use shoal_agent_runtime::fake::FakeRuntime;
use shoal_agent_runtime::{
    Answer, ContainerDisk, ContainerId, ContainerSpec, ContainerStats, ExecSession, ExecSpec, Exit,
    LogQuery, LogStream, Observed, Prepared, Runtime, Started, Trace,
};
use shoal_agent_volume::{
    FakeVolumes, ImageFiles, Measured, MountedVolume, VolumeConfig, VolumeDriver, VolumeError,
};
use shoal_types::image_ref::{Digest, ImageReference};
use shoal_types::question::NodeVolume;
use shoal_types::task_state::TaskState;
use tokio::sync::{mpsc, watch};

use super::meter::{Meter, Pass, pass, pass_or_leave_out};
use crate::ledger::{Disk, What, Written};
use crate::worker::Images;
use crate::worker::tests::lab::SharedImages;

/// A driver whose calls are counted.
#[derive(Clone)]
pub(super) struct Metered<T> {
    pub(super) inner: T,
    pub(super) meter: Arc<Meter>,
}

impl Runtime for Metered<FakeRuntime> {
    fn adopt(&self) -> Answer<'_, Vec<Observed>> {
        pass(&self.meter, "runtime.adopt", || self.inner.adopt())
    }

    fn traces(&self) -> Answer<'_, Vec<Trace>> {
        pass(&self.meter, "runtime.traces", || self.inner.traces())
    }

    fn take_exits(&self) -> Option<mpsc::UnboundedReceiver<Exit>> {
        self.inner.take_exits()
    }

    fn unheard(&self) -> watch::Receiver<BTreeMap<ContainerId, String>> {
        self.inner.unheard()
    }

    fn prepare<'a>(&'a self, id: &'a ContainerId, spec: ContainerSpec) -> Answer<'a, Prepared> {
        pass(&self.meter, "runtime.prepare", || self.inner.prepare(id, spec))
    }

    fn start<'a>(&'a self, id: &'a ContainerId) -> Answer<'a, Started> {
        pass(&self.meter, "runtime.start", || self.inner.start(id))
    }

    fn supervisor<'a>(&'a self, id: &'a ContainerId) -> Answer<'a, Prepared> {
        pass(&self.meter, "runtime.supervisor", || self.inner.supervisor(id))
    }

    fn signal<'a>(&'a self, id: &'a ContainerId, signal: i32) -> Answer<'a, ()> {
        pass(&self.meter, "runtime.signal", move || self.inner.signal(id, signal))
    }

    fn remove<'a>(&'a self, id: &'a ContainerId) -> Answer<'a, ()> {
        pass(&self.meter, "runtime.remove", || self.inner.remove(id))
    }

    fn release<'a>(&'a self, id: &'a ContainerId) -> Answer<'a, ()> {
        pass(&self.meter, "runtime.release", || self.inner.release(id))
    }

    fn exec<'a>(&'a self, id: &'a ContainerId, spec: ExecSpec) -> Answer<'a, ExecSession> {
        pass(&self.meter, "runtime.exec", || self.inner.exec(id, spec))
    }

    fn logs<'a>(&'a self, id: &'a ContainerId, query: LogQuery) -> Answer<'a, LogStream> {
        pass(&self.meter, "runtime.logs", move || self.inner.logs(id, query))
    }

    fn stats<'a>(&'a self, id: &'a ContainerId) -> Answer<'a, ContainerStats> {
        pass(&self.meter, "runtime.stats", || self.inner.stats(id))
    }

    fn disk<'a>(&'a self, id: &'a ContainerId) -> Answer<'a, ContainerDisk> {
        pass(&self.meter, "runtime.disk", || self.inner.disk(id))
    }
}

impl NetworkDriver for Metered<Arc<FakeNetworks>> {
    fn tell(&self, view: Arc<OverlayView>) {
        self.inner.tell(view);
    }

    fn has_followed(&self, revision: u64) {
        self.inner.has_followed(revision);
    }

    fn followed(&self) -> watch::Receiver<u64> {
        self.inner.followed()
    }

    fn lead(
        &self,
        remote: Remote,
        vips: Vips,
        ingress: Ingress,
    ) -> BoxFuture<'_, Result<Contested, NetworkError>> {
        self.inner.lead(remote, vips, ingress)
    }

    fn fit(
        &self,
        widest: u32,
        narrow: BTreeMap<IpAddr, u32>,
    ) -> BoxFuture<'_, Result<(), NetworkError>> {
        self.inner.fit(widest, narrow)
    }

    fn part(&self, second: Remote) -> BoxFuture<'_, Result<(), NetworkError>> {
        self.inner.part(second)
    }

    fn ensure_network(
        &self,
        config: NetworkConfig,
    ) -> BoxFuture<'_, Result<NetworkState, NetworkError>> {
        pass(&self.meter, "networks.ensure_network", || self.inner.ensure_network(config))
    }

    fn remove_network(&self, network: String) -> BoxFuture<'_, Result<(), NetworkError>> {
        pass(&self.meter, "networks.remove_network", || self.inner.remove_network(network))
    }

    fn attach(
        &self,
        request: AttachRequest,
        netns: Netns,
    ) -> BoxFuture<'_, Result<Attached, NetworkError>> {
        pass(&self.meter, "networks.attach", || self.inner.attach(request, netns))
    }

    fn set_up_loopback(&self, netns: Netns) -> BoxFuture<'_, Result<(), NetworkError>> {
        pass(&self.meter, "networks.set_up_loopback", || self.inner.set_up_loopback(netns))
    }

    fn detach(
        &self,
        container: String,
        network: String,
        netns: Option<Netns>,
    ) -> BoxFuture<'_, Result<(), NetworkError>> {
        pass(&self.meter, "networks.detach", || self.inner.detach(container, network, netns))
    }

    fn publish(
        &self,
        container: String,
        ports: Vec<PublishedPort>,
    ) -> BoxFuture<'_, Result<Vec<PublishedPort>, NetworkError>> {
        pass(&self.meter, "networks.publish", || self.inner.publish(container, ports))
    }

    fn share(
        &self,
        container: String,
        ports: Vec<SharedPort>,
    ) -> BoxFuture<'_, Result<(), NetworkError>> {
        pass(&self.meter, "networks.share", || self.inner.share(container, ports))
    }

    fn unpublish(&self, container: String) -> BoxFuture<'_, Result<(), NetworkError>> {
        pass(&self.meter, "networks.unpublish", || self.inner.unpublish(container))
    }

    fn release(&self, container: String) -> BoxFuture<'_, Result<(), NetworkError>> {
        pass_or_leave_out(&self.meter, "networks.release", || self.inner.release(container))
    }

    fn repair(&self) -> BoxFuture<'_, Result<Repaired, NetworkError>> {
        pass(&self.meter, "networks.repair", || self.inner.repair())
    }

    fn compare(&self) -> BoxFuture<'_, Compared> {
        self.inner.compare()
    }

    fn cleanup_all(&self) -> BoxFuture<'_, Result<(), NetworkError>> {
        pass(&self.meter, "networks.cleanup_all", || self.inner.cleanup_all())
    }

    fn attachments(&self, container: &str) -> Vec<Attached> {
        self.inner.attachments(container)
    }

    fn lost(&self) -> watch::Receiver<Lost> {
        self.inner.lost()
    }

    fn held(&self) -> BTreeMap<String, BTreeSet<String>> {
        self.inner.held()
    }

    fn networks(&self) -> BTreeSet<String> {
        self.inner.networks()
    }

    fn names(&self, network: &str) -> BTreeMap<String, BTreeSet<IpAddr>> {
        self.inner.names(network)
    }
}

impl NamesDriver for Metered<Arc<FakeNames>> {
    fn tell(&self, roll: Roll) {
        self.inner.tell(roll);
    }

    fn serve(&self, asker: Asker, netns: PathBuf) -> BoxFuture<'_, Result<(), NamesError>> {
        pass(&self.meter, "names.serve", || self.inner.serve(asker, netns))
    }

    fn let_go(&self, container: String) -> BoxFuture<'_, Result<(), NamesError>> {
        pass_or_leave_out(&self.meter, "names.let_go", || self.inner.let_go(container))
    }

    fn served(&self) -> BoxFuture<'_, Option<BTreeMap<String, Asker>>> {
        pass(&self.meter, "names.served", || self.inner.served())
    }

    fn look(&self) -> BoxFuture<'_, Result<(), NamesError>> {
        self.inner.look()
    }

    fn is_answering(&self) -> BoxFuture<'_, Option<bool>> {
        self.inner.is_answering()
    }

    fn end(&self) -> BoxFuture<'_, ()> {
        pass(&self.meter, "names.end", || self.inner.end())
    }
}

impl VolumeDriver for Metered<Arc<FakeVolumes>> {
    fn ensure(&self, config: VolumeConfig) -> BoxFuture<'_, Result<(), VolumeError>> {
        pass(&self.meter, "volumes.ensure", || self.inner.ensure(config))
    }

    fn mount(
        &self,
        name: String,
        user: String,
        image: Option<ImageFiles>,
    ) -> BoxFuture<'_, Result<MountedVolume, VolumeError>> {
        pass(&self.meter, "volumes.mount", || self.inner.mount(name, user, image))
    }

    fn unmount(&self, name: String, user: String) -> BoxFuture<'_, Result<(), VolumeError>> {
        pass(&self.meter, "volumes.unmount", || self.inner.unmount(name, user))
    }

    fn remove(&self, name: String) -> BoxFuture<'_, Result<(), VolumeError>> {
        pass(&self.meter, "volumes.remove", || self.inner.remove(name))
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<VolumeConfig>, VolumeError>> {
        pass(&self.meter, "volumes.list", || self.inner.list())
    }

    fn describe(&self) -> BoxFuture<'_, Result<Vec<NodeVolume>, VolumeError>> {
        pass(&self.meter, "volumes.describe", || self.inner.describe())
    }

    fn mounted(&self) -> BoxFuture<'_, Result<BTreeSet<String>, VolumeError>> {
        pass(&self.meter, "volumes.mounted", || self.inner.mounted())
    }

    fn measure(&self, name: String) -> BoxFuture<'_, Measured> {
        pass(&self.meter, "volumes.measure", || self.inner.measure(name))
    }

    fn collect(&self, users: BTreeSet<String>) -> BoxFuture<'_, Result<(), VolumeError>> {
        pass(&self.meter, "volumes.collect", || self.inner.collect(users))
    }
}

impl Images for Metered<Arc<SharedImages>> {
    fn hold(&self, reference: &ImageReference) -> Option<Held> {
        self.inner.hold(reference)
    }

    fn pin(&self, id: Digest) -> Pin {
        self.inner.pin(id)
    }

    fn ensure(
        &self,
        reference: ImageReference,
        policy: PullPolicy,
        auth: Option<RegistryAuth>,
        progress: watch::Sender<PullProgress>,
    ) -> BoxFuture<'static, Result<Held, ImageError>> {
        let inner = Arc::clone(&self.inner);
        let ensure = move || inner.ensure(reference, policy, auth, progress);
        pass(&self.meter, "images.ensure", ensure)
    }
}

/// The disk of a ledger. Its caller waits, so that nothing of a dead agent is still to be written.
#[derive(Debug)]
pub(super) struct MeteredDisk {
    pub(super) inner: Arc<dyn Disk>,
    pub(super) meter: Arc<Meter>,
}

impl Disk for MeteredDisk {
    fn change(&self, path: PathBuf, what: What) -> Written {
        match self.meter.begin(name(&what)) {
            Pass::Never => pending().boxed(),
            Pass::LeftOut => ready(Ok(())).boxed(),
            passed => {
                let done = futures::executor::block_on(self.inner.change(path, what));
                if passed == Pass::GoesAtLast {
                    self.meter.die();
                    return pending().boxed();
                }
                ready(done).boxed()
            }
        }
    }
}

fn name(what: &What) -> &'static str {
    match what {
        What::Flush => "ledger.flush",
        What::Remove => "ledger.remove",
        What::Write(_) => match what.record().map(|record| record.status.state) {
            None => "ledger.networks",
            Some(TaskState::Accepted) => "ledger.accepted",
            Some(TaskState::Starting) => "ledger.starting",
            Some(TaskState::Draining) => "ledger.draining",
            Some(state) if state.is_terminal() => "ledger.ended",
            Some(_) => "ledger.other",
        },
    }
}
