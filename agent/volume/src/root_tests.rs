//! What needs mounts, owners and devices: root.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::Path;

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

/// Two layers with /data: the upper removes one file, replaces another and adds.
fn image(dir: &Path) -> ImageFiles {
    let (upper, lower) = (dir.join("upper"), dir.join("lower"));
    fs::create_dir_all(lower.join("data/sub")).unwrap();
    fs::create_dir_all(lower.join("elsewhere")).unwrap();
    fs::create_dir_all(upper.join("data")).unwrap();
    fs::write(lower.join("data/old"), "old").unwrap();
    fs::write(lower.join("data/both"), "below").unwrap();
    fs::write(lower.join("data/sub/deep"), "deep").unwrap();
    fs::hard_link(lower.join("data/sub/deep"), lower.join("data/sub/twin")).unwrap();
    symlink("/etc/passwd", lower.join("data/out")).unwrap();
    fs::write(upper.join("data/both"), "above").unwrap();
    let whiteout = rustix::fs::FileType::CharacterDevice;
    let mode = rustix::fs::Mode::empty();
    rustix::fs::mknodat(rustix::fs::CWD, upper.join("data/old"), whiteout, mode, 0).unwrap();
    chown(upper.join("data"), Some(1234), Some(2345)).unwrap();
    fs::set_permissions(upper.join("data"), fs::Permissions::from_mode(0o2770)).unwrap();
    let deep = lower.join("data/sub/deep");
    chown(&deep, Some(77), Some(88)).unwrap();
    fs::set_permissions(&deep, fs::Permissions::from_mode(0o4755)).unwrap();
    symlink("data", upper.join("link")).unwrap();
    symlink("../../../data", upper.join("high")).unwrap();
    ImageFiles { layers: vec![upper, lower], target: "/data".into() }
}

fn names(dir: &Path) -> Vec<String> {
    let name =
        |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(name).collect();
    names.sort();
    names
}

async fn mounted(driver: &LocalVolumes, name: &str) -> PathBuf {
    driver.ensure(config(name, &[])).await.unwrap();
    driver.mount(name.to_owned(), "c".to_owned(), None).await.unwrap().path
}

/// Mounts for a user `c` with the files of an image; whether they were copied.
async fn populate(driver: &LocalVolumes, name: String, image: ImageFiles) -> bool {
    driver.mount(name, "c".to_owned(), Some(image)).await.unwrap().populated
}

#[tokio::test]
async fn a_new_volume_takes_the_files_of_the_image() {
    if skip_without_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let driver = LocalVolumes::open(dir.path().join("volumes")).unwrap();
    let data = mounted(&driver, "v").await;
    assert!(populate(&driver, "v".to_owned(), image.clone()).await);

    assert_eq!(names(&data), ["both", "out", "sub"]);
    assert_eq!(fs::read_to_string(data.join("both")).unwrap(), "above");
    assert_eq!(fs::read_link(data.join("out")).unwrap(), Path::new("/etc/passwd"));
    let root = fs::metadata(&data).unwrap();
    assert_eq!((root.uid(), root.gid(), root.mode() & 0o7777), (1234, 2345, 0o2770));
    let deep = fs::metadata(data.join("sub/deep")).unwrap();
    assert_eq!((deep.uid(), deep.gid(), deep.mode() & 0o7777), (77, 88, 0o4755));
    let twin = fs::metadata(data.join("sub/twin")).unwrap();
    assert_eq!((twin.ino(), twin.nlink()), (deep.ino(), 2));
    let source = fs::metadata(image.layers[1].join("data/sub/deep")).unwrap();
    assert_eq!((deep.mtime(), deep.mtime_nsec()), (source.mtime(), source.mtime_nsec()));

    // It has data now, so it keeps it.
    fs::remove_file(data.join("both")).unwrap();
    assert!(!populate(&driver, "v".to_owned(), image).await);
    assert_eq!(names(&data), ["out", "sub"]);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(dir.path().to_str().unwrap()), "{mounts}");
}

#[tokio::test]
async fn links_of_an_image_stay_inside_it() {
    if skip_without_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let driver = LocalVolumes::open(dir.path().join("volumes")).unwrap();
    for (name, target) in [("a", "/link"), ("b", "/high")] {
        let data = mounted(&driver, name).await;
        let image = ImageFiles { target: target.into(), ..image.clone() };
        assert!(populate(&driver, name.to_owned(), image).await);
        assert_eq!(names(&data), ["both", "out", "sub"], "{target}");
    }
    // Nothing there, or no directory: the volume stays empty.
    for (name, target) in [("c", "/missing"), ("d", "/data/both")] {
        let data = mounted(&driver, name).await;
        let image = ImageFiles { target: target.into(), ..image.clone() };
        assert!(populate(&driver, name.to_owned(), image).await);
        assert_eq!(names(&data), Vec::<String>::new(), "{target}");
    }
    // A single layer is enough.
    let data = mounted(&driver, "e").await;
    let image = ImageFiles { layers: vec![image.layers[1].clone()], ..image };
    assert!(populate(&driver, "e".to_owned(), image).await);
    assert_eq!(names(&data), ["both", "old", "out", "sub"]);
}

