//! Registries that send what they have a byte at a time, or stop half-way.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use shoal_agent_ground::testing::skip_without_root;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::hashing::digest_of;
use super::unpack::testing::{Archive, Entry};
use super::*;

const PATIENCE: Duration = Duration::from_secs(40);
/// More than one pull downloads at the same time.
const LAYERS: usize = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Quick,
    /// A byte now and then.
    Drip,
    /// One byte, and then nothing.
    Stall,
}

/// One registry: the layers of its repositories `drip…` and `stall…` come so, those of others at
/// once. Repositories whose names end alike have the same image.
struct Registry {
    address: String,
    layers_asked: Arc<AtomicUsize>,
}

/// An image's documents by their paths, and its layers.
fn image(name: &str) -> (HashMap<String, Vec<u8>>, HashMap<String, Vec<u8>>) {
    let content = name.rsplit('/').next().unwrap();
    let file = |n| Archive::of(&[Entry::file(&format!("{content}{n}"), content.as_bytes())]);
    let layers: Vec<Vec<u8>> = (0..LAYERS).map(file).collect();
    let digests: Vec<String> = layers.iter().map(|layer| digest_of(layer).to_string()).collect();
    let platform = Platform::host();
    let config = json!({
        "architecture": platform.architecture, "os": platform.os,
        "rootfs": {"type": "layers", "diff_ids": digests},
    });
    let config = config.to_string().into_bytes();
    let layer = |(digest, layer): (&String, &Vec<u8>)| {
        json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": digest, "size": layer.len(),
        })
    };
    let manifest = json!({
        "schemaVersion": 2,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest_of(&config).to_string(), "size": config.len(),
        },
        "layers": digests.iter().zip(&layers).map(layer).collect::<Vec<_>>(),
    });
    let config_path = format!("/v2/{name}/blobs/{}", digest_of(&config));
    let manifest_path = format!("/v2/{name}/manifests/1");
    let documents =
        [(manifest_path, manifest.to_string().into_bytes()), (config_path, config)].into();
    let path = |digest: String| format!("/v2/{name}/blobs/{digest}");
    (documents, digests.into_iter().map(path).zip(layers).collect())
}

impl Registry {
    async fn start(names: &[&str]) -> Self {
        let (mut documents, mut layers) = (HashMap::new(), HashMap::new());
        for (more_documents, more_layers) in names.iter().map(|name| image(name)) {
            documents.extend(more_documents);
            layers.extend(more_layers);
        }
        let content = Arc::new((documents, layers));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let layers_asked = Arc::new(AtomicUsize::new(0));
        let asked = Arc::clone(&layers_asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (content, asked) = (Arc::clone(&content), Arc::clone(&asked));
                tokio::spawn(async move {
                    let _ = serve(stream, &content.0, &content.1, &asked).await;
                });
            }
        });
        Self { address, layers_asked }
    }

    fn reference(&self, name: &str) -> shoal_types::image_ref::ImageReference {
        format!("{}/{name}:1", self.address).parse().unwrap()
    }
}

async fn serve(
    mut stream: TcpStream,
    documents: &HashMap<String, Vec<u8>>,
    layers: &HashMap<String, Vec<u8>>,
    asked: &AtomicUsize,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap();
    let Some(body) = documents.get(path).or_else(|| layers.get(path)) else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
    };
    let manner = match path.split('/').nth(2) {
        _ if documents.contains_key(path) => Manner::Quick,
        Some("drip") => Manner::Drip,
        Some("stall") => Manner::Stall,
        _ => Manner::Quick,
    };
    asked.fetch_add(usize::from(layers.contains_key(path)), Ordering::SeqCst);
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    match manner {
        Manner::Quick => stream.write_all(body).await,
        Manner::Stall => {
            stream.write_all(&body[..1]).await?;
            std::future::pending().await
        }
        Manner::Drip => {
            for byte in body {
                stream.write_u8(*byte).await?;
                sleep(Duration::from_millis(50)).await;
            }
            Ok(())
        }
    }
}

async fn pull(
    store: ImageStore,
    reference: shoal_types::image_ref::ImageReference,
) -> Result<Held, ImageError> {
    store.ensure(&reference, PullPolicy::Missing, None, None).await
}

