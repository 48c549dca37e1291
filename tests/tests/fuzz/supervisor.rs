//! What agents and supervisors say to each other, and what they write for each other.

use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use shoal_agent_container::supervise::file::{Kept, from_bytes, to_bytes};
use shoal_agent_container::supervise::protocol::{Message, Op, Request};
use shoal_agent_container::supervise::setup::{Common, Setup};
use shoal_agent_container::{ExitStatus, ProcessIdentity};

use super::bytes::{mutated, one};
use super::driver::{Answer, BOUNDS, Target, corpus, files, fuzz};
use super::json::mutate;

const WORDS: [&str; 22] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "null",
    "\"op\":",
    "\"seq\":",
    "\"hello\":",
    "\"reply\":",
    "\"result\":",
    "\"Ok\":",
    "\"Err\":",
    "\"exited\":",
    "\"version\":9,",
    "\"needs\":9,",
    "\\u0000",
    "\\ud800",
    "1e999",
    "\n",
];

/// The lines of all golden files, and of the corpus.
fn seeds() -> Vec<Vec<u8>> {
    let golden = files("../agent/container/src/supervise/golden");
    let all = golden.into_iter().map(|(_, bytes)| bytes).chain(corpus("supervisor"));
    let lines = |file: Vec<u8>| -> Vec<Vec<u8>> {
        let lines = file.split(|byte| *byte == b'\n').map(<[u8]>::to_vec);
        lines.filter(|line| !line.is_empty()).collect()
    };
    all.flat_map(lines).collect()
}

fn make(random: &mut StdRng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let seed: &Vec<u8> = one(random, corpus);
    let Ok(mut value) = serde_json::from_slice::<Value>(seed) else {
        return mutated(random, corpus, &WORDS);
    };
    if random.random_bool(0.2) {
        return mutated(random, corpus, &WORDS);
    }
    let other: &Vec<u8> = one(random, corpus);
    let other = serde_json::from_slice(other).unwrap_or_default();
    for _ in 0..1 << random.random_range(0..3) {
        mutate(random, &mut value, std::slice::from_ref(&other));
    }
    serde_json::to_vec(&value).expect("JSON")
}

#[test]
fn supervisor() {
    let target = Target { name: "supervisor", seeds: seeds(), bounds: BOUNDS };
    fuzz(&target, make, |line| {
        let kinds = [
            request(line),
            message(line),
            kept::<Setup>(line),
            kept::<Common>(line),
            kept::<ExitStatus>(line),
            kept::<ProcessIdentity>(line),
        ];
        let kinds: Vec<String> = kinds.into_iter().flatten().collect();
        if kinds.iter().all(|kind| kind.starts_with("unknown")) {
            return Answer::Refused(kinds.join(", "));
        }
        Answer::Read(kinds.join(", "))
    });
}

/// A field of tomorrow, put into the outermost object.
fn of_tomorrow(line: &[u8]) -> Option<Vec<u8>> {
    let mut value: Value = serde_json::from_slice(line).ok()?;
    let fields = value.as_object_mut()?;
    fields.insert("of_tomorrow".to_owned(), json!({"a": [1, null]}));
    serde_json::to_vec(&value).ok()
}

fn request(line: &[u8]) -> Option<String> {
    let value: Result<Value, _> = serde_json::from_slice(line);
    let Ok(request) = Request::read(line) else {
        // Only what is no object at all ends a conversation.
        assert!(!value.is_ok_and(|value| value.is_object()), "an object is hung up on");
        return None;
    };
    let more = of_tomorrow(line).expect("an object");
    assert_eq!(Request::read(&more).expect("a field more"), request, "a field more");
    if let Op::Unknown(name) = &request.op {
        assert!(name.len() < 1000, "{} bytes are repeated", name.len());
        return Some(format!("unknown request, greeting {}", request.hello.is_some()));
    }
    let written = serde_json::to_vec(&request).expect("a request");
    assert_eq!(Request::read(&written).expect("its own words"), request);
    let op = serde_json::to_string(&request.op).expect("an operation");
    Some(format!("request {}", op.replace(|c: char| !c.is_alphabetic(), "")))
}

fn message(line: &[u8]) -> Option<String> {
    let value = serde_json::from_slice::<Value>(line).ok();
    let Ok(read) = Message::read(line) else {
        assert!(value.is_none(), "whole JSON is hung up on");
        return None;
    };
    let value = value.expect("JSON");
    let Some(message) = read else {
        // An end, and an answer that says to which question, are never passed over.
        let seq = value.get("reply").and_then(|reply| reply.get("seq")).and_then(Value::as_u64);
        assert!(value.get("exited").is_none(), "an end is passed over");
        assert!(seq.is_none_or(|n| n > u64::from(u32::MAX)), "an answer is passed over");
        return Some("unknown message".to_owned());
    };
    let written = serde_json::to_vec(&message).expect("a message");
    assert_eq!(Message::read(&written).expect("its own words").as_ref(), Some(&message));
    let known = written.len() < 64 << 10;
    Some(match message {
        Message::Hello(hello) => format!("hello, understood {}", hello.is_understood()),
        Message::Reply { result, .. } => format!("reply {}", result.is_ok()),
        Message::Exited(_) => format!("exited, short {known}"),
        Message::Prepared => "prepared".to_owned(),
        Message::NotPrepared(_) => "not prepared".to_owned(),
    })
}

fn kept<T: Kept + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Option<String> {
    let contents = match from_bytes::<T>(bytes) {
        Ok(contents) => contents,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return None;
        }
    };
    let written = to_bytes(&contents).expect("a file");
    assert_eq!(from_bytes::<T>(&written).expect("its own bytes"), contents, "{}", T::WHAT);
    // What is not UTF-8 in a field that is passed over is passed over, too.
    if let Some(more) = of_tomorrow(bytes) {
        assert_eq!(from_bytes::<T>(&more).expect("a field more"), contents, "a field more");
    }
    Some(T::WHAT.to_owned())
}
