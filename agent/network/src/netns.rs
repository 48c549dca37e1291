//! Entering another network namespace, for as long as it takes to open a socket there.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::netlink::Links;
use super::{Netns, NetworkError, sysctl};

/// This thread's namespace. Not `/proc/self`, which is that of the main thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// Opens the file of a namespace and makes sure that it is not the caller's own: a supervisor
/// that has not left the host's namespace yet must not get its addresses there.
pub(super) fn open(netns: &Netns) -> Result<File, NetworkError> {
    let path = netns.path();
    let file = File::open(&path).and_then(|file| Ok((file.metadata()?, file)));
    let own = fs::metadata(OWN);
    let (theirs, file) =
        file.map_err(|source| NetworkError::OpenNetns { path: path.clone(), source })?;
    let own = own.map_err(|source| NetworkError::OpenNetns { path: OWN.into(), source })?;
    if (own.dev(), own.ino()) == (theirs.dev(), theirs.ino()) {
        return Err(NetworkError::HostNetns { path });
    }
    Ok(file)
}

/// Opens a netlink socket inside a container's namespace, where IPv6 is switched off along the way, but for
/// interfaces that are to have it.
///
/// A namespace belongs to a thread, and a thread of the runtime that changed it would take
/// strangers' work along. So a thread of its own enters, opens the socket, which stays where it
/// was opened, and ends.
pub(super) async fn links_in(
    netns: &Netns,
    file: &File,
    v6: BTreeSet<String>,
) -> Result<Links, NetworkError> {
    let runtime = Handle::current();
    let open = move || {
        sysctl::no_ipv6_in_container(&v6)?;
        let _inside = runtime.enter();
        Links::open().map_err(|source| NetworkError::Netlink { source })
    };
    within(netns.path(), file, open).await
}

/// Switches IPv6 on for an interface that has come into a container's namespace.
pub(super) async fn switch_v6_on(file: &File, ifname: String) -> Result<(), NetworkError> {
    within(PathBuf::from(OWN), file, move || sysctl::ipv6_in_container(&ifname)).await
}

/// Does something in a namespace, on a thread of its own.
async fn within<T: Send + 'static>(
    path: PathBuf,
    file: &File,
    act: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    let name = path.clone();
    let file = file
        .try_clone()
        .map_err(|source| NetworkError::OpenNetns { path: path.clone(), source })?;
    let (answer, answered) = oneshot::channel();
    let enter = move || {
        let kind = Some(LinkNameSpaceType::Network);
        let done = match move_into_link_name_space(file.as_fd(), kind) {
            Err(errno) => Err(NetworkError::EnterNetns { path, source: errno.into() }),
            Ok(()) => act(),
        };
        // A caller that has gone away needs no answer.
        let _ = answer.send(done);
    };
    thread::Builder::new()
        .name("netns".to_owned())
        .spawn(enter)
        .map_err(|source| NetworkError::EnterNetns { path: name, source })?;
    answered.await.map_err(|_| NetworkError::HelperGone)?
}
