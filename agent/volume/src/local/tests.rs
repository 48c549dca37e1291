//! Who waits for a volume holds up nobody else.

use std::time::Duration;

use futures::future::join_all;
use shoal_agent_ground::blocking::THREADS;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::*;

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
        let copying = volumes.turn("big").await.unwrap();
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

/// Images that take long to copy hold up nobody but who waits for those very copies.
#[test]
fn long_copies_hold_up_no_volume_that_needs_none() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(THREADS)
        .enable_all()
        .build()
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let ended = Arc::new(std::sync::Mutex::new(ended));
    runtime.block_on(async {
        let volumes = LocalVolumes::open(dir.path().join("volumes")).unwrap();
        for _ in 0..THREADS {
            let ended = ended.clone();
            COPY.leave(move || {
                let _ = ended.lock().unwrap().recv();
            });
        }
        tokio::task::yield_now().await;
        // One that is full, one that cannot be written, one that leads to what is full; and one that
        // has to wait.
        let image = || Some(ImageFiles { layers: Vec::new(), target: "/data".into() });
        let user = || "user".to_owned();
        for name in ["full", "empty"] {
            volumes.ensure(config(name)).await.unwrap();
        }
        let data = volumes.mount("full".to_owned(), user(), None).await.unwrap().path;
        fs::write(data.join("file"), "").unwrap();
        let mut bind = config("bind");
        let options = [("type", "none"), ("o", "bind"), ("device", data.to_str().unwrap())];
        bind.options = options.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        volumes.ensure(bind).await.unwrap();
        for name in ["full", "bind"] {
            let mounted = timeout(PATIENCE, volumes.mount(name.to_owned(), user(), image()));
            assert!(!mounted.await.expect(name).unwrap().populated);
        }
        let waiting = tokio::spawn({
            let volumes = volumes.clone();
            async move { volumes.mount("empty".to_owned(), user(), image()).await }
        });
        while volumes.shared.users("empty").unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(!waiting.is_finished());
        drop(end);
        assert!(waiting.await.unwrap().unwrap().populated);
    });
}
