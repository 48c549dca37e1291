//! What the agent and the process that answers say to each other: one JSON value per packet of a Unix
//! socket, with descriptors beside it.
//!
//! The agent asks, everything is answered once, in order. Either may be of another version: `hello`, `lend`,
//! `tell` and `end` stay as they are, so that an agent can take over from the process of any other version; the
//! rest is only said to a process of the agent's own.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::Pid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shoal_agent_planning::zone::Change;

use super::Asker;

/// Longest packet, in bytes.
pub(crate) const PACKET_BYTES_MAX: usize = 64 << 10;
/// Changes of a packet, in bytes, beside the word that they are in.
const CHANGES_BYTES_MAX: usize = PACKET_BYTES_MAX - 64;
/// Descriptors of a packet: one UDP and one TCP socket.
const DESCRIPTORS_MAX: usize = 2;

/// What an agent asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ask {
    /// Who are you?
    Hello,
    /// What follows, up to `settle`, is all that there is.
    Begin,
    /// Changes of the zone.
    Changes(Vec<Change>),
    /// The host's resolvers.
    Resolvers(Vec<SocketAddr>),
    /// Answer a container through these sockets, UDP and TCP.
    Serve(Asker),
    /// Answer a container no more.
    LetGo(String),
    /// All has been said, and these containers may be answered; no others are.
    Settle(Vec<String>),
    /// Copies of all sockets.
    Lend,
    /// All that is known.
    Tell,
    /// End. The sockets live on with whoever has copies.
    End,
}

/// What it is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// This is who answers.
    Hello {
        /// The version of its program.
        version: String,
        /// Its process.
        pid: i32,
    },
    /// A container, with its sockets; more follows.
    Lent(Asker),
    /// What is known; more follows.
    Known(Vec<Change>),
    /// It is done.
    Done,
    /// It is not, and why.
    Refused(String),
}

/// A packet that has come.
#[derive(Debug)]
pub(crate) struct Packet<T> {
    pub(crate) word: T,
    pub(crate) descriptors: Vec<OwnedFd>,
    /// Whose it is, as the kernel says; where the socket asks for that.
    pub(crate) sender: Option<Pid>,
}

/// Changes in as few packets as there is room for. What fits into none is known no more, and nothing else waits
/// for it.
pub(crate) fn packets(changes: Vec<Change>) -> io::Result<Vec<Vec<Change>>> {
    let (mut all, mut last, mut length) = (Vec::new(), Vec::new(), 0);
    for mut change in changes {
        let mut bytes = serde_json::to_vec(&change)?.len();
        if bytes > CHANGES_BYTES_MAX {
            change = end_of(change);
            tracing::error!(?change, bytes, "too many names of one: none of them is known");
            bytes = serde_json::to_vec(&change)?.len();
        }
        // And a comma.
        if length + bytes + 1 > CHANGES_BYTES_MAX {
            all.extend(Some(std::mem::take(&mut last)).filter(|some| !some.is_empty()));
            length = 0;
        }
        length += bytes + 1;
        last.push(change);
    }
    all.extend(Some(last).filter(|some| !some.is_empty()));
    Ok(all)
}

/// That what a change is about is not there.
fn end_of(change: Change) -> Change {
    match change {
        Change::Network { id, .. } | Change::NoNetwork { id } => Change::NoNetwork { id },
        Change::Claims { owner, .. } => Change::Claims { owner, claims: Vec::new() },
    }
}

