//! What the store keeps, gives back and survives.

use std::time::Duration;

use shoal_agent_image::{Image, ImageError, ImageStore, Limits, StoreConfig, collect_regularly};
use shoal_tests::image::{ImageBuilder, LocalRegistry};
use shoal_tests::skip::skip;

use crate::host::{Host, Mount, chain, config, eventually, parse, two_layers};

#[tokio::test]
async fn garbage_is_what_nobody_uses_and_nobody_asked_for() {
    if skip() {
        return;
    }
    let registry = LocalRegistry::start().unwrap();
    let address = registry.address();
    let base = || ImageBuilder::new().file("/base", &[1; 1000], 0o644).next_layer();
    base().file("/a", b"a", 0o644).build().unwrap().push(address, "a", "1").unwrap();
    base().file("/b", b"bb", 0o644).build().unwrap().push(address, "b", "1").unwrap();
    let host = Host::new();
    let a = host.pull(&format!("{address}/a:1")).await.unwrap();
    let b = host.pull(&format!("{address}/b:1")).await.unwrap();
    assert_eq!(host.layers(), 3, "the base is shared");

    let day = Duration::from_secs(86_400);
    let report = host.store.collect_garbage(day).await.unwrap();
    assert_eq!((report.images.len(), report.layers), (0, 0));

    let a_name = parse(&format!("{address}/a:1"));
    let held = host.store.hold(&a_name).unwrap();
    let refused = [
        host.store.remove(&a_name).await.map(drop).unwrap_err(),
        host.store.remove_image(a.id).await.map(drop).unwrap_err(),
    ];
    assert!(refused.iter().all(|e| matches!(e, ImageError::InUse { id } if *id == a.id)));
    drop(held);
    assert!(host.store.remove(&a_name).await.unwrap());
    let pin = host.store.pin(a.id);
    let report = host.store.collect_garbage(day).await.unwrap();
    assert_eq!(report.layers, 0, "a container still runs from it");
    assert!(a.layers.iter().all(|layer| layer.exists()));
    drop(pin);

    let report = host.store.collect_garbage(day).await.unwrap();
    assert_eq!((report.layers, report.bytes, report.errors.len()), (1, 1, 0));
    assert!(b.layers.iter().all(|layer| layer.exists()));

    // As the agent does it, with a clock that is turned forward.
    tokio::time::pause();
    let hours = Duration::from_secs(2 * 3600);
    let regularly = collect_regularly(host.store.clone(), Duration::ZERO);
    assert!(tokio::time::timeout(hours, regularly).await.is_err(), "it never ends");
    assert!(host.store.list().is_empty());
    assert_eq!((host.layers(), host.leftovers()), (0, 0));
    let blobs = host.dir.path().join("images/blobs/sha256");
    assert_eq!(std::fs::read_dir(blobs).unwrap().count(), 0);
}

#[tokio::test]
async fn a_store_opens_again_with_what_was_whole() {
    if skip() {
        return;
    }
    let registry = LocalRegistry::start().unwrap();
    two_layers().build().unwrap().push(registry.address(), "web", "1").unwrap();
    let name = format!("{}/web:1", registry.address());
    let Host { dir, store } = Host::new();
    let held = store.ensure(&parse(&name), Default::default(), None, None).await.unwrap();
    let image = Image::clone(&held.image);
    drop((held, store));
    let path = dir.path().join("images");
    std::fs::create_dir_all(path.join("tmp/9-9/fs/half/done")).unwrap();
    std::fs::write(path.join("tmp/9-8"), b"draft").unwrap();
    let store = ImageStore::open(&path, config()).unwrap();
    assert_eq!(std::fs::read_dir(path.join("tmp")).unwrap().count(), 0);
    assert_eq!(*store.hold(&parse(&name)).unwrap().image, image);
    assert_eq!(store.list(), std::slice::from_ref(&image));

    // A part that is lost is fetched again.
    std::fs::remove_dir_all(image.layers[1].parent().unwrap()).unwrap();
    assert!(store.hold(&parse(&name)).is_none());
    let again = store.ensure(&parse(&name), Default::default(), None, None).await.unwrap();
    assert_eq!(*again.image, image);
}

#[tokio::test]
async fn a_full_disk_is_reported_and_leaves_nothing() {
    if skip() {
        return;
    }
    let registry = LocalRegistry::start().unwrap();
    let noise: Vec<u8> =
        (0..6_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let big = ImageBuilder::new().file("/big", &noise, 0o644).build().unwrap();
    big.push(registry.address(), "big", "1").unwrap();
    ImageBuilder::new()
        .file("/small", b"fits", 0o644)
        .build()
        .unwrap()
        .push(registry.address(), "small", "1")
        .unwrap();
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("full");
    let _mount = Mount::new("tmpfs", "size=3m", &path);
    let store = ImageStore::open(&path, config()).unwrap();
    let pull = |name: &str| {
        let reference = parse(&format!("{}/{name}:1", registry.address()));
        let store = store.clone();
        async move { store.ensure(&reference, Default::default(), None, None).await }
    };
    let error = pull("big").await.unwrap_err();
    let text = chain(&error);
    assert!(text.contains("no space left for entry \"big\""), "{text}");
    eventually("clean-up", || std::fs::read_dir(path.join("tmp")).unwrap().count() == 0).await;
    assert_eq!(std::fs::read_dir(path.join("layers")).unwrap().count(), 0);
    pull("small").await.unwrap();
    drop(store);
}

#[tokio::test]
async fn limits_hold_for_a_pull() {
    if skip() {
        return;
    }
    let registry = LocalRegistry::start().unwrap();
    two_layers().build().unwrap().push(registry.address(), "web", "1").unwrap();
    let name = parse(&format!("{}/web:1", registry.address()));
    let usual = Limits::default();
    for (limits, expected) in [
        (Limits { layers: 1, ..usual.clone() }, "at most 1 are accepted"),
        (Limits { manifest_bytes: 10, ..usual.clone() }, "manifest 1 has more than 10 bytes"),
        (Limits { config_bytes: 10, ..usual.clone() }, "has more than 10 bytes"),
        (Limits { layer_entries: 1, ..usual.clone() }, "more than 1 entries"),
        (Limits { layer_bytes: 600, ..usual }, "more than 600 uncompressed bytes"),
    ] {
        let dir = tempfile::TempDir::new().unwrap();
        let store = ImageStore::open(dir.path(), StoreConfig { limits, ..config() }).unwrap();
        let error = store.ensure(&name, Default::default(), None, None).await.unwrap_err();
        let text = chain(&error);
        assert!(text.contains(expected), "{expected}: {text}");
    }
}
