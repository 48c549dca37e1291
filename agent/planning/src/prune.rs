//! What of a node nobody uses, and so may be removed when somebody asks for it.

use std::collections::BTreeMap;

use shoal_types::id::TaskId;
use shoal_types::image_ref::Digest;
use shoal_types::question::{DiskPart, ImagePrune, NodeVolume, VolumePrune};

/// A task that the node holds, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// The task.
    pub id: TaskId,
    /// Names of the volumes that it mounts, made already or not.
    pub volumes: Vec<String>,
    /// Whether it has ended for good.
    pub ended: bool,
    /// Whether nothing is left of it but its log, if that.
    pub released: bool,
}

/// Adds to each volume's users the tasks that are about to mount it.
pub fn add_users(volumes: &mut [NodeVolume], held: &[Holding]) {
    for volume in volumes {
        let waiting = held.iter().filter(|task| !task.ended && task.volumes.contains(&volume.name));
        volume.users.extend(waiting.map(|task| task.id.to_string()));
        volume.users.sort();
        volume.users.dedup();
    }
}

/// Whether a volume is removed with what nobody uses. Only what was made for one task alone is, unless
/// all are asked for: whoever gave a name may come back for the data.
#[must_use]
pub fn takes_volume(volume: &NodeVolume, prune: &VolumePrune) -> bool {
    volume.users.is_empty()
        && (prune.all || volume.is_anonymous())
        && prune.labels.iter().all(|filter| filter.allows(&volume.labels))
}

/// An image, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageOnDisk {
    /// Whether some task uses it.
    pub in_use: bool,
    /// Its layers with their bytes.
    pub layers: Vec<(Digest, u64)>,
}

/// What images take, layers that several have counted once. What would be free without those that no
/// task uses is in the layers that only they have.
#[must_use]
pub fn images_on_disk(images: &[ImageOnDisk]) -> DiskPart {
    let layers = |in_use: bool| -> BTreeMap<Digest, u64> {
        images.iter().filter(|i| i.in_use || !in_use).flat_map(|i| i.layers.clone()).collect()
    };
    let (all, needed) = (layers(false), layers(true));
    DiskPart {
        count: images.len() as u64,
        active: images.iter().filter(|image| image.in_use).count() as u64,
        bytes: all.values().sum(),
        reclaimable_bytes: all
            .iter()
            .filter(|(l, _)| !needed.contains_key(l))
            .map(|(_, n)| n)
            .sum(),
    }
}

/// Whether an image under one of its names is removed with what nobody uses: one without a tag, or any if
/// all are asked for, also what was loaded by hand.
#[must_use]
pub fn takes_image(in_use: bool, tagged: bool, prune: ImagePrune) -> bool {
    !in_use && (prune.all || !tagged)
}

#[cfg(test)]
mod tests {
    use shoal_types::question::ANONYMOUS;

    use super::*;

    fn volume(labels: &[(&str, &str)], users: &[&str]) -> NodeVolume {
        NodeVolume {
            name: "v".to_owned(),
            labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            users: users.iter().map(|user| (*user).to_owned()).collect(),
            ..NodeVolume::default()
        }
    }

    #[test]
    fn what_is_pruned_of_volumes() {
        let anonymous = (ANONYMOUS, "task");
        let prune = |all, labels: &[&str]| VolumePrune {
            all,
            labels: labels.iter().map(|text| text.parse().unwrap()).collect(),
        };
        let table = [
            (volume(&[], &[]), prune(false, &[]), false),
            (volume(&[], &[]), prune(true, &[]), true),
            (volume(&[], &["t"]), prune(true, &[]), false),
            (volume(&[anonymous], &[]), prune(false, &[]), true),
            (volume(&[anonymous], &["t"]), prune(false, &[]), false),
            (volume(&[anonymous], &["t"]), prune(true, &[]), false),
            (volume(&[anonymous], &[]), prune(false, &["label=a"]), false),
            (volume(&[anonymous, ("a", "1")], &[]), prune(false, &["label=a"]), true),
            (volume(&[("a", "1")], &[]), prune(true, &["label=a=1", "label!=b"]), true),
            (volume(&[("a", "1"), ("b", "")], &[]), prune(true, &["label=a", "label!=b"]), false),
        ];
        for (volume, prune, expected) in table {
            assert_eq!(takes_volume(&volume, &prune), expected, "{volume:?} {prune:?}");
        }
    }

    #[test]
    fn a_task_that_is_about_to_mount_a_volume_uses_it() {
        let task = |id: u128, name: &str, ended| Holding {
            id: TaskId::from(id),
            volumes: vec![name.to_owned()],
            ended,
            released: ended,
        };
        let ids = [1, 2].map(|id| TaskId::from(id).to_string());
        let held =
            [task(2, "v", false), task(1, "v", false), task(3, "other", false), task(4, "v", true)];
        let mut volumes = [volume(&[], &[&ids[1]])];
        add_users(&mut volumes, &held);
        assert_eq!(volumes[0].users, ids);
    }

    #[test]
    fn layers_that_a_used_image_has_are_not_reclaimable() {
        let layer = |n: u8| Digest::from_bytes([n; 32]);
        let image = |in_use, layers: &[(u8, u64)]| ImageOnDisk {
            in_use,
            layers: layers.iter().map(|(n, bytes)| (layer(*n), *bytes)).collect(),
        };
        let part = |count, active, bytes, reclaimable_bytes| DiskPart {
            count,
            active,
            bytes,
            reclaimable_bytes,
        };
        let (base, app, old) = ((1, 100), (2, 10), (3, 7));
        let table = [
            (vec![], part(0, 0, 0, 0)),
            (vec![image(true, &[base, app])], part(1, 1, 110, 0)),
            (vec![image(false, &[base, app])], part(1, 0, 110, 110)),
            (vec![image(true, &[base, app]), image(false, &[base, old])], part(2, 1, 117, 7)),
            (vec![image(false, &[base, app]), image(false, &[base, old])], part(2, 0, 117, 117)),
        ];
        for (images, expected) in table {
            assert_eq!(images_on_disk(&images), expected, "{images:?}");
        }
    }

    #[test]
    fn what_is_pruned_of_images() {
        let table = [
            (false, false, false, true),
            (false, true, false, false),
            (false, true, true, true),
            (false, false, true, true),
            (true, false, true, false),
            (true, true, true, false),
            (true, false, false, false),
        ];
        for (in_use, tagged, all, expected) in table {
            let taken = takes_image(in_use, tagged, ImagePrune { all });
            assert_eq!(taken, expected, "{in_use} {tagged} {all}");
        }
    }
}