/// Sends a packet.
pub(crate) fn send(
    socket: &OwnedFd,
    word: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(word)?;
    if bytes.len() > PACKET_BYTES_MAX {
        let length = bytes.len();
        let text = format!("a word of {length} bytes, at most {PACKET_BYTES_MAX} can be said");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
    }
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut beside, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives a packet; `None` when the other side is gone.
pub(crate) fn receive<T: DeserializeOwned>(socket: &OwnedFd) -> io::Result<Option<Packet<T>>> {
    const SPACE: usize = rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX), ScmCredentials(1));
    let mut bytes = vec![0; PACKET_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut beside, flags);
    let got = match got {
        Err(rustix::io::Errno::CONNRESET) => return Ok(None),
        got => got?,
    };
    let (mut descriptors, mut sender) = (Vec::new(), None);
    for message in beside.drain() {
        match message {
            RecvAncillaryMessage::ScmRights(all) => descriptors.extend(all),
            RecvAncillaryMessage::ScmCredentials(credentials) => sender = Some(credentials.pid),
            _ => {}
        }
    }
    if got.bytes == 0 {
        return Ok(None);
    }
    if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet that is too long"));
    }
    let word = serde_json::from_slice(bytes.get(..got.bytes).unwrap_or_default())?;
    Ok(Some(Packet { word, descriptors, sender }))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use rustix::net::sockopt::set_socket_passcred;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use std::net::Ipv4Addr;

    use shoal_agent_planning::zone::{Claim, Forwards, ZoneNetwork};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        let kind = SocketType::SEQPACKET;
        socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap()
    }

    /// What agents and processes of all versions understand is never changed.
    #[test]
    fn taking_over_is_said_in_the_same_words_for_ever() {
        let asker = Asker {
            container: "c1".to_owned(),
            networks: vec!["n1".to_owned()],
            hostname: "h1".to_owned(),
            forwards: Forwards::Host,
        };
        assert_eq!(json(&Ask::Hello), r#""hello""#);
        assert_eq!(json(&Ask::Lend), r#""lend""#);
        assert_eq!(json(&Ask::Tell), r#""tell""#);
        assert_eq!(json(&Ask::End), r#""end""#);
        let hello = Answer::Hello { version: "0.1.0".to_owned(), pid: 7 };
        assert_eq!(json(&hello), r#"{"hello":{"version":"0.1.0","pid":7}}"#);
        let lent =
            r#"{"lent":{"container":"c1","networks":["n1"],"hostname":"h1","forwards":"host"}}"#;
        assert_eq!(json(&Answer::Lent(asker.clone())), lent);
        assert_eq!(json(&Answer::Done), r#""done""#);
        let network =
            ZoneNetwork { name: "back".to_owned(), subnets: vec!["10.0.1.0/24".parse().unwrap()] };
        let claim = Claim {
            network: "n1".to_owned(),
            address: [10, 0, 1, 2].into(),
            called: "web.1".to_owned(),
            names: ["web".to_owned()].into(),
            serving: true,
        };
        let known = Answer::Known(vec![
            Change::Network { id: "n1".to_owned(), network },
            Change::Claims { owner: "t1".to_owned(), claims: vec![claim] },
        ]);
        let text = concat!(
            r#"{"known":[{"network":{"id":"n1","network":{"name":"back","subnets":["10.0.1.0/24"]}}},"#,
            r#"{"claims":{"owner":"t1","claims":[{"network":"n1","address":"10.0.1.2","#,
            r#""called":"web.1","names":["web"],"serving":true}]}}]}"#,
        );
        assert_eq!(json(&known), text);
        assert_eq!(serde_json::from_str::<Answer>(text).unwrap(), known);
        let more = lent.replace("}}", r#","more":1}}"#);
        assert_eq!(serde_json::from_str::<Answer>(&more).unwrap(), Answer::Lent(asker));
    }

    fn json(word: &impl Serialize) -> String {
        serde_json::to_string(word).unwrap()
    }

    fn claims(owner: &str, names: usize) -> Change {
        let names = (0..names).map(|n| format!("{n:0>63}")).collect();
        let (network, address) = ("n1".to_owned(), Ipv4Addr::LOCALHOST.into());
        let claim = Claim { network, address, called: owner.to_owned(), names, serving: true };
        Change::Claims { owner: owner.to_owned(), claims: vec![claim] }
    }

    #[test]
    fn changes_are_said_in_packets_that_can_be_sent() {
        // One fits alone, several together, and what fits nowhere keeps nothing back.
        let sizes = [900, 1, 1, 500, 400, 300, 2000, 1, 985];
        let all: Vec<Change> =
            sizes.iter().enumerate().map(|(n, &names)| claims(&n.to_string(), names)).collect();
        let packets = packets(all.clone()).unwrap();
        for packet in &packets {
            for length in [
                json(&Ask::Changes(packet.clone())).len(),
                json(&Answer::Known(packet.clone())).len(),
            ] {
                assert!(length <= PACKET_BYTES_MAX, "{length}");
            }
        }
        let counts: Vec<usize> = packets.iter().map(Vec::len).collect();
        assert_eq!(counts, [3, 2, 3, 1]);
        let said: Vec<Change> = packets.into_iter().flatten().collect();
        let mut expected = all;
        expected[6] = Change::Claims { owner: "6".to_owned(), claims: Vec::new() };
        assert_eq!(said, expected);
        assert!(super::packets(Vec::new()).unwrap().is_empty());
    }

    #[test]
    fn packets_bring_descriptors_and_have_a_size() {
        let (one, other) = pair();
        let file = tempfile::tempfile().unwrap();
        send(&one, &Ask::Lend, &[file.as_fd(), file.as_fd()]).unwrap();
        let got = receive::<Ask>(&other).unwrap().unwrap();
        assert_eq!((got.word, got.descriptors.len(), got.sender), (Ask::Lend, 2, None));
        // Whoever wants to know who it was hears it from the kernel.
        set_socket_passcred(&other, true).unwrap();
        send(&one, &Ask::Lend, &[file.as_fd(), file.as_fd()]).unwrap();
        let got = receive::<Ask>(&other).unwrap().unwrap();
        assert_eq!((got.descriptors.len(), got.sender), (2, Some(rustix::process::getpid())));
        let long = Ask::LetGo("x".repeat(PACKET_BYTES_MAX));
        assert!(send(&one, &long, &[]).unwrap_err().to_string().contains("65536"));
        rustix::net::send(&one, b"{", SendFlags::empty()).unwrap();
        assert!(receive::<Ask>(&other).is_err());
        drop(one);
        assert!(receive::<Ask>(&other).unwrap().is_none());
    }
}
