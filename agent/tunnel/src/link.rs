//! The interface by rtnetlink(7). The only module that knows the library.

use std::io;

use futures::TryStreamExt as _;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::{Handle, LinkUnspec, LinkWireguard};
use rustix::io::Errno;
use shoal_agent_planning::tunnel::{Link, LinkKind};
use tokio::task::AbortHandle;

use crate::TunnelError;

/// A netlink socket in one network namespace. It stays there whatever its threads do.
pub(crate) struct Links {
    handle: Handle,
    ifname: String,
    pump: AbortHandle,
}

impl Drop for Links {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

impl Links {
    /// Opens a socket in the namespace of the calling thread. Call it inside the runtime.
    pub(crate) fn open(ifname: &str) -> Result<Self, TunnelError> {
        let opened = rtnetlink::new_connection();
        let (connection, handle, _) = opened.map_err(|source| TunnelError::Link {
            what: "open a netlink socket".to_owned(),
            source,
        })?;
        let pump = tokio::spawn(connection).abort_handle();
        Ok(Self { handle, ifname: ifname.to_owned(), pump })
    }

    /// The interface, if there is one of this name.
    pub(crate) async fn observe(&self) -> Result<Option<Link>, TunnelError> {
        let request = self.handle.link().get().match_name(&self.ifname);
        match request.execute().try_next().await {
            Err(error) if is(&error, Errno::NODEV) => Ok(None),
            Err(error) => Err(self.failed("look up", &error)),
            Ok(link) => Ok(link.as_ref().map(link_of)),
        }
    }

    /// Makes an interface of the kernel's WireGuard; `false` if the kernel has none.
    pub(crate) async fn create(&self) -> Result<bool, TunnelError> {
        let message = LinkWireguard::new(&self.ifname).build();
        match self.handle.link().add(message).execute().await {
            Err(error) if is(&error, Errno::OPNOTSUPP) => Ok(false),
            Err(error) => Err(self.failed("create", &error)),
            Ok(()) => Ok(true),
        }
    }

    /// Deletes the interface, if it is there.
    pub(crate) async fn remove(&self) -> Result<(), TunnelError> {
        let message = LinkUnspec::new_with_name(&self.ifname).build();
        match self.handle.link().del_with_message(message).execute().await {
            Err(error) if is(&error, Errno::NODEV) => Ok(()),
            result => result.map_err(|error| self.failed("delete", &error)),
        }
    }

    pub(crate) async fn set_mtu(&self, mtu: u32) -> Result<(), TunnelError> {
        let message = LinkUnspec::new_with_name(&self.ifname).mtu(mtu).build();
        let done = self.handle.link().set(message).execute().await;
        done.map_err(|error| self.failed(&format!("set mtu {mtu} of"), &error))
    }

    /// Sets it up, which is when the kernel's WireGuard takes its `port`.
    pub(crate) async fn set_up(&self, port: u16) -> Result<(), TunnelError> {
        let message = LinkUnspec::new_with_name(&self.ifname).up().build();
        match self.handle.link().set(message).execute().await {
            Err(error) if is(&error, Errno::ADDRINUSE) => Err(TunnelError::PortInUse { port }),
            result => result.map_err(|error| self.failed("set up", &error)),
        }
    }

    fn failed(&self, what: &str, error: &rtnetlink::Error) -> TunnelError {
        let what = format!("{what} interface {}", self.ifname);
        if is(error, Errno::PERM) {
            return TunnelError::NotPermitted { what };
        }
        let source = match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => io::Error::other(other.to_string()),
        };
        TunnelError::Link { what, source }
    }
}

fn is(error: &rtnetlink::Error, errno: Errno) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message)
        if message.raw_code() == -errno.raw_os_error())
}

fn link_of(message: &LinkMessage) -> Link {
    let mut link =
        Link { kind: LinkKind::Other, up: message.header.flags.contains(LinkFlags::Up), mtu: 0 };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::LinkInfo(infos) => {
                if infos.contains(&LinkInfo::Kind(InfoKind::Wireguard)) {
                    link.kind = LinkKind::Wireguard;
                } else if infos.contains(&LinkInfo::Kind(InfoKind::Tun)) {
                    link.kind = LinkKind::Tun;
                }
            }
            _ => {}
        }
    }
    link
}
