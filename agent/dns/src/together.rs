//! Several packets with one call of the kernel (`recvmmsg(2)`, `sendmmsg(2)`).

use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};

/// Packets at once, and so those of one container that are answered before it is another's turn.
pub(crate) const TOGETHER: usize = 32;

/// An answer, and whose.
pub(crate) type To = (Vec<u8>, SocketAddrV4);

/// Room for packets that come. Each thread has one, not each container.
struct Room {
    headers: MultiHeaders<SockaddrIn>,
    bytes: Vec<u8>,
}

thread_local! {
    static ROOM: RefCell<Option<Room>> = const { RefCell::new(None) };
}

/// Reads what has come, at most [`TOGETHER`] packets, of which what is beyond so many bytes each is lost. Returns how
/// many there were; `read` must not come back here.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] if there is none, or what an earlier packet ran into.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    bytes_each: usize,
    mut read: impl FnMut(&[u8], SocketAddrV4),
) -> io::Result<usize> {
    ROOM.with_borrow_mut(|room| {
        let room = room.get_or_insert_with(|| Room {
            headers: MultiHeaders::preallocate(TOGETHER, None),
            bytes: Vec::new(),
        });
        room.bytes.resize(TOGETHER * bytes_each, 0);
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            room.bytes.chunks_mut(bytes_each).map(|chunk| [IoSliceMut::new(chunk)]).collect();
        let flags = MsgFlags::MSG_DONTWAIT;
        let came = recvmmsg(socket.as_raw_fd(), &mut room.headers, slices.iter_mut(), flags, None)?;
        let mut count = 0;
        for packet in came {
            count += 1;
            if let (Some(bytes), Some(from)) = (packet.iovs().next(), packet.address) {
                read(bytes, from.into());
            }
        }
        Ok(count)
    })
}

/// Sends what there is room for. Whoever does not read its answers loses them, and asks again; nobody else's are
/// lost with them.
pub(crate) fn send(socket: BorrowedFd<'_>, answers: &[To]) {
    let mut left = answers;
    while !left.is_empty() {
        let slices: Vec<[IoSlice<'_>; 1]> =
            left.iter().map(|(bytes, _)| [IoSlice::new(bytes)]).collect();
        let to: Vec<Option<SockaddrIn>> = left.iter().map(|(_, to)| Some((*to).into())).collect();
        let mut headers = MultiHeaders::preallocate(left.len(), None);
        let flags = MsgFlags::MSG_DONTWAIT;
        // An error is that of the first one.
        let sent = sendmmsg(socket.as_raw_fd(), &mut headers, &slices, to, [], flags)
            .map_or(1, |sent| sent.count().max(1));
        left = left.get(sent..).unwrap_or_default();
    }
}
