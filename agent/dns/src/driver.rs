//! Names as the worker sees them.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use shoal_agent_planning::network::files::{HostResolver, host_servers};
use shoal_agent_planning::zone::{Asker, DNS_PORT, Roll};
use shoal_types::error_chain::chain;
use tokio::sync::watch;

use super::keeper::{Names, NamesError, Start};

/// How long is waited for what comes together.
const TOGETHER: Duration = Duration::from_millis(10);

/// The names of a node's containers.
///
/// Every call may be repeated, also after a crash in the middle or a restart of the agent. Calls may run
/// concurrently; those about the same container must come from one task at a time.
pub trait NamesDriver: Send + Sync {
    /// Who is known under which names from now on. Returns at once; it is so a moment later, or when there
    /// is a process again that answers.
    fn tell(&self, roll: Roll);

    /// Has a container answered whose loopback interface is up, through sockets in its network namespace
    /// that are kept until [`let_go`](Self::let_go). One that has some is who it now is from then on.
    ///
    /// # Errors
    /// It has no sockets: the namespace is gone, or somebody has taken the address. There is no process
    /// that answers; then it is answered when there is one.
    fn serve(&self, asker: Asker, netns: PathBuf) -> BoxFuture<'_, Result<(), NamesError>>;

    /// A container is answered no more, and nothing keeps its network namespace. Fine if it was not.
    ///
    /// # Errors
    /// There is no process that could be told, and one that cannot hear may keep the namespace until a look
    /// has told or replaced it.
    fn let_go(&self, container: String) -> BoxFuture<'_, Result<(), NamesError>>;

    /// Which containers have sockets, and as whom they ask: those of an earlier agent among them. `None` if that cannot be told.
    fn served(&self) -> BoxFuture<'_, Option<BTreeMap<String, Asker>>>;

    /// Looks whether those that are served are answered, sees to it that they are, and takes up whom this
    /// host asks now.
    ///
    /// # Errors
    /// There is no process that answers.
    fn look(&self) -> BoxFuture<'_, Result<(), NamesError>>;

    /// Whether a process answers those that are served; `None` if there is nobody to be answered. Nothing is done
    /// about it.
    fn is_answering(&self) -> BoxFuture<'_, Option<bool>>;

    /// Leaves nothing: no process, no socket, no name.
    fn end(&self) -> BoxFuture<'_, ()>;
}

/// The real one: a process of the agent's answers.
pub struct NodeNames {
    names: Names,
    resolv_conf: PathBuf,
    rolls: watch::Sender<Option<Roll>>,
}

impl NodeNames {
    /// Takes over what the process of an earlier agent has and knows. A process is started when there is
    /// somebody to be answered. `resolv_conf` says whom this host asks.
    ///
    /// # Errors
    /// [`NamesError::Lost`].
    pub async fn open(
        socket: PathBuf,
        resolv_conf: PathBuf,
        start: Start,
    ) -> Result<Self, NamesError> {
        let path = resolv_conf.clone();
        let open = move || {
            let names = Names::open(socket, start);
            // Whoever cannot be told now is with the next look.
            let _ = ask_those_of(&names, &path);
            names
        };
        let names = tokio::task::spawn_blocking(open).await.map_err(|_| NamesError::Lost)?;
        let (rolls, heard) = watch::channel(None);
        tokio::spawn(follow(names.clone(), heard));
        Ok(Self { names, resolv_conf, rolls })
    }

    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Names) -> Result<T, NamesError> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, NamesError>> {
        let names = self.names.clone();
        async move {
            let done = tokio::task::spawn_blocking(move || work(&names)).await;
            done.unwrap_or(Err(NamesError::Lost))
        }
        .boxed()
    }
}

/// Until the driver is gone.
async fn follow(names: Names, mut rolls: watch::Receiver<Option<Roll>>) {
    while rolls.changed().await.is_ok() {
        tokio::time::sleep(TOGETHER).await;
        let Some(roll) = rolls.borrow_and_update().clone() else { continue };
        let names = names.clone();
        let know = move || names.know(|before| roll.zone(before));
        match tokio::task::spawn_blocking(know).await {
            Ok(Ok(())) => {}
            // It is told to the next process.
            Ok(Err(error)) => tracing::error!(error = %chain(&error), "names are out of date"),
            Err(error) => tracing::error!(%error, "names are out of date"),
        }
    }
}

/// Whom the host asks is asked from now on; as before, if that cannot be read.
fn ask_those_of(names: &Names, resolv_conf: &Path) -> Result<(), NamesError> {
    let own = match fs::read_to_string(resolv_conf) {
        Ok(own) => own,
        Err(error) => {
            let path = resolv_conf.display();
            tracing::warn!(%path, %error, "cannot read whom this host asks for names");
            return Ok(());
        }
    };
    let host = HostResolver { own, ..HostResolver::default() };
    let servers = host_servers(&host).into_iter();
    names.set_resolvers(servers.map(|address| SocketAddr::new(address, DNS_PORT)).collect())
}

impl NamesDriver for NodeNames {
    fn tell(&self, roll: Roll) {
        self.rolls.send_replace(Some(roll));
    }

    fn serve(&self, asker: Asker, netns: PathBuf) -> BoxFuture<'_, Result<(), NamesError>> {
        self.blocking(move |names| names.serve(asker, &netns))
    }

    fn let_go(&self, container: String) -> BoxFuture<'_, Result<(), NamesError>> {
        self.blocking(move |names| names.let_go(&container))
    }

    fn served(&self) -> BoxFuture<'_, Option<BTreeMap<String, Asker>>> {
        let all = |names: &Names| {
            let served = names.served().into_iter();
            Ok(served.map(|asker| (asker.container.clone(), asker)).collect::<BTreeMap<_, _>>())
        };
        self.blocking(all).map(Result::ok).boxed()
    }

    fn look(&self) -> BoxFuture<'_, Result<(), NamesError>> {
        let path = self.resolv_conf.clone();
        self.blocking(move |names| {
            ask_those_of(names, &path)?;
            names.look()
        })
    }

    fn is_answering(&self) -> BoxFuture<'_, Option<bool>> {
        self.blocking(|names| Ok(names.is_answering())).map(|known| known.ok().flatten()).boxed()
    }

    fn end(&self) -> BoxFuture<'_, ()> {
        self.rolls.send_replace(None);
        self.blocking(|names| {
            names.end();
            Ok(())
        })
        .map(drop)
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whom_the_host_asks_is_followed_as_far_as_it_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        let start: Start = Box::new(|_| Err(std::io::Error::other("nobody is to be answered")));
        let socket = dir.path().join("names.sock");
        let driver = NodeNames::open(socket, path.clone(), start).await.unwrap();
        let asked = |address: &str| vec![format!("{address}:53").parse::<SocketAddr>().unwrap()];
        assert_eq!(driver.names.resolvers(), asked("192.0.2.1"));
        fs::remove_file(&path).unwrap();
        driver.look().await.unwrap();
        assert_eq!(driver.names.resolvers(), asked("192.0.2.1"), "they are still asked");
        fs::write(&path, "nameserver 192.0.2.2\n").unwrap();
        driver.look().await.unwrap();
        assert_eq!(driver.names.resolvers(), asked("192.0.2.2"));
        fs::write(&path, "").unwrap();
        driver.look().await.unwrap();
        assert_eq!(driver.names.resolvers(), []);
    }
}
