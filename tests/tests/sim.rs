//! The simulation under a few hundred seeds. SHOAL_SIM_SEED=N runs one again, SHOAL_SIM_SEEDS=N
//! runs more of them.

#![allow(clippy::panic, reason = "a test that cannot go on fails")]

use shoal_tests::sim::{Real, run};

/// Seeds in each shard; shards run beside each other.
const SEEDS_PER_SHARD: u64 = 40;

/// Seeds that once showed a bug.
const REGRESSIONS: &str = include_str!("sim/regressions.txt");

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value:?}: expected a whole number")))
}

#[track_caller]
fn hold(seeds: impl Iterator<Item = u64>) {
    let mut failed = Vec::new();
    let mut first = None;
    for seed in seeds {
        if let Err(failure) = run(seed, || Real) {
            failed.push(seed);
            first = first.or(Some(failure));
        }
    }
    if let Some(failure) = first {
        panic!("{failure}\nfailed seeds: {failed:?}");
    }
}

/// The seeds of one shard: 1 to N, dealt out in turn.
fn shard(number: u64) {
    if setting("SHOAL_SIM_SEED").is_some() {
        return;
    }
    let seeds = setting("SHOAL_SIM_SEEDS").unwrap_or(8 * SEEDS_PER_SHARD);
    hold((1..=seeds).filter(|seed| seed % 8 == number));
}

macro_rules! shards {
    ($($name:ident $number:literal)*) => {$(
        #[test]
        fn $name() {
            shard($number);
        }
    )*};
}

shards! {
    seeds_of_shard_0 0
    seeds_of_shard_1 1
    seeds_of_shard_2 2
    seeds_of_shard_3 3
    seeds_of_shard_4 4
    seeds_of_shard_5 5
    seeds_of_shard_6 6
    seeds_of_shard_7 7
}

#[test]
fn the_seed_that_was_asked_for() {
    hold(setting("SHOAL_SIM_SEED").into_iter());
}

#[test]
fn seeds_that_once_showed_a_bug() {
    let lines = REGRESSIONS.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let seeds: Vec<u64> = lines
        .filter(|line| !line.is_empty())
        .map(|line| line.parse().unwrap_or_else(|_| panic!("{line:?} is not a seed")))
        .collect();
    hold(seeds.into_iter());
}
