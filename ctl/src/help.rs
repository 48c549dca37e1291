//! What `--help` adds to the command line itself: groups of options, examples, and help for a noun that
//! stands alone.

use clap::{Command, CommandFactory as _};

use crate::cli::Cli;

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
    ("host", "Network"),
    ("cap-", "Confinement"),
    ("sysctl", "Confinement"),
    ("ulimit", "Confinement"),
    ("oom-", "Confinement"),
    ("read-only", "Confinement"),
    ("detach", "Waiting"),
    ("timeout", "Waiting"),
    ("quiet", "Waiting"),
];

/// Commands whose many options are grouped.
const GROUPED: [&str; 2] = ["service create", "service update"];

/// Examples, by command.
const EXAMPLES: &[(&str, &str)] = &[
    ("init", "shoalctl init\nshoalctl init --advertise-addr 10.0.0.1"),
    ("join", "shoalctl join --token-file token.txt 10.0.0.1:4242"),
    ("leave", "shoalctl leave\nshoalctl leave --timeout 1m\nshoalctl leave --force"),
    ("join-token", "shoalctl join-token worker\nshoalctl join-token --rotate worker"),
    ("node ls", "shoalctl node ls --filter label=disk=ssd"),
    (
        "node update",
        "shoalctl node update --label-add disk=ssd h2\nshoalctl node update --availability drain h2",
    ),
    (
        "login",
        "shoalctl login registry.lan:5000\n\
         shoalctl login --username ci --password-stdin registry.lan:5000",
    ),
    (
        "service create",
        "shoalctl service create --name web --replicas 3 -p 80:8080 registry.lan/web:1\n\
         shoalctl service create --name db --mount type=volume,source=data,target=/var/lib/data \\\n    \
         --constraint node.labels.disk==ssd --limit-memory 512m registry.lan/db:1",
    ),
    (
        "service update",
        "shoalctl service update --image registry.lan/web:2 web\n\
         shoalctl service update --env-add LEVEL=debug --update-order start-first web",
    ),
    ("service scale", "shoalctl service scale web=5 worker=2"),
    (
        "service logs",
        "shoalctl service logs -f --tail 20 web\nshoalctl service logs --since 10m web.1",
    ),
    (
        "stack deploy",
        "shoalctl stack deploy -c stack.yaml shop\n\
         VERSION=2 shoalctl --format json stack deploy -c stack.yaml --timeout 5m shop",
    ),
    ("stack config", "shoalctl stack config -c stack.yaml -c stack.prod.yaml"),
    ("network create", "shoalctl network create --driver bridge --subnet 10.1.0.0/24 back"),
    (
        "volume ls",
        "shoalctl volume ls --filter dangling=true\nshoalctl volume ls -q --filter node=h1",
    ),
    ("volume rm", "shoalctl volume rm shop_data\nshoalctl volume rm --node h1 shop_data"),
    ("volume prune", "shoalctl volume prune\nshoalctl volume prune --all --filter label!=keep"),
    ("stats", "shoalctl stats --no-stream\nshoalctl stats --format {{.Name}}:{{.CPUPerc}} web"),
    ("service stats", "shoalctl service stats --no-stream"),
    ("system df", "shoalctl system df\nshoalctl system df h1"),
    ("system prune", "shoalctl system prune\nshoalctl system prune --all --volumes --node h1"),
    ("node stats", "shoalctl node stats h1"),
    ("exec", "shoalctl exec -it web.1 sh\nshoalctl exec web.1 cat /etc/hosts"),
    (
        "events",
        "shoalctl events --since 10m --filter type=task\nshoalctl events --since 1h --until 30m",
    ),
    (
        "context export",
        "shoalctl context export --output prod.yaml prod\n\
         shoalctl context export --output - | ssh other shoalctl context import -",
    ),
    ("context import", "shoalctl context import ci.yaml\nshoalctl context import --name ci -"),
    (
        "user create",
        "shoalctl user create ci --role deployer --stack shop --expires 90d --output ci.yaml\n\
         shoalctl user create ann --role operator --output ann.yaml",
    ),
    (
        "user update",
        "shoalctl user update --stack-add blog ci\nshoalctl user update --expires never ci",
    ),
    ("image load", "shoalctl image load -i image.tar"),
    ("completion", "shoalctl completion bash > /etc/bash_completion.d/shoalctl"),
];

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
    if GROUPED.contains(&path) {
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
        for path in GROUPED {
            let help = find(&root, path).unwrap().clone().render_help().to_string();
            for heading in ["Resources", "Restart policy", "Health check", "Updates", "Network"] {
                assert!(help.contains(&format!("\n{heading}:\n")), "{path}: {heading}\n{help}");
            }
        }
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