#[tokio::test]
async fn half_a_copy_is_begun_anew() {
    if skip_without_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let driver = LocalVolumes::open(dir.path().join("volumes")).unwrap();
    let data = mounted(&driver, "v").await;
    // As a kill in the middle leaves it.
    fs::create_dir(data.join("sub")).unwrap();
    fs::write(data.join("sub/half"), "ha").unwrap();
    fs::write(dir.path().join("volumes/v/populating"), "").unwrap();
    fs::create_dir(dir.path().join("volumes/.new-w")).unwrap();
    fs::create_dir(dir.path().join("volumes/.gone-u")).unwrap();

    let driver = LocalVolumes::open(dir.path().join("volumes")).unwrap();
    driver.collect(BTreeSet::new()).await.unwrap();
    assert!(populate(&driver, "v".to_owned(), image).await);
    assert_eq!(names(&data), ["both", "out", "sub"]);
    assert_eq!(names(&data.join("sub")), ["deep", "twin"]);
    assert_eq!(names(&dir.path().join("volumes")), [".scratch", "v"]);
    assert!(!dir.path().join("volumes/v/populating").exists());
}

#[tokio::test]
async fn what_is_written_after_half_a_copy_stays() {
    if skip_without_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let driver = LocalVolumes::open(dir.path().join("volumes")).unwrap();
    let nothing = ImageFiles { target: "/missing".into(), ..image.clone() };
    let marker = |name: &str| dir.path().join("volumes").join(name).join("populating");
    // The next container wants no copy, or its image has nothing to be copied; it writes its own.
    for (name, files) in [("a", None), ("b", Some(nothing))] {
        let data = mounted(&driver, name).await;
        driver.unmount(name.to_owned(), "c".to_owned()).await.unwrap();
        fs::write(data.join("half"), "ha").unwrap();
        fs::write(marker(name), "").unwrap();
        driver.mount(name.to_owned(), "d".to_owned(), files).await.unwrap();
        assert_eq!(names(&data), Vec::<String>::new(), "{name}");
        assert!(!marker(name).exists(), "{name}");
        fs::write(data.join("database"), "").unwrap();
        driver.unmount(name.to_owned(), "d".to_owned()).await.unwrap();
        assert!(!populate(&driver, name.to_owned(), image.clone()).await);
        assert_eq!(names(&data), ["database"], "{name}");
    }
    // Who had it before it was marked may have written to it.
    let data = mounted(&driver, "u").await;
    fs::write(data.join("database"), "").unwrap();
    fs::write(marker("u"), "").unwrap();
    driver.mount("u".to_owned(), "d".to_owned(), Some(image)).await.unwrap();
    assert_eq!(names(&data), ["database"]);
    assert!(!marker("u").exists());
}

#[tokio::test]
async fn a_copy_that_fails_leaves_nothing() {
    if skip_without_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    fs::write(image.layers[0].join("data/sub-of-2-mib"), vec![1; 2 << 20]).unwrap();
    let driver = LocalVolumes::open(dir.path().join("volumes")).unwrap();
    let options = [("type", "tmpfs"), ("o", "size=1m"), ("device", "tmpfs")];
    driver.ensure(config("t", &options)).await.unwrap();
    let data = driver.mount("t".to_owned(), "c".to_owned(), None).await.unwrap().path;
    // Also where the user stays: the next one does not take half of it for data.
    let full = driver.mount("t".to_owned(), "c".to_owned(), Some(image)).await.unwrap_err();
    assert!(full.to_string().starts_with("copy the image's files to"), "{full}");
    assert_eq!(names(&data), Vec::<String>::new());
    assert!(!dir.path().join("volumes/t/populating").exists());
    driver.collect(BTreeSet::new()).await.unwrap();
}

#[tokio::test]
async fn only_root_gets_to_volumes_past_containers() {
    if skip_without_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let volumes = dir.path().join("volumes");
    fs::create_dir(&volumes).unwrap();
    fs::set_permissions(&volumes, fs::Permissions::from_mode(0o711)).unwrap();
    let driver = LocalVolumes::open(&volumes).unwrap();
    assert_eq!(fs::metadata(&volumes).unwrap().mode() & 0o7777, 0o700);
    // Inside of containers every user gets as far as the volume lets them.
    let data = mounted(&driver, "v").await;
    assert_eq!(fs::metadata(&data).unwrap().mode() & 0o7777, 0o755);
}

