//! Pulls from a real registry.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use shoal_agent_image::{ImageStore, PullPolicy, PullProgress, RegistryAuth};
use shoal_tests::image::{Family, ImageBuilder, LocalRegistry, Packing, push_index};
use shoal_tests::skip::skip;

use crate::host::{Host, chain, config, eventually, parse, read, two_layers};

/// `user:secret`.
const HTPASSWD: &str = "user:$2b$04$/gUtTi9G1aYy5Oj19hZ0NeNv4iRyDtRCF8uwEVt6PPJcxRm2vQGw2\n";

#[tokio::test]
async fn every_packing_and_family_is_pulled_by_tag_and_digest() {
    if skip() {
        return;
    }
    let registry = LocalRegistry::start().unwrap();
    for family in [Family::Oci, Family::Docker] {
        for packing in [Packing::None, Packing::Gzip, Packing::Zstd] {
            let name = format!("{}/t/{family:?}-{packing:?}", registry.address()).to_lowercase();
            let (_, repository) = name.split_once('/').unwrap();
            let image = two_layers().family(family).packing(packing).build().unwrap();
            let digest = image.push(registry.address(), repository, "v1").unwrap();
            for reference in [format!("{name}:v1"), format!("{name}@{digest}")] {
                let host = Host::new();
                let pulled =
                    host.pull(&reference).await.unwrap_or_else(|e| panic!("{}", chain(&e)));
                assert_eq!(pulled.id.to_string(), image.id());
                assert_eq!(pulled.repo_digest.unwrap().to_string(), digest);
                assert_eq!(pulled.reference, Some(parse(&reference)));
                assert_eq!(pulled.layers.len(), 2);
                assert_eq!(read(&pulled, 0, "etc/app.conf"), b"old");
                assert_eq!(read(&pulled, 1, "etc/app.conf"), b"new");
                assert_eq!(pulled.size, 7);
                let config = pulled.config.config().clone().unwrap();
                assert_eq!(config.entrypoint().clone().unwrap(), ["/bin/app"]);
                assert!(config.env().clone().unwrap().contains(&"MODE=test".to_owned()));
                assert_eq!(host.leftovers(), 0);
            }
        }
    }
}

#[tokio::test]
async fn the_right_platform_is_picked_from_an_index() {
    if skip() {
        return;
    }
    let registry = LocalRegistry::start().unwrap();
    let other = ImageBuilder::new().file("/x", b"other", 0o644).platform("linux", "s390x");
    let other = other.build().unwrap();
    let ours = ImageBuilder::new().file("/x", b"ours", 0o644).build().unwrap();
    for family in [Family::Oci, Family::Docker] {
        let repository = format!("{family:?}").to_lowercase();
        let address = registry.address();
        let index = push_index(address, &repository, "1", family, &[&other, &ours]).unwrap();
        push_index(address, &repository, "none", family, &[&other]).unwrap();
        let host = Host::new();
        let pulled = host.pull(&format!("{address}/{repository}:1")).await.unwrap();
        assert_eq!(read(&pulled, 0, "x"), b"ours");
        assert_eq!(pulled.repo_digest.unwrap().to_string(), index);
        let error = host.pull(&format!("{address}/{repository}:none")).await.unwrap_err();
        let text = chain(&error);
        assert!(text.contains("only for linux/s390x"), "{text}");
        // The same without an index: the image itself says what it is for.
        let digest = &other.manifest.digest;
        let error = host.pull(&format!("{address}/{repository}@{digest}")).await.unwrap_err();
        assert!(chain(&error).contains("only for linux/s390x"), "{error}");
    }
}

