//! What managers have on disk: commands, the entries of the log that hold them, snapshots.

use rand::Rng as _;
use rand::rngs::StdRng;
use shoal_manager::raft::codec::{decode_command, encode_command, read_snapshot, write_snapshot};
use shoal_manager_raft::testing::{entry_again, open_entry, seal_entry, state_again};
use shoal_types::error_chain::chain;

use super::bytes::{mutate, one};
use super::driver::{Answer, BOUNDS, Target, corpus, files, fuzz};
use super::protobuf;

const COMMAND: u8 = b'c';
const SNAPSHOT: u8 = b's';
const ENTRY: u8 = b'e';
const STATE: u8 = b't';
/// The index that the golden entries have.
const INDEX: u64 = 12;

/// The golden bytes, each behind a letter that says what they are.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = corpus("commands");
    for dir in ["../manager/src/raft/codec/golden", "../manager/raft/src/golden"] {
        for (path, text) in files(dir) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let text = String::from_utf8(text).expect("hexadecimal digits");
            let bytes = hex::decode(text.trim()).expect("hexadecimal digits");
            let kind = match name.split(['_', '.']).next() {
                // The file around a snapshot is none of these.
                _ if name.ends_with("snapshot.v1.hex") || name.starts_with("watermark") => continue,
                Some("snapshot") => SNAPSHOT,
                Some("entry") => ENTRY,
                Some("state") => STATE,
                _ => COMMAND,
            };
            seeds.push([vec![kind], bytes].concat());
        }
    }
    for kind in [COMMAND, SNAPSHOT, ENTRY, STATE] {
        assert!(seeds.iter().any(|seed| seed[0] == kind), "no seed of kind {}", char::from(kind));
    }
    seeds
}

fn make(random: &mut StdRng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let seed: &Vec<u8> = one(random, corpus);
    let Some((&kind, bytes)) = seed.split_first() else { return vec![COMMAND] };
    let others: Vec<Vec<u8>> =
        (0..2).map(|_| one(random, corpus).get(1..).unwrap_or_default().to_vec()).collect();
    let mut bytes = bytes.to_vec();
    for _ in 0..1 << random.random_range(0..3) {
        bytes = match kind {
            SNAPSHOT => records(random, &bytes, &others),
            // Behind a checksum, which is right again afterwards.
            ENTRY if random.random_bool(0.8) => {
                let payload = open_entry(INDEX, &bytes).unwrap_or_default();
                seal_entry(INDEX, &protobuf::mutated(random, payload, &others))
            }
            ENTRY | STATE => {
                mutate(random, &mut bytes, corpus, &[]);
                bytes
            }
            _ => protobuf::mutated(random, &bytes, &others),
        };
    }
    [vec![kind], bytes].concat()
}

/// A snapshot's records, each behind its length: one of them changed, doubled, moved or gone.
fn records(random: &mut StdRng, mut bytes: &[u8], others: &[Vec<u8>]) -> Vec<u8> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let length = prost::decode_length_delimiter(&mut bytes).ok();
        let Some((record, rest)) = length.and_then(|length| bytes.split_at_checked(length)) else {
            break;
        };
        records.push(record.to_vec());
        bytes = rest;
    }
    if records.is_empty() {
        return others[0].clone();
    }
    let at = random.random_range(0..records.len());
    match random.random_range(0..8) {
        0 => drop(records.remove(at)),
        1 => records.insert(at, records[at].clone()),
        2 => {
            let with = random.random_range(0..records.len());
            records.swap(at, with);
        }
        _ => records[at] = protobuf::mutated(random, &records[at], others),
    }
    let mut out: Vec<u8> = Vec::new();
    for record in &records {
        prost::encode_length_delimiter(record.len(), &mut out).expect("a vector takes it");
        out.extend_from_slice(record);
    }
    if random.random_bool(0.05) {
        mutate(random, &mut out, others, &[]);
    }
    out
}

#[test]
fn commands() {
    let target = Target { name: "commands", seeds: seeds(), bounds: BOUNDS };
    fuzz(&target, make, |input| match input.split_first() {
        Some((&SNAPSHOT, bytes)) => snapshot(bytes),
        Some((&ENTRY, bytes)) => again("entry", bytes, |bytes| entry_again(INDEX, bytes)),
        Some((&STATE, bytes)) => again("state", bytes, state_again),
        Some((_, bytes)) => command(bytes),
        None => Answer::Refused("nothing".to_owned()),
    });
}

fn command(bytes: &[u8]) -> Answer {
    let timed = match decode_command(bytes) {
        Ok(timed) => timed,
        Err(error) => return Answer::Refused(chain(&error).to_string()),
    };
    let written = encode_command(timed.time, &timed.command);
    let again = decode_command(&written).unwrap_or_else(|e| panic!("its own bytes: {}", chain(&e)));
    assert_eq!(again, timed, "read, written and read");
    assert_eq!(encode_command(again.time, &again.command), written, "always the same bytes");
    let kind = format!("{:?}", timed.command);
    Answer::Read(kind.split([' ', '{', '(']).next().unwrap_or_default().to_owned())
}

fn snapshot(mut bytes: &[u8]) -> Answer {
    let state = match read_snapshot(&mut bytes) {
        Ok(state) => state,
        Err(error) => return Answer::Refused(chain(&error).to_string()),
    };
    let mut written = Vec::new();
    write_snapshot(&state, &mut written).expect("a vector takes it");
    let again = read_snapshot(&mut written.as_slice());
    let again = again.unwrap_or_else(|e| panic!("its own bytes: {}", chain(&e)));
    assert!(again == state, "read, written and read");
    let mut twice = Vec::new();
    write_snapshot(&again, &mut twice).expect("a vector takes it");
    assert_eq!(twice, written, "always the same bytes");
    Answer::Read("snapshot".to_owned())
}

fn again(
    what: &str,
    bytes: &[u8],
    read_and_write: impl Fn(&[u8]) -> Result<Vec<u8>, String>,
) -> Answer {
    match read_and_write(bytes) {
        Ok(written) => {
            assert_eq!(read_and_write(&written).as_ref(), Ok(&written), "its own bytes");
            Answer::Read(what.to_owned())
        }
        Err(why) => Answer::Refused(format!("{what}: {why}")),
    }
}
