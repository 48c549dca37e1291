//! Every folder of `examples/` runs, as its README says. Programs that lie there as single files are
//! compiled and become images `<example>-<program>:1`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use shoal_tests::cluster::at;
use shoal_tests::host::{REGISTRY, run, succeed};
use shoal_tests::image::ImageBuilder;
use shoal_tests::skip::skip;

use crate::world::{PATIENCE, World};

#[test]
fn every_example_runs() {
    if skip() {
        return;
    }
    let world = World::start(2);
    world.ok(&["node", "update", "--label-add", "role=store", "h1"]);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let dirs = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let mut dirs: Vec<PathBuf> = dirs.filter(|path| path.is_dir()).collect();
    dirs.sort();
    for dir in &dirs {
        let name = dir.file_name().unwrap().to_str().unwrap();
        images(&world, dir, name);
        deploy(&world, dir, name);
        match name {
            "hello" => drop(world.logged("hello_hello", "hello from")),
            "shop" => shop(&world),
            other => panic!("say here how one sees that the example {other} works"),
        }
        world.remove(name);
    }
    assert!(dirs.len() >= 2, "{dirs:?}");
    world.end();
}

fn images(world: &World, dir: &Path, example: &str) {
    for entry in fs::read_dir(dir).unwrap() {
        let source = entry.unwrap().path();
        if source.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let name = source.file_stem().unwrap().to_str().unwrap();
        let program = world.cluster.lab.dir.join(name);
        let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()));
        rustc.args(["--edition", "2024", "-C", "target-feature=+crt-static", "-o"]);
        succeed(rustc.arg(&program).arg(&source), PATIENCE).unwrap();
        let path = format!("/{name}");
        let image = ImageBuilder::new()
            .file(&path, &fs::read(&program).unwrap(), 0o755)
            .dir("tmp", 0o1777)
            .entrypoint(&[&path]);
        world.cluster.push(&image, &format!("{example}-{name}"), "1").unwrap();
    }
}

fn deploy(world: &World, dir: &Path, name: &str) {
    let file = dir.join("stack.yaml");
    let mut command = world.cluster.lab.ctl(world.cluster.host(1));
    command.args(["stack", "deploy", "-c"]).arg(&file).arg(name);
    command.env("REGISTRY", REGISTRY);
    let said = run(&mut command, PATIENCE).unwrap();
    assert_eq!(said.code, 0, "{name}: {}", said.both());
}

/// Pages count their visits together, and the visitors see them.
fn shop(world: &World) {
    let first = world.page("h1", 8080, "visit number");
    let second = world.page("h2", 8080, "visit number");
    let number = |page: &str| -> u64 {
        page.trim().rsplit_once(' ').and_then(|(_, number)| number.parse().ok()).unwrap()
    };
    assert!(number(&second) > number(&first), "{first} then {second}");
    world.logged("shop_visitor", "shop version 1");
    let counter = world.cluster.json(&["service", "ps", "shop_counter"]).unwrap();
    assert_eq!(at(&counter[0], "/Status/State"), "running");
}
