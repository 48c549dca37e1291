//! Runs a target: the corpus, then what is made of it, until the time is over or something is found.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::meter::Meter;

/// Seconds that a target runs unless `SHOAL_FUZZ_SECONDS` says otherwise.
const SECONDS: u64 = 5;

/// Where they begin, if nobody says how long.
const SEED: u64 = 1;

/// How many are tried then at most, so that a much faster machine tries no others.
const INPUTS: u64 = 100_000;
/// Inputs made from the corpus that join it, at most.
const LEARNED_MAX: usize = 2000;
/// The longest input that joins it, in bytes.
const LEARNED_BYTES_MAX: usize = 16 << 10;
/// See [`Settings::shrinking`].
const SHRINKING: Duration = Duration::from_secs(5);
/// Bytes of a failing input that are shown.
const SHOWN_BYTES_MAX: usize = 2000;

/// What a target's reader said to an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It was read, and what was asserted of it held. The text says what kind of thing it was.
    Read(String),
    /// It was refused, with this text.
    Refused(String),
}

impl Answer {
    fn is_read(&self) -> bool {
        matches!(self, Self::Read(_))
    }

    /// Of inputs of the same class only the first is learned: without numbers and quoted parts.
    fn class(&self) -> String {
        let (word, text) = match self {
            Self::Read(text) => ("read ", text),
            Self::Refused(text) => ("refused ", text),
        };
        let mut class = word.to_owned();
        let mut quoted = false;
        for c in text.chars().take(400) {
            match c {
                '"' => quoted = !quoted,
                _ if quoted || c.is_ascii_digit() => {}
                _ => class.push(c),
            }
        }
        class
    }
}

/// What one input may cost at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Processor time, and some more for each byte.
    pub(crate) time: Duration,
    pub(crate) time_per_byte: Duration,
    /// Bytes of memory.
    pub(crate) memory: u64,
}

/// Enough for an unoptimised build on a busy machine.
pub(crate) const BOUNDS: Bounds = Bounds {
    time: Duration::from_millis(300),
    time_per_byte: Duration::from_micros(10),
    memory: 64 << 20,
};

/// A place of unknown inputs.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) seeds: Vec<Vec<u8>>,
    pub(crate) bounds: Bounds,
}

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) inputs: u64,
    pub(crate) read: u64,
    pub(crate) classes: usize,
}

/// An input that fails.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) input: Vec<u8>,
    pub(crate) why: String,
    pub(crate) number: u64,
    pub(crate) seed: u64,
}

/// How long, from where, and what alone.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) time: Duration,
    pub(crate) inputs: u64,
    pub(crate) seed: u64,
    pub(crate) only: Option<Vec<u8>>,
    /// How long a failing input is made smaller.
    pub(crate) shrinking: Duration,
}

impl Settings {
    pub(crate) fn from_environment() -> Self {
        let number = |name: &str| {
            let text = std::env::var(name).ok()?;
            let number = text.parse::<u64>();
            Some(number.unwrap_or_else(|_| panic!("{name}={text:?}: expected a whole number")))
        };
        let only = std::env::var_os("SHOAL_FUZZ_INPUT").map(|path| {
            let path = PathBuf::from(path);
            fs::read(&path).unwrap_or_else(|e| panic!("SHOAL_FUZZ_INPUT={}: {e}", path.display()))
        });
        let seconds = number("SHOAL_FUZZ_SECONDS");
        // A run of all tests tries the same inputs in the same order each time: whoever changes
        // something else is not to be stopped by an old fault. New ones are looked for on purpose.
        let seed = || if seconds.is_some() { rand::rng().random() } else { SEED };
        Self {
            time: Duration::from_secs(seconds.unwrap_or(SECONDS)),
            inputs: if seconds.is_some() { u64::MAX } else { INPUTS },
            seed: number("SHOAL_FUZZ_SEED").unwrap_or_else(seed),
            only,
            shrinking: SHRINKING,
        }
    }
}

