//! Flags of lists of objects.

use clap::{Arg, Args};

/// How a list is written, and which objects are in it.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Write ids only
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// Only those that fit
    #[arg(long, short, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// Do not shorten anything
    #[arg(long)]
    pub(crate) no_trunc: bool,
}

/// Says in the help of a list by what it is filtered.
pub(crate) fn by(keys: &[&str]) -> impl FnOnce(Arg) -> Arg + use<> {
    let keys: Vec<String> = keys.iter().map(|key| format!("{key}=")).collect();
    move |filter| filter.help(format!("Only those that fit: {}", keys.join(", ")))
}
