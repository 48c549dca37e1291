//! Images that cannot be had or must not be unpacked: said where a person looks, nothing left.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::ensure;
use shoal_tests::cluster::busybox_image;
use shoal_tests::host::{Host, REGISTRY, Role, run};
use shoal_tests::image::{BuiltImage, ImageBuilder};
use shoal_tests::skip::skip;
use tar::{EntryType, Header};

use crate::world::{PATIENCE, World, web};

#[test]
fn bad_images_are_explained_and_leave_nothing() {
    if skip() {
        return;
    }
    let world = World::start(1);
    let store = world.cluster.host(1).state_dir().join("images");
    // One good image first, so that the store is not new afterwards.
    world.deploy("good", &web("command: [sleep, '1000']"));
    world.remove("good");
    let before = files(&store);
    what_is_not_there(&world);
    is_not_asked_for_again_at_once(&world);
    layers_that_lie(&world);
    entries_that_escape(&world);
    let after = files(&store);
    assert_eq!(after, before, "the store is as it was");
    absolute_entries_stay_inside(&world);
    comes_later(&world);
    full_disk(&world);
    world.end();
}

fn what_is_not_there(world: &World) {
    world.refused("image: REGISTRY/nothing-here:1", &["nothing-here:1", "does not exist"]);
    world.refused("image: 10.99.0.1:5999/busybox:1", &["cannot reach registry 10.99.0.1:5999"]);
    let digest = format!("sha256:{}", "0".repeat(64));
    world.refused(&format!("image: REGISTRY/busybox@{digest}"), &["busybox", "does not exist"]);
}

/// A registry that does not have an image is asked again after a pause, which people see.
fn is_not_asked_for_again_at_once(world: &World) {
    world.deploy_badly("patient", &web("image: REGISTRY/nothing-here:1"));
    let service = "patient_web";
    let rejected = |count: usize| {
        let all = world.tasks(service)?;
        let found = all.iter().filter(|task| task.state == "rejected").count();
        ensure!(found == count, "{all:#?}");
        Ok(Instant::now())
    };
    let said = world.until("the next try is announced", || {
        let said = world.cluster.ctl(&["service", "ps", "--no-trunc", service]).both();
        ensure!(said.contains("next try in") && said.contains("last try: "), "{said}");
        Ok(said)
    });
    assert!(said.contains("does not exist"), "the reason stays in sight: {said}");
    let seen = Instant::now();
    let before = world.tasks(service).unwrap().iter().filter(|t| t.state == "rejected").count();
    let again = world.until("another try", || rejected(before + 1));
    // The pause before it was ten seconds at least if this is not the second try.
    let third = world.until("and one more", || rejected(before + 2));
    assert!(third - again > Duration::from_secs(7), "{:?} after {:?}", third - again, again - seen);
    world.remove("patient");
}

/// A deployment that failed for want of an image succeeds, by the same file, once there is one.
fn comes_later(world: &World) {
    let image = "image: REGISTRY/later:1\ncommand: [sleep, '1000']";
    let said = world.cluster.deploy("later", &web(image));
    assert_eq!(said.code, 3, "{}", said.both());
    let built = busybox_image().unwrap().build().unwrap();
    world.cluster.lab.inside(|| built.push(REGISTRY, "later", "1")).unwrap();
    world.deploy("later", &web(image));
    world.deploy("later", &web(image));
    world.runs("later_web", 1);
    world.remove("later");
}

/// What the registry has on its disk is changed after it was pushed.
fn layers_that_lie(world: &World) {
    let layer = |text: &str| {
        let image = busybox_image().unwrap().next_layer();
        image.file("etc/motd", text.as_bytes(), 0o644).build().unwrap()
    };
    let push = |image: &BuiltImage, name: &str| {
        world.cluster.lab.inside(|| image.push(REGISTRY, name, "1")).unwrap();
    };

    let image = layer("a digest that is another");
    push(&image, "changed");
    let stored = blob(world, &image.layers[1].digest);
    let mut bytes = fs::read(&stored).unwrap();
    let last = bytes.len() - 9;
    bytes[last] ^= 1;
    fs::write(&stored, bytes).unwrap();
    world.refused("image: REGISTRY/changed:1", &["changed:1", &image.layers[1].digest]);

    let mut image = layer("not what gzip makes");
    let half = image.layers[1].bytes.len() / 2;
    image.replace_layer(1, image.layers[1].bytes[..half].to_vec()).unwrap();
    push(&image, "corrupt");
    world.refused("image: REGISTRY/corrupt:1", &["corrupt:1", &image.layers[1].digest]);
}