/// The files of a directory, each an input, in the order of their names.
pub(crate) fn files(dir: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
    let entries = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", dir.display());
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// The corpus of a target.
pub(crate) fn corpus(name: &str) -> Vec<Vec<u8>> {
    files(&format!("tests/fuzz/corpus/{name}")).into_iter().map(|(_, bytes)| bytes).collect()
}

/// Runs a target as the environment says.
///
/// # Panics
/// When an input fails, with all that is needed to see it fail again.
pub(crate) fn fuzz(
    target: &Target,
    make: impl FnMut(&mut StdRng, &[Vec<u8>]) -> Vec<u8>,
    check: impl Fn(&[u8]) -> Answer,
) {
    tell(target, hunt(target, &Settings::from_environment(), make, check));
}

/// Says what came of a run.
///
/// # Panics
/// When an input has failed.
#[track_caller]
pub(crate) fn tell(target: &Target, outcome: Result<Report, Found>) {
    let name = target.name;
    match outcome {
        Ok(Report { inputs, read, classes }) => {
            eprintln!("{name}: {inputs} inputs, {read} of them read, {classes} kinds of answers");
        }
        Err(found) => {
            let path = keep(name, &found.input);
            let Found { input, why, number, seed } = found;
            let shown = input[..input.len().min(SHOWN_BYTES_MAX)].escape_ascii();
            panic!(
                "{name}: input {number} of SHOAL_FUZZ_SEED={seed} fails: {why}\n\
                 {} bytes: {shown}\n\
                 again: SHOAL_FUZZ_INPUT={} and this test; for ever: a copy in \
                 tests/tests/fuzz/corpus/{name}",
                input.len(),
                path.display()
            );
        }
    }
}

fn keep(name: &str, input: &[u8]) -> PathBuf {
    let mut hash = DefaultHasher::new();
    input.hash(&mut hash);
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join(format!("{name}-{:016x}", hash.finish()));
    fs::write(&path, input).unwrap();
    path
}

/// Looks for an input that fails.
pub(crate) fn hunt(
    target: &Target,
    settings: &Settings,
    mut make: impl FnMut(&mut StdRng, &[Vec<u8>]) -> Vec<u8>,
    check: impl Fn(&[u8]) -> Answer,
) -> Result<Report, Found> {
    let (bounds, shrinking) = (target.bounds, settings.shrinking);
    let runner = Runner { meter: Meter::new().unwrap(), bounds, shrinking, check };
    let seed = settings.seed;
    let mut report = Report::default();
    let mut answers: BTreeMap<String, u64> = BTreeMap::new();
    // Everything, and what was read: most of what is made of that is read, too.
    let (mut corpus, mut good) = (Vec::new(), Vec::new());
    let mut learned = BTreeSet::new();
    let alone = settings.only.clone().map(|input| vec![input]);
    for input in alone.as_ref().unwrap_or(&target.seeds) {
        let answer = runner.run(input).map_err(|why| found(&runner, input, why, &report, seed))?;
        report.count(&answer);
        *answers.entry(answer.class()).or_default() += 1;
        corpus.push(input.clone());
        if answer.is_read() {
            good.push(input.clone());
        }
    }
    if alone.is_some() {
        return Ok(report);
    }
    let mut random = StdRng::seed_from_u64(seed);
    let began = Instant::now();
    while began.elapsed() < settings.time && report.inputs < settings.inputs {
        let of_good = !good.is_empty() && random.random_bool(0.8);
        let input = make(&mut random, if of_good { &good } else { &corpus });
        let answer =
            runner.run(&input).map_err(|why| found(&runner, &input, why, &report, seed))?;
        report.count(&answer);
        let times = answers.entry(answer.class()).or_default();
        *times += 1;
        let new = *times == 1 && learned.len() < LEARNED_MAX && input.len() < LEARNED_BYTES_MAX;
        if new && learned.insert(input.clone()) {
            if answer.is_read() {
                good.push(input.clone());
            }
            corpus.push(input);
        }
    }
    report.classes = answers.len();
    // Who refuses everything, or takes everything, was not asked much.
    let few = report.inputs / 200;
    let refused = report.inputs - report.read;
    assert!(report.read > few, "{}: hardly anything was read: {report:?}", target.name);
    assert!(refused > few, "{}: hardly anything was refused: {report:?}", target.name);
    Ok(report)
}

impl Report {
    fn count(&mut self, answer: &Answer) {
        self.inputs += 1;
        self.read += u64::from(answer.is_read());
    }
}

fn found<C: Fn(&[u8]) -> Answer>(
    runner: &Runner<C>,
    input: &[u8],
    why: String,
    report: &Report,
    seed: u64,
) -> Found {
    let (input, why) = runner.shrink(input.to_vec(), why);
    Found { input, why, number: report.inputs, seed }
}

struct Runner<C> {
    meter: Meter,
    bounds: Bounds,
    shrinking: Duration,
    check: C,
}

thread_local! {
    /// What has panicked on this thread, while it is kept quiet.
    static SAID: RefCell<Option<String>> = const { RefCell::new(None) };
}

impl<C: Fn(&[u8]) -> Answer> Runner<C> {
    /// What came of an input, or why it fails.
    fn run(&self, input: &[u8]) -> Result<Answer, String> {
        let bytes = u32::try_from(input.len()).unwrap_or(u32::MAX);
        let time_max = self.bounds.time + self.bounds.time_per_byte * bytes;
        let first = self.once(input)?;
        if first.time <= time_max {
            return Ok(first.answer);
        }
        // Once more: the machine may have been busy with something else for this thread.
        let time = first.time.min(self.once(input)?.time);
        if time <= time_max {
            return Ok(first.answer);
        }
        Err(format!("it takes {time:?}: at most {time_max:?} are expected"))
    }

    fn once(&self, input: &[u8]) -> Result<Run, String> {
        let (before, began) = (self.meter.memory(), self.meter.time());
        let answer = quietly(|| (self.check)(input))?;
        let time = self.meter.time().saturating_sub(began);
        let after = self.meter.memory();
        let memory = after.most.saturating_sub(before.now);
        if after.most > before.most && memory > self.bounds.memory {
            let most = self.bounds.memory;
            return Err(format!("it takes {memory} bytes of memory: at most {most} are expected"));
        }
        Ok(Run { answer, time })
    }

    /// The smallest part of an input that fails, too, as far as it is found in time: ever smaller pieces
    /// are left out.
    fn shrink(&self, mut input: Vec<u8>, mut why: String) -> (Vec<u8>, String) {
        let began = Instant::now();
        let mut piece = input.len() / 2;
        while piece > 0 {
            let mut at = 0;
            while at < input.len() {
                if began.elapsed() > self.shrinking {
                    return (input, why);
                }
                let end = (at + piece).min(input.len());
                let less = [&input[..at], &input[end..]].concat();
                match self.run(&less) {
                    Err(other) => (input, why) = (less, other),
                    Ok(_) => at = end,
                }
            }
            piece /= 2;
        }
        (input, why)
    }
}

struct Run {
    answer: Answer,
    time: Duration,
}

/// Runs something that may panic; what it says then is not printed.
fn quietly<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            SAID.with_borrow_mut(|said| match said {
                Some(said) => said.push_str(&info.to_string()),
                None => loud(info),
            });
        }));
    });
    let outer = SAID.replace(Some(String::new()));
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    let said = SAID.replace(outer).unwrap_or_default();
    outcome.map_err(|_| said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(seeds: &[&str]) -> Target {
        let seeds = seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect();
        let bounds = Bounds { time: Duration::from_millis(40), memory: 8 << 20, ..BOUNDS };
        Target { name: "planted", seeds, bounds }
    }

    fn settings() -> Settings {
        let shrinking = Duration::from_secs(1);
        Settings { time: Duration::from_secs(20), inputs: u64::MAX, seed: 7, only: None, shrinking }
    }

    /// Reads words; has a fault that a seed alone does not meet.
    fn planted(fault: fn()) -> impl Fn(&[u8]) -> Answer {
        move |input| {
            if input.windows(3).any(|part| part == b"bad") {
                fault();
            }
            let word = input.iter().all(u8::is_ascii_lowercase);
            if word { Answer::Read("a word".into()) } else { Answer::Refused("no word".into()) }
        }
    }

    fn hunted(fault: fn()) -> Found {
        let words = ["bad", "9"];
        let make = |random: &mut StdRng, corpus: &[Vec<u8>]| {
            super::super::bytes::mutated(random, corpus, &words)
        };
        hunt(&target(&["good", "words"]), &settings(), make, planted(fault)).unwrap_err()
    }

    #[test]
    fn a_planted_panic_is_found_and_made_small() {
        let found = hunted(|| panic!("it is bad"));
        assert_eq!(found.input, b"bad", "{found:?}");
        assert!(found.why.contains("it is bad") && found.seed == 7, "{found:?}");
        assert_eq!(found.number, hunted(|| panic!("it is bad")).number, "the same seed");
    }

    #[test]
    fn what_takes_too_long_or_too_much_is_found() {
        let found = hunted(|| {
            let meter = Meter::new().unwrap();
            let began = meter.time();
            while meter.time() - began < Duration::from_millis(60) {}
        });
        assert!(found.why.contains("it takes") && found.why.contains("expected"), "{found:?}");
        let found = hunted(|| drop(std::hint::black_box(vec![1_u8; 32 << 20])));
        assert!(found.why.contains("bytes of memory"), "{found:?}");
    }

    #[test]
    fn a_target_that_refuses_everything_is_none() {
        let make = |_: &mut StdRng, _: &[Vec<u8>]| b"x".to_vec();
        let settings = Settings { time: Duration::from_millis(50), ..settings() };
        let all = |_: &[u8]| Answer::Refused("no".into());
        let outcome = quietly(|| hunt(&target(&["a"]), &settings, make, all));
        assert!(outcome.unwrap_err().contains("hardly anything was read"));
    }
}