#[tokio::test]
async fn policies_do_what_they_say() {
    if skip() {
        return;
    }
    let registry = LocalRegistry::start().unwrap();
    let name = format!("{}/web:1", registry.address());
    let host = Host::new();
    let first = ImageBuilder::new().file("/v", b"1", 0o644).build().unwrap();
    first.push(registry.address(), "web", "1").unwrap();
    let pulled = host.pull(&name).await.unwrap();
    assert_eq!(host.ensure(&name, PullPolicy::Always, None).await.unwrap(), pulled);

    let second = ImageBuilder::new().file("/v", b"2", 0o644).build().unwrap();
    second.push(registry.address(), "web", "1").unwrap();
    assert_eq!(host.pull(&name).await.unwrap().id, pulled.id, "missing asks nobody");
    let moved = host.ensure(&name, PullPolicy::Always, None).await.unwrap();
    assert_eq!(read(&moved, 0, "v"), b"2");
    let old = format!("{}/web@{}", registry.address(), first.manifest.digest);
    assert_eq!(host.ensure(&old, PullPolicy::Missing, None).await.unwrap().id, pulled.id);

    drop(registry);
    assert_eq!(host.pull(&name).await.unwrap().id, moved.id);
    let error = host.ensure(&name, PullPolicy::Always, None).await.unwrap_err();
    assert!(error.is_transient() && chain(&error).contains("cannot reach registry"), "{error}");
}

#[tokio::test]
async fn what_is_not_there_is_explained() {
    if skip() {
        return;
    }
    let registry = LocalRegistry::start().unwrap();
    let address = registry.address();
    two_layers().build().unwrap().push(address, "web", "1").unwrap();
    let host = Host::new();
    let absent = format!("sha256:{}", "0".repeat(64));
    for (reference, expected) in [
        (format!("{address}/web:2"), "does not exist in its registry"),
        (format!("{address}/web@{absent}"), "does not exist in its registry"),
        (format!("{address}/nothing:1"), "/nothing:1"),
        ("127.0.0.1:1/web:1".to_owned(), "cannot reach registry 127.0.0.1:1"),
    ] {
        let text = chain(&host.pull(&reference).await.unwrap_err());
        assert!(text.contains(expected), "{reference}: {text}");
    }
    assert_eq!(host.layers(), 0);
}

#[tokio::test]
async fn a_password_is_used_and_a_wrong_one_is_explained() {
    if skip() {
        return;
    }
    let registry = LocalRegistry::start_with_password(HTPASSWD).unwrap();
    let image = two_layers().build().unwrap();
    image.push_as(registry.address(), "private", "1", Some("user:secret")).unwrap();
    let name = format!("{}/private:1", registry.address());
    let host = Host::new();
    let auth = |password: &str| {
        Some(RegistryAuth::Basic { username: "user".into(), password: password.into() })
    };
    let text = chain(&host.ensure(&name, PullPolicy::Missing, None).await.unwrap_err());
    assert!(text.contains("is denied") && text.contains("needs credentials"), "{text}");
    let text = chain(&host.ensure(&name, PullPolicy::Missing, auth("wrong")).await.unwrap_err());
    assert!(text.contains("other credentials") && !text.contains("wrong"), "{text}");
    host.ensure(&name, PullPolicy::Missing, auth("secret")).await.unwrap();
}

