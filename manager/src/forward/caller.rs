//! Who made a call that was passed on, as one manager says it to another.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message as _;
use shoal_proto::v1 as pb;
use shoal_transport::{ConnectInfo, Identity, Joiner, Peer, PeerId, Role};
use shoal_types::id::ClusterId;
use shoal_types::time::Timestamp;
use tonic::metadata::{BinaryMetadataValue, MetadataMap};

/// The header. It counts only from managers; nobody else may send it.
pub(super) const CALLER: HeaderName = HeaderName::from_static("shoal-caller-bin");

/// Longest key of a joining host that is passed on, in bytes.
const KEY_BYTES_MAX: usize = 4096;

/// Why a caller cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("{}: {what} is no caller", CALLER)]
pub(super) struct InvalidCaller {
    what: &'static str,
}

const fn invalid(what: &'static str) -> InvalidCaller {
    InvalidCaller { what }
}

/// The header of a call that is passed on; none for peers that this manager does not vouch for.
pub(super) fn write(info: &ConnectInfo) -> Option<HeaderValue> {
    let value = BinaryMetadataValue::from_bytes(&message(info)?.encode_to_vec());
    HeaderValue::from_bytes(value.as_encoded_bytes()).ok()
}

/// What it says.
pub(super) fn message(info: &ConnectInfo) -> Option<pb::Caller> {
    let peer = match &*info.peer {
        Peer::Trusted(identity) => pb::caller::Peer::Member(member(identity)),
        Peer::Joiner(Joiner { public_key }) if public_key.len() <= KEY_BYTES_MAX => {
            pb::caller::Peer::Host(pb::CallingHost { public_key: public_key.clone() })
        }
        Peer::Joiner(_) | Peer::Refused(_) => return None,
    };
    Some(pb::Caller { peer: Some(peer), address: info.address.to_string() })
}

fn member(identity: &Identity) -> pb::CallingMember {
    use pb::calling_member::Id;
    let Identity { id, role, cluster, not_before, not_after } = identity;
    pb::CallingMember {
        id: Some(match id {
            PeerId::Node(id) => Id::NodeId(id.to_string()),
            PeerId::User(id) => Id::UserId(id.to_string()),
        }),
        role: role.as_str().to_owned(),
        cluster_id: cluster.to_string(),
        not_before: not_before.as_nanos(),
        not_after: not_after.as_nanos(),
    }
}

/// Takes the header off; what it says is not believed yet. There may be one at most.
///
/// # Errors
/// It is none, or of a member of another cluster than `cluster`.
pub(super) fn read(headers: &HeaderMap, cluster: ClusterId) -> Result<ConnectInfo, InvalidCaller> {
    if headers.get_all(CALLER).iter().count() != 1 {
        return Err(invalid("more than one"));
    }
    let metadata = MetadataMap::from_headers(headers.clone());
    let value = metadata.get_bin(CALLER.as_str()).ok_or(invalid("nothing"))?;
    let bytes = value.to_bytes().map_err(|_| invalid("what is not base64"))?;
    let caller = pb::Caller::decode(bytes).map_err(|_| invalid("what is no message"))?;
    let address: SocketAddr = caller.address.parse().map_err(|_| invalid("one without address"))?;
    let peer = match caller.peer.ok_or(invalid("nobody"))? {
        pb::caller::Peer::Member(member) => Peer::Trusted(identity(&member, cluster)?),
        pb::caller::Peer::Host(pb::CallingHost { public_key }) => {
            if public_key.is_empty() || public_key.len() > KEY_BYTES_MAX {
                return Err(invalid("a host without a key"));
            }
            Peer::Joiner(Joiner { public_key })
        }
    };
    Ok(ConnectInfo { address, peer: Arc::new(peer) })
}

fn identity(member: &pb::CallingMember, cluster: ClusterId) -> Result<Identity, InvalidCaller> {
    use pb::calling_member::Id;
    let role = Role::parse(&member.role).ok_or(invalid("one without a role"))?;
    let no_id = |_| invalid("one without an id");
    let id = match (role, member.id.as_ref().ok_or(invalid("one without an id"))?) {
        (Role::Manager | Role::Agent, Id::NodeId(id)) => PeerId::Node(id.parse().map_err(no_id)?),
        (Role::User, Id::UserId(id)) => PeerId::User(id.parse().map_err(no_id)?),
        (Role::Manager | Role::Agent, Id::UserId(_)) | (Role::User, Id::NodeId(_)) => {
            return Err(invalid("one with the role of another kind"));
        }
    };
    let named: ClusterId =
        member.cluster_id.parse().map_err(|_| invalid("one without a cluster"))?;
    if named != cluster {
        return Err(invalid("one of another cluster"));
    }
    Ok(Identity {
        id,
        role,
        cluster,
        not_before: Timestamp::from_nanos(member.not_before),
        not_after: Timestamp::from_nanos(member.not_after),
    })
}