#[tokio::test]
async fn what_is_damaged_or_no_volume_harms_no_other() {
    if skip_without_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let volumes = dir.path().join("volumes");
    let driver = LocalVolumes::open(&volumes).unwrap();
    mounted(&driver, "damaged").await;
    mounted(&driver, "whole").await;
    fs::write(volumes.join("damaged/volume.json"), "{").unwrap();
    fs::write(volumes.join("stray"), "").unwrap();
    let driver = LocalVolumes::open(&volumes).unwrap();
    driver.collect(BTreeSet::new()).await.unwrap();
    assert_eq!(driver.list().await.unwrap(), [config("whole", &[])]);
    for name in ["damaged", "whole"] {
        driver.remove(name.to_owned()).await.unwrap();
    }
    assert_eq!(names(&volumes), ["stray"]);
}

#[tokio::test]
async fn binds_and_memory() {
    if skip_without_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let driver = LocalVolumes::open(dir.path().join("volumes")).unwrap();
    let target = dir.path().join("target");
    let device = target.to_str().unwrap();
    let options = [("type", "none"), ("o", "bind,ro"), ("device", device)];
    driver.ensure(config("b", &options)).await.unwrap();
    let missing = driver.mount("b".to_owned(), "c".to_owned(), None).await.unwrap_err();
    assert_eq!(missing.to_string(), format!("bind source `{device}`"));
    // Who could not have it does not use it.
    driver.remove("b".to_owned()).await.unwrap();
    driver.ensure(config("b", &options)).await.unwrap();
    fs::create_dir(&target).unwrap();
    fs::write(target.join("kept"), "").unwrap();
    let bound = driver.mount("b".to_owned(), "c".to_owned(), None).await.unwrap();
    assert_eq!(bound, MountedVolume::new(target.clone(), true));
    driver.unmount("b".to_owned(), "c".to_owned()).await.unwrap();
    driver.remove("b".to_owned()).await.unwrap();
    assert!(target.join("kept").exists());

    let options = [("type", "tmpfs"), ("o", "size=1m,mode=0700"), ("device", "tmpfs")];
    driver.ensure(config("t", &options)).await.unwrap();
    for user in ["c", "d"] {
        driver.mount("t".to_owned(), user.to_owned(), None).await.unwrap();
    }
    let data = driver.mount("t".to_owned(), "c".to_owned(), None).await.unwrap().path;
    fs::write(data.join("file"), "x").unwrap();
    assert_eq!(fs::metadata(&data).unwrap().mode() & 0o7777, 0o700);
    assert!(fs::write(data.join("big"), vec![0; 2 << 20]).is_err());
    driver.unmount("t".to_owned(), "c".to_owned()).await.unwrap();
    assert!(data.join("file").exists());
    // The next agent knows who uses it, and finds it mounted.
    let driver = LocalVolumes::open(dir.path().join("volumes")).unwrap();
    let busy = driver.remove("t".to_owned()).await.unwrap_err();
    assert_eq!(busy.to_string(), "volume `t` is in use by d");
    driver.collect(["d".to_owned()].into()).await.unwrap();
    assert_eq!(driver.mount("t".to_owned(), "d".to_owned(), None).await.unwrap().path, data);
    driver.collect(["d".to_owned()].into()).await.unwrap();
    assert!(data.join("file").exists());
    driver.collect(BTreeSet::new()).await.unwrap();
    assert!(!data.join("file").exists());
    driver.remove("t".to_owned()).await.unwrap();
    assert_eq!(names(&dir.path().join("volumes")), Vec::<String>::new());
}

#[tokio::test]
async fn many_containers_with_one_new_volume_fill_it_once() {
    if skip_without_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let driver = LocalVolumes::open(dir.path().join("volumes")).unwrap();
    let data = mounted(&driver, "v").await;
    let user = |n: i32| driver.mount("v".to_owned(), format!("c{n}"), Some(image.clone()));
    let all = (0..8).map(user);
    let filled = futures::future::try_join_all(all).await.unwrap();
    assert_eq!(filled.into_iter().filter(|filled| filled.populated).count(), 1);
    assert_eq!(names(&data), ["both", "out", "sub"]);
}

#[tokio::test]
async fn a_disk_that_somebody_has_mounted_for_the_data_stays_there() {
    if skip_without_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let driver = LocalVolumes::open(dir.path()).unwrap();
    let at = mounted(&driver, "v").await;
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", &at, "tmpfs", flags, c"size=64k").unwrap();
    fs::write(at.join("file"), "theirs").unwrap();
    let listed = driver.mounted().await;
    let left = driver.unmount("v".to_owned(), "c".to_owned()).await;
    let collected = driver.collect([].into()).await;
    let there = fs::read_to_string(at.join("file"));
    let _ = rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH);
    assert_eq!(listed.unwrap(), [].into(), "it is none of ours");
    left.and(collected).unwrap();
    assert_eq!(there.unwrap(), "theirs");
}
