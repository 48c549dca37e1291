//! What `--help` adds to the command line itself: groups of options, examples, and help for a noun that
//! stands alone.

mod examples;

use clap::{Arg, Command, CommandFactory as _};

use crate::cli::Cli;
use examples::EXAMPLES;

/// Heading of the options that every command takes.
const GLOBAL: &str = "Global options";

/// Beginnings of options' names, and the group that they are shown in. The first that fits counts.
const GROUPS: &[(&str, &str)] = &[
    ("limit-", "Resources"),
    ("reserve-", "Resources"),
    ("replicas", "Placement"),
    ("constraint", "Placement"),
    ("mode", "Placement"),
    ("restart-", "Restart policy"),
    ("health-", "Health check"),
    ("no-healthcheck", "Health check"),
    ("update-", "Updates"),
    ("rollback-", "Updates"),
    ("publish", "Network"),
    ("network", "Network"),
    ("dns", "Network"),
    ("subnet", "Addresses"),
    ("gateway", "Addresses"),
    ("ip", "Addresses"),
    ("aux-", "Addresses"),
    ("host", "Network"),
    ("cap-", "Confinement"),
    ("sysctl", "Confinement"),
    ("ulimit", "Confinement"),
    ("oom-", "Confinement"),
    ("read-only", "Confinement"),
    ("env", "Environment"),
    ("label", "Labels"),
    ("container-label", "Labels"),
    ("mount", "Storage"),
    ("secret", "Secrets and configs"),
    ("config", "Secrets and configs"),
    ("image", "Image"),
    ("with-registry-auth", "Image"),
    ("args", "Process"),
    ("entrypoint", "Process"),
    ("user", "Process"),
    ("workdir", "Process"),
    ("tty", "Process"),
    ("stop-", "Process"),
    ("drain-", "Process"),
    ("tail", "Selection"),
    ("since", "Selection"),
    ("until", "Selection"),
    ("filter", "Selection"),
    ("timestamps", "Output"),
    ("raw", "Output"),
    ("no-t", "Output"),
    ("detach", "Waiting"),
    ("timeout", "Waiting"),
    ("quiet", "Waiting"),
];

/// Options of one command that are shown in one list at the most.
const UNGROUPED_MAX: usize = 6;

/// The command line with all that its help says.
pub(crate) fn command() -> Command {
    let command = Cli::command()
        .mut_args(|arg| if arg.is_global_set() { arg.help_heading(GLOBAL) } else { arg });
    dressed(command, "")
}

fn dressed(mut command: Command, path: &str) -> Command {
    if command.has_subcommands() {
        command = command.arg_required_else_help(true);
    }
    if command.get_arguments().filter(|arg| is_own_option(arg)).count() > UNGROUPED_MAX {
        command = command.mut_args(|arg| match arg.get_long().and_then(group) {
            Some(heading) => arg.help_heading(heading),
            None => arg,
        });
    }
    if let Some((_, examples)) = EXAMPLES.iter().find(|(of, _)| *of == path) {
        let lines: Vec<String> = examples.lines().map(|line| format!("  {line}")).collect();
        let mut text = format!("Examples:\n{}", lines.join("\n"));
        if let Some(more) = command.get_after_help() {
            text = format!("{text}\n\n{more}");
        }
        command = command.after_help(text);
    }
    command.mut_subcommands(|below| {
        let name = below.get_name().to_owned();
        dressed(below, &if path.is_empty() { name } else { format!("{path} {name}") })
    })
}

/// Whether it is listed among the options of this command, and not of all.
fn is_own_option(arg: &Arg) -> bool {
    !arg.is_positional() && !arg.is_hide_set() && !arg.is_global_set()
}

