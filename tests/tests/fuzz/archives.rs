//! Archives of images, as `docker save` and OCI's tools write them, that somebody hands to `shoalctl image
//! load`: what is in them by which name, up to where a layer is unpacked (that is the target `layers`).

use std::fs;
use std::path::Path;
use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;
use shoal_agent_image::testing::{Listed, list};
use shoal_agent_image::{Limits, Platform};
use shoal_types::error_chain::chain;
use shoal_types::image_ref::ImageReference;
use tempfile::TempDir;

use super::bytes::{mutate, one, pick};
use super::driver::{Answer, Bounds, Target, corpus, fuzz};
use super::tars::{BLOCK, change, members, packed, plain, put, seal};

/// Small ones, so that inputs reach them.
fn limits() -> Limits {
    Limits {
        path_bytes: 600,
        extended_header_bytes: 16 << 10,
        layers: 4,
        manifest_bytes: 4 << 10,
        config_bytes: 2 << 10,
        archive_images: 3,
        archive_bytes: 1 << 20,
        ..Limits::default()
    }
}

/// The one of the corpus, whatever runs this.
fn host() -> Platform {
    Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), variant: None }
}

const WORDS: [&str; 34] = [
    "\"Config\"",
    "\"RepoTags\"",
    "\"Layers\"",
    "null",
    "[]",
    "{}",
    "\"\"",
    "0",
    "-1",
    "\"one.json\"",
    "\"two.json\"",
    "\"1/layer.tar\"",
    "\"2/layer.tar\"",
    "\"4\"",
    "\"../1/layer.tar\"",
    "\"/1/layer.tar\"",
    "\"../../etc/passwd\"",
    "\"manifest.json\"",
    "\"example.com/UPPER:1\"",
    "\"a:1\"",
    "\"a@sha256:00\"",
    "\"sha512:00\"",
    "\"sha256:00\"",
    "\"linux\"",
    "\"windows\"",
    "\"arm64\"",
    "\"rootfs\"",
    "\"diff_ids\"",
    "\"annotations\"",
    "\"mediaType\"",
    "\"application/vnd.oci.image.index.v1+json\"",
    ",",
    "[[[[[[[[[[[[[[[[",
    "\\u0000",
];

/// The names by which the members of the corpus refer to each other.
const NAMES: [&str; 14] = [
    "manifest.json",
    "index.json",
    "./manifest.json",
    "one.json",
    "two.json",
    "1/layer.tar",
    "2/layer.tar",
    "../1/layer.tar",
    "4",
    "../../etc/passwd",
    "/etc/passwd",
    ".",
    "",
    "é",
];

/// An archive of the corpus with a few changes: of its members and of the documents among them.
fn make(random: &mut StdRng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let seeds: Vec<Vec<u8>> = (0..2).map(|_| plain(one::<Vec<u8>>(random, corpus))).collect();
    let (mut all, others) = (members(&seeds[0]), members(&seeds[1]));
    for _ in 0..1 << random.random_range(0..3) {
        if all.is_empty() || random.random_bool(0.3) {
            change(random, &mut all, &others);
            continue;
        }
        let at = random.random_range(0..all.len());
        let is_document = all[at].get(BLOCK).is_some_and(|byte| b"[{".contains(byte));
        match random.random_range(0..4) {
            0 if all[at].len() >= BLOCK => {
                let (place, length) = pick(random, &[(0, 100), (157, 100)]);
                put(&mut all[at][..BLOCK], place, length, pick(random, &NAMES).as_bytes());
                seal(&mut all[at][..BLOCK]);
            }
            _ if is_document => rewrite(random, &mut all[at], &seeds),
            _ => change(random, &mut all, &others),
        }
    }
    let mut bytes = all.concat();
    bytes.extend([0; 2 * BLOCK]);
    if random.random_bool(0.01) {
        // Nothing but zeros is small when it is packed.
        bytes.extend(vec![0; 8 << 20]);
    }
    packed(random, bytes)
}

