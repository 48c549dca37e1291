//! What planning costs by the size of the change and of the cluster: the shapes of
//! docs/performance.md, "The manager".
//!
//! `cargo bench -p shoal-manager-planning --bench size -- [SHAPE...]` prints one table, with what
//! each shape must not exceed. Each runs in a process of its own, so that its memory is its own.
//! Everything is in memory: planning, applying and publishing as the leader does them, in batches, the
//! planners between the batches; no log, no network. All of it is one thread's work.

#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a benchmark prints, and ends where it cannot go on"
)]
#![allow(clippy::disallowed_methods, reason = "a measurement needs a clock")]

mod leader;
mod shapes;

use std::process::{Command, Stdio};

use shapes::{SHAPES, Shape};

/// In the environment of a child: the shape that it is to measure.
const SHAPE: &str = "SHOAL_BENCH_SHAPE";

fn main() {
    let all = SHAPES.iter();
    if let Ok(name) = std::env::var(SHAPE) {
        let shape = all.into_iter().find(|s| s.name == name).expect("a shape");
        print!("{}", (shape.measure)());
        return;
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let names: Vec<&str> = SHAPES.iter().map(|s| s.name).collect();
    if let Some(unknown) = wanted.iter().find(|name| !names.contains(&name.as_str())) {
        println!("no shape is called {unknown:?}: there are {}", names.join(", "));
        std::process::exit(2);
    }
    println!("{:<8} {:<58} {:>12}  measured", "shape", "what", "must");
    for shape in all.filter(|s| wanted.is_empty() || wanted.iter().any(|w| w == s.name)) {
        println!("{:<8} {:<58} {:>12}  {}", shape.name, shape.what, shape.bar, in_child(shape));
    }
}

fn in_child(shape: &Shape) -> String {
    let program = std::env::current_exe().expect("this program");
    let child = Command::new(program).env(SHAPE, shape.name).stderr(Stdio::inherit()).output();
    let output = child.expect("a child");
    let told = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() { told } else { format!("failed: {}", output.status) }
}