fn group(option: &str) -> Option<&'static str> {
    GROUPS.iter().find(|(begin, _)| option.starts_with(begin)).map(|(_, heading)| *heading)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'a>(command: &'a Command, path: &str) -> Option<&'a Command> {
        path.split(' ').try_fold(command, |command, name| command.find_subcommand(name))
    }

    #[test]
    fn every_example_is_a_line_that_is_understood() {
        let root = command();
        let mut paths = std::collections::BTreeSet::new();
        for (path, examples) in EXAMPLES {
            assert!(paths.insert(path), "{path} is there twice");
            assert!(find(&root, path).is_some(), "{path} is no command");
            for example in examples.replace("\\\n", " ").lines() {
                let words = example.split_whitespace().skip_while(|word| *word != "shoalctl");
                let words: Vec<&str> =
                    words.take_while(|word| !matches!(*word, ">" | "|")).collect();
                if let Err(error) = command().try_get_matches_from(&words) {
                    panic!("{example}: {error}");
                }
                let (first, shown) = (words[1], find(&root, path).unwrap().clone().render_help());
                assert!(first.starts_with("--") || path.starts_with(first), "{path}: {example}");
                assert!(shown.to_string().contains("Examples:"), "{path}");
            }
        }
    }

    /// All commands that do something, with their paths.
    fn leaves<'a>(command: &'a Command, path: &str, found: &mut Vec<(String, &'a Command)>) {
        for below in command.get_subcommands() {
            let path = format!("{path} {}", below.get_name()).trim_start().to_owned();
            if below.has_subcommands() {
                leaves(below, &path, found);
            } else {
                found.push((path, below));
            }
        }
    }

    fn each_leaf(mut look: impl FnMut(&str, &Command)) {
        let mut root = command();
        root.build();
        let mut found = Vec::new();
        leaves(&root, "", &mut found);
        assert!(found.len() > 50, "{}", found.len());
        for (path, command) in found {
            look(&path, command);
        }
    }

    #[test]
    fn every_command_has_an_example() {
        let mut without = Vec::new();
        each_leaf(|path, command| {
            let help = command.clone().render_long_help().to_string();
            if !help.contains("Examples:\n  ") {
                without.push(path.to_owned());
            }
        });
        assert!(without.is_empty(), "without an example in ctl/src/help/examples.rs: {without:?}");
    }

    #[test]
    fn every_page_groups_its_options() {
        each_leaf(|path, command| {
            let listed =
                |arg: &&Arg| !arg.is_positional() && !arg.is_hide_set() && arg.get_id() != "help";
            let options = || command.get_arguments().filter(listed);
            let loose: Vec<_> = options()
                .filter(|arg| arg.get_help_heading().is_none())
                .map(|arg| arg.get_id().to_string())
                .collect();
            assert!(loose.len() <= UNGROUPED_MAX, "{path}: in no group of GROUPS: {loose:?}");
            let global: Vec<_> =
                options().filter(|a| a.get_help_heading() == Some(GLOBAL)).collect();
            assert_eq!(global.len(), 3, "{path}: what every command takes stands apart");
        });
        for path in ["service create", "service update"] {
            let help = find(&command(), path).unwrap().clone().render_help().to_string();
            for heading in ["Resources", "Restart policy", "Health check", "Updates", "Network"] {
                assert!(help.contains(&format!("\n{heading}:\n")), "{path}: {heading}\n{help}");
            }
        }
    }

    /// Policies have values also where nothing is given; their flags say which.
    #[test]
    fn defaults_are_said() {
        const POLICIES: [&str; 8] =
            ["restart-", "update-", "rollback-", "health-", "stop-", "replicas", "timeout", "oom-"];
        const WITHOUT: [&str; 1] = ["health-cmd"];
        let mut seen = 0;
        each_leaf(|path, command| {
            for arg in command.get_arguments().filter(|arg| arg.get_action().takes_values()) {
                let name = arg.get_long().unwrap_or_default();
                if !POLICIES.iter().any(|p| name.starts_with(p)) || WITHOUT.contains(&name) {
                    continue;
                }
                seen += 1;
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                let said = !arg.get_default_values().is_empty() || help.contains("[default: ");
                assert!(said, "{path} --{name}: what holds without it? {help}");
            }
        });
        assert!(seen > 40, "{seen}");
    }

    #[test]
    fn a_noun_alone_prints_its_help() {
        use clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand as Help;
        for line in ["shoalctl", "shoalctl service", "shoalctl node", "shoalctl stack"] {
            let error = command().try_get_matches_from(line.split(' ')).unwrap_err();
            assert_eq!(error.kind(), Help, "{line}");
            assert!(error.to_string().contains("Usage:"), "{line}");
        }
    }
}
