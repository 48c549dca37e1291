//! Issuing, what a malicious request gets, tokens.

use std::time::Duration;

use rcgen::{CertificateParams, DnType, IsCa, KeyPair, SanType};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use shoal_transport::{Identity, PeerId, PrivateKey, Role, crypto_provider};
use shoal_types::id::{ClusterId, NodeId, UserId};
use shoal_types::join_token::JoinSecret;
use shoal_types::time::Timestamp;
use std::sync::Arc;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::*;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

fn ca() -> CertificateAuthority {
    CertificateAuthority::create(ClusterId::from(1), NOW).expect("authority")
}

fn node() -> PeerId {
    PeerId::Node(NodeId::from(7))
}

fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    let all = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    all.expect("PEM")
}

/// Whether somebody who trusts `roots` accepts `chain` at `now`, as a client's.
fn accepts(roots: &str, chain: &str, now: Timestamp) -> Result<(), rustls::Error> {
    let mut store = RootCertStore::empty();
    for root in certificates(roots) {
        store.add(root).expect("root");
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(store), crypto_provider());
    let chain = certificates(chain);
    let now = UnixTime::since_unix_epoch(Duration::from_nanos(now.as_nanos()));
    builder.build().expect("verifier").verify_client_cert(&chain[0], &chain[1..], now).map(|_| ())
}

fn dns_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().expect("well formed");
    let of = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => (*name).to_owned(),
        other => format!("{other:?}"),
    };
    names.map(|names| names.value.general_names.iter().map(of).collect()).unwrap_or_default()
}

#[test]
fn certificates_say_what_their_role_says_and_no_more() {
    let ca = ca();
    let key = PrivateKey::generate().expect("key");
    let request = key.request().expect("request");
    let own = format!("{}.shoal", NodeId::from(7));
    let user = PeerId::User(UserId::from(5));
    let table = [
        (node(), Role::Manager, vec![own.clone(), "manager.shoal".to_owned()], true),
        (node(), Role::Agent, vec![own], false),
        (user, Role::User, vec![], false),
    ];
    for (id, role, names, server) in table {
        let issued = ca.issue(&request, id, role, NOW).expect("issued");
        assert_eq!(issued.public_key, key.public_key());
        let chain = certificates(&issued.pem);
        let (_, leaf) = X509Certificate::from_der(&chain[0]).expect("X.509");
        let identity = Identity::of_certificate(&chain[0]).expect("identity");
        assert_eq!((identity.id, identity.role), (id, role));
        assert_eq!(identity.cluster, ClusterId::from(1));
        assert_eq!(NOW.since(identity.not_before), Duration::from_secs(3600));
        assert_eq!(identity.not_after, NOW + CERTIFICATE_LIFE);
        assert_eq!(dns_names(&leaf), names);
        let usage = leaf.extended_key_usage().expect("well formed").expect("there").value;
        assert_eq!((usage.client_auth, usage.server_auth, usage.any), (true, server, false));
        assert!(!leaf.is_ca());
        accepts(&ca.material().root_pem, &issued.pem, NOW).expect("accepted");
        let late = NOW + CERTIFICATE_LIFE + Duration::from_secs(1);
        accepts(&ca.material().root_pem, &issued.pem, late).expect_err("expired");
    }
}

#[test]
fn a_malicious_request_gets_nothing_it_asks_for() {
    let ca = ca();
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::new(vec!["manager.shoal".to_owned()]).expect("params");
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, NodeId::from(1).to_string());
    params.distinguished_name.push(DnType::OrganizationalUnitName, Role::Manager.as_str());
    params.subject_alt_names.push(SanType::IpAddress("10.0.0.1".parse().expect("address")));
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let request = params.serialize_request(&key).expect("request");
    // Let the request be what the test is about: it does carry these wishes.
    let wishes = rcgen::CertificateSigningRequestParams::from_der(request.der()).expect("parses");
    assert!(matches!(wishes.params.is_ca, IsCa::Ca(_)));

    let issued = ca.issue(request.der(), node(), Role::Agent, NOW).expect("issued");
    let chain = certificates(&issued.pem);
    let (_, leaf) = X509Certificate::from_der(&chain[0]).expect("X.509");
    assert!(!leaf.is_ca());
    assert_eq!(dns_names(&leaf), [format!("{}.shoal", NodeId::from(7))]);
    let usage = leaf.key_usage().expect("well formed").expect("there").value;
    assert!(!usage.key_cert_sign());
    let extended = leaf.extended_key_usage().expect("well formed").expect("there").value;
    assert!(!extended.server_auth);
    let identity = Identity::of_certificate(&chain[0]).expect("identity");
    assert_eq!((identity.id, identity.role), (node(), Role::Agent));
    assert_eq!(identity.not_after, NOW + CERTIFICATE_LIFE);
}

