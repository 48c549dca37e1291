//! What to say about a command that does not exist: what it is called here, for hands that know
//! Docker, or what was nearly typed. Nothing is suggested that would take something away.

use clap::Command;
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

/// Commands that nobody may be led to by a slip.
const HARMFUL: [&str; 8] =
    ["rm", "remove", "leave", "down", "prune", "rollback", "drain", "logout"];

/// What Docker calls it, and what helps here. The longest that fits counts; where the text names
/// commands, they exist (a test looks).
const DOCKERS: [(&str, &str); 40] = [
    ("attach", "shoalctl service logs -f shows output, shoalctl exec -it TASK sh goes inside"),
    ("build", "images are built elsewhere; shoalctl image load takes them in"),
    ("compose", "stack files are deployed with shoalctl stack deploy"),
    ("container", "containers are tasks here: shoalctl ps lists them"),
    ("container ls", "shoalctl ps"),
    ("cp", "files go through shoalctl exec -i TASK tar"),
    ("create", "shoalctl service create"),
    ("deploy", "shoalctl stack deploy"),
    ("diff", "what a container changed cannot be listed yet"),
    ("images", "shoalctl image ls"),
    ("inspect", "shoalctl service inspect, shoalctl node inspect or shoalctl network inspect"),
    ("kill", "shoalctl service scale SERVICE=0 stops its tasks"),
    ("load", "shoalctl image load"),
    ("logs", "shoalctl service logs"),
    ("ls", "shoalctl service ls or shoalctl ps"),
    ("network prune", "networks are removed by name; shoalctl network ls lists them"),
    ("pause", "tasks cannot be paused; shoalctl service scale SERVICE=0 stops them"),
    ("port", "shoalctl service ls and shoalctl ps show ports"),
    ("pull", "nodes pull what their tasks need; shoalctl image load takes an archive"),
    ("push", "images are pushed elsewhere; nodes pull what their tasks need"),
    ("restart", "shoalctl service update --force SERVICE makes its tasks anew"),
    ("rmi", "images of this host are managed with shoalctl image"),
    ("run", "shoalctl service create"),
    ("save", "images cannot be saved yet; shoalctl image load takes an archive"),
    ("start", "shoalctl service scale SERVICE=1 starts a task"),
    ("stop", "shoalctl service scale SERVICE=0 stops its tasks"),
    (
        "swarm",
        "shoalctl init, shoalctl join, shoalctl leave, shoalctl join-token or shoalctl cluster",
    ),
    ("swarm init", "shoalctl init"),
    ("swarm join", "shoalctl join"),
    ("swarm join-token", "shoalctl join-token"),
    ("swarm update", "shoalctl cluster update"),
    ("swarm leave", "this host leaves its cluster with a command of its own; see shoalctl --help"),
    ("system events", "shoalctl events"),
    ("system info", "shoalctl info"),
    ("tag", "images are tagged elsewhere"),
    ("top", "shoalctl exec TASK ps"),
    ("update", "shoalctl service update"),
    ("volume create", "volumes are made where tasks need them: shoalctl service create --mount"),
    ("volume update", "volumes are not changed; shoalctl volume ls lists them"),
    ("wait", "shoalctl stack deploy and shoalctl service update wait by themselves"),
];

/// Puts right what is suggested for a command that does not exist.
pub(crate) fn improve(mut error: Error, root: &Command, args: &[String]) -> Error {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return error;
    }
    let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidSubcommand) else {
        return error;
    };
    let given = given.clone();
    error.remove(ContextKind::SuggestedSubcommand);
    let (path, parent) = place(root, args, &given);
    if let Some(tip) = dockers(&path, &given, args) {
        let tip = ContextValue::StyledStrs(vec![tip.into()]);
        error.insert(ContextKind::Suggested, tip);
    } else if let Some(near) = near(parent, &given) {
        let near = ContextValue::Strings(vec![near]);
        error.insert(ContextKind::SuggestedSubcommand, near);
    }
    error
}

/// Below which command a word stands that is none: names, and the command itself.
fn place<'a>(root: &'a Command, args: &[String], given: &str) -> (Vec<&'a str>, &'a Command) {
    let mut at = root;
    let mut path = Vec::new();
    for arg in args.iter().take_while(|arg| *arg != given) {
        if let Some(below) = at.find_subcommand(arg) {
            path.push(below.get_name());
            at = below;
        }
    }
    (path, at)
}

