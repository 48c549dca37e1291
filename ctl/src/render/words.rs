//! Objects in words.

use shoal_types::image_ref::ImageReference;
use shoal_types::object::Task;
use shoal_types::spec::{PortConfig, PublishMode, ServiceMode};
use shoal_types::task_state::TaskState;
use shoal_types::time::Timestamp;

use super::time;

/// `1 task`, `2 tasks`.
pub(crate) fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// A word with a capital letter.
pub(crate) fn capital(word: &str) -> String {
    let mut chars = word.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// `Running 3 minutes ago`; of a task on its way also what it is doing.
pub(crate) fn current_state(task: &Task, now: Timestamp) -> String {
    let state = capital(task.status.state.as_str());
    if let Some(at) = next_try(task).filter(|at| *at > now) {
        return format!("{state}, next try in {}", time::human(at.since(now)));
    }
    let ago = time::ago(task.status.timestamp, now);
    let doing = Some(task.status.message.as_str())
        .filter(|_| task.is_wanted() && task.status.state.is_on_its_way())
        // One word says no more than the state.
        .filter(|message| message.contains(' '));
    match doing {
        Some(doing) => format!("{state} {ago}: {doing}"),
        None => format!("{state} {ago}"),
    }
}

/// When a task is tried that waits because those before it were rejected.
fn next_try(task: &Task) -> Option<Timestamp> {
    let waits = task.rejections > 0 && task.status.state == TaskState::Pending;
    task.start_after.filter(|_| waits)
}

/// `*:8080->80/tcp`.
pub(crate) fn port(port: &PortConfig) -> String {
    let protocol = port.protocol.as_str();
    let ip = port.host_ip.map_or_else(
        || "*".to_owned(),
        |ip| if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() },
    );
    match port.published_port {
        0 => format!("{}/{protocol}", port.target_port),
        published => format!("{ip}:{published}->{}/{protocol}", port.target_port),
    }
}

/// All ports, those of the routing mesh first as Docker lists them.
pub(crate) fn ports(ports: &[PortConfig]) -> String {
    let mut sorted: Vec<&PortConfig> = ports.iter().collect();
    sorted.sort_by_key(|p| p.publish_mode != PublishMode::Ingress);
    sorted.into_iter().map(port).collect::<Vec<_>>().join(", ")
}

/// `a=1,b=2`.
pub(crate) fn labels(labels: &shoal_types::spec::Labels) -> String {
    labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")
}

/// `2/3`, with the limit of a node.
pub(crate) fn replicas(running: u64, desired: u64, max_per_node: u64) -> String {
    if max_per_node == 0 {
        format!("{running}/{desired}")
    } else {
        format!("{running}/{desired} (max {max_per_node} per node)")
    }
}

/// The mode as `service ls` shows it.
pub(crate) const fn mode(mode: ServiceMode) -> &'static str {
    mode.as_str()
}

/// The image as people wrote it, with a digest left out if there is a tag as well.
pub(crate) fn image(image: &str) -> String {
    match image.split_once('@') {
        Some((name, _)) if name.rsplit('/').next().is_some_and(|n| n.contains(':')) => {
            name.to_owned()
        }
        _ => image.to_owned(),
    }
}

/// Repository and tag of a full reference, without what Docker adds to short names.
pub(crate) fn repository_and_tag(reference: &str) -> (String, String) {
    const NONE: &str = "<none>";
    let Ok(parsed) = reference.parse::<ImageReference>() else {
        return (reference.to_owned(), NONE.to_owned());
    };
    let shown = parsed.familiar();
    let name = shown.split_once('@').map_or(shown.as_str(), |(name, _)| name);
    match parsed.tag() {
        Some(tag) => (name[..name.len() - tag.len() - 1].to_owned(), tag.to_owned()),
        None => (name.to_owned(), NONE.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use shoal_types::spec::Protocol;

    use super::*;

    #[test]
    fn ports_in_words() {
        let base = PortConfig {
            name: String::new(),
            protocol: Protocol::Tcp,
            target_port: 80,
            published_port: 8080,
            publish_mode: PublishMode::Host,
            host_ip: None,
        };
        let local = PortConfig { host_ip: Some([127, 0, 0, 1].into()), ..base.clone() };
        let open = PortConfig { published_port: 0, protocol: Protocol::Udp, ..base.clone() };
        assert_eq!(ports(&[base, local, open]), "*:8080->80/tcp, 127.0.0.1:8080->80/tcp, 80/udp");
    }

    #[test]
    fn images_in_words() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let cases = [
            ("docker.io/library/nginx:1".to_owned(), ("nginx", "1")),
            ("docker.io/me/app:1".to_owned(), ("me/app", "1")),
            ("localhost:5000/app:2".to_owned(), ("localhost:5000/app", "2")),
            (format!("localhost:5000/app@{digest}"), ("localhost:5000/app", "<none>")),
        ];
        for (text, (repository, tag)) in cases {
            assert_eq!(
                repository_and_tag(&text),
                (repository.to_owned(), tag.to_owned()),
                "{text}"
            );
        }
        assert_eq!(image(&format!("nginx:1@{digest}")), "nginx:1");
        assert_eq!(image(&format!("nginx@{digest}")), format!("nginx@{digest}"));
    }
}
