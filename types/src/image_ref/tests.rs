use proptest::prelude::*;

use super::*;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// What was written, its full form, its familiar form.
#[test]
fn accepted_references_normalise_as_docker_does() {
    let pinned = format!("nginx@sha256:{HEX}");
    let pinned_full = format!("docker.io/library/nginx@sha256:{HEX}");
    let both = format!("localhost:5000/a/b:1@sha256:{HEX}");
    let table: &[(&str, &str, &str)] = &[
        ("nginx", "docker.io/library/nginx:latest", "nginx:latest"),
        ("nginx:1.27-alpine", "docker.io/library/nginx:1.27-alpine", "nginx:1.27-alpine"),
        ("library/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
        ("docker.io/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
        ("index.docker.io/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
        ("bitnami/redis", "docker.io/bitnami/redis:latest", "bitnami/redis:latest"),
        ("a/b/c", "docker.io/a/b/c:latest", "a/b/c:latest"),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        ("localhost:5000/x", "localhost:5000/x:latest", "localhost:5000/x:latest"),
        ("localhost", "docker.io/library/localhost:latest", "localhost:latest"),
        ("quay.io/a/b:v1", "quay.io/a/b:v1", "quay.io/a/b:v1"),
        ("reg:5000/x", "reg:5000/x:latest", "reg:5000/x:latest"),
        ("reg:5000", "docker.io/library/reg:5000", "reg:5000"),
        ("Reg/x", "Reg/x:latest", "Reg/x:latest"),
        ("127.0.0.1:5000/x:2", "127.0.0.1:5000/x:2", "127.0.0.1:5000/x:2"),
        ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
        ("[::1]/x:t", "[::1]/x:t", "[::1]/x:t"),
        ("Docker.IO/x", "docker.io/library/x:latest", "x:latest"),
        ("docker.io/a.b/x", "docker.io/a.b/x:latest", "docker.io/a.b/x:latest"),
        ("docker.io/localhost/x", "docker.io/localhost/x:latest", "docker.io/localhost/x:latest"),
        ("a.b_c__d---e", "docker.io/library/a.b_c__d---e:latest", "a.b_c__d---e:latest"),
        ("x:_", "docker.io/library/x:_", "x:_"),
        ("x:A.b-C", "docker.io/library/x:A.b-C", "x:A.b-C"),
        (&pinned, &pinned_full, &pinned),
        (&both, &both, &both),
    ];
    for (written, full, familiar) in table {
        let parsed = ImageReference::parse(written).unwrap();
        assert_eq!(parsed.to_string(), *full, "{written}");
        assert_eq!(parsed.familiar(), *familiar, "{written}");
    }
}

#[test]
fn refused_references_name_the_value_and_the_part() {
    let long_tag = format!("x:{}", "t".repeat(129));
    let long_name = "a/".repeat(127) + "aa";
    let table: &[(&str, &str)] = &[
        ("", "it is empty"),
        ("https://quay.io/x", "scheme \"https://\""),
        ("Nginx", "must be lower case"),
        ("quay.io/Nginx", "must be lower case"),
        ("quay.io/", "the repository is missing"),
        (":tag", "the repository is missing"),
        ("a//b", "repository element \"\""),
        ("/a", "repository element \"\""),
        ("a/", "repository element \"\""),
        ("a..b", "repository element \"a..b\""),
        ("a___b", "repository element \"a___b\""),
        ("-a", "repository element \"-a\""),
        ("a-", "repository element \"a-\""),
        ("a b", "repository element \"a b\""),
        ("nginx:", "the tag \"\""),
        ("nginx:-x", "the tag \"-x\""),
        ("nginx:a b", "the tag \"a b\""),
        (&long_tag, "the tag"),
        (&long_name, "the repository has 256 bytes"),
        ("reg:x/y", "the registry port \"x\""),
        ("reg:0/y", "the registry port \"0\""),
        ("reg:65536/y", "the registry port \"65536\""),
        ("reg:+80/y", "the registry port \"+80\""),
        ("-reg.io/y", "the registry \"-reg.io\""),
        ("a..io/y", "the registry \"a..io\""),
        ("../etc/passwd", "the registry \"..\""),
        ("./x", "the registry \".\""),
        ("[::g]:5000/x", "the registry \"[::g]:5000\""),
        ("[::1]x/x", "the registry \"[::1]x\""),
        ("nginx@", "the digest \"\""),
        ("nginx@sha256:abc", "the digest \"sha256:abc\""),
        ("nginx@md5:d41d8cd98f00b204e9800998ecf8427e", "the digest \"md5:"),
        (HEX, "an image id"),
        ("user@host/x", "the digest \"host/x\""),
    ];
    for (written, expected) in table {
        let error = ImageReference::parse(written).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(expected), "{written:?}: {text}");
        assert!(text.contains(&format!("{:?}", error.value)), "{text}");
    }
}

#[test]
fn upper_case_digest_is_refused() {
    let written = format!("nginx@sha256:{}", HEX.to_uppercase());
    assert!(matches!(
        ImageReference::parse(&written).unwrap_err().fault,
        ReferenceFault::Digest { .. }
    ));
}

#[test]
fn a_very_long_value_is_refused_and_its_error_is_short() {
    let error = ImageReference::parse(&"a".repeat(1_000_000)).unwrap_err();
    assert_eq!(error.fault, ReferenceFault::TooLong { length: 1_000_000 });
    assert!(error.to_string().len() < 400);
}

#[test]
fn digests_read_back_what_they_write() {
    let digest = Digest::from_hex(HEX).unwrap();
    assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
    assert_eq!(digest.short(), "e3b0c44298fc");
    for wrong in ["", "sha256:", HEX, "sha512:00", "sha256:zz"] {
        assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
    }
}

#[test]
fn references_travel_as_text() {
    let parsed: ImageReference = serde_json::from_str("\"nginx\"").unwrap();
    assert_eq!(serde_json::to_string(&parsed).unwrap(), "\"docker.io/library/nginx:latest\"");
    assert!(serde_json::from_str::<ImageReference>("\"NGINX\"").is_err());
}

proptest! {
    #[test]
    fn any_text_is_accepted_or_refused_without_a_panic(text in ".{0,80}") {
        let _ = ImageReference::parse(&text);
    }

    #[test]
    fn full_and_familiar_forms_mean_the_same(
        text in "(docker.io/|[A-Za-z0-9.-]{1,8}(:[0-9]{1,5})?/)?[a-z0-9._-]{1,8}(/[a-z0-9._-]{1,6}){0,2}(:[A-Za-z0-9_.-]{1,6})?"
    ) {
        if let Ok(parsed) = ImageReference::parse(&text) {
            prop_assert_eq!(&ImageReference::parse(&parsed.to_string()).unwrap(), &parsed);
            prop_assert_eq!(&ImageReference::parse(&parsed.familiar()).unwrap(), &parsed);
        }
    }
}
