//! New inputs out of those of a corpus, whatever they mean.

use rand::Rng as _;
use rand::rngs::StdRng;

/// Longest input that is made, in bytes.
pub(crate) const BYTES_MAX: usize = 256 << 10;

/// One of several; there is at least one.
pub(crate) fn one<'a, T>(random: &mut StdRng, of: &'a [T]) -> &'a T {
    &of[random.random_range(0..of.len())]
}

/// As [`one`], of small things.
pub(crate) fn pick<T: Copy>(random: &mut StdRng, of: &[T]) -> T {
    *one(random, of)
}

/// An exponent below `few`, now and then below `many`.
pub(crate) fn orders(random: &mut StdRng, few: u32, many: u32) -> u32 {
    let below = if random.random_bool(0.1) { many } else { few };
    random.random_range(0..below)
}

/// A place in something with this length, its end included.
fn place(random: &mut StdRng, length: usize) -> usize {
    random.random_range(0..=length)
}

/// A part of something with this length; short ones more often.
pub(crate) fn part(random: &mut StdRng, length: usize) -> std::ops::Range<usize> {
    let at = place(random, length);
    let most = length - at;
    let most = if random.random_bool(0.8) { most.min(16) } else { most };
    at..at + random.random_range(0..=most)
}

/// An input of the corpus, changed in a few places.
pub(crate) fn mutated(random: &mut StdRng, corpus: &[Vec<u8>], words: &[&str]) -> Vec<u8> {
    let mut bytes = one(random, corpus).clone();
    for _ in 0..1 << orders(random, 3, 5) {
        mutate(random, &mut bytes, corpus, words);
    }
    bytes
}

/// Changes some bytes.
pub(crate) fn mutate(random: &mut StdRng, bytes: &mut Vec<u8>, corpus: &[Vec<u8>], words: &[&str]) {
    let own = part(random, bytes.len());
    let at = place(random, bytes.len());
    match random.random_range(0..10) {
        0 if !bytes.is_empty() => {
            let at = random.random_range(0..bytes.len());
            bytes[at] ^= 1 << random.random_range(0..8);
        }
        1 if !bytes.is_empty() => {
            let at = random.random_range(0..bytes.len());
            bytes[at] = pick(random, &[0, 1, 0x20, 0x2f, 0x7f, 0x80, 0xff]);
        }
        2 => drop(bytes.drain(own)),
        3 => {
            let copy = bytes[own].to_vec();
            insert(bytes, at, &copy);
        }
        4 => {
            // A part moves elsewhere.
            let moved: Vec<u8> = bytes.drain(own).collect();
            let at = place(random, bytes.len());
            insert(bytes, at, &moved);
        }
        5 | 6 if !words.is_empty() => insert(bytes, at, pick(random, words).as_bytes()),
        7 => {
            let other = one(random, corpus);
            let theirs = other[part(random, other.len())].to_vec();
            if random.random_bool(0.5) {
                drop(bytes.drain(own));
            }
            let at = place(random, bytes.len());
            insert(bytes, at, &theirs);
        }
        8 if random.random_bool(0.1) => bytes.truncate(at),
        9 if random.random_bool(0.1) => {
            let times = 1 << random.random_range(0..14);
            let copy = bytes[own].repeat(times);
            insert(bytes, at, &copy);
        }
        _ => insert(bytes, at, &[random.random()]),
    }
}

/// Puts something in, unless it becomes too long.
pub(crate) fn insert(bytes: &mut Vec<u8>, at: usize, what: &[u8]) {
    if bytes.len() + what.len() <= BYTES_MAX {
        bytes.splice(at..at, what.iter().copied());
    }
}
