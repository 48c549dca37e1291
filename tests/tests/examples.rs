//! Every example's stack file is understood, whatever its variables are, and fits a cluster.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};

use shoal_ctl::stack::{self, Files, Input, Source, Variables};
use shoal_types::spec::StackSpec;

struct Disk;

impl Files for Disk {
    fn read(&self, path: &str) -> Result<Option<String>, String> {
        fs::read_to_string(path).map(Some).map_err(|e| e.to_string())
    }
}

fn examples() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let dirs = fs::read_dir(root).unwrap().map(|e| e.unwrap().path());
    dirs.filter(|dir| dir.is_dir()).collect()
}

fn load(dir: &Path, variables: &Variables) -> StackSpec {
    let file = dir.join("stack.yaml");
    let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let sources = [Source { name: file.display().to_string(), text }];
    let input = Input {
        name: None,
        fallback_name: None,
        sources: &sources,
        variables,
        dir: dir.to_str().unwrap(),
        files: &Disk,
    };
    let loaded = stack::load(&input).unwrap_or_else(|p| panic!("{}:\n{p}", file.display()));
    assert!(loaded.warnings.is_empty(), "{}: {:?}", file.display(), loaded.warnings);
    loaded.spec
}

#[test]
fn every_example_is_understood() {
    let examples = examples();
    assert!(examples.len() >= 2, "{examples:?}");
    for dir in examples {
        let spec = load(&dir, &Variables::new());
        assert_eq!(Some(spec.name.as_str()), dir.file_name().and_then(|n| n.to_str()));
        assert!(!spec.services.is_empty(), "{}", dir.display());
        assert!(dir.join("README.md").is_file(), "{} has no README.md", dir.display());
    }
}

#[test]
fn variables_reach_the_shop() {
    let dir = examples().into_iter().find(|dir| dir.ends_with("shop")).unwrap();
    let pairs = [("REGISTRY", "r.lan:5000"), ("VERSION", "7"), ("COUNTER", "192.0.2.1:8081")];
    let variables = pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let spec = serde_json::to_value(load(&dir, &variables)).unwrap();
    let container = spec.pointer("/Services/web/TaskTemplate/ContainerSpec").unwrap();
    assert_eq!(container["Image"], "r.lan:5000/shop-web:7");
    let env: Vec<&str> =
        container["Env"].as_array().unwrap().iter().flat_map(|v| v.as_str()).collect();
    assert!(env.contains(&"COUNTER=192.0.2.1:8081"), "{env:?}");
    assert!(env.contains(&"VERSION=7"), "{env:?}");
}
