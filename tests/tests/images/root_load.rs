//! Loads archives of every kind.

use std::path::{Path, PathBuf};
use std::time::Duration;

use shoal_agent_image::PullPolicy;
use shoal_tests::image::{ImageBuilder, Packing};
use shoal_tests::skip::skip;

use crate::host::{Host, chain, eventually, parse, read, run, two_layers};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn layout(host: &Host, name: &str) -> PathBuf {
    let dir = host.dir.path().join("layout");
    two_layers().build().unwrap().write_layout(&dir, name).unwrap();
    dir
}

/// One image in every form that skopeo and tar make of it.
#[tokio::test]
async fn layouts_and_archives_load_packed_or_not() {
    if skip() {
        return;
    }
    let source = Host::new();
    let dir = layout(&source, "example.com/web:1");
    let at = |name: &str| source.dir.path().join(name);
    run("tar", &["-C", text(&dir), "-cf", text(&at("oci.tar")), "."]);
    let from = format!("oci:{}:example.com/web:1", dir.display());
    let saved = at("saved.tar");
    run(
        "skopeo",
        &["copy", "-q", &from, &format!("docker-archive:{}:example.com/web:1", saved.display())],
    );
    for name in ["oci.tar", "saved.tar"] {
        run("gzip", &["-k", text(&at(name))]);
    }
    let id = two_layers().build().unwrap().id().to_owned();
    for name in ["layout", "oci.tar", "oci.tar.gz", "saved.tar", "saved.tar.gz"] {
        let host = Host::new();
        let loaded = host.store.load(&at(name), None).await;
        let loaded = loaded.unwrap_or_else(|error| panic!("{name}: {}", chain(&error)));
        assert_eq!(loaded.len(), 1, "{name}");
        let image = host.ensure("example.com/web:1", PullPolicy::Missing, None).await.unwrap();
        assert_eq!(loaded[0], image, "{name}");
        assert_eq!(read(&image, 1, "etc/app.conf"), b"new", "{name}");
        if !name.starts_with("saved") {
            assert_eq!(image.id.to_string(), id, "{name}");
        }
        eventually("clean-up", || host.leftovers() == 0).await;
    }
}

#[tokio::test]
async fn a_name_can_be_given() {
    if skip() {
        return;
    }
    let host = Host::new();
    let dir = layout(&host, "");
    let unnamed = host.store.load(&dir, None).await.unwrap();
    assert_eq!(unnamed[0].reference, None);
    let named = host.store.load(&dir, Some(&parse("mine:2"))).await.unwrap();
    assert_eq!(named[0].reference, Some(parse("mine:2")));
    assert_eq!(host.store.list().len(), 1, "the name goes to the image that had none");
    assert_eq!(named[0].id, unnamed[0].id);

    let collect = || host.store.collect_garbage(Duration::ZERO);
    let report = collect().await.unwrap();
    assert_eq!((report.images.len(), report.layers), (0, 0), "what was loaded by hand stays");
    host.store.remove(&parse("mine:2")).await.unwrap();
    assert!(collect().await.unwrap().layers > 0);
    assert_eq!((host.layers(), host.leftovers()), (0, 0));
}

#[tokio::test]
async fn what_is_no_image_is_refused_with_a_reason() {
    if skip() {
        return;
    }
    let host = Host::new();
    let at = |name: &str| host.dir.path().join(name);
    std::fs::create_dir(at("empty")).unwrap();
    std::fs::write(at("noise"), [7_u8; 4096]).unwrap();
    std::fs::write(at("xz"), b"\xfd7zXZ\0 and more").unwrap();
    run("tar", &["-C", text(&at("empty")), "-cf", text(&at("empty.tar")), "."]);

    let broken = |name: &str, change: &dyn Fn(&Path)| {
        let dir = at(name);
        ImageBuilder::new()
            .file("/x", b"x", 0o644)
            .packing(Packing::None)
            .build()
            .unwrap()
            .write_layout(&dir, "web")
            .unwrap();
        change(&dir);
    };
    let image = ImageBuilder::new().file("/x", b"x", 0o644).packing(Packing::None).build().unwrap();
    let hex = |digest: &str| format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"));
    let (manifest, config) = (hex(&image.manifest.digest), hex(image.id()));
    let layer = hex(&image.layers[0].digest);
    broken("no-manifest", &|dir| std::fs::remove_file(dir.join(&manifest)).unwrap());
    broken("no-layer", &|dir| std::fs::remove_file(dir.join(&layer)).unwrap());
    broken("bad-config", &|dir| std::fs::write(dir.join(&config), b"{}").unwrap());
    broken("bad-layer", &|dir| std::fs::write(dir.join(&layer), [0; 1024]).unwrap());
    broken("bad-name", &|dir| {
        let index = std::fs::read_to_string(dir.join("index.json")).unwrap();
        std::fs::write(dir.join("index.json"), index.replace("\"web\"", "\"UPPER\"")).unwrap();
    });

    for (name, expected) in [
        ("absent", "cannot open it"),
        ("empty", "index.json is missing"),
        ("empty.tar", "index.json is missing"),
        ("noise", "no readable archive"),
        ("xz", "xz compression is not supported"),
        ("no-manifest", "is missing in it"),
        ("no-layer", "is missing in it"),
        ("bad-config", "has the digest"),
        ("bad-layer", "instead of"),
        ("bad-name", "must be lower case"),
    ] {
        let error = host.store.load(&at(name), None).await.unwrap_err();
        let text = chain(&error);
        assert!(text.contains(expected), "{name}: {text}");
    }
    assert_eq!(host.store.list().len(), 0);
}
