//! Hearing that somebody changes the tables.
//!
//! By the notifications of nf_tables (linux/netfilter/nf_tables.h), whose numbers are here because
//! no library that we use has them.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{AsyncSocket as _, AsyncSocketExt as _, TokioSocket};
use rustix::io::Errno;
use shoal_agent_ground::backoff::Backoff;
use shoal_types::error_chain::chain;
use tokio::task::AbortHandle;

use super::conntrack::{attribute, messages};
use super::{BridgeNetworks, NetworkDriver as _};

/// The group that hears of every change.
const GROUP_NFTABLES: u32 = 7;
const SUBSYSTEM: u16 = 10;
/// New and deleted tables, chains and rules. Elements are what the agent itself changes all day.
const FRAME: [u16; 6] = [0, 2, 3, 5, 6, 8];
/// The attribute of each of them that names the table.
const TABLE_NAME: u16 = 1;
/// nfgenmsg.
const HEADER: usize = 4;
/// How long is waited between two repairs, so that a quarrel with another program is bounded, and
/// after those that failed.
const PAUSES: Backoff = Backoff { first: Duration::from_secs(1), last: Duration::from_secs(60) };

/// Starts to repair whatever others do to the tables of a driver, as long as the driver lives; what
/// fails is tried again. Call it inside the runtime, in the network namespace of the driver.
///
/// # Errors
/// There is no netlink.
pub fn keep_tables(networks: &Arc<BridgeNetworks>) -> io::Result<AbortHandle> {
    let socket = listen()?;
    Ok(tokio::spawn(watch(socket, Arc::downgrade(networks))).abort_handle())
}

fn listen() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
    socket.socket_mut().bind_auto()?;
    socket.socket_mut().add_membership(GROUP_NFTABLES)?;
    Ok(socket)
}

async fn watch(mut socket: TokioSocket, networks: Weak<BridgeNetworks>) {
    let mut failures = 0;
    loop {
        // After a failure there is something to do already.
        if failures == 0 {
            let Some(table) = networks.upgrade().map(|known| known.table_name().to_owned()) else {
                return;
            };
            if let Err(error) = touched(&mut socket, &table).await {
                tracing::warn!(%error, "cannot hear of changes to the packet filter; listening anew");
                match listen() {
                    Ok(new) => socket = new,
                    Err(error) => tracing::error!(%error, "cannot listen for them"),
                }
            }
        }
        let Some(known) = networks.upgrade() else { return };
        match known.repair().await {
            Ok(repaired) => {
                failures = 0;
                if !repaired.is_clean() {
                    tracing::warn!(?repaired, "somebody changed the packet filter; put right");
                }
            }
            Err(error) => {
                failures += 1;
                tracing::error!(error = %chain(&error), "cannot put the packet filter right yet");
            }
        }
        drop(known);
        tokio::time::sleep(PAUSES.wait(failures, 0.0)).await;
    }
}

/// Returns when the tables may have been changed by whoever it was.
async fn touched(socket: &mut TokioSocket, table: &str) -> io::Result<()> {
    loop {
        match socket.recv_from_full().await {
            Ok((datagram, _)) if is_about(&datagram, table) => return Ok(()),
            Ok(_) => {}
            // Too much to remember for the kernel: anything may have been lost.
            Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
}

fn is_about(datagram: &[u8], table: &str) -> bool {
    messages(datagram).any(|(kind, body)| {
        let named = body.get(HEADER..).and_then(|body| attribute(body, TABLE_NAME));
        kind >> 8 == SUBSYSTEM
            && FRAME.contains(&(kind & 0xff))
            && named.and_then(|name| name.strip_suffix(&[0])) == Some(table.as_bytes())
    })
}
