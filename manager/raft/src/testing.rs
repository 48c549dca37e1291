//! A small state machine and connections that need no identity, for tests of other crates, too; and how
//! values of the log are read.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use shoal_types::id::NodeId;
use tonic::transport::{Channel, Endpoint};

use super::store::frame;
use super::store::records::{LogState, decode_entry, encode_entry, entry_key};
use super::{BoxError, Machine, PeerConnector, RaftConfig, RaftNode, SnapshotEncoder};

/// Remembers every command that was applied, with its index.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Mutex<Commands>>);

type Commands = Vec<(u64, Vec<u8>)>;

impl Recorder {
    /// All of them, in order.
    #[must_use]
    pub fn applied(&self) -> Vec<Vec<u8>> {
        self.0.lock().unwrap().iter().map(|(_, command)| command.clone()).collect()
    }

    /// The commands of each log entry.
    #[must_use]
    pub fn entries(&self) -> Vec<Vec<Vec<u8>>> {
        let mut entries = BTreeMap::<u64, Vec<Vec<u8>>>::new();
        for (index, command) in &*self.0.lock().unwrap() {
            entries.entry(*index).or_default().push(command.clone());
        }
        entries.into_values().collect()
    }
}

impl Machine for Recorder {
    type Answer = String;

    fn apply(&mut self, index: u64, command: &[u8]) -> Result<String, BoxError> {
        if command == b"nonsense" {
            return Err("this is no command".into());
        }
        self.0.lock().unwrap().push((index, command.to_vec()));
        Ok(format!("done {}", String::from_utf8_lossy(command)))
    }

    fn snapshot(&self) -> SnapshotEncoder {
        let commands = self.0.lock().unwrap().clone();
        Box::new(move || {
            let mut data = Vec::new();
            for (index, command) in commands {
                data.extend_from_slice(&index.to_be_bytes());
                data.extend_from_slice(&(command.len() as u64).to_be_bytes());
                data.extend_from_slice(&command);
            }
            Ok(data)
        })
    }

    fn restore(&mut self, mut data: &[u8]) -> Result<(), BoxError> {
        let number = |data: &[u8]| u64::from_be_bytes(data[..8].try_into().unwrap());
        let mut commands = Vec::new();
        while !data.is_empty() {
            let (index, length) = (number(data), number(&data[8..]) as usize);
            commands.push((index, data[16..16 + length].to_vec()));
            data = &data[16 + length..];
        }
        *self.0.lock().unwrap() = commands;
        Ok(())
    }
}

/// Plain channels.
pub struct Loopback;

impl PeerConnector for Loopback {
    fn channel<'a>(
        &'a self,
        _node: NodeId,
        address: &'a str,
    ) -> BoxFuture<'a, Result<Channel, BoxError>> {
        Box::pin(async move {
            let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
            Ok(endpoint.connect_timeout(Duration::from_secs(1)).connect_lazy())
        })
    }
}

/// Fast enough for tests, slow enough for a busy machine.
#[must_use]
pub fn quick() -> RaftConfig {
    RaftConfig {
        heartbeat: Duration::from_millis(100),
        election_timeout_min: Duration::from_millis(600),
        election_timeout_max: Duration::from_millis(1200),
        ..RaftConfig::default()
    }
}

/// Opens a member that has no server.
///
/// # Panics
/// When it cannot be opened.
pub async fn open(dir: &Path, machine: &Recorder, config: &RaftConfig) -> RaftNode<String> {
    let opened = RaftNode::open(dir, machine.clone(), Arc::new(Loopback), config).await;
    opened.unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)))
}

/// The bytes of the entry at `index` in the log with this payload, sound or not.
#[must_use]
pub fn seal_entry(index: u64, payload: &[u8]) -> Vec<u8> {
    frame::seal(&entry_key(index), payload)
}

/// The payload of the entry at `index`, whatever it says.
#[must_use]
pub fn open_entry(index: u64, value: &[u8]) -> Option<&[u8]> {
    frame::open(&entry_key(index), value).ok()
}

/// Reads the entry at `index`, and writes it again.
///
/// # Errors
/// Why it cannot be read.
pub fn entry_again(index: u64, value: &[u8]) -> Result<Vec<u8>, String> {
    let entry = decode_entry(index, value).map_err(|why| format!("{why:?}"))?;
    Ok(encode_entry(&entry))
}

/// Reads what is known beside the entries, and writes it again.
///
/// # Errors
/// Why it cannot be read.
pub fn state_again(value: &[u8]) -> Result<Vec<u8>, String> {
    Ok(LogState::decode(value).map_err(|why| format!("{why:?}"))?.encode())
}
