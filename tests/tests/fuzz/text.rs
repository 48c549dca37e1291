//! New texts out of those of a corpus: lines, words, counted repetitions.

use std::fmt::Write as _;

use rand::Rng as _;
use rand::rngs::StdRng;

use super::bytes::{BYTES_MAX, mutate, one, orders, pick};

/// A text of the corpus, changed in a few places: mostly by lines, sometimes by bytes.
pub(crate) fn mutated(random: &mut StdRng, corpus: &[Vec<u8>], words: &[&str]) -> Vec<u8> {
    let mut bytes = one(random, corpus).clone();
    for _ in 0..1 << orders(random, 3, 5) {
        if random.random_bool(0.5) {
            mutate(random, &mut bytes, corpus, words);
        } else {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let other: &Vec<u8> = one(random, corpus);
            let other = String::from_utf8_lossy(other).into_owned();
            let text = by_lines(random, &text, &other, words);
            if text.len() <= BYTES_MAX {
                bytes = text.into_bytes();
            }
        }
    }
    bytes
}

fn by_lines(random: &mut StdRng, text: &str, other: &str, words: &[&str]) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if lines.is_empty() {
        return pick(random, words).to_owned();
    }
    let at = random.random_range(0..lines.len());
    let block = at..(at + random.random_range(1..6)).min(lines.len());
    match random.random_range(0..10) {
        0 => drop(lines.drain(block)),
        1 => {
            let copy = lines[block].to_vec();
            let to = random.random_range(0..=lines.len());
            lines.splice(to..to, copy);
        }
        2 => {
            let with = random.random_range(0..lines.len());
            lines.swap(at, with);
        }
        3 => {
            for line in &mut lines[block] {
                line.insert_str(0, pick(random, &["  ", " ", "\t", "    ", "- "]));
            }
        }
        4 => {
            for line in &mut lines[block] {
                let bare = line.trim_start_matches(' ');
                let depth = line.len() - bare.len();
                *line = format!("{}{bare}", " ".repeat(depth.saturating_sub(2)));
            }
        }
        5 => {
            // Something else behind the colon or the equals sign.
            let line = &mut lines[at];
            let end = line.find([':', '=']).map_or(line.len(), |end| end + 1);
            line.truncate(end);
            let _ = write!(line, " {}", pick(random, words));
        }
        6 => {
            let line = &mut lines[at];
            let words_of: Vec<&str> = line.split_inclusive([' ', ',', ':', '{', '}']).collect();
            let gone = random.random_range(0..words_of.len().max(1));
            let kept = |(n, word): (usize, &&str)| {
                if n == gone { pick(random, words).to_owned() } else { (*word).to_owned() }
            };
            *line = words_of.iter().enumerate().map(kept).collect();
        }
        7 => {
            let theirs: Vec<String> = other.lines().map(str::to_owned).collect();
            if !theirs.is_empty() {
                let from = random.random_range(0..theirs.len());
                let to = (from + random.random_range(1..8)).min(theirs.len());
                lines.splice(at..at, theirs[from..to].iter().cloned());
            }
        }
        8 if random.random_bool(0.2) => many_lines(random, &mut lines, at),
        _ => many_parts(random, &mut lines[at]),
    }
    lines.join("\n") + "\n"
}

/// Many of a kind, none like the other.
fn many_lines(random: &mut StdRng, lines: &mut Vec<String>, at: usize) {
    let line = lines[at].clone();
    let (before, after) = line.split_at(place(random, &line));
    let many: Vec<String> =
        (0..1 << random.random_range(0..13)).map(|n| format!("{before}{n}{after}")).collect();
    if many.iter().map(String::len).sum::<usize>() < BYTES_MAX {
        lines.splice(at..=at, many);
    }
}

/// The same within one line: what a list, a flow or a value may be made of.
fn many_parts(random: &mut StdRng, line: &mut String) {
    let (from, to) = (place(random, line), place(random, line));
    let piece = &line[from.min(to)..from.max(to)];
    let (times, count) = (1 << orders(random, 4, 14), random.random_bool(0.5));
    let number = |n: usize| if count { n.to_string() } else { String::new() };
    let many: String = (0..times).map(|n| format!("{piece}{}", number(n))).collect();
    if many.len() < BYTES_MAX {
        line.insert_str(from.max(to), &many);
    }
}

/// A place between two characters of a text.
fn place(random: &mut StdRng, text: &str) -> usize {
    let mut at = random.random_range(0..=text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
