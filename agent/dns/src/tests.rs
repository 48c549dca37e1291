//! Questions and answers, as bytes.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use proptest::prelude::*;
use shoal_agent_planning::zone::{Asker, Change, Claim, TaskNames, Zone, ZoneNetwork};
use tokio::net::TcpStream;

use super::answer::{TCP_BYTES_MAX, TTL_SECONDS, UDP_BYTES_MAX, UDP_BYTES_MIN, Verdict, judge};
use super::forward::{hear, say};
use super::{Server, Sockets};

pub(crate) fn zone(tasks: u8) -> Zone {
    let mut zone = Zone::default();
    let subnets = vec!["10.0.1.0/24".parse().unwrap()];
    let network = ZoneNetwork { name: "shop_default".to_owned(), subnets };
    zone.take(Change::Network { id: "n1".to_owned(), network });
    for n in 1..=tasks {
        let (slot, aliases) = (n.to_string(), BTreeSet::from(["web".to_owned()]));
        let task = TaskNames { service: "shop_web", slot: &slot, aliases: &aliases, serving: true };
        let claims = vec![Claim::of_task(&task, "n1", [10, 0, 1, n + 1].into(), false)];
        zone.take(Change::Claims { owner: format!("t{n}"), claims });
    }
    zone
}

pub(crate) fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

/// Sockets as a container has them, on the host's loopback, and where they are, UDP and TCP.
pub(crate) fn sockets() -> (Sockets, (SocketAddr, SocketAddr)) {
    let any = (Ipv4Addr::LOCALHOST, 0);
    let (udp, tcp) = (UdpSocket::bind(any).unwrap(), TcpListener::bind(any).unwrap());
    udp.set_nonblocking(true).unwrap();
    tcp.set_nonblocking(true).unwrap();
    let at = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
    (Sockets { udp, tcp }, at)
}

fn asker(network: &str) -> Asker {
    Asker { networks: vec![network.to_owned()], ..Asker::default() }
}

fn answered(asked: &Message, tasks: u8, tcp: bool) -> (Message, usize) {
    let bytes = asked.to_vec().unwrap();
    match judge(&bytes, &zone(tasks), &asker("n1"), tcp) {
        Verdict::Answer(bytes) => (Message::from_vec(&bytes).unwrap(), bytes.len()),
        other => panic!("{asked:?}: {other:?}"),
    }
}

pub(crate) fn addresses(message: &Message) -> BTreeSet<IpAddr> {
    let address = |data: &RData| match data {
        RData::A(address) => IpAddr::V4(address.0),
        RData::AAAA(address) => IpAddr::V6(address.0),
        other => panic!("{other:?}"),
    };
    message.answers.iter().map(|record| address(&record.data)).collect()
}

#[test]
fn what_is_ours_is_answered_and_nothing_else() {
    use ResponseCode::{NXDomain, NoError};
    let table = [
        ("web.", RecordType::A, Some((NoError, 2))),
        ("WEB.", RecordType::A, Some((NoError, 2))),
        ("tasks.shop_web.", RecordType::A, Some((NoError, 2))),
        ("shop_web.2.", RecordType::A, Some((NoError, 1))),
        ("web.", RecordType::ANY, Some((NoError, 2))),
        // It is ours and has none of these: nobody else is asked.
        ("web.", RecordType::AAAA, Some((NoError, 0))),
        ("web.", RecordType::HTTPS, Some((NoError, 0))),
        ("web.", RecordType::MX, Some((NoError, 0))),
        ("2.1.0.10.in-addr.arpa.", RecordType::PTR, Some((NoError, 1))),
        ("2.1.0.10.in-addr.arpa.", RecordType::A, Some((NoError, 0))),
        ("99.1.0.10.in-addr.arpa.", RecordType::PTR, Some((NXDomain, 0))),
        ("8.8.8.8.in-addr.arpa.", RecordType::PTR, None),
        ("db.", RecordType::A, None),
        ("example.com.", RecordType::AAAA, None),
        (".", RecordType::NS, None),
    ];
    for (name, kind, expected) in table {
        let asked = question(name, kind);
        let bytes = asked.to_vec().unwrap();
        let verdict = judge(&bytes, &zone(2), &asker("n1"), false);
        let Some((code, count)) = expected else {
            assert!(matches!(verdict, Verdict::Forward(_, UDP_BYTES_MIN)), "{name}: {verdict:?}");
            continue;
        };
        let (answer, _) = answered(&asked, 2, false);
        assert_eq!((answer.response_code, answer.answers.len()), (code, count), "{name} {kind}");
        assert_eq!((answer.id, answer.queries.clone()), (7, asked.queries.clone()));
        assert!(answer.authoritative && answer.recursion_available && answer.recursion_desired);
        assert!(answer.answers.iter().all(|record| record.ttl == TTL_SECONDS));
        assert!(answer.edns.is_none());
    }
}

