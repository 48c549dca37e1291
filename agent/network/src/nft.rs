//! The packet filter: nftables by way of its own program.

use std::io;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};
use serde_json::{Value, json};
use shoal_agent_planning::network::gates::USER_CHAIN;
use shoal_agent_planning::network::ruleset::{Change, EGRESS, FAMILY, FRAMES};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use self::elements::Kernel;
use super::FirewallError;
use super::ours::Own;

mod elements;

/// How long `nft` may take, or the kernel to answer.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
/// The longest listing that is read, in bytes: a hundred thousand published ports fit.
const LISTING_MAX: u64 = 64 << 20;
/// So many elements are given to the kernel by the thread that has them, which takes less than a millisecond.
const AT_ONCE: usize = 512;
/// How much of a complaint is read, in bytes.
const COMPLAINT_MAX: u64 = 4 << 10;

/// Something that holds nftables tables.
pub trait Firewall: Send + Sync {
    /// Performs a script of `nft -f` (nft(8)) as one transaction: all of it or nothing.
    ///
    /// # Errors
    /// The filter cannot be reached, or refuses.
    fn apply(&self, script: String) -> BoxFuture<'_, Result<(), FirewallError>>;

    /// Changes elements of the tables of this name, in one transaction.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn change(&self, table: String, change: Change) -> BoxFuture<'_, Result<(), FirewallError>> {
        self.apply(change.text(&table))
    }

    /// A number that moves with every transaction, whosever it is, by one; `None` where nobody can tell. The same number
    /// means that nothing has changed.
    fn generation(&self) -> BoxFuture<'_, Option<u32>> {
        ready(None).boxed()
    }

    /// The tables of this name, of packets, of frames and of what leaves by one device, as libnftables-json(5) shows them, one
    /// after the other; `None` when there is none.
    ///
    /// # Errors
    /// The filter cannot be reached, or its answer is not understood.
    fn list(&self, table: String) -> BoxFuture<'_, Result<Option<Value>, FirewallError>>;

    /// What others do with packets that are forwarded: objects of libnftables-json(5), all chains of the host and
    /// the rules of those in which others say what is to pass.
    ///
    /// # Errors
    /// The filter cannot be reached, or its answer is not understood.
    fn gates(&self) -> BoxFuture<'_, Result<Vec<Value>, FirewallError>>;
}

/// The `nft` program, found on `PATH`, in the network namespace of the thread that calls.
#[derive(Debug, Clone, Default)]
pub struct NftProgram {
    kernel: Arc<Kernel>,
}

impl Firewall for NftProgram {
    fn apply(&self, script: String) -> BoxFuture<'_, Result<(), FirewallError>> {
        async move { run(&["-f", "-"], script).await.map(drop) }.boxed()
    }

    /// Asks the kernel itself: to start a program takes longer than most changes.
    fn change(&self, table: String, change: Change) -> BoxFuture<'_, Result<(), FirewallError>> {
        let Some(raw) = change.raw() else { return self.apply(change.text(&table)) };
        async move {
            // Done before another thread had its turn, where the host is busy.
            let count: usize = raw.iter().flatten().map(|of| of.elements.len()).sum();
            if count <= AT_ONCE {
                return self.kernel.change(&table, &raw);
            }
            let kernel = Arc::clone(&self.kernel);
            let changed = spawn_blocking(move || kernel.change(&table, &raw)).await;
            // Fails only when the agent ends.
            changed.map_err(|error| FirewallError::Talk { source: io::Error::other(error) })?
        }
        .boxed()
    }

    fn generation(&self) -> BoxFuture<'_, Option<u32>> {
        // A kernel without nf_tables has none, and is found out by who lists.
        async { self.kernel.generation().ok() }.boxed()
    }

    fn list(&self, table: String) -> BoxFuture<'_, Result<Option<Value>, FirewallError>> {
        async move {
            let (packets, frames, egress) =
                tokio::try_join!(list(FAMILY, &table), list(FRAMES, &table), list(EGRESS, &table))?;
            let objects = [packets, frames, egress].into_iter().flatten().flatten();
            let objects: Vec<Value> = objects.collect();
            Ok((!objects.is_empty()).then(|| json!({ "nftables": objects })))
        }
        .boxed()
    }

    fn gates(&self) -> BoxFuture<'_, Result<Vec<Value>, FirewallError>> {
        async move {
            let mut all = objects(&["list", "chains"]).await?.unwrap_or_default();
            let names: Vec<[String; 3]> = all.iter().filter_map(gate).collect();
            for [family, table, name] in names {
                let rules = objects(&["list", "chain", &family, &table, &name]).await?;
                all.extend(rules.unwrap_or_default());
            }
            Ok(all)
        }
        .boxed()
    }
}