/// A certificate of its own is trusted for the registry that is configured with it, no other.
#[tokio::test]
async fn a_registry_with_its_own_certificate_authority_is_trusted_when_configured() {
    if skip() {
        return;
    }
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let ca = CertifiedIssuer::self_signed(params, key).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &ca).unwrap();
    let dir = tempfile::TempDir::new().unwrap();
    let file = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let root = file("ca.pem", ca.pem());
    let registry = LocalRegistry::start_with_tls(
        &file("leaf.pem", leaf.pem()),
        &file("key", key.serialize_pem()),
    )
    .unwrap();
    let address = registry.address().to_owned();
    let other = file("other.pem", {
        let key = KeyPair::generate().unwrap();
        CertificateParams::new(vec![]).unwrap().self_signed(&key).unwrap().pem()
    });
    for (root, expected) in [
        (root, "does not exist in its registry"),
        (other, "cannot reach registry"),
        (dir.path().join("absent.pem"), "absent.pem"),
        (file("empty.pem", String::new()), "no certificate inside"),
    ] {
        let mut config = config();
        config.registries.root_certificates = [(address.clone(), root)].into();
        let store = ImageStore::open(&dir.path().join("images"), config).unwrap();
        let name = parse(&format!("{address}/web:1"));
        let error = store.ensure(&name, PullPolicy::Missing, None, None).await.unwrap_err();
        let text = chain(&error);
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[tokio::test]
async fn progress_ends_with_everything() {
    if skip() {
        return;
    }
    let registry = LocalRegistry::start().unwrap();
    let image = two_layers().build().unwrap();
    image.push(registry.address(), "web", "1").unwrap();
    let host = Host::new();
    let (sender, receiver) = tokio::sync::watch::channel(PullProgress::default());
    let name = parse(&format!("{}/web:1", registry.address()));
    host.store.ensure(&name, PullPolicy::Missing, None, Some(sender)).await.unwrap();
    let bytes = image.layers.iter().map(|layer| layer.bytes.len() as u64).sum();
    let expected =
        PullProgress { layers: 2, layers_done: 2, bytes, bytes_done: bytes, trouble: None };
    assert_eq!(*receiver.borrow(), expected);
}

/// Plain http to anything but loopback has to be configured.
#[tokio::test]
async fn a_registry_off_loopback_is_https_unless_configured() {
    if skip() {
        return;
    }
    let host = Host::new();
    let error = host.pull("192.0.2.1:5000/web:1").await.unwrap_err();
    assert!(chain(&error).contains("cannot reach registry 192.0.2.1:5000"), "{error}");
}

#[tokio::test]
async fn a_layer_that_was_changed_in_the_registry_is_refused() {
    if skip() {
        return;
    }
    let registry = LocalRegistry::start().unwrap();
    let image = two_layers().build().unwrap();
    image.push(registry.address(), "web", "1").unwrap();
    let hex = image.layers[1].digest.trim_start_matches("sha256:");
    let stored = format!("data/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
    let stored = registry.storage().join(stored);
    let other = ImageBuilder::new().file("/evil", b"evil", 0o644).build().unwrap();
    std::fs::write(&stored, &other.layers[0].bytes).unwrap();
    let host = Host::new();
    let error = host.pull(&format!("{}/web:1", registry.address())).await.unwrap_err();
    let text = chain(&error);
    assert!(text.contains("web:1") && text.contains(hex), "{text}");
    eventually("clean-up", || host.leftovers() == 0).await;
    assert_eq!(host.store.list().len(), 0);
    assert!(host.layers() <= 1, "only the good layer may stay");
}

/// Eight at once, and a ninth that gives up.
#[tokio::test]
async fn pulls_of_the_same_image_at_once_agree() {
    if skip() {
        return;
    }
    let registry = LocalRegistry::start().unwrap();
    let mut builder = ImageBuilder::new();
    for layer in 0..6_u32 {
        let bytes: Vec<u8> = (0..200_000_u32).flat_map(|n| (n ^ layer).to_le_bytes()).collect();
        builder = builder.file(&format!("/f{layer}"), &bytes, 0o644).next_layer();
    }
    builder.build().unwrap().push(registry.address(), "big", "1").unwrap();
    let host = Host::new();
    let name = format!("{}/big:1", registry.address());
    {
        let given_up = host.pull(&name);
        let _ = tokio::time::timeout(std::time::Duration::from_millis(20), given_up).await;
    }
    let pulls = futures::future::join_all((0..8).map(|_| host.pull(&name))).await;
    let first = pulls[0].as_ref().unwrap();
    assert!(pulls.iter().all(|pull| pull.as_ref().unwrap() == first));
    assert_eq!(host.layers(), 6);
    eventually("clean-up", || host.leftovers() == 0).await;
    drop(host.store.clone());
    let path = host.dir.path().join("images");
    assert!(ImageStore::open(&path, config()).is_err(), "one process at a time");
}
