//! Compiles every `shoal/v1/*.proto` to Rust: messages, gRPC clients and servers. Needs no `protoc`.

use std::io;
use std::path::{Path, PathBuf};

use prost::Message as _;

/// Where the `.proto` files are, below the crate's root.
const SOURCES: &str = "shoal/v1";

/// Messages with secrets in them, whose `Debug` is written by hand in `src/confidential.rs`.
const CONFIDENTIAL: [&str; 11] = [
    "BootstrapResponse",
    "GetJoinTokenResponse",
    "InitResponse",
    "IssueNodeCertificateRequest",
    "JoinRequest",
    "JoinTokens",
    "RegistryAuth",
    "RootCa",
    "RotateJoinTokenCommand",
    "RotateJoinTokenResponse",
    "SecretSpec",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed={SOURCES}");
    let files = proto_files(Path::new(SOURCES))?;
    let descriptors = protox::compile(files, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("descriptors.bin");
    std::fs::write(out, descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Ordered maps: what is stored or compared must not depend on a hash seed.
        .btree_map(".")
        // Log entries and snapshots are handed from layer to layer: share them, do not copy them.
        .bytes(".shoal.v1.CommandBatch")
        .bytes(".shoal.v1.SnapshotChunk")
        .skip_debug(CONFIDENTIAL.map(|name| format!(".shoal.v1.{name}")))
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
