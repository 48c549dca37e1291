//! A snapshot's data: a preamble, then every object, each a record behind its length.

use std::io::{self, Read, Write};
use std::sync::Arc;

use prost::Message as _;
use shoal_manager_state::{ClusterState, ImportError, ObjectRef, ServiceCredentials};
use shoal_proto::convert::InvalidMessage;
use shoal_proto::convert::field::{Auths, Kind as _, Text};
use shoal_proto::v1 as pb;
use shoal_proto::v1::snapshot_record::Record;
use shoal_proto::v1::{SnapshotPreamble, SnapshotRecord};
use shoal_types::id::ServiceId;

use super::shared_specs::{ReadSpecs, WrittenSpecs};

/// The version of the records' meaning that this manager writes, and the newest that it reads.
///
/// 2: tasks may refer to the specs of earlier ones.
const FORMAT: u32 = 2;

/// The most bytes one record may take. The largest object is a stack with its history; what comes
/// in by gRPC is at most 4 MiB each time.
const RECORD_BYTES_MAX: u64 = 64 << 20;

/// Why a snapshot could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file failed.
    #[error("failed to {action} snapshot record {record}")]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// Counted from 0, the preamble.
        record: u64,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// A record's length cannot be true.
    #[error("snapshot record {record} claims {bytes} bytes: expected at most {RECORD_BYTES_MAX}")]
    TooLong {
        /// Counted from 0, the preamble.
        record: u64,
        /// Its length.
        bytes: u64,
    },
    /// A record is not a message.
    #[error("failed to decode snapshot record {record}")]
    Decode {
        /// Counted from 0, the preamble.
        record: u64,
        /// What is wrong with it.
        #[source]
        source: prost::DecodeError,
    },
    /// A record does not say what it must.
    #[error("refused snapshot record {record}")]
    Invalid {
        /// Counted from 0, the preamble.
        record: u64,
        /// What is wrong with it.
        #[source]
        source: InvalidMessage,
    },
    /// A newer manager has written it.
    #[error("snapshot has format {found}: this version reads up to {FORMAT}")]
    Format {
        /// Its format.
        found: u32,
    },
    /// Its objects contradict each other.
    #[error("failed to put the snapshot's objects together")]
    Import(#[from] ImportError),
    /// There is more than the preamble announced.
    #[error("snapshot goes on after its {records} records")]
    TrailingData {
        /// As many were announced.
        records: u64,
    },
}

/// Writes a snapshot's data. The caller makes it durable.
///
/// # Errors
/// When `out` fails, or an object is too large.
pub fn write_snapshot(state: &ClusterState, out: &mut impl Write) -> Result<(), SnapshotError> {
    let objects = state.export();
    let preamble = SnapshotPreamble {
        format: FORMAT,
        records: (objects.len() + state.credentials().len()) as u64,
        applied_index: state.applied_index(),
    };
    write_record(0, &plain(Record::Preamble(preamble)), out)?;
    let mut specs = WrittenSpecs::default();
    for (number, object) in (1..).zip(&objects) {
        let record = match object {
            ObjectRef::Task(task) => specs.record(task),
            other => plain(to_wire(other)),
        };
        write_record(number, &record, out)?;
    }
    for (number, (service, ServiceCredentials(auths))) in
        (objects.len() as u64 + 1..).zip(state.credentials())
    {
        let (service_id, auths) = (service.to_string(), Auths::write(auths));
        let record = pb::ServiceCredentials { service_id, auths };
        write_record(number, &plain(Record::ServiceCredentials(record)), out)?;
    }
    Ok(())
}

/// Reads a snapshot's data to its end.
///
/// # Errors
/// When `input` fails or ends early, is damaged, or was written by a newer manager.
pub fn read_snapshot(input: &mut impl Read) -> Result<ClusterState, SnapshotError> {
    let (Record::Preamble(preamble), _) = read_record(0, input)? else {
        return Err(invalid(0)(InvalidMessage::new("record", "is no preamble")));
    };
    let SnapshotPreamble { format, records, applied_index } = preamble;
    if format == 0 || format > FORMAT {
        return Err(SnapshotError::Format { found: format });
    }
    let (mut objects, mut credentials) = (Vec::new(), Vec::new());
    let mut specs = ReadSpecs::default();
    for number in 1..=records {
        match read_record(number, input)? {
            (Record::ServiceCredentials(found), _) => {
                credentials.push(credentials_from_wire(found).map_err(invalid(number))?);
            }
            (record, spec) => objects.push(specs.object(record, spec).map_err(invalid(number))?),
        }
    }
    let io = |source| SnapshotError::Io { action: "read", record: records, source };
    match input.take(1).read_to_end(&mut Vec::new()).map_err(io)? {
        0 => Ok(ClusterState::import(applied_index, objects)?.with_credentials(credentials)?),
        _ => Err(SnapshotError::TrailingData { records }),
    }
}

