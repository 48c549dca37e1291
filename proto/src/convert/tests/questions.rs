//! Arbitrary questions to nodes, and answers.

use shoal_types::question::*;

use super::arbitrary::{arbitrary, one_of};

one_of!(Question |s| {
    Self::Volumes,
    Self::RemoveVolume(s.any()),
    Self::Prune(s.any()),
    Self::Usage(s.any()),
    Self::DiskUsage,
    Self::Networks(s.any()),
});
one_of!(Answer |s| {
    Self::Volumes(s.any()),
    Self::Pruned(s.any()),
    Self::Usage(s.any()),
    Self::DiskUsage(s.any()),
    Self::Networks(s.any()),
});
arbitrary!(NetworkQuestion { peers, peers_max });
arbitrary!(NodeNetworks { mtu, findings, notes, peers, reached });
arbitrary!(Finding { subject, expected, found, known_since });
arbitrary!(PeerReach {
    node_id,
    hostname,
    endpoint,
    handshake_age_seconds,
    received_bytes,
    sent_bytes,
    full_bytes,
    passes_bytes,
    trouble
});
arbitrary!(PlacedNetworks { node_id, hostname, networks });
arbitrary!(TraceStep { node, what, verdict, why });
one_of!(Verdict |s| { Self::Passes, Self::Doubtful, Self::Stops });
arbitrary!(NodeVolume { name, driver, options, labels, mountpoint, created_at, users });
arbitrary!(Prune { volumes, images, containers });
arbitrary!(ImagePrune { all });
arbitrary!(DiskUsage { images, containers, volumes, logs, whole });
arbitrary!(DiskPart { count, active, bytes, reclaimable_bytes });
arbitrary!(PlacedDisk { node_id, hostname, usage });
arbitrary!(VolumePrune { all, labels });
arbitrary!(LabelFilter { key, value, negated });
arbitrary!(Pruned { volumes, images, containers, reclaimed_bytes, errors });
arbitrary!(Silent { node_id, hostname, reason });
arbitrary!(PlacedVolume { node_id, hostname, volume, used_by });
arbitrary!(PrunedNode { node_id, hostname, pruned });
arbitrary!(UsageQuestion { without_tasks, tasks });
arbitrary!(Used { at_nanos, cpu_nanos, memory_bytes, memory_limit_bytes, network, pids });
arbitrary!(NetworkUsed { received_bytes, sent_bytes });
arbitrary!(NodeUsage { node, cpus, tasks });
arbitrary!(TaskUsage { id, used });
arbitrary!(PlacedUsage { node_id, hostname, usage, tasks });
arbitrary!(NamedUsage { id, name, service, used });
