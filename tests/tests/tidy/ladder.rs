//! States of tasks are asked what they mean, and not compared: a comparison says nothing of a state that
//! comes to stand in its range later. The compiler refuses it where there is no order; here stands that
//! there is none, and that nobody helps himself to one.

use super::{File, code, rust};

/// Where the order is known.
const HOME: &str = "types/src/task_state.rs";
const LADDERS: [&str; 2] = ["TaskState", "DesiredState"];

/// Orders of the ladders, and ways around their absence.
pub(super) fn compared_states(files: &[File]) -> Vec<String> {
    let mut wrong = Vec::new();
    for file in rust(files).filter(|f| !f.path.starts_with("tests/tests/tidy")) {
        let lines: Vec<(usize, &str)> = code(file).collect();
        for (at, (number, line)) in lines.iter().enumerate() {
            let mut note = |what: &str| wrong.push(format!("{}:{number}: {what}", file.path));
            if file.path == HOME {
                let declares = |ladder: &str| line.trim() == format!("pub enum {ladder} {{");
                let derived = lines[..at].iter().rev().take(4).any(|(_, above)| {
                    above.trim_start().starts_with("#[derive(") && above.contains("Ord")
                });
                if LADDERS.into_iter().any(declares) && derived {
                    note(
                        "a state of a task has an order: whoever compares two decides for all between",
                    );
                }
                continue;
            }
            for ladder in LADDERS {
                if line.contains(&format!("has_reached({ladder}::")) {
                    note(
                        "a certain rung of the ladder has a question of its own, in types/src/task_state.rs",
                    );
                }
                let word = format!("{ladder}::");
                for (place, _) in line.match_indices(&word) {
                    let rest = line[place + word.len()..]
                        .trim_start_matches(|c: char| c.is_alphanumeric())
                        .trim_start();
                    if rest.starts_with("as u") || rest.starts_with("..") {
                        note("a state of a task is no number: ask it what it means");
                    }
                }
            }
        }
    }
    wrong
}

#[test]
fn states_of_tasks_are_asked_and_not_compared() {
    super::hold(&compared_states(&super::tree()));
}

#[test]
fn an_order_and_the_ways_around_it_are_found() {
    let planted = [
        (HOME, "#[derive(Clone, PartialOrd, Ord)]\n#[repr(u16)]\npub enum TaskState {\n", true),
        (HOME, "#[derive(Clone, PartialEq)]\npub enum DesiredState {\n", false),
        (HOME, "/// x\n#[derive(PartialOrd)]\npub enum DesiredState {\n", true),
        ("a/src/lib.rs", "    s.has_reached(TaskState::Running)\n", true),
        ("a/src/lib.rs", "    s.has_reached(other)\n", false),
        ("a/src/lib.rs", "    let n = TaskState::Running as u16;\n", true),
        ("a/src/lib.rs", "    matches!(s, TaskState::Ready..)\n", true),
        ("a/src/lib.rs", "    TaskState::Ready => DesiredState::Ready,\n", false),
    ];
    for (path, text, found) in planted {
        let file = File { path: path.to_owned(), text: text.to_owned() };
        assert_eq!(!compared_states(&[file]).is_empty(), found, "{text}");
    }
}
