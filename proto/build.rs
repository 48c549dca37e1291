//! Compiles every `shoal/v1/*.proto` to Rust: messages, gRPC clients and servers. Needs no `protoc`.

#[path = "build/secrets.rs"]
mod secrets;

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

/// Where the `.proto` files are, below the crate's root.
const SOURCES: &str = "shoal/v1";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed={SOURCES}");
    println!("cargo:rerun-if-changed=build");
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(false).open_files(proto_files(Path::new(SOURCES))?)?;

    let found = secrets::find(&compiler.descriptor_pool(), "shoal.v1");
    if !found.faults.is_empty() {
        for fault in &found.faults {
            println!("cargo::error={fault}");
        }
        return Err("some fields are not decided".into());
    }
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    std::fs::write(out.join("secrets.rs"), secrets::debugs(&found))?;
    std::fs::write(out.join("secrets_shown.rs"), shows(&found))?;

    let descriptors = compiler.include_source_info(true).file_descriptor_set();
    tonic_prost_build::configure()
        // Ordered maps: what is stored or compared must not depend on a hash seed.
        .btree_map(".")
        // Log entries and snapshots are handed from layer to layer: share them, do not copy them.
        .bytes(".shoal.v1.CommandBatch")
        .bytes(".shoal.v1.SnapshotChunk")
        .skip_debug(found.secrets.iter().map(|(message, _)| format!(".{}", message.full_name())))
        .compile_fds(descriptors)?;
    Ok(())
}

fn proto_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "proto") {
            println!("cargo:rerun-if-changed={}", path.display());
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Rust code for the tests: how each of these messages is shown, read from bytes.
fn shows(found: &secrets::Found) -> String {
    let arms: String = found.secrets.iter().fold(String::new(), |mut all, (message, _)| {
        let name = message.name();
        let _ = writeln!(
            all,
            "        {name:?} => {name}::decode(bytes).map(|m| format!(\"{{m:?}}\")).ok(),"
        );
        all
    });
    format!(
        "fn shown(message: &str, bytes: &[u8]) -> Option<String> {{
    match message {{
{arms}        _ => None,
    }}
}}
"
    )
}