#[test]
fn another_network_is_not_told() {
    let bytes = question("web.", RecordType::A).to_vec().unwrap();
    let verdict = judge(&bytes, &zone(2), &asker("n2"), false);
    assert!(matches!(verdict, Verdict::Forward(..)), "{verdict:?}");
}

#[test]
fn an_answer_has_as_many_addresses_as_there_is_room_for() {
    let asked = |bytes: u16| {
        let mut asked = question("web.", RecordType::A);
        let mut edns = Edns::new();
        edns.set_max_payload(bytes);
        asked.set_edns(edns);
        asked
    };
    // Without a word 512 bytes, and never more than what passes everywhere.
    let table = [(None, UDP_BYTES_MIN), (Some(0), UDP_BYTES_MIN), (Some(700), 700)];
    for (size, limit) in table {
        let question = size.map_or_else(|| question("web.", RecordType::A), asked);
        let (answer, length) = answered(&question, 100, false);
        assert!(answer.truncation && length <= limit, "{size:?}: {length}");
        assert!(length + 16 > limit, "{size:?}: there was room for more: {length}");
        assert_eq!(answer.edns.is_some(), size.is_some());
    }
    let (answer, length) = answered(&asked(u16::MAX), 200, false);
    assert!(answer.truncation && length <= UDP_BYTES_MAX, "{length}");
    let (answer, _) = answered(&question("web.", RecordType::A), 200, true);
    assert!(!answer.truncation);
    assert_eq!(addresses(&answer).len(), 200);
}

/// Who asks for one family is told of that alone, also where somebody has another one only.
#[test]
fn each_family_is_asked_for_by_itself() {
    let mut zone = zone(1);
    let aliases = BTreeSet::new();
    let task = TaskNames { service: "both", slot: "1", aliases: &aliases, serving: true };
    let of = |address: IpAddr| Claim::of_task(&task, "n1", address, false);
    let own = ["10.0.1.77", "fd00:1::77"].map(|text| text.parse().unwrap());
    let claims = own.map(of).to_vec();
    zone.take(Change::Claims { owner: "t77".to_owned(), claims });
    let subnets = ["10.0.1.0/24", "fd00:1::/64"].map(|text| text.parse().unwrap()).to_vec();
    let network = ZoneNetwork { name: "net".to_owned(), subnets };
    zone.take(Change::Network { id: "n1".to_owned(), network });
    let reverse = "7.7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa.";
    let told = |name: &str, kind: RecordType| {
        let asked = question(name, kind).to_vec().unwrap();
        match judge(&asked, &zone, &asker("n1"), false) {
            Verdict::Answer(bytes) => Message::from_vec(&bytes).unwrap(),
            other => panic!("{name}: {other:?}"),
        }
    };
    assert_eq!(addresses(&told("both.", RecordType::A)), [own[0]].into());
    assert_eq!(addresses(&told("both.", RecordType::AAAA)), [own[1]].into());
    assert_eq!(addresses(&told("both.", RecordType::ANY)), own.into());
    let none = told("web.", RecordType::AAAA);
    assert_eq!((none.response_code, none.answers.len()), (ResponseCode::NoError, 0));
    let called = told(reverse, RecordType::PTR);
    assert!(called.answers[0].data.to_string().starts_with("both.1.net."), "{called:?}");
    let absent = told(&reverse.replacen('7', "8", 1), RecordType::PTR);
    assert_eq!(absent.response_code, ResponseCode::NXDomain);
}

#[test]
fn addresses_come_in_every_order() {
    let asked = question("web.", RecordType::A);
    let first = |_| answered(&asked, 3, false).0.answers[0].data.clone();
    let firsts: Vec<RData> = (0..200).map(first).collect();
    for n in 1..=3u8 {
        let address = RData::A(Ipv4Addr::new(10, 0, 1, n + 1).into());
        let count = firsts.iter().filter(|data| **data == address).count();
        // A third of them, give or take more than seven deviations.
        assert!((20..=115).contains(&count), "{address}: {count} of 200");
    }
}

