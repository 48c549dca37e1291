//! Who waits for a volume holds up nobody else.

use std::time::Duration;

use futures::future::join_all;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::*;
use crate::blocking::THREADS;

const PATIENCE: Duration = Duration::from_secs(20);
/// More than there are threads.
const REPLICAS: usize = 2 * THREADS;

fn config(name: &str) -> VolumeConfig {
    VolumeConfig { name: name.to_owned(), ..VolumeConfig::default() }
}

/// Many replicas start with one new volume, into which the first is still copying its image's files.
#[test]
fn replicas_that_wait_for_a_volume_take_no_threads() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(THREADS)
        .enable_all()
        .build()
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    runtime.block_on(async {
        let volumes = LocalVolumes::open(dir.path().join("volumes")).unwrap();
        volumes.ensure(config("big")).await.unwrap();
        let turn = lock(&volumes.shared.turns)["big"].clone();
        let copying = turn.lock_owned().await;
        let replicas: Vec<_> = (0..REPLICAS)
            .map(|n| {
                let volumes = volumes.clone();
                tokio::spawn(async move {
                    volumes.mount("big".to_owned(), format!("replica{n}"), None).await
                })
            })
            .collect();
        // Another service's logs, and its start with a volume of its own, and its end.
        for n in 0..3 {
            let other = async {
                spawn_blocking(|| ()).await.unwrap();
                let (name, user) = (format!("other{n}"), "other".to_owned());
                volumes.ensure(config(&name)).await.unwrap();
                volumes.mount(name, user, None).await.unwrap();
                volumes.list().await.unwrap()
            };
            assert_eq!(timeout(PATIENCE, other).await.unwrap().len(), n + 2);
        }
        assert!(replicas.iter().all(|replica| !replica.is_finished()));
        drop(copying);
        for mounted in join_all(replicas).await {
            mounted.unwrap().unwrap();
        }
    });
}
