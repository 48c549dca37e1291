//! What the kernel's files say of usage.

use shoal_types::question::NetworkUsed;

/// What went over the interfaces of a network namespace (`/proc/net/dev`, proc(5)), but for the loopback
/// and those that are left out.
#[must_use]
pub fn network(text: &str, left_out: impl Fn(&str) -> bool) -> NetworkUsed {
    let mut all = NetworkUsed::default();
    for line in text.lines() {
        let Some((name, counts)) = line.split_once(':') else { continue };
        let name = name.trim();
        if name == "lo" || left_out(name) {
            continue;
        }
        let mut counts = counts.split_whitespace().map(|count| count.parse().unwrap_or(0));
        let (received, sent): (u64, u64) = (counts.next().unwrap_or(0), counts.nth(7).unwrap_or(0));
        all.received_bytes = all.received_bytes.saturating_add(received);
        all.sent_bytes = all.sent_bytes.saturating_add(sent);
    }
    all
}

/// Ticks that all processors were busy (`/proc/stat`, proc(5)), and how many processors there are: all of
/// the time but that which was idle or waited for disks. What guests have used is in `user` already.
#[must_use]
pub fn processors(text: &str) -> Option<(u64, u64)> {
    let all = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = all.split_whitespace().map(|n| n.parse().unwrap_or(0)).take(8).collect();
    let waited: u64 = ticks.iter().skip(3).take(2).sum();
    let busy = ticks.iter().sum::<u64>() - waited;
    let is_one = |line: &&str| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let cpus = text.lines().filter(is_one).count() as u64;
    Some((busy, cpus))
}

/// Memory in use and all there is, in bytes (`/proc/meminfo`, proc(5)): what new programs could not have.
#[must_use]
pub fn memory(text: &str) -> Option<(u64, u64)> {
    let of = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        let kib: u64 = line.strip_prefix(':')?.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    };
    let total = of("MemTotal")?;
    Some((total.saturating_sub(of("MemAvailable")?), total))
}

/// Processes and threads (`/proc/loadavg`, proc(5)): `0.1 0.1 0.1 RUNNING/ALL LAST`.
#[must_use]
pub fn threads(text: &str) -> Option<u64> {
    text.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_summed_but_for_the_loopback() {
        let text = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 1000       1    0    0    0     0          0         0     1000       1    0    0    0     0       0          0
  eth0: 100       1    0    0    0     0          0         0     7       1    0    0    0     0       0          0
eth1:20 1 0 0 0 0 0 0 30 1 0 0 0 0 0 0
slb1: 5 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0
";
        let used = |received_bytes, sent_bytes| NetworkUsed { received_bytes, sent_bytes };
        assert_eq!(network(text, |_| false), used(125, 42));
        assert_eq!(network(text, |name| name.starts_with("slb")), used(120, 37));
        assert_eq!(network("", |_| false), used(0, 0));
    }

    #[test]
    fn the_host_in_its_own_files() {
        let stat =
            "cpu  10 1 20 1000 50 2 3 4 9 9\ncpu0 1 1 1 1\ncpu1 1 1 1 1\ncpufreq 1\nintr 5\n";
        assert_eq!(processors(stat), Some((40, 2)));
        assert_eq!(processors("intr 5\n"), None);
        let meminfo = "MemTotal:        2000 kB\nMemFree:  1 kB\nMemAvailable:    500 kB\n";
        assert_eq!(memory(meminfo), Some((1500 * 1024, 2000 * 1024)));
        assert_eq!(memory("MemTotal: 1 kB\n"), None);
        assert_eq!(threads("0.00 0.01 0.05 2/345 6789\n"), Some(345));
        assert_eq!(threads(""), None);
    }
}