/// Changes the text of a member, whose header tells its length afterwards.
fn rewrite(random: &mut StdRng, member: &mut Vec<u8>, others: &[Vec<u8>]) {
    let mut text = member.split_off(BLOCK);
    while text.last() == Some(&0) {
        text.pop();
    }
    for _ in 0..random.random_range(1..4) {
        mutate(random, &mut text, others, &WORDS);
    }
    put(member, 124, 12, format!("{:011o}", text.len()).as_bytes());
    seal(member);
    member.extend(&text);
    member.resize(member.len().next_multiple_of(BLOCK), 0);
}

/// What is found in an archive; nothing that was unpacked on the way is left.
fn found(dir: &Path, bytes: &[u8]) -> Result<Vec<Listed>, String> {
    let (file, tmp) = (dir.join("archive"), dir.join("tmp"));
    fs::write(&file, bytes).expect("a file");
    let found = list(&file, &tmp, &limits(), &host()).map_err(|error| chain(&error).to_string());
    assert_eq!(fs::read_dir(&tmp).expect("a directory").count(), 0, "something is left in it");
    assert!(fs::read(&file).expect("a file") == bytes, "the archive itself has changed");
    found
}

fn check(dir: &Path, bytes: &[u8]) -> Answer {
    let images = match found(dir, bytes) {
        Ok(images) => images,
        Err(text) => {
            assert!(!text.is_empty() && text.len() < 8192, "a refusal of {} bytes", text.len());
            return Answer::Refused(text);
        }
    };
    let limits = limits();
    assert!(images.len() <= limits.archive_images, "{} images", images.len());
    let unpacked = plain(bytes);
    for image in &images {
        assert!(image.layers.len() <= limits.layers, "{} layers", image.layers.len());
        for name in &image.names {
            assert_eq!(name.to_string().parse().as_ref(), Ok(name), "a name is read as it is told");
        }
        for (_, layer) in &image.layers {
            assert!(is_within(&unpacked, layer), "a layer is no part of the archive");
        }
    }
    // Packed in another way it is the same, as far as it may be unpacked.
    let repacked = zstd::encode_all(unpacked.as_slice(), 1).expect("a vector takes it");
    let again = found(dir, &repacked);
    if unpacked.len() as u64 <= limits.archive_bytes {
        assert_eq!(again.as_ref(), Ok(&images), "packed again");
    } else {
        assert!(again.is_err_and(|text| text.contains("more than")), "beyond the limit");
    }
    let names: usize = images.iter().map(|image| image.names.len()).sum();
    let layers: Vec<usize> = images.iter().map(|image| image.layers.len()).collect();
    let letter = |n: &usize| char::from(b'a' + u8::try_from(*n).expect("few"));
    let layers: String = layers.iter().map(letter).collect();
    Answer::Read(format!("{layers} {}", if names == 0 { "unnamed" } else { "named" }))
}

/// Whether a layer is a run of bytes of the archive that begins where a member may.
fn is_within(archive: &[u8], layer: &[u8]) -> bool {
    archive.chunks(BLOCK).enumerate().any(|(n, _)| archive[n * BLOCK..].starts_with(layer))
        || layer.is_empty()
}

#[test]
fn archives() {
    let bounds = Bounds {
        time: Duration::from_millis(500),
        time_per_byte: Duration::from_micros(10),
        memory: 64 << 20,
    };
    let target = Target { name: "archives", seeds: corpus("archives"), bounds };
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("tmp")).unwrap();
    fuzz(&target, make, |bytes| check(dir.path(), bytes));
}

/// What the target's assertions are about is in the corpus.
#[test]
fn archives_of_the_corpus_are_read() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("tmp")).unwrap();
    let images: Vec<Vec<Listed>> =
        corpus("archives").iter().filter_map(|bytes| found(dir.path(), bytes).ok()).collect();
    let shapes: Vec<(usize, Vec<usize>)> = images
        .iter()
        .map(|found| (found.len(), found.iter().map(|image| image.layers.len()).collect()))
        .collect();
    assert!(shapes.contains(&(2, vec![1, 2])) && shapes.contains(&(1, vec![1])), "{shapes:?}");
    let named: Vec<&ImageReference> =
        images.iter().flatten().flat_map(|image| &image.names).collect();
    assert!(named.iter().any(|name| name.to_string().contains("example.com/one:1")), "{named:?}");
}
