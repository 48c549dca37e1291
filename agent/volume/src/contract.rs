//! What both drivers promise.

use shoal_agent_ground::testing::skip_without_root;

use super::*;

fn config(name: &str, options: &[(&str, &str)]) -> VolumeConfig {
    let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    VolumeConfig {
        name: name.to_owned(),
        options: options.iter().map(pair).collect(),
        ..VolumeConfig::default()
    }
}

async fn honour(driver: &dyn VolumeDriver) {
    let text = |error: VolumeError| error.to_string();
    let (name, user) = (|| "v".to_owned(), |id: &str| id.to_owned());
    let unknown = driver.mount(name(), user("c"), None).await.unwrap_err();
    assert_eq!(text(unknown), "no volume `v` on this node");
    for _ in 0..2 {
        driver.ensure(config("v", &[])).await.unwrap();
    }
    let differs = driver.ensure(config("v", &[("type", "tmpfs")])).await.unwrap_err();
    assert_eq!(text(differs), "volume `v` exists with other options");
    assert!(matches!(
        driver.ensure(config("../v", &[])).await,
        Err(VolumeError::Invalid(InvalidVolume::Name { .. }))
    ));
    let first = driver.mount(name(), user("c"), None).await.unwrap();
    assert_eq!(driver.mount(name(), user("c"), None).await.unwrap(), first);
    assert_eq!(driver.mount(name(), user("d"), None).await.unwrap(), first);
    let busy = driver.remove(name()).await.unwrap_err();
    assert_eq!(text(busy), "volume `v` is in use by c, d");
    let described = driver.describe().await.unwrap().remove(0);
    assert_eq!((&*described.name, &*described.driver), ("v", "local"));
    assert_eq!(described.users, ["c", "d"]);
    driver.collect([user("d")].into()).await.unwrap();
    assert_eq!(text(driver.remove(name()).await.unwrap_err()), "volume `v` is in use by d");
    driver.unmount(name(), user("d")).await.unwrap();
    assert_eq!(driver.list().await.unwrap(), [config("v", &[])]);
    in_memory(driver).await;
    for _ in 0..2 {
        driver.remove(name()).await.unwrap();
        driver.unmount(name(), user("d")).await.unwrap();
    }
    assert_eq!(driver.list().await.unwrap(), []);
}

/// Something is mounted for a volume in memory as long as somebody has it.
async fn in_memory(driver: &dyn VolumeDriver) {
    let name = || "m".to_owned();
    assert_eq!(driver.mounted().await.unwrap(), [].into());
    driver.ensure(config("m", &[("type", "tmpfs"), ("device", "tmpfs")])).await.unwrap();
    assert_eq!(driver.mounted().await.unwrap(), [].into());
    driver.mount(name(), "c".to_owned(), None).await.unwrap();
    // Nobody of that name: what is mounted for somebody stays.
    driver.unmount(name(), String::new()).await.unwrap();
    assert_eq!(driver.mounted().await.unwrap(), [name()].into());
    driver.unmount(name(), "c".to_owned()).await.unwrap();
    assert_eq!(driver.mounted().await.unwrap(), [].into());
    driver.remove(name()).await.unwrap();
}

#[tokio::test]
async fn the_fake_driver() {
    honour(&FakeVolumes::new()).await;
}

#[tokio::test]
async fn the_local_driver() {
    if skip_without_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    honour(&LocalVolumes::open(dir.path().join("volumes")).unwrap()).await;
    let mut left: Vec<_> = std::fs::read_dir(dir.path().join("volumes")).unwrap().collect();
    assert!(left.pop().is_none(), "{left:?}");
}
