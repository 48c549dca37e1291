//! Texts of one line that people write or copy: image references, join tokens.

use std::collections::BTreeSet;

use shoal_types::image_ref::{ImageReference, REFERENCE_LENGTH_MAX};
use shoal_types::join_token::JoinToken;

use super::bytes::mutated;
use super::driver::{Answer, BOUNDS, Target, corpus, fuzz};

/// Bytes of a refusal at most, whatever is refused.
const REFUSAL_BYTES_MAX: usize = 4096;

/// Inputs are files of lines; each line is a seed.
fn lines(name: &str) -> Vec<Vec<u8>> {
    let files = corpus(name);
    let lines = files.iter().flat_map(|file| file.split(|byte| *byte == b'\n'));
    lines.map(<[u8]>::to_vec).filter(|line| !line.is_empty()).collect()
}

fn refused(error: &impl std::fmt::Display) -> Answer {
    let text = error.to_string();
    assert!(text.len() <= REFUSAL_BYTES_MAX, "a refusal of {} bytes", text.len());
    Answer::Refused(text)
}

#[test]
fn image_references() {
    const WORDS: [&str; 24] = [
        "/",
        ":",
        "@",
        ".",
        "_",
        "__",
        "-",
        "[::1]",
        "[",
        "]",
        ":5000",
        ":0",
        ":65536",
        "sha256:",
        "@sha256:",
        "localhost",
        "docker.io/",
        "index.docker.io/",
        "library/",
        "latest",
        "A",
        "https://",
        "é",
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    ];
    let target =
        Target { name: "image_references", seeds: lines("image_references"), bounds: BOUNDS };
    fuzz(
        &target,
        |random, corpus| mutated(random, corpus, &WORDS),
        |input| {
            let text = String::from_utf8_lossy(input);
            match ImageReference::parse(&text) {
                Ok(reference) => reference_holds(&text, &reference),
                Err(error) => refused(&error),
            }
        },
    );
}

fn reference_holds(text: &str, reference: &ImageReference) -> Answer {
    let again = |text: &str| ImageReference::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    assert!(text.len() <= REFERENCE_LENGTH_MAX);
    let (long, familiar) = (reference.to_string(), reference.familiar());
    assert_eq!(&again(&long), reference, "as it is written in full");
    assert_eq!(&again(&familiar), reference, "as people see it: {familiar}");
    assert_eq!(again(&long).to_string(), long);
    assert!(familiar.len() <= long.len(), "{familiar} is longer than {long}");
    assert!(reference.tag().is_some() || reference.digest().is_some());
    assert!(!reference.repository().is_empty() && !reference.registry().is_empty());
    let json = serde_json::to_string(reference).unwrap();
    assert_eq!(&serde_json::from_str::<ImageReference>(&json).unwrap(), reference);
    let kind = (reference.tag().is_some(), reference.digest().is_some());
    Answer::Read(format!("{kind:?} at {} elements", long.matches('/').count()))
}

#[test]
fn join_tokens() {
    const WORDS: [&str; 10] = ["-", "SHOAL", "SHOAL-1-", "SHOAL-2-", "1", "z", "Z", " ", "\n", "ü"];
    let seeds = lines("join_tokens");
    // What stands behind the last dash of a whole token must not be told to anybody.
    let secrets: BTreeSet<Vec<u8>> = seeds
        .iter()
        .filter_map(|seed| seed.rsplit(|byte| *byte == b'-').next())
        .filter(|secret| secret.len() == 25)
        .flat_map(|secret| secret.windows(8).map(<[u8]>::to_vec))
        .filter(|piece| piece.iter().any(|digit| *digit != b'0'))
        .collect();
    assert!(!secrets.is_empty());
    let target = Target { name: "join_tokens", seeds, bounds: BOUNDS };
    fuzz(
        &target,
        |random, corpus| mutated(random, corpus, &WORDS),
        |input| {
            let text = String::from_utf8_lossy(input);
            match text.parse::<JoinToken>() {
                Ok(token) => {
                    assert_eq!(token.reveal(), text.trim(), "one token has one text");
                    Answer::Read("a token".to_owned())
                }
                Err(error) => {
                    let told = error.to_string();
                    let mut pieces = told.as_bytes().windows(8);
                    assert!(
                        !pieces.any(|piece| secrets.contains(piece)),
                        "{told:?} tells a secret"
                    );
                    refused(&error)
                }
            }
        },
    );
}
