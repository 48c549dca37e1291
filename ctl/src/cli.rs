//! The command line as a whole.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands::{
    cluster, context, events, exec, image, leave, login, network, node, payload, service, settings,
    stack, system, user, volume,
};
use crate::render::FormatArg;

pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    done; a deployment that was waited for has converged
  1    an error, or something was refused
  2    the command line makes no sense
  3    a deployment failed, and at least a part of it is still in force
  4    a deployment failed, and what ran before runs again
  5    not done or not converged in the time given
  6    what was to be put back did not come up again
  7    something newer took the place of the deployment
  8    what was deployed was removed in the meantime
  9    what was to be verified is not as it should be, or a packet may not arrive
  130  interrupted (Ctrl-C)
  143  asked to end (SIGTERM)
  exec passes on the exit code of the program that it runs.";

/// Deploys and watches containers on a cluster of hosts.
#[derive(Debug, Parser)]
#[command(name = "shoalctl", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Which cluster is meant; the current context if absent
    #[arg(long, global = true, env = "SHOAL_CONTEXT", value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// How results are written: table, json, or a Go template for lists and objects
    #[arg(long, global = true, default_value = "table", value_name = "FORMAT")]
    pub(crate) format: FormatArg,
    /// Where the agent of this host listens
    #[arg(
        long,
        global = true,
        env = "SHOAL_AGENT_SOCKET",
        default_value = "/run/shoal/agent.sock",
        value_name = "PATH",
        hide_default_value = false
    )]
    pub(crate) agent_socket: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a new cluster with this host as its first node
    Init(cluster::Init),
    /// Make this host a node of an existing cluster
    Join(cluster::Join),
    /// Take this host out of its cluster
    Leave(leave::Leave),
    /// Show or replace the tokens that let hosts join
    JoinToken(cluster::JoinToken),
    /// Show and change the settings of the whole cluster
    #[command(subcommand)]
    Cluster(settings::Command),
    /// Show the cluster and this host
    Info(cluster::Info),
    /// Show versions
    Version(cluster::Version),
    /// List all tasks
    Ps(crate::commands::tasks::TaskList),
    /// Show what tasks use: processors, memory, network
    Stats(crate::commands::stats::Stats),
    /// Manage nodes
    #[command(subcommand)]
    Node(node::Command),
    /// Manage services
    #[command(subcommand)]
    Service(service::Command),
    /// Manage stacks
    #[command(subcommand)]
    Stack(stack::Command),
    /// Manage secrets
    #[command(subcommand)]
    Secret(payload::Command),
    /// Manage configs
    #[command(subcommand)]
    Config(payload::Command),
    /// Manage networks
    #[command(subcommand)]
    Network(network::Command),
    /// See what nodes keep on their disks, and remove what nobody uses
    #[command(subcommand)]
    System(system::Command),
    /// Manage volumes
    #[command(subcommand)]
    Volume(volume::Command),
    /// Manage the images of this host
    #[command(subcommand)]
    Image(image::Command),
    /// Log in to a registry
    Login(login::Login),
    /// Log out of a registry
    Logout(login::Logout),
    /// Run a program in a running container
    Exec(exec::Exec),
    /// Show changes as they happen
    Events(events::Events),
    /// Manage contexts: which cluster is meant
    #[command(subcommand)]
    Context(context::Command),
    /// Manage users: who may do what
    #[command(subcommand)]
    User(user::Command),
    /// Write a completion script for a shell
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// Whether the command writes records one after the other rather than one document.
    pub(crate) const fn writes_records(&self) -> bool {
        match self {
            Self::Stack(command) => command.writes_records(),
            Self::Service(command) => command.writes_records(),
            Self::Node(command) => command.writes_records(),
            Self::Stats(args) => args.writes_records(),
            Self::Network(command) => command.writes_records(),
            Self::Secret(command) | Self::Config(command) => command.writes_records(),
            Self::Volume(command) => command.writes_records(),
            Self::Image(command) => command.writes_records(),
            Self::Context(command) => command.writes_records(),
            Self::User(command) => command.writes_records(),
            Self::Events(_) | Self::Leave(_) => true,
            _ => false,
        }
    }

    /// Whether the command goes on until it is asked to stop, so that there is nothing to say then.
    pub(crate) const fn is_endless(&self) -> bool {
        matches!(
            self,
            Self::Events(_)
                | Self::Stats(_)
                | Self::Node(node::Command::Stats { .. })
                | Self::Service(service::Command::Stats { .. } | service::Command::Logs(_))
        )
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("shoalctl").chain(line.split_whitespace()))
    }

    fn understood(lines: &[&str]) {
        for line in lines {
            if let Err(error) = parse(line) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn lines_that_people_know_from_docker() {
        let lines = [
            "init",
            "init --advertise-addr 10.0.0.1 --listen-addr 0.0.0.0:4242 --availability drain",
            "init --default-addr-pool 10.1.0.0/16 --default-addr-pool-mask-length 26",
            "join --token SHOAL-1-a-b 10.0.0.1:4242",
            "join --token-file t 10.0.0.1 10.0.0.2:4243",
            "join --token-file - 10.0.0.1",
            "join 10.0.0.1",
            "join --token-file t --advertise-addr 10.0.0.2 --listen-addr 0.0.0.0:4243 10.0.0.1",
            "leave",
            "leave --force",
            "leave --timeout 90s",
            "join-token -q worker",
            "join-token manager --rotate",
            "info --format json",
            "version",
            "cluster upgrade",
            "cluster upgrade --level 2",
            "node ls -q --filter label=a=b",
            "node update --label-add a=b --label-rm c --availability drain n",
            "node rm -f n1 n2",
            "node promote h2 h3",
            "node demote h2",
            "node update --role worker h2",
            "node ps",
            "node ps --no-trunc h1 h2",
            "node update --availability drain --wait --timeout 5m h1",
            "ps -q --filter node=h1",
            "ps --format {{.Name}}",
            "node ls --format json",
            "node inspect n",
            "node inspect --pretty n m",
            "service inspect --pretty web",
            "service update --cap-add NET_ADMIN --ulimit-add nofile=1:2 --dns-rm ::1 web",
            "service create --name web --replicas 2 -p 80:80 -d nginx",
            "service create nginx sh -c ls",
            "service create --with-registry-auth registry.lan/web:1",
            "service update --with-registry-auth --image registry.lan/web:2 web",
            "stack deploy --with-registry-auth -c a.yaml shop",
            "service ls -q",
            "service ps web --no-trunc",
            "service update --image nginx:2 --force web",
            "service update --rollback web",
            "service scale web=3 db=1",
            "service logs -f --tail 10 --since 5m -t --raw web",
            "service rollback web",
            "service rm web db",
            "stack deploy -c a.yaml -c b.yaml --prune shop",
            "stack deploy --compose-file - shop",
            "stack ls --format json",
            "stack ps shop",
            "stack services shop",
            "stack rm shop",
            "stack rollback shop",
            "stack rollback --to 3 -d shop",
            "stack inspect shop blog",
            "stack config -c a.yaml",
            "exec -it web.1 sh",
            "exec -e A=1 -u root -w / web ls -la --color",
            "events --filter type=task --since 5",
            "image load -i x.tar",
            "image ls --no-trunc",
            "image rm x",
            "login",
            "login -u me --password-stdin registry.lan:5000",
            "login --username me -p secret registry.lan",
            "completion bash",
        ];
        understood(&lines);
    }

    #[test]
    fn lines_about_contexts_and_users() {
        understood(&[
            "logout registry.lan",
            "logout",
            "cluster inspect",
            "cluster inspect --pretty",
            "cluster update --dispatcher-heartbeat 5s --task-history-limit 0 --cert-expiry 2160h0m0s",
            "cluster update --label-add a=b --label-rm c",
            "context use a",
            "context create --local",
            "context create --local prod",
            "--context a context ls",
            "context export -o ci.yaml",
            "context export prod --output -",
            "context import ci.yaml --name ci",
            "context import -",
            "context inspect",
            "context rm -f ci",
            "user create ci --role deployer --stack shop --stack blog --expires 30d --output ci.yaml",
            "user create ann --role admin -o -",
            "user ls --filter role=admin",
            "user inspect",
            "user update --host-access ci",
            "user update --role viewer --expires never ci",
            "user update --stack-add a --stack-rm b ci",
            "user rm ci ann",
        ]);
    }

    #[test]
    fn lines_about_networks() {
        understood(&[
            "network create --driver bridge --subnet 10.1.0.0/24 --gateway 10.1.0.1 n",
            "network create -d overlay --subnet 10.1.0.0/24 n",
            "network create --ipv6 --attachable --subnet 10.1.0.0/24 --ip-range 10.1.0.128/25 --aux-address a=10.1.0.200 n",
            "network create -d overlay --ipv4=false --ipv6 n",
            "network create --ipv4 n",
            "network ls",
            "network rm n",
        ]);
    }

    #[test]
    fn lines_about_what_nodes_have_and_use() {
        let lines = [
            "network connect --alias a --alias b --ip 10.1.0.5 --ip6 fd00::5 n web.1",
            "network disconnect -f n web.1",
            "stats",
            "stats --no-stream --format {{.Name}}:{{.CPUPerc}} web db.1",
            "service stats --no-stream web",
            "node stats --no-trunc h1",
            "system df",
            "system df --format {{.Type}}={{.Reclaimable}} h1 h2",
            "system prune -a -f --volumes",
            "system prune --node h1",
            "secret create -l a=b db -",
            "secret update db ./file",
            "config create app ./app.conf",
            "config ls -q --filter name=app",
            "secret inspect db@2",
            "secret rm db other",
            "service create --secret db --config source=app,target=/etc/app,mode=0400 nginx",
            "service update --secret-add db@2 --secret-rm db --config-rm app web",
            "volume ls -q --filter dangling=true --filter label=a",
            "volume inspect data --node h1",
            "volume rm -f data cache",
            "volume rm --node h1 --node h2 data",
            "volume prune",
            "volume prune -a -f --filter label!=keep --filter label=a=b",
        ];
        for line in lines {
            if let Err(error) = parse(line) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn lines_that_make_no_sense() {
        let lines = [
            "",
            "frobnicate",
            "init --advertise-addr http://x",
            "init --availability sometimes",
            "init --default-addr-pool 10.1.0.0",
            "init --default-addr-pool-mask-length 300",
            "join --token x",
            "join --token x --token-file y 10.0.0.1",
            "join --token x --advertise-addr http://x 10.0.0.1",
            "service scale",
            "service logs",
            "service logs --tail some web",
            "service create --timeout 5 nginx",
            "stack deploy shop",
            "exec web",
            "login --password-stdin registry.lan",
            "login -u me -p x --password-stdin registry.lan",
            "cluster update --dispatcher-heartbeat soon",
            "cluster update --task-history-limit -1",
            "node ls --format yaml",
            "node ls --format {{.Name",
            "node update --label-add a=b --wait n",
            "node update --availability gone n",
            "node update --role king n",
            "node promote",
            "context create prod",
            "volume prune --filter until=1h",
            "volume rm",
            "user create ci --role king --output x",
            "user create ci --role viewer",
            "user create ci --role viewer --output x --expires soon",
            "completion tcsh2",
        ];
        for line in lines {
            let error = parse(line).map(|_| ()).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