/// Neither does one slow repository keep others of its registry from being pulled.
#[tokio::test]
async fn slow_layers_hold_up_no_other_pull() {
    if skip_without_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(&dir.path().join("images"), StoreConfig::default()).unwrap();
    let slow =
        [Registry::start(&["drip", "quick"]).await, Registry::start(&["stall", "quick"]).await];
    let slow_pulls: Vec<_> = slow
        .iter()
        .zip(["drip", "stall"])
        .map(|(registry, name)| tokio::spawn(pull(store.clone(), registry.reference(name))))
        .collect();
    let per_pull = Parallel::default().per_pull;
    let busy = async {
        while slow.iter().any(|known| known.layers_asked.load(Ordering::SeqCst) < per_pull) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, busy).await.unwrap();
    let normal = Registry::start(&["normal"]).await;
    for reference in
        [normal.reference("normal"), slow[0].reference("quick"), slow[1].reference("quick")]
    {
        let pulled = timeout(PATIENCE, pull(store.clone(), reference.clone())).await;
        let pulled = pulled.unwrap_or_else(|_| panic!("{reference} has to wait for others"));
        assert_eq!(pulled.unwrap().image.layers.len(), LAYERS);
    }
    assert!(slow_pulls.iter().all(|pull| !pull.is_finished()), "they were slow");
    for pull in slow_pulls {
        pull.abort();
    }
}

/// Whoever lists another's layers as his own cannot keep it from being pulled.
#[tokio::test]
async fn nobody_waits_for_a_layer_from_elsewhere() {
    if skip_without_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(&dir.path().join("images"), StoreConfig::default()).unwrap();
    let slow = Registry::start(&["drip/same", "other/same"]).await;
    let slow_pull = tokio::spawn(pull(store.clone(), slow.reference("drip/same")));
    let per_pull = Parallel::default().per_pull;
    let busy = async {
        while slow.layers_asked.load(Ordering::SeqCst) < per_pull {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, busy).await.unwrap();
    let other = Registry::start(&["same"]).await;
    // The second finds what the first brought, also below what is still on its way.
    for reference in [other.reference("same"), slow.reference("other/same")] {
        let pulled = timeout(PATIENCE, pull(store.clone(), reference.clone())).await;
        let pulled = pulled.unwrap_or_else(|_| panic!("{reference} has to wait for others"));
        assert_eq!(pulled.unwrap().image.layers.len(), LAYERS);
    }
    assert!(!slow_pull.is_finished(), "it was slow");
    slow_pull.abort();
}

#[tokio::test]
async fn a_registry_that_drips_or_stalls_is_given_up_with_its_pace() {
    if skip_without_root() {
        return;
    }
    for name in ["drip", "stall"] {
        let registry = Registry::start(&[name]).await;
        let dir = tempfile::tempdir().unwrap();
        let registries = RegistryConfig {
            rate_window: Duration::from_secs(1),
            read_timeout: Duration::from_secs(100),
            ..RegistryConfig::default()
        };
        let config = StoreConfig { registries, ..StoreConfig::default() };
        let store = ImageStore::open(&dir.path().join("images"), config).unwrap();
        let pulled = timeout(PATIENCE, pull(store.clone(), registry.reference(name))).await;
        let error = pulled.expect("it is given up").unwrap_err();
        let text = shoal_types::error_chain::chain(&error).to_string();
        assert!(text.contains(&format!("registry {} sent only ", registry.address)), "{text}");
        assert!(text.contains(" in 1s, less than 10240 bytes a second"), "{text}");
        assert!(error.is_transient());
        assert_eq!(store.list().len(), 0);
    }
}

#[tokio::test]
async fn no_transfer_goes_on_for_ever() {
    if skip_without_root() {
        return;
    }
    let registry = Registry::start(&["drip"]).await;
    let dir = tempfile::tempdir().unwrap();
    let registries = RegistryConfig {
        rate_min: 1,
        rate_window: Duration::from_millis(200),
        transfer_timeout: Duration::from_secs(1),
        ..RegistryConfig::default()
    };
    let config = StoreConfig { registries, ..StoreConfig::default() };
    let store = ImageStore::open(&dir.path().join("images"), config).unwrap();
    let pulled = timeout(PATIENCE, pull(store, registry.reference("drip"))).await;
    let text = shoal_types::error_chain::chain(&pulled.unwrap().unwrap_err()).to_string();
    assert!(text.contains("took more than 1s"), "{text}");
}