/// Where the registry keeps a blob.
fn blob(world: &World, digest: &str) -> PathBuf {
    let hex = digest.strip_prefix("sha256:").unwrap();
    let blobs = world.cluster.lab.dir.join("registry/data/docker/registry/v2/blobs/sha256");
    blobs.join(&hex[..2]).join(hex).join("data")
}

fn entries_that_escape(world: &World) {
    let escapes: [(&str, Vec<u8>, &str); 2] = [
        ("dots", archive(&[(EntryType::Regular, "../../evil", "")]), "\"../../evil\" is refused"),
        ("hard", archive(&[(EntryType::Link, "passwd", "../../../etc/passwd")]), "is refused"),
    ];
    for (name, layer, expected) in escapes {
        let image = busybox_image().unwrap().raw_layer(layer);
        world.cluster.push(&image, name, "1").unwrap();
        world.refused(&format!("image: REGISTRY/{name}:1"), &[expected]);
    }
    assert!(!Path::new("/evil").exists(), "a layer wrote on the host");
}

/// As with Docker, `/x` in a layer is the container's `/x`: some builders write nothing else. Links of
/// the layer lead no further.
fn absolute_entries_stay_inside(world: &World) {
    let layer = archive(&[
        (EntryType::Regular, "/from-a-layer", ""),
        (EntryType::Symlink, "out", "/"),
        (EntryType::Regular, "out/through-a-link", ""),
    ]);
    let image = busybox_image().unwrap().raw_layer(layer);
    world.cluster.push(&image, "absolute", "1").unwrap();
    world.deploy(
        "inside",
        &web("image: REGISTRY/absolute:1\ncommand: [sh, -c, 'ls /; sleep 1000']"),
    );
    for file in ["from-a-layer", "through-a-link"] {
        world.logged("inside_web", file);
        assert!(!Path::new("/").join(file).exists(), "a layer wrote on the host");
    }
    world.remove("inside");
}

/// A layer with empty files and links, their names as they are given.
fn archive(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, path, link) in entries {
        let mut header = Header::new_ustar();
        let fields = header.as_old_mut();
        fields.name[..path.len()].copy_from_slice(path.as_bytes());
        fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        header.set_mtime(0);
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// The disk with the images gets full while a layer is unpacked. There is room again afterwards,
/// and an image that fits still runs.
fn full_disk(world: &World) {
    let host = world.cluster.host(1);
    host.crash(Role::Agent).unwrap();
    let store = host.state_dir().join("images");
    let store = store.to_string_lossy().into_owned();
    let mount = |words: &[&str]| {
        let mut command = host.command(words[0]).unwrap();
        run(command.args(&words[1..]), PATIENCE).unwrap()
    };
    let said = mount(&["mount", "-t", "tmpfs", "-o", "size=16m", "shoal-small", &store]);
    assert_eq!(said.code, 0, "{}", said.both());
    host.start_agent().unwrap();

    let large: Vec<u8> =
        (0..24_u32 << 18).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
    let image = ImageBuilder::new().file("large", &large, 0o644).cmd(&["/large"]);
    world.cluster.push(&image, "large", "1").unwrap();
    world.refused("image: REGISTRY/large:1", &["no space left"]);
    world.until("the disk has room again", || {
        let used = used(host, &store)?;
        ensure!(used < 1 << 20, "{used} bytes are used");
        Ok(())
    });
    world.deploy("fits", &web("command: [sleep, '1000']"));
    world.remove("fits");

    host.crash(Role::Agent).unwrap();
    // The kernel takes down what the last container had mounted in its own time.
    world.until("nobody uses the disk any more", || {
        let said = mount(&["umount", &store]);
        ensure!(said.code == 0, "{}", said.both());
        Ok(())
    });
    host.start_agent().unwrap();
    world.deploy("again", &web("command: [sleep, '1000']"));
    world.remove("again");
}

/// Bytes used on the file system of a directory, as the host sees it.
fn used(host: &Host, dir: &str) -> anyhow::Result<u64> {
    let said = run(host.command("df")?.args(["--block-size=1", "--output=used", dir]), PATIENCE)?;
    Ok(said.out.lines().last().unwrap_or_default().trim().parse()?)
}

/// Everything below a directory, by path.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        }
        found.push(entry.path());
    }
    found.sort();
    found
}
