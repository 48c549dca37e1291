//! Real sockets in real namespaces. Needs root and `ip`.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::{RData, Record};
use hickory_proto::rr::{RecordType, rdata::A};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use shoal_agent_ground::testing::skip_without_root;

use super::tests::{addresses, question, zone};
use super::*;
use shoal_agent_planning::zone::Zone;

/// A network namespace that is gone when nothing holds it any more.
pub(crate) struct Space(File);

impl Space {
    pub(crate) fn new() -> Self {
        let make = || {
            shoal_agent_container::sys::process::unshare(UnshareFlags::NEWNET).unwrap();
            let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
            assert!(up.success());
            Self(File::open("/proc/thread-self/ns/net").unwrap())
        };
        thread::spawn(make).join().unwrap()
    }

    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }

    /// Does something inside, on a thread of its own.
    pub(crate) async fn inside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let file = self.0.try_clone().unwrap();
        let enter = move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        let (done, ended) = tokio::sync::oneshot::channel();
        thread::spawn(move || drop(done.send(enter())));
        ended.await.unwrap()
    }

    pub(crate) async fn ask(&self, name: &'static str) -> Option<Message> {
        self.inside(move || ask(name)).await
    }
}

/// Over UDP, from within. Nobody answers in time: `None`.
pub(crate) fn ask(name: &str) -> Option<Message> {
    heard(&asked(name))
}

/// Says a question, for whose answer somebody may wait.
pub(crate) fn asked(name: &str) -> UdpSocket {
    asked_at(ADDRESS.into(), name)
}

/// As [`asked`], of whoever is there.
pub(crate) fn asked_at(address: SocketAddr, name: &str) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(6))).unwrap();
    socket.connect(address).unwrap();
    socket.send(&question(name, RecordType::A).to_vec().unwrap()).unwrap();
    socket
}

pub(crate) fn heard(socket: &UdpSocket) -> Option<Message> {
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).ok()?;
    Some(Message::from_vec(&buffer[..length]).unwrap())
}

/// Several questions over one TCP connection.
pub(crate) fn ask_over_tcp(names: &[&str]) -> Vec<Message> {
    let mut stream = TcpStream::connect(ADDRESS).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(6))).unwrap();
    let answer = |name: &&str| {
        let asked = question(name, RecordType::A).to_vec().unwrap();
        stream.write_all(&u16::try_from(asked.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(&asked).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer).unwrap();
        Message::from_vec(&answer).unwrap()
    };
    names.iter().map(answer).collect()
}

pub(crate) fn asker(container: &str, network: &str, forwards: Forwards) -> Asker {
    let (container, networks) = (container.to_owned(), vec![network.to_owned()]);
    Asker { container, networks, hostname: String::new(), forwards }
}

fn server(tasks: u8) -> Server {
    let server = Server::default();
    server.take(Zone::default().difference(&zone(tasks)));
    server
}

/// A resolver on the host's loopback, which no container reaches. Answers 192.0.2.1 to everything, to as
/// many as it is asked.
fn resolver() -> (SocketAddr, thread::JoinHandle<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let address = socket.local_addr().unwrap();
    let serve = move || {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let Ok(mut message) = Message::from_vec(&buffer[..length]) else { return };
            message.metadata.message_type = MessageType::Response;
            let name = message.queries[0].name().clone();
            message.add_answer(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, 1))));
            socket.send_to(&message.to_vec().unwrap(), from).unwrap();
        }
    };
    (address, thread::spawn(serve))
}

