//! `shoal-agent names`: the process that answers. It outlives the agent that has started it.
//!
//! It enters no namespace and opens no socket of a container: the agent does, and gives it both sockets.
//! So it needs no right of root, and has none: it is started as nobody, without groups and capabilities,
//! and gets none back. What it keeps are the descriptors that it is given, and that it may ask the
//! resolvers that it is told of from the host's namespace.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit, setsid,
};
use shoal_agent_planning::zone::Zone;

use super::words::{Answer, Ask, packets, receive, send};
use super::{Server, Sockets};

/// One to answer while the other is held up.
const THREADS: usize = 2;
/// Whoever has nobody to answer and hears from no agent for so long has been forgotten.
const FORGOTTEN: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };
/// Nothing here goes deep.
const STACK_BYTES: usize = 256 << 10;

/// Whether the conversation goes on.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    On,
    End,
}

/// Answers until an agent says that it is enough. One agent at a time is heard; the next one when it is gone.
///
/// # Errors
/// What it needs cannot be had.
pub fn run(listener: &OwnedFd) -> io::Result<()> {
    // Fails for a process that leads a group already, which is as good.
    let _ = setsid();
    std::env::set_current_dir("/")?;
    // Nobody is a user that others run as, too.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::thread::set_no_new_privs(true)?;
    // Two sockets of each container, and those to others.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    serve(listener)
}

/// As [`run`], in a process that goes on to be what it is.
///
/// # Errors
/// What it needs cannot be had.
pub(crate) fn serve(listener: &OwnedFd) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_stack_size(STACK_BYTES)
        .thread_name("shoal-names")
        .enable_all()
        .build()?;
    let _inside = runtime.enter();
    let mut process = Process::default();
    loop {
        let patience = process.server.askers().is_empty().then_some(&FORGOTTEN);
        match poll(&mut [PollFd::new(listener, PollFlags::IN)], patience) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let agent = accept_with(listener, SocketFlags::CLOEXEC)?;
        match process.converse(&agent) {
            Ok(Next::End) => {
                runtime.block_on(process.server.finish());
                return Ok(());
            }
            // One that talks nonsense hears, and logs, that it is talked to no more: nobody reads a log of this
            // process.
            Ok(Next::On) | Err(_) => {}
        }
    }
}

#[derive(Debug, Default)]
struct Process {
    server: Server,
    /// What is said between `begin` and `settle`.
    coming: Option<Zone>,
}

impl Process {
    fn converse(&mut self, agent: &OwnedFd) -> io::Result<Next> {
        // What the agent before has not finished is nothing.
        self.coming = None;
        while let Some(packet) = receive::<Ask>(agent)? {
            let is_end = packet.word == Ask::End;
            let answer = self.hear(packet.word, packet.descriptors, agent)?;
            send(agent, &answer, &[])?;
            if is_end {
                return Ok(Next::End);
            }
        }
        Ok(Next::On)
    }

    fn hear(&mut self, ask: Ask, given: Vec<OwnedFd>, agent: &OwnedFd) -> io::Result<Answer> {
        match ask {
            Ask::Hello => {
                let version = env!("CARGO_PKG_VERSION").to_owned();
                let pid = rustix::process::getpid().as_raw_nonzero().get();
                return Ok(Answer::Hello { version, pid });
            }
            Ask::Begin => self.coming = Some(Zone::default()),
            Ask::Changes(changes) => match &mut self.coming {
                Some(zone) => changes.into_iter().for_each(|change| zone.take(change)),
                None => self.server.take(changes),
            },
            Ask::Resolvers(all) => self.server.set_resolvers(all),
            Ask::Serve(asker) => {
                let Ok([udp, tcp]) = <[OwnedFd; 2]>::try_from(given) else {
                    return Ok(Answer::Refused("expected two sockets".to_owned()));
                };
                let sockets = Sockets { udp: UdpSocket::from(udp), tcp: TcpListener::from(tcp) };
                if let Err(error) = self.server.serve(asker, sockets) {
                    return Ok(Answer::Refused(error.to_string()));
                }
            }
            Ask::LetGo(container) => self.server.let_go(&container),
            Ask::Settle(containers) => {
                if let Some(zone) = self.coming.take() {
                    self.server.become_zone(zone);
                }
                for asker in self.server.askers() {
                    if !containers.contains(&asker.container) {
                        self.server.let_go(&asker.container);
                    }
                }
            }
            Ask::Lend => {
                for (asker, sockets) in self.server.lend()? {
                    let both = [sockets.udp.as_fd(), sockets.tcp.as_fd()];
                    send(agent, &Answer::Lent(asker), &both)?;
                }
            }
            Ask::Tell => {
                for some in packets(self.server.known())? {
                    send(agent, &Answer::Known(some), &[])?;
                }
            }
            // Before it is said to be done: this process ends some time after that.
            Ask::End => self.server.leave_all(),
        }
        Ok(Answer::Done)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hickory_proto::op::{Message, MessageType};
    use shoal_agent_ground::testing::skip_without_root;

    use super::super::root_tests::{Space, asked, asker, heard};
    use super::super::tests::zone;
    use super::super::{Forwards, open};
    use super::*;

    /// The end of the process comes some time after it was said to be done, and so does the close of sockets.
    #[tokio::test(flavor = "multi_thread")]
    async fn whoever_is_let_go_of_is_answered_no_more_once_that_is_said() {
        if skip_without_root() {
            return;
        }
        let (agent, _process) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let (mut process, space) = (Process::default(), Space::new());
        process.server.take(Zone::default().difference(&zone(1)));
        let sockets = open(&space.path()).unwrap();
        process.server.serve(asker("c1", "n1", Forwards::Nobody), sockets).unwrap();
        assert!(space.ask("web.").await.is_some());
        assert_eq!(process.hear(Ask::End, Vec::new(), &agent).unwrap(), Answer::Done);
        let answer = space.inside(|| {
            let socket = asked("web.");
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            heard(&socket)
        });
        assert_eq!(answer.await, None);
    }

    /// What others were asked by the process that ends is answered by it, and what is asked later is not.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_others_were_asked_before_the_end_is_answered() {
        if skip_without_root() {
            return;
        }
        let resolver = UdpSocket::bind("127.0.0.1:0").unwrap();
        resolver.set_read_timeout(Some(Duration::from_secs(6))).unwrap();
        let forwards = Forwards::To(vec![resolver.local_addr().unwrap()]);
        let (server, space) = (Server::default(), Space::new());
        server.serve(asker("c1", "n1", forwards), open(&space.path()).unwrap()).unwrap();
        let before = space.inside(|| asked("example.org.")).await;
        let mut buffer = [0; 512];
        let (length, from) = resolver.recv_from(&mut buffer).unwrap();
        server.leave_all();
        let after = space.inside(|| asked("example.org.")).await;
        let mut message = Message::from_vec(&buffer[..length]).unwrap();
        message.metadata.message_type = MessageType::Response;
        resolver.send_to(&message.to_vec().unwrap(), from).unwrap();
        server.finish().await;
        assert!(heard(&before).is_some());
        after.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        assert_eq!(heard(&after), None);
    }
}