#[test]
fn requests_that_are_not_answered() {
    let ca = ca();
    let good = PrivateKey::generate().expect("key").request().expect("request");
    let mut forged = good.clone();
    *forged.last_mut().expect("not empty") ^= 1;
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("key");
    let ed25519 = CertificateParams::default().serialize_request(&ed25519).expect("request");
    let table = [
        (b"nonsense".to_vec(), "cannot use the certificate signing request"),
        (vec![0; 9000], "longer than 8 KiB"),
        (forged, "cannot use the certificate signing request"),
        (ed25519.der().to_vec(), "its key is not ECDSA P-256"),
    ];
    for (request, expected) in table {
        let error = ca.issue(&request, node(), Role::Agent, NOW).expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn an_authority_survives_its_text_and_notices_damage() {
    let ca = ca();
    let material = ca.material().clone();
    assert!(!format!("{material:?} {ca:?}").contains("PRIVATE KEY"));
    let again = CertificateAuthority::load(ca.cluster(), material.clone()).expect("loads");
    assert_eq!(again.root_digest(), ca.root_digest());
    let other = self::ca().material().key_pem.clone();
    let mixed = CaMaterial { key_pem: other, ..material.clone() };
    let error = CertificateAuthority::load(ca.cluster(), mixed).expect_err("mixed up");
    assert!(error.to_string().contains("the key is not the root's"), "{error}");
    let damaged = CaMaterial { root_pem: "x".into(), ..material };
    CertificateAuthority::load(ca.cluster(), damaged).expect_err("damaged");
}

#[test]
fn serial_numbers_differ_even_for_one_key() {
    let ca = ca();
    let key = PrivateKey::generate().expect("key");
    let serial = || {
        let credentials = ca.certify(&key, node(), Role::Agent, NOW).expect("issued");
        let chain = certificates(credentials.chain_pem());
        let (_, leaf) = X509Certificate::from_der(&chain[0]).expect("X.509");
        leaf.raw_serial().to_vec()
    };
    assert_ne!(serial(), serial());
}

#[test]
fn tokens_decide_the_role_or_say_why_not() {
    let (ca, other) = (ca(), ca());
    let secrets = JoinSecrets::generate().expect("secrets");
    let reveal = |secret: JoinSecret| ca.join_token(secret).reveal();
    assert_eq!(secrets.admit(&ca, &reveal(secrets.manager)), Ok(Role::Manager));
    assert_eq!(secrets.admit(&ca, &reveal(secrets.agent)), Ok(Role::Agent));

    let good = reveal(secrets.agent);
    let wrong = reveal(JoinSecret::from_bytes([0; 16]));
    let table = [
        (&good[..good.len() - 3], "invalid join token: join token is truncated: its secret has 22"),
        (wrong.as_str(), "its secret is wrong, or it has been rotated"),
        (&other.join_token(secrets.agent).reveal(), "belongs to another cluster"),
        ("hello", "begins with SHOAL-1-"),
    ];
    for (token, expected) in table {
        let error = secrets.admit(&ca, token).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        assert!(!error.contains(&good[good.len() - 20..]), "shows a secret: {error}");
    }

    let fresh = JoinSecrets::generate().expect("secrets");
    let rotated = JoinSecrets { agent: fresh.agent, ..secrets };
    assert_eq!(rotated.admit(&ca, &good), Err(TokenError::Secret));
    assert_eq!(rotated.admit(&ca, &reveal(secrets.manager)), Ok(Role::Manager));
    assert_eq!(rotated.admit(&ca, &reveal(rotated.agent)), Ok(Role::Agent));
}

#[test]
fn secrets_and_roots_survive_the_cluster_object() {
    let secrets = JoinSecrets::generate().expect("secrets");
    let stored = secrets.to_stored();
    let read = JoinSecrets::of_cluster(&stored).expect("readable");
    assert_eq!(read.agent.bytes(), secrets.agent.bytes());
    assert_eq!(read.manager.bytes(), secrets.manager.bytes());
    let damaged = shoal_types::object::JoinTokens { agent: "x".into(), ..stored };
    JoinSecrets::of_cluster(&damaged).expect_err("damaged");

    let ca = ca();
    let stored = ca.to_stored();
    assert_eq!(stored.cert_pem, ca.material().root_pem);
    assert_eq!(stored.key_pem, ca.material().key_pem.reveal());
}

#[test]
fn node_ids_follow_from_keys() {
    assert_eq!(node_id_of_key(b"a"), node_id_of_key(b"a"));
    assert_ne!(node_id_of_key(b"a"), node_id_of_key(b"b"));
    // SHA-256 of the empty text begins e3b0c442 98fc1c14 9afbf4c8 996fb924.
    let expected = NodeId::from(0xe3b0_c442_98fc_1c14_9afb_f4c8_996f_b924);
    assert_eq!(node_id_of_key(b""), expected);
}