/// What something that Docker has is called here.
fn dockers(path: &[&str], given: &str, args: &[String]) -> Option<&'static str> {
    let own = path.iter().copied().chain([given]).collect::<Vec<_>>().join(" ");
    let next = args.iter().skip_while(|arg| *arg != given).nth(1);
    let longer = next.map(|next| format!("{own} {next}"));
    let known = |name: &str| DOCKERS.iter().find(|(docker, _)| *docker == name);
    longer.as_deref().and_then(known).or_else(|| known(&own)).map(|(_, tip)| *tip)
}

/// The harmless command that a word is one slip away from.
fn near(parent: &Command, given: &str) -> Option<String> {
    let slips = if given.chars().count() > 5 { 2 } else { 1 };
    let names = parent.get_subcommands().filter(|c| !c.is_hide_set()).flat_map(|c| {
        let harmful = HARMFUL.contains(&c.get_name());
        std::iter::once(c.get_name()).chain(c.get_visible_aliases()).filter(move |_| !harmful)
    });
    names
        .map(|name| (strsim::osa_distance(name, given), name))
        .filter(|(distance, name)| *distance <= slips && *distance < name.chars().count())
        .min()
        .map(|(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    /// What is not done yet is told by the document, too.
    #[test]
    fn the_document_lists_what_does_not_exist_yet() {
        let document = include_str!("../../docs/unsupported.md");
        let section = document.split("\n## Commands\n").nth(1).unwrap_or_default();
        let section = section.split("\n## ").next().unwrap_or_default();
        let listed: Vec<&str> = section.lines().filter(|line| line.starts_with("| `")).collect();
        let later = DOCKERS.iter().filter(|(_, tip)| tip.contains(" yet"));
        let rows: Vec<String> = later.map(|(name, tip)| format!("| `{name}` | {tip} |")).collect();
        assert_eq!(listed, rows, "docs/unsupported.md is to have:\n{}", rows.join("\n"));
    }

    fn said(line: &str) -> String {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let error = Cli::try_parse_from(std::iter::once("shoalctl".to_owned()).chain(args.clone()));
        improve(error.expect_err(line), &Cli::command(), &args).to_string()
    }

    #[test]
    fn what_docker_calls_otherwise_is_named() {
        let cases = [
            ("logs web", "shoalctl service logs"),
            ("images", "shoalctl image ls"),
            ("swarm init", "tip: shoalctl init\n"),
            ("swarm", "shoalctl join-token"),
            ("run nginx", "shoalctl service create"),
            ("volume create data", "made where tasks need them"),
        ];
        for (line, tip) in cases {
            let said = said(line);
            assert!(said.contains(tip), "{line}: {said}");
        }
    }

    #[test]
    fn slips_of_the_hand_lead_to_nothing_harmful() {
        let cases = [
            ("node re h1", None),
            ("node lss", Some("ls")),
            ("servise ls", Some("service")),
            ("stack dploy", Some("deploy")),
            ("service remov web", None),
            ("leav", None),
            ("stack dow shop", None),
            ("frobnicate", None),
        ];
        for (line, near) in cases {
            let said = said(line);
            match near {
                Some(near) => assert!(said.contains(&format!("'{near}'")), "{line}: {said}"),
                None => assert!(!said.contains("similar"), "{line}: {said}"),
            }
            for harmful in HARMFUL {
                assert!(!said.contains(&format!("'{harmful}'")), "{line}: {said}");
            }
        }
    }

    #[test]
    fn commands_that_tips_name_exist() {
        let root = Cli::command();
        for (docker, tip) in DOCKERS {
            for after in tip.split("shoalctl ").skip(1) {
                let words: Vec<&str> = after
                    .split([' ', ','])
                    .take_while(|w| {
                        !w.is_empty() && w.chars().all(|c| c.is_lowercase() || c == '-')
                    })
                    .take_while(|w| !w.starts_with('-'))
                    .collect();
                let first = root.find_subcommand(words.first().copied().unwrap_or(""));
                assert!(first.is_some() || after.starts_with("--help"), "{docker}: {tip}");
                let Some(first) = first.filter(|c| c.has_subcommands()) else { continue };
                let second = words.get(1).copied().unwrap_or("");
                assert!(
                    first.find_subcommand(second).is_some() || second.is_empty(),
                    "{docker}: {tip}"
                );
            }
        }
    }
}