/// Which names have been asked for here since the last call.
fn came(socket: &UdpSocket) -> Vec<String> {
    socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 4096];
    let mut names = Vec::new();
    while let Ok((length, _)) = socket.recv_from(&mut buffer) {
        let asked = Message::from_vec(&buffer[..length]).unwrap();
        names.push(asked.queries[0].name().to_ascii());
    }
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_asks_names_of_its_own_networks() {
    if skip_without_root() {
        return;
    }
    let (server, one, other) = (server(100), Space::new(), Space::new());
    server.serve(asker("c1", "n1", Forwards::Nobody), open(&one.path()).unwrap()).unwrap();
    server.serve(asker("c2", "n2", Forwards::Nobody), open(&other.path()).unwrap()).unwrap();
    let answer = one.ask("web.").await.unwrap();
    assert!(answer.truncation, "100 addresses do not fit");
    let answers = one.inside(|| ask_over_tcp(&["web.", "shop_web.7.", "web."])).await;
    let counts: Vec<usize> = answers.iter().map(|answer| addresses(answer).len()).collect();
    assert_eq!(counts, [100, 1, 100]);
    // The same question in another network is not answered, and asked of nobody.
    let answer = other.ask("web.").await.unwrap();
    assert_eq!((answer.response_code, answer.answers.len()), (ResponseCode::ServFail, 0));
    // A task that is gone is gone from the next answer.
    server.take([shoal_agent_planning::zone::Change::Claims {
        owner: "t7".to_owned(),
        claims: Vec::new(),
    }]);
    let answers = one.inside(|| ask_over_tcp(&["web.", "shop_web.7."])).await;
    assert_eq!((addresses(&answers[0]).len(), answers[1].answers.len()), (99, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_are_closed_with_their_container_and_can_be_had_again() {
    if skip_without_root() {
        return;
    }
    let (server, space) = (server(1), Space::new());
    for _ in 0..3 {
        let sockets = open(&space.path()).unwrap();
        // Meanwhile nobody else gets them.
        let taken = open(&space.path()).unwrap_err();
        assert!(matches!(taken, SocketError::Listen { .. }), "{taken}");
        server.serve(asker("c1", "n1", Forwards::Nobody), sockets).unwrap();
        assert_eq!(addresses(&space.ask("web.").await.unwrap()).len(), 1);
        assert_eq!(server.askers().len(), 1);
        server.let_go("c1");
        assert!(server.askers().is_empty());
        // An aborted task ends when it is its turn.
        let until = Instant::now() + Duration::from_secs(10);
        while let Err(error) = open(&space.path()).map(drop) {
            assert!(Instant::now() < until, "{error}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let own = open(&PathBuf::from("/proc/thread-self/ns/net")).unwrap_err();
    assert!(matches!(own, SocketError::Host { .. }), "{own}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_is_asked_from_the_host() {
    if skip_without_root() {
        return;
    }
    let (server, space) = (server(1), Space::new());
    let (live, _answers) = resolver();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let dead = silent.local_addr().unwrap();
    let refuses = "127.0.0.1:1".parse().unwrap();
    server.serve(asker("c1", "n1", Forwards::Host), open(&space.path()).unwrap()).unwrap();
    let answer = space.ask("example.com.").await.unwrap();
    assert_eq!(answer.response_code, ResponseCode::ServFail, "there is no resolver");
    server.set_resolvers(vec![refuses, live]);
    let begun = Instant::now();
    let answer = space.ask("example.com.").await.unwrap();
    assert_eq!((answer.id, addresses(&answer)), (7, [IpAddr::from([192, 0, 2, 1])].into()));
    // Its share of the time is two seconds.
    assert!(begun.elapsed() < Duration::from_secs(2), "a refusal is heard at once");
    // One that is silent costs its share once, and then nothing: it is asked last.
    server.set_resolvers(vec![dead, live]);
    assert_eq!(addresses(&space.ask("example.com.").await.unwrap()).len(), 1);
    assert_eq!(came(&silent), ["example.com."]);
    for _ in 0..2 {
        assert_eq!(addresses(&space.ask("example.com.").await.unwrap()).len(), 1);
        assert_eq!(came(&silent), ["example.com."; 0], "{dead} is asked again");
    }
    // Which is what that container has seen: another one asks them in their order.
    let other = Space::new();
    server.serve(asker("c2", "n1", Forwards::Host), open(&other.path()).unwrap()).unwrap();
    assert_eq!(addresses(&other.ask("example.com.").await.unwrap()).len(), 1);
    assert_eq!(came(&silent), ["example.com."]);
    // All of them: told, before the asker gives up.
    server.set_resolvers(vec![dead]);
    let answer = space.ask("example.com.").await.unwrap();
    assert_eq!(answer.response_code, ResponseCode::ServFail);
    // What is ours has never gone there.
    assert_eq!(addresses(&space.ask("web.").await.unwrap()).len(), 1);
    assert_eq!(came(&silent), ["example.com."]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_floods_starves_no_other() {
    if skip_without_root() {
        return;
    }
    let (server, loud, quiet) = (server(1), Space::new(), Space::new());
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (live, _answers) = resolver();
    let forwards = Forwards::To(vec![silent.local_addr().unwrap()]);
    server.serve(asker("c1", "n1", forwards), open(&loud.path()).unwrap()).unwrap();
    let forwards = Forwards::To(vec![live]);
    server.serve(asker("c2", "n1", forwards), open(&quiet.path()).unwrap()).unwrap();
    let flood = loud.inside(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(ADDRESS).unwrap();
        let asked = question("example.com.", RecordType::A).to_vec().unwrap();
        (0..20_000).filter(|_| socket.send(&asked).is_ok()).count()
    });
    let asks = async {
        let mut slowest = Duration::ZERO;
        for name in ["web.", "example.com."].into_iter().cycle().take(40) {
            let begun = Instant::now();
            let answer = quiet.ask(name).await;
            let answer = answer.unwrap_or_else(|| panic!("{name}: after {:?}", begun.elapsed()));
            assert_eq!(answer.answers.len(), 1, "{name}: {answer:?}");
            slowest = slowest.max(begun.elapsed());
        }
        slowest
    };
    let (sent, slowest) = tokio::join!(flood, asks);
    assert!(sent > 0, "nothing sent");
    // Nobody waits for the silent resolver of another: that takes four seconds.
    assert!(slowest < Duration::from_secs(3), "{sent} sent, slowest {slowest:?}");
    // It is answered, too, once there is room in its queue again, which it has filled itself.
    let again = || {
        let socket = asked("example.com.");
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let until = Instant::now() + Duration::from_secs(8);
        let bytes = question("example.com.", RecordType::A).to_vec().unwrap();
        loop {
            if let Some(answer) = heard(&socket) {
                return answer;
            }
            assert!(Instant::now() < until, "no answer to who has flooded");
            socket.send(&bytes).unwrap();
        }
    };
    assert_eq!(loud.inside(again).await.response_code, ResponseCode::ServFail);
}