fn credentials_from_wire(
    wire: pb::ServiceCredentials,
) -> Result<(ServiceId, ServiceCredentials), InvalidMessage> {
    let pb::ServiceCredentials { service_id, auths } = wire;
    let service = Text::read("service_id", service_id)?;
    Ok((service, ServiceCredentials(Auths::read("auths", auths)?)))
}

fn invalid(record: u64) -> impl Fn(InvalidMessage) -> SnapshotError {
    move |source| SnapshotError::Invalid { record, source }
}

fn write_record(
    number: u64,
    record: &SnapshotRecord,
    out: &mut impl Write,
) -> Result<(), SnapshotError> {
    let bytes = record.encode_to_vec();
    let length = bytes.len() as u64;
    if length > RECORD_BYTES_MAX {
        return Err(SnapshotError::TooLong { record: number, bytes: length });
    }
    let mut varint = Vec::new();
    prost::encoding::encode_varint(length, &mut varint);
    let io = |source| SnapshotError::Io { action: "write", record: number, source };
    out.write_all(&varint).and_then(|()| out.write_all(&bytes)).map_err(io)
}

/// A record, and of a task the number of its spec.
fn read_record(number: u64, input: &mut impl Read) -> Result<(Record, u64), SnapshotError> {
    let io = |source| SnapshotError::Io { action: "read", record: number, source };
    let length = read_varint(input).map_err(io)?;
    if length > RECORD_BYTES_MAX {
        return Err(SnapshotError::TooLong { record: number, bytes: length });
    }
    // Grows with what is really there, whatever the length claims.
    let mut bytes = Vec::new();
    input.take(length).read_to_end(&mut bytes).map_err(io)?;
    if (bytes.len() as u64) < length {
        return Err(io(io::ErrorKind::UnexpectedEof.into()));
    }
    let SnapshotRecord { record, task_spec } = SnapshotRecord::decode(&*bytes)
        .map_err(|source| SnapshotError::Decode { record: number, source })?;
    let unknown = || InvalidMessage::new("record", "is missing, or unknown to this version");
    Ok((record.ok_or_else(unknown).map_err(invalid(number))?, task_spec))
}

/// A base-128 varint of at most 64 bits, as protobuf has it.
fn read_varint(input: &mut impl Read) -> io::Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        input.read_exact(&mut byte)?;
        value |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] < 0x80 {
            return Ok(value);
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "a record's length does not end"))
}

fn plain(record: Record) -> SnapshotRecord {
    SnapshotRecord { record: Some(record), task_spec: 0 }
}

macro_rules! objects {
    ($($kind:ident),*) => {
        fn to_wire(object: &ObjectRef) -> Record {
            match object {
                $(ObjectRef::$kind(object) => Record::$kind((&**object).into()),)*
            }
        }

        pub(super) fn from_wire(record: Record) -> Result<ObjectRef, InvalidMessage> {
            match record {
                $(Record::$kind(object) => {
                    let object = object.try_into();
                    object.map(|o| ObjectRef::$kind(Arc::new(o)))
                        .map_err(|e: InvalidMessage| e.under(stringify!($kind)))
                })*
                Record::ServiceCredentials(_) => {
                    Err(InvalidMessage::new("record", "is no object"))
                }
                Record::Preamble(_) => Err(InvalidMessage::new("record", "is a second preamble")),
                Record::Volume(_) => {
                    Err(InvalidMessage::new("record", "is of a kind unknown to this version"))
                }
            }
        }
    };
}

objects!(Cluster, Node, Network, Service, Deployment, Stack, Task, User, Secret, Config);