/// Whether it is a chain in which others say what is to pass: its family, table and name.
fn gate(object: &Value) -> Option<[String; 3]> {
    let chain = object.get("chain")?;
    let text = |key: &str| chain[key].as_str().map(str::to_owned);
    let name = text("name").filter(|name| name == USER_CHAIN)?;
    Some([text("family")?, text("table")?, name])
}

/// The objects of one table.
async fn list(family: &str, table: &str) -> Result<Option<Vec<Value>>, FirewallError> {
    objects(&["list", "table", family, table]).await
}

/// The objects that a command lists; `None` if there is nothing of that name.
async fn objects(command: &[&str]) -> Result<Option<Vec<Value>>, FirewallError> {
    match run(&[&["-j"], command].concat(), String::new()).await {
        Ok(text) => {
            let mut listed: Value =
                serde_json::from_slice(&text).map_err(|source| FirewallError::Parse { source })?;
            match listed["nftables"].take() {
                Value::Array(objects) => Ok(Some(objects)),
                _ => Ok(None),
            }
        }
        // The texts of ENOENT and, for a family that the kernel does not have, of EOPNOTSUPP and
        // EAFNOSUPPORT in the C locale.
        Err(FirewallError::Refused { message })
            if ["No such file", "not supported"].iter().any(|text| message.contains(text)) =>
        {
            Ok(None)
        }
        Err(other) => Err(other),
    }
}

async fn run(args: &[&str], script: String) -> Result<Vec<u8>, FirewallError> {
    let child = Command::new("nft")
        .args(args)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => FirewallError::Missing,
            _ => FirewallError::Start { source },
        })?;
    let _own = child.id().map(Own::begin);
    let seconds = TIMEOUT.as_secs();
    timeout(TIMEOUT, converse(child, script))
        .await
        .unwrap_or(Err(FirewallError::Timeout { seconds }))
}

async fn converse(mut child: Child, script: String) -> Result<Vec<u8>, FirewallError> {
    let talk = |source| FirewallError::Talk { source };
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        let Some(mut stdin) = stdin else { return Ok(()) };
        match stdin.write_all(script.as_bytes()).await {
            // It gave up early; its exit status and complaint say why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    };
    let read = async {
        let mut text = Vec::new();
        if let Some(stdout) = stdout {
            stdout.take(LISTING_MAX + 1).read_to_end(&mut text).await?;
        }
        Ok(text)
    };
    let complain = async {
        let mut text = Vec::new();
        if let Some(stderr) = stderr {
            let mut start = stderr.take(COMPLAINT_MAX);
            start.read_to_end(&mut text).await?;
            // Read on, or a long complaint blocks its writer for ever.
            tokio::io::copy(&mut start.into_inner(), &mut tokio::io::sink()).await?;
        }
        Ok(text)
    };
    let ((), text, complaint) = tokio::try_join!(write, read, complain).map_err(talk)?;
    if text.len() as u64 > LISTING_MAX {
        return Err(FirewallError::TooLong { limit: LISTING_MAX });
    }
    let status = child.wait().await.map_err(talk)?;
    if status.success() {
        return Ok(text);
    }
    let complaint = String::from_utf8_lossy(&complaint);
    let words: Vec<&str> = complaint.split_whitespace().collect();
    Err(FirewallError::Refused { message: format!("{} ({status})", words.join(" ")) })
}
