//! The one table of keys: every key of the compose specification, what its value looks like if
//! shoal does what it says, else why it is refused. A key that is not here is unknown.

/// One key of a mapping.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) rule: Rule,
}

/// What is done with a key.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rule {
    /// It works; its value has this shape.
    Is(Shape),
    /// It means nothing any more and never changed what runs.
    Obsolete,
    /// It is an error.
    Refused { reason: &'static str, hint: &'static str },
    /// It is an error unless it asks for what is the case anyway.
    OnlyFalse { reason: &'static str },
}

/// What a value looks like.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    /// A scalar as it stands.
    Text,
    /// A boolean.
    Flag,
    /// A whole number, not negative.
    Whole,
    /// A whole number with its sign.
    Integer,
    /// A text that is a number, or contains some.
    Number,
    /// Permission bits.
    FileMode,
    /// A decimal number, not negative.
    Decimal,
    /// A duration such as `1m30s`.
    Time,
    /// A number of bytes such as `64m`.
    Size,
    /// A list of texts; a single text becomes a list of one.
    Texts,
    /// A list of texts; a single text is split as a shell does.
    Command,
    /// The test of a health check: a list, or a command line for the shell.
    HealthTest,
    /// A mapping of texts, or a list of `KEY=VALUE`.
    TextMap,
    /// Files of variables: a path, or a list of paths and of mappings.
    EnvFiles,
    /// Published ports, short and long.
    Ports,
    /// Mounts, short and long.
    Mounts,
    /// Secrets or configs of a service, short and long.
    Payloads,
    /// Names of networks, or a mapping of them.
    Attachments,
    /// One limit for both, or `soft` and `hard`.
    Ulimit,
    /// `HOST:ADDRESS`, or a mapping of hosts to addresses.
    Hosts,
    /// `true`, or the obsolete mapping with a name.
    External,
    /// A mapping with these keys.
    Object(&'static [Key]),
    /// A mapping from any name.
    MapOf(&'static Shape),
    /// A list.
    ListOf(&'static Shape),
}

const fn is(name: &'static str, shape: Shape) -> Key {
    Key { name, rule: Rule::Is(shape) }
}

const fn refused(name: &'static str, reason: &'static str, hint: &'static str) -> Key {
    Key { name, rule: Rule::Refused { reason, hint } }
}

const fn later(name: &'static str) -> Key {
    refused(name, LATER, "")
}

const fn only_false(name: &'static str, reason: &'static str) -> Key {
    Key { name, rule: Rule::OnlyFalse { reason } }
}

pub(crate) const LATER: &str = "is not supported yet";
pub(crate) const WINDOWS: &str = "is for Windows only";
const ONE_HOST: &str = "has no meaning across several hosts";

pub(crate) const ROOT: &[Key] = &[
    Key { name: "version", rule: Rule::Obsolete },
    is("name", Shape::Text),
    is("services", Shape::MapOf(&Shape::Object(SERVICE))),
    is("networks", Shape::MapOf(&Shape::Object(NETWORK))),
    is("volumes", Shape::MapOf(&Shape::Object(VOLUME))),
    is("secrets", Shape::MapOf(&Shape::Object(SECRET))),
    is("configs", Shape::MapOf(&Shape::Object(CONFIG))),
    refused("include", LATER, "give the files one by one with -c"),
    later("models"),
];

pub(crate) const SERVICE: &[Key] = &[
    is("image", Shape::Text),
    is("command", Shape::Command),
    is("entrypoint", Shape::Command),
    is("environment", Shape::TextMap),
    is("env_file", Shape::EnvFiles),
    is("ports", Shape::Ports),
    is("volumes", Shape::Mounts),
    is("tmpfs", Shape::Texts),
    is("networks", Shape::Attachments),
    is("network_mode", Shape::Text),
    is("secrets", Shape::Payloads),
    is("configs", Shape::Payloads),
    is("healthcheck", Shape::Object(HEALTHCHECK)),
    is("deploy", Shape::Object(DEPLOY)),
    is("labels", Shape::TextMap),
    is("user", Shape::Text),
    is("working_dir", Shape::Text),
    is("stop_signal", Shape::Text),
    is("stop_grace_period", Shape::Time),
    is("hostname", Shape::Text),
    is("read_only", Shape::Flag),
    is("tty", Shape::Flag),
    is("restart", Shape::Text),
    is("cap_add", Shape::ListOf(&Shape::Text)),
    is("cap_drop", Shape::ListOf(&Shape::Text)),
    is("dns", Shape::Texts),
    is("dns_opt", Shape::ListOf(&Shape::Text)),
    is("dns_search", Shape::Texts),
    is("extra_hosts", Shape::Hosts),
    is("oom_score_adj", Shape::Integer),
    is("security_opt", Shape::ListOf(&Shape::Text)),
    is("shm_size", Shape::Size),
    is("stdin_open", Shape::Flag),
    is("sysctls", Shape::TextMap),
    is("ulimits", Shape::MapOf(&Shape::Ulimit)),
    later("annotations"),
    refused("attach", "is a setting of docker compose up", "use shoalctl service logs"),
    later("blkio_config"),
    refused(
        "build",
        "is not supported: shoal does not build images",
        "build and push the image, then name it under image:",
    ),
    later("cgroup"),
    later("cgroup_parent"),
    refused(
        "container_name",
        ONE_HOST,
        "containers are named SERVICE.SLOT; use hostname for the name inside",
    ),
    refused("cpu_count", WINDOWS, "use deploy.resources.limits.cpus"),
    refused("cpu_percent", WINDOWS, "use deploy.resources.limits.cpus"),
    refused("cpu_period", LATER, "use deploy.resources.limits.cpus"),
    refused("cpu_quota", LATER, "use deploy.resources.limits.cpus"),
    later("cpu_rt_period"),
    later("cpu_rt_runtime"),
    refused("cpu_shares", LATER, "use deploy.resources.limits.cpus"),
    refused("cpus", LATER, "use deploy.resources.limits.cpus"),
    later("cpuset"),
    refused("credential_spec", WINDOWS, ""),
    refused(
        "depends_on",
        LATER,
        "let the program wait for what it needs; a task that fails is replaced",
    ),
    refused("develop", "is a setting of docker compose watch", ""),
    later("device_cgroup_rules"),
    later("devices"),
    later("domainname"),
    refused(
        "expose",
        "changes nothing: services of a network reach all ports of each other",
        "remove it",
    ),
    refused("extends", LATER, "use YAML anchors and merge keys (<<: *base)"),
    refused(
        "external_links",
        "is not supported: links are a legacy of Docker",
        "put both services on one network",
    ),
    later("gpus"),
    later("group_add"),
    only_false("init", LATER),
    later("ipc"),
    refused("isolation", WINDOWS, ""),
    refused("label_file", LATER, "write the labels under labels:"),
    refused(
        "links",
        "is not supported: links are a legacy of Docker",
        "put both services on one network",
    ),
    later("logging"),
    later("mac_address"),
    refused("mem_limit", LATER, "use deploy.resources.limits.memory"),
    refused("mem_reservation", LATER, "use deploy.resources.reservations.memory"),
    later("mem_swappiness"),
    later("memswap_limit"),
    later("models"),
    only_false("oom_kill_disable", LATER),
    later("pid"),
    refused("pids_limit", LATER, "use deploy.resources.limits.pids"),
    refused(
        "platform",
        LATER,
        "use a constraint on node.platform.arch under deploy.placement.constraints",
    ),
    later("post_start"),
    later("pre_stop"),
    only_false("privileged", LATER),
    refused("profiles", LATER, "keep such services in a file of their own and give it with -c"),
    later("provider"),
    later("pull_policy"),
    later("pull_refresh_after"),
    later("runtime"),
    refused("scale", LATER, "use deploy.replicas"),
    later("storage_opt"),
    only_false("use_api_socket", LATER),
    later("userns_mode"),
    later("uts"),
    later("volume_driver"),
    refused("volumes_from", ONE_HOST, "use a named volume in both services"),
];

const HEALTHCHECK: &[Key] = &[
    is("test", Shape::HealthTest),
    is("interval", Shape::Time),
    is("timeout", Shape::Time),
    is("retries", Shape::Whole),
    is("start_period", Shape::Time),
    is("start_interval", Shape::Time),
    is("disable", Shape::Flag),
];

const DEPLOY: &[Key] = &[
    is("mode", Shape::Text),
    is("replicas", Shape::Whole),
    is("labels", Shape::TextMap),
    is("resources", Shape::Object(RESOURCES)),
    is("restart_policy", Shape::Object(RESTART_POLICY)),
    is("placement", Shape::Object(PLACEMENT)),
    is("update_config", Shape::Object(UPDATE_CONFIG)),
    refused("rollback_config", LATER, "a rollback is paced by its own update_config"),
    is("endpoint_mode", Shape::Text),
    is("endpoint_affinity", Shape::Text),
    is("endpoint_locality", Shape::Text),
    is("drain_timeout", Shape::Time),
];

const RESOURCES: &[Key] =
    &[is("limits", Shape::Object(LIMITS)), is("reservations", Shape::Object(RESERVATIONS))];

const LIMITS: &[Key] =
    &[is("cpus", Shape::Decimal), is("memory", Shape::Size), is("pids", Shape::Whole)];

const RESERVATIONS: &[Key] = &[
    is("cpus", Shape::Decimal),
    is("memory", Shape::Size),
    refused("pids", "cannot be reserved", "use deploy.resources.limits.pids"),
    later("generic_resources"),
    later("devices"),
];

const RESTART_POLICY: &[Key] = &[
    is("condition", Shape::Text),
    is("delay", Shape::Time),
    is("max_attempts", Shape::Whole),
    is("window", Shape::Time),
];

const PLACEMENT: &[Key] = &[
    is("constraints", Shape::ListOf(&Shape::Text)),
    is("max_replicas_per_node", Shape::Whole),
    refused("preferences", LATER, "tasks spread over nodes by themselves"),
];

const UPDATE_CONFIG: &[Key] = &[
    is("parallelism", Shape::Whole),
    is("delay", Shape::Time),
    is("failure_action", Shape::Text),
    is("monitor", Shape::Time),
    is("max_failure_ratio", Shape::Decimal),
    is("order", Shape::Text),
];

/// What a service says of a network it joins.
pub(crate) const ATTACHMENT: &[Key] = &[
    is("aliases", Shape::ListOf(&Shape::Text)),
    later("driver_opts"),
    later("gw_priority"),
    later("interface_name"),
    is("ipv4_address", Shape::Text),
    is("ipv6_address", Shape::Text),
    later("link_local_ips"),
    later("mac_address"),
    later("priority"),
];

pub(crate) const PORT: &[Key] = &[
    is("target", Shape::Whole),
    is("published", Shape::Number),
    is("protocol", Shape::Text),
    is("mode", Shape::Text),
    is("host_ip", Shape::Text),
    is("name", Shape::Text),
    later("app_protocol"),
];

pub(crate) const MOUNT: &[Key] = &[
    is("type", Shape::Text),
    is("source", Shape::Text),
    is("target", Shape::Text),
    is("read_only", Shape::Flag),
    refused("consistency", "means nothing on Linux", "remove it"),
    is("bind", Shape::Object(BIND)),
    is("volume", Shape::Object(MOUNTED_VOLUME)),
    is("tmpfs", Shape::Object(TMPFS)),
    later("image"),
];

const BIND: &[Key] = &[
    is("propagation", Shape::Text),
    is("create_host_path", Shape::Flag),
    later("recursive"),
    later("selinux"),
];

const MOUNTED_VOLUME: &[Key] =
    &[is("nocopy", Shape::Flag), is("labels", Shape::TextMap), later("subpath")];

const TMPFS: &[Key] = &[is("size", Shape::Size), is("mode", Shape::FileMode)];

pub(crate) const ENV_FILE: &[Key] =
    &[is("path", Shape::Text), is("required", Shape::Flag), later("format")];

const NETWORK: &[Key] = &[
    is("name", Shape::Text),
    is("driver", Shape::Text),
    is("internal", Shape::Flag),
    is("labels", Shape::TextMap),
    is("external", Shape::External),
    is("ipam", Shape::Object(IPAM)),
    is("driver_opts", Shape::TextMap),
    is("attachable", Shape::Flag),
    is("enable_ipv6", Shape::Flag),
    is("enable_ipv4", Shape::Flag),
];

const IPAM: &[Key] = &[
    is("driver", Shape::Text),
    is("config", Shape::ListOf(&Shape::Object(IPAM_CONFIG))),
    later("options"),
];

const IPAM_CONFIG: &[Key] = &[
    is("subnet", Shape::Text),
    is("gateway", Shape::Text),
    is("ip_range", Shape::Text),
    is("aux_addresses", Shape::TextMap),
];

const SECRET: &[Key] = &[
    is("name", Shape::Text),
    is("file", Shape::Text),
    is("environment", Shape::Text),
    is("content", Shape::Text),
    is("labels", Shape::TextMap),
    is("external", Shape::External),
    later("driver"),
    later("driver_opts"),
    later("template_driver"),
];

const CONFIG: &[Key] = &[
    is("name", Shape::Text),
    is("file", Shape::Text),
    is("environment", Shape::Text),
    is("content", Shape::Text),
    is("labels", Shape::TextMap),
    is("external", Shape::External),
    later("template_driver"),
];

pub(crate) const GIVEN: &[Key] = &[
    is("source", Shape::Text),
    is("target", Shape::Text),
    is("uid", Shape::Text),
    is("gid", Shape::Text),
    is("mode", Shape::FileMode),
    is("env", Shape::Text),
    is("version", Shape::Whole),
    is("on_change", Shape::Text),
];

const VOLUME: &[Key] = &[
    is("name", Shape::Text),
    is("driver", Shape::Text),
    is("driver_opts", Shape::TextMap),
    is("labels", Shape::TextMap),
    is("external", Shape::External),
];

/// The key of a table that is most like an unknown one, if any is like it at all.
pub(crate) fn nearest(keys: &'static [Key], unknown: &str) -> Option<&'static str> {
    nearest_of(keys.iter().map(|k| k.name), unknown)
}

/// As [`nearest`], among any names.
pub(crate) fn nearest_of<'a>(
    names: impl Iterator<Item = &'a str>,
    unknown: &str,
) -> Option<&'a str> {
    let wanted = unknown.to_ascii_lowercase().replace('-', "_");
    names
        .map(|name| (strsim::damerau_levenshtein(name, &wanted), name))
        .filter(|(distance, name)| {
            let long = name.len().max(wanted.len());
            *distance <= (long / 3).max(1) || wanted.len() >= 4 && name.starts_with(&wanted)
        })
        .min()
        .map(|(_, name)| name)
}