#[cfg(test)]
mod tests {
    use shoal_transport::Refusal;
    use shoal_types::id::{NodeId, UserId};

    use super::*;

    fn info(peer: Peer) -> ConnectInfo {
        ConnectInfo { address: "[fd00::7]:999".parse().expect("address"), peer: Arc::new(peer) }
    }

    fn identity_of(id: PeerId, role: Role) -> Identity {
        Identity {
            id,
            role,
            cluster: ClusterId::from(5),
            not_before: Timestamp::from_secs(7),
            not_after: Timestamp::from_nanos(u64::MAX),
        }
    }

    fn headers(value: HeaderValue) -> HeaderMap {
        HeaderMap::from_iter([(CALLER, value)])
    }

    #[test]
    fn what_is_written_is_read() {
        let (node, user) = (PeerId::Node(NodeId::from(3)), PeerId::User(UserId::from(4)));
        for peer in [
            Peer::Trusted(identity_of(node, Role::Agent)),
            Peer::Trusted(identity_of(node, Role::Manager)),
            Peer::Trusted(identity_of(user, Role::User)),
            Peer::Joiner(Joiner { public_key: vec![0, 255, 7] }),
        ] {
            let sent = info(peer);
            let value = write(&sent).expect("vouched for");
            let read = read(&headers(value), ClusterId::from(5)).expect("read");
            assert_eq!((&read.peer, read.address), (&sent.peer, sent.address));
        }
        let refused = Peer::Refused(Refusal::WrongPurpose { who: "x".into() });
        assert!(write(&info(refused)).is_none(), "nobody vouches for it");
    }

    #[test]
    fn what_is_no_caller_is_refused() {
        let cluster = ClusterId::from(5);
        let good = member(&identity_of(PeerId::Node(NodeId::from(3)), Role::Agent));
        let encoded = |caller: pb::Caller| {
            let value = BinaryMetadataValue::from_bytes(&caller.encode_to_vec());
            headers(HeaderValue::from_bytes(value.as_encoded_bytes()).expect("base64"))
        };
        let caller = |member: pb::CallingMember| {
            let (peer, address) = (Some(pb::caller::Peer::Member(member)), "1.2.3.4:5".into());
            encoded(pb::Caller { peer, address })
        };
        assert!(read(&caller(good.clone()), cluster).is_ok());
        assert!(read(&caller(good.clone()), ClusterId::from(6)).is_err(), "another cluster");
        let user_id = Some(pb::calling_member::Id::UserId(UserId::from(4).to_string()));
        for bad in [
            pb::CallingMember { id: user_id, ..good.clone() },
            pb::CallingMember { id: None, ..good.clone() },
            pb::CallingMember { role: "shoal-root".into(), ..good.clone() },
            pb::CallingMember { role: Role::User.as_str().into(), ..good.clone() },
            pb::CallingMember { cluster_id: String::new(), ..good.clone() },
        ] {
            assert!(read(&caller(bad.clone()), cluster).is_err(), "{bad:?}");
        }
        let mut twice = caller(good.clone());
        twice.append(CALLER, HeaderValue::from_static("AA"));
        assert!(read(&twice, cluster).is_err(), "two of them");
        for text in ["", "AA", "!", "////////"] {
            assert!(read(&headers(HeaderValue::from_static(text)), cluster).is_err(), "{text:?}");
        }
        let host = |public_key| pb::Caller {
            peer: Some(pb::caller::Peer::Host(pb::CallingHost { public_key })),
            address: "1.2.3.4:5".into(),
        };
        assert!(read(&encoded(host(vec![1])), cluster).is_ok());
        assert!(read(&encoded(host(vec![])), cluster).is_err());
        assert!(read(&encoded(host(vec![1; KEY_BYTES_MAX + 1])), cluster).is_err());
        let nowhere = pb::Caller { address: String::new(), ..host(vec![1]) };
        assert!(read(&encoded(nowhere), cluster).is_err());
    }
}