#[test]
fn what_is_no_plain_question_is_refused_by_its_name() {
    let mut update = question("web.", RecordType::A);
    update.metadata.op_code = OpCode::Notify;
    let mut chaos = question("web.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    let mut newer = question("web.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    newer.set_edns(edns);
    let mut two = question("web.", RecordType::A);
    two.add_query(two.queries[0].clone());
    let mut none = question("web.", RecordType::A);
    none.queries.clear();
    let table = [
        (update, ResponseCode::NotImp),
        (chaos, ResponseCode::Refused),
        (newer, ResponseCode::BADVERS),
        (two, ResponseCode::FormErr),
        (none, ResponseCode::FormErr),
    ];
    for (asked, code) in table {
        let (answer, _) = answered(&asked, 1, false);
        // By number: 16 has two names.
        let number = u16::from(answer.response_code);
        assert_eq!((answer.id, number), (7, u16::from(code)), "{asked:?}");
    }
    let garbage = [0u8, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 63, 1];
    let Verdict::Answer(bytes) = judge(&garbage, &zone(1), &asker("n1"), false) else {
        panic!("no answer")
    };
    let answer = Message::from_vec(&bytes).unwrap();
    assert_eq!((answer.id, answer.response_code), (9, ResponseCode::FormErr));
    // An answer, and what is no message at all.
    let mut reply = question("web.", RecordType::A);
    reply.metadata.message_type = MessageType::Response;
    for silent in [&reply.to_vec().unwrap()[..], &garbage[..11], &[]] {
        assert_eq!(judge(silent, &zone(1), &asker("n1"), false), Verdict::Silence);
    }
}

#[test]
fn only_an_answer_to_the_question_under_its_number_counts() {
    let asked = question("example.com.", RecordType::A);
    let bytes = asked.to_vec().unwrap();
    let Verdict::Forward(forwarded, _) = judge(&bytes, &zone(1), &asker("n1"), false) else {
        panic!("not forwarded")
    };
    let mut answer = asked.clone();
    answer.metadata.message_type = MessageType::Response;
    let answers = |message: &Message, id| forwarded.is_answered_by(&message.to_vec().unwrap(), id);
    assert_eq!(answers(&answer, 7), Some(ResponseCode::NoError));
    assert_eq!(answers(&answer, 8), None);
    assert_eq!(answers(&asked, 7), None);
    let mut other = answer.clone();
    other.queries[0].set_name(Name::from_ascii("example.org.").unwrap());
    assert_eq!(answers(&other, 7), None);
}

/// Over TCP, of so many bytes; `None` if the connection is closed instead of an answer.
async fn answer_to(at: SocketAddr, bytes: usize) -> Option<Message> {
    let mut asked = question("web.", RecordType::A).to_vec().unwrap();
    asked.resize(bytes, 0);
    let mut stream = TcpStream::connect(at).await.unwrap();
    say(&mut stream, &asked).await.ok()?;
    let answer = hear(&mut stream, TCP_BYTES_MAX).await.ok()?;
    Some(Message::from_vec(&answer).unwrap())
}

#[tokio::test]
async fn a_question_has_a_length() {
    let server = Server::default();
    server.take(Zone::default().difference(&zone(1)));
    let (sockets, (_, at)) = sockets();
    server.serve(asker("n1"), sockets).unwrap();
    let answer = answer_to(at, 2048).await.unwrap();
    assert_eq!(addresses(&answer).len(), 1);
    assert_eq!(answer_to(at, 2049).await, None, "it is not read");
    assert_eq!(answer_to(at, TCP_BYTES_MAX).await, None);
}

proptest! {
    /// Whatever comes: an answer is one, to that number, and within its size.
    #[test]
    fn bytes_are_answered_as_bytes(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..80),
        real in any::<bool>(),
        at in 0..40usize,
        tcp in any::<bool>(),
    ) {
        if real {
            // A real question with one byte of it changed.
            let change = bytes.first().copied().unwrap_or(0);
            bytes = question("tasks.web.", RecordType::A).to_vec().unwrap();
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= change;
            }
        }
        if let Verdict::Answer(answer) = judge(&bytes, &zone(120), &asker("n1"), tcp) {
            let read = Message::from_vec(&answer).unwrap();
            prop_assert_eq!(read.message_type, MessageType::Response);
            prop_assert_eq!(&answer[..2], &bytes[..2]);
            prop_assert!(tcp || answer.len() <= UDP_BYTES_MAX);
        }
    }
}
