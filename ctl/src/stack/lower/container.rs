//! Containers of services.

use std::collections::BTreeMap;

use shoal_types::spec::{ContainerSpec, Healthcheck};

use super::{Lower, confine, flag, text, text_map, texts, time, whole};
use crate::stack::dotenv;
use crate::stack::node::{Entry, Node};

/// Bytes of the values of all files of variables at the most, each counted for every service that names
/// it: what is sent to a manager has at most 4 MiB.
const ENV_BYTES_MAX: usize = 16 << 20;

impl Lower<'_> {
    pub(super) fn container(&mut self, entry: &Entry, path: &str) -> ContainerSpec {
        let node = &entry.value;
        let image = match node.entry("image") {
            Some(_) => text(node, "image"),
            None => self.no_image(entry, path),
        };
        let mut mounts = self.mounts(node, path);
        mounts.extend(confine::shared_memory(node));
        ContainerSpec {
            image,
            labels: self.labels(node.get("labels")),
            command: node.get("entrypoint").map(|words| texts(Some(words))),
            args: node.get("command").map(|words| texts(Some(words))),
            hostname: text(node, "hostname"),
            env: self.environment(node, path),
            dir: text(node, "working_dir"),
            user: text(node, "user"),
            stop_signal: text(node, "stop_signal"),
            tty: flag(node, "tty"),
            read_only: flag(node, "read_only"),
            open_stdin: flag(node, "stdin_open"),
            mounts,
            privileges: self.privileges(node, path),
            capability_add: confine::capabilities(node, "cap_add"),
            capability_drop: confine::capabilities(node, "cap_drop"),
            sysctls: text_map(node.get("sysctls")),
            ulimits: confine::ulimits(node),
            oom_score_adj: node.get("oom_score_adj").and_then(|n| n.as_text()?.parse().ok()),
            hosts: confine::hosts(node),
            dns_config: confine::dns(node),
            stop_grace_period: time(node, "stop_grace_period"),
            drain_timeout: node.get("deploy").and_then(|deploy| time(deploy, "drain_timeout")),
            healthcheck: self.healthcheck(node, path),
            secrets: self.given(node, "secrets", path),
            configs: self.given(node, "configs", path),
            ..ContainerSpec::default()
        }
    }

    /// Notes that there is no image, unless something that is wrong may have been meant to be it, and
    /// stands in for it, so that nothing more is said of it.
    fn no_image(&mut self, entry: &Entry, path: &str) -> String {
        if !self.findings.any_below(path) {
            self.wrong(entry.key_at, path, "has no image: expected image: NAME");
        }
        "none".to_owned()
    }

    /// `NAME=value`, sorted by name. What the file says wins over files of variables, a later file
    /// of variables over an earlier one. A name without value takes that of the caller's
    /// environment; if there is none either, the bare name stays, which unsets the image's.
    fn environment(&mut self, node: &Node, path: &str) -> Vec<String> {
        let mut all: BTreeMap<String, Option<String>> = BTreeMap::new();
        for (i, file) in node.get("env_file").map_or(&[][..], Node::items).iter().enumerate() {
            all.extend(self.env_file(file, &format!("{path}.env_file[{i}]")));
        }
        for entry in node.get("environment").map_or(&[][..], Node::entries) {
            all.insert(entry.key.clone(), entry.value.as_text().map(str::to_owned));
        }
        all.into_iter()
            .map(|(name, value)| match value.as_ref().or_else(|| self.input.variables.get(&name)) {
                Some(value) => format!("{name}={value}"),
                None => name,
            })
            .collect()
    }

    fn env_file(&mut self, file: &Node, path: &str) -> Vec<(String, Option<String>)> {
        let name = text(file, "path");
        let required = file.get("required").is_none() || flag(file, "required");
        let at = file.get("path").map_or(file.at, |n| n.at);
        let problem = match self.input.files.read(&name) {
            Ok(Some(content)) => match dotenv::parse(&content, self.input.variables) {
                Ok(file) => {
                    let values = file.lines.iter().filter_map(|(_, value)| value.as_ref());
                    self.env_bytes += values.map(String::len).sum::<usize>();
                    if self.env_bytes > ENV_BYTES_MAX {
                        let text = format!(
                            "the files of variables have more than {ENV_BYTES_MAX} bytes, each counted for every service"
                        );
                        self.wrong(at, path, text);
                        return Vec::new();
                    }
                    file.warnings(&name).for_each(|warning| self.findings.warn(warning));
                    return file.lines;
                }
                Err(error) => format!("{name}: {error}"),
            },
            Ok(None) if !required => return Vec::new(),
            Ok(None) => format!("there is no file {name:?}"),
            Err(error) => format!("file {name:?} cannot be read: {error}"),
        };
        self.wrong(at, path, problem);
        Vec::new()
    }

    fn healthcheck(&mut self, node: &Node, path: &str) -> Option<Healthcheck> {
        let check = node.get("healthcheck")?;
        let path = format!("{path}.healthcheck");
        let mut test = texts(check.get("test"));
        if flag(check, "disable") {
            if let Some(entry) = check.entry("test").filter(|_| test != ["NONE"]) {
                self.wrong(entry.key_at, &path, "test cannot be combined with disable: true");
            }
            test = vec!["NONE".to_owned()];
        }
        Some(Healthcheck {
            test,
            interval: time(check, "interval"),
            timeout: time(check, "timeout"),
            start_period: time(check, "start_period"),
            start_interval: time(check, "start_interval"),
            retries: whole(check, "retries").unwrap_or(0),
        })
    }
}
