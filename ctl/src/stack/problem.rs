//! What is wrong with a stack file: every finding with its place.

use std::collections::BTreeSet;
use std::fmt;

/// A place in one of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Pos {
    /// Which of the files, in the order in which they were given.
    pub source: usize,
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it was found; absent when it belongs to no file.
    pub at: Option<Pos>,
    /// The key it is about, such as `services.web.image`; may be empty.
    pub path: String,
    /// What is wrong and what would be accepted.
    pub text: String,
}

/// Everything that is wrong with a set of stack files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    /// Names of the files, indexed by [`Pos::source`].
    pub sources: Vec<String>,
    /// The findings, in the order of their places; never empty when returned as an error.
    pub list: Vec<Problem>,
}

impl Problems {
    fn line(&self, f: &mut fmt::Formatter<'_>, problem: &Problem) -> fmt::Result {
        if let Some(at) = problem.at {
            let name = self.sources.get(at.source).map_or("?", String::as_str);
            write!(f, "{name}:{}:{}: ", at.line, at.column)?;
        }
        if !problem.path.is_empty() {
            write!(f, "{}: ", problem.path)?;
        }
        f.write_str(&problem.text)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.list.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            self.line(f, problem)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Findings kept at the most: a file that is wrong everywhere need not say so for ever.
const FINDINGS_MAX: usize = 100;

/// Collects findings and warnings while the files go through the stages.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    problems: Vec<Problem>,
    warnings: Vec<String>,
    /// Those that are there, to have each once.
    warned: BTreeSet<String>,
}

impl Findings {
    pub(crate) fn wrong(&mut self, at: Pos, path: &str, text: impl Into<String>) {
        self.push(Problem { at: Some(at), path: path.to_owned(), text: text.into() });
    }

    pub(crate) fn push(&mut self, problem: Problem) {
        if self.problems.len() < FINDINGS_MAX && !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    pub(crate) fn warn(&mut self, text: impl Into<String>) {
        let text = text.into();
        if self.warned.insert(text.clone()) {
            self.warnings.push(text);
        }
    }

    /// Whether further findings are not kept, so that nobody needs to look for what to say.
    pub(crate) fn is_full(&self) -> bool {
        self.problems.len() >= FINDINGS_MAX
    }

    pub(crate) fn len(&self) -> usize {
        self.problems.len()
    }

    /// Those that were noted first.
    pub(crate) fn first(&self, count: usize) -> &[Problem] {
        self.problems.get(..count).unwrap_or(&self.problems)
    }

    /// Whether something below a path is wrong.
    pub(crate) fn any_below(&self, path: &str) -> bool {
        let below = |p: &Problem| p.path.strip_prefix(path).is_some_and(|r| r.starts_with('.'));
        self.problems.iter().any(below)
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    pub(crate) fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    pub(crate) fn into_problems(mut self, sources: Vec<String>) -> Problems {
        self.problems.sort_by_key(|p| p.at);
        Problems { sources, list: self.problems }
    }
}
