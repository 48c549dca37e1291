//! Files as Docker writes them, and helpers that are shell scripts.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::error::CommandError;

fn basic(username: &str, password: &str) -> RegistryAuth {
    RegistryAuth::Basic { username: username.to_owned(), password: password.to_owned() }
}

/// base64 of `user:pa:ss`.
const AUTH: &str = "dXNlcjpwYTpzcw==";

fn logins(config: &Value) -> (tempfile::TempDir, Logins) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let logins = Logins::at(dir.path().to_owned());
    (dir, logins)
}

fn read(dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap()
}

#[tokio::test]
async fn logins_that_others_stored_are_found() {
    let (_dir, logins) = logins(&json!({ "auths": {
        "https://index.docker.io/v1/": { "auth": AUTH },
        "https://old.lan/v2/": { "auth": AUTH },
        "plain.lan": { "username": "u", "password": "p" },
        "token.lan:5000": { "auth": "dXNlcjo=", "identitytoken": "id" },
        "bearer.lan": { "registrytoken": "abc" },
        "empty.lan": {},
        "nul.lan": { "auth": "dTpwAA==" },
    }}));
    for (registry, expected) in [
        ("docker.io", Some(basic("user", "pa:ss"))),
        ("old.lan", Some(basic("user", "pa:ss"))),
        ("plain.lan", Some(basic("u", "p"))),
        ("token.lan:5000", Some(RegistryAuth::Identity("id".to_owned()))),
        ("token.lan", None),
        ("bearer.lan", Some(RegistryAuth::Token("abc".to_owned()))),
        ("empty.lan", None),
        ("nul.lan", Some(basic("u", "p"))),
        ("other.lan", None),
    ] {
        assert_eq!(logins.get(registry).await.unwrap(), expected, "{registry}");
    }
    let images = ["nginx", "old.lan/a:1", "old.lan/b", "other.lan/x", "Not An Image"];
    let (auths, without) = logins.of_images(images.into_iter()).await.unwrap();
    assert_eq!(auths.into_keys().collect::<Vec<_>>(), ["docker.io", "old.lan"]);
    assert_eq!(without, ["other.lan"]);
}

#[tokio::test]
async fn what_the_environment_holds_comes_first_and_stays_as_it_is() {
    let (dir, mut logins) = logins(&json!({ "auths": {
        "a.lan": { "username": "kept", "password": "p" },
        "b.lan": { "username": "kept", "password": "p" },
    }}));
    let given = json!({ "auths": { "a.lan": { "auth": AUTH } }, "credsStore": "none-such" });
    logins.given = Some(Document::parse(&given.to_string(), GIVEN.into()).unwrap());
    assert_eq!(logins.get("a.lan").await.unwrap(), Some(basic("user", "pa:ss")));
    assert_eq!(logins.get("b.lan").await.unwrap(), Some(basic("kept", "p")));
    logins.store("a.lan", "new", &basic("new", "p")).await.unwrap();
    assert_eq!(read(dir.path())["auths"]["a.lan"], json!({ "auth": "bmV3OnA=" }));
    assert_eq!(logins.get("a.lan").await.unwrap(), Some(basic("user", "pa:ss")));
    let wrong = CommandError::from(Document::parse("[]", GIVEN.into()).unwrap_err()).report();
    assert!(wrong.contains("cannot understand DOCKER_AUTH_CONFIG"), "{wrong}");
}

#[tokio::test]
async fn a_login_is_kept_for_its_owner_alone_and_nothing_else_changes() {
    let others = json!({
        "HttpHeaders": { "X": "y" }, "detachKeys": "ctrl-e",
        "auths": { "https://registry.lan/v1/": { "auth": "b2xkOm9sZA==" }, "b.lan": { "auth": AUTH } },
    });
    let (dir, logins) = logins(&others);
    fs::set_permissions(dir.path().join("config.json"), fs::Permissions::from_mode(0o644)).unwrap();
    let kept = logins.store("registry.lan", "user", &basic("user", "pa:ss")).await.unwrap();
    assert_eq!(kept, Kept::File(fs::canonicalize(dir.path().join("config.json")).unwrap()));
    logins.store("docker.io", "user", &RegistryAuth::Identity("id".into())).await.unwrap();
    let mode = fs::metadata(dir.path().join("config.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut expected = others;
    expected["auths"] = json!({
        "registry.lan": { "auth": AUTH }, "b.lan": { "auth": AUTH },
        "https://index.docker.io/v1/": { "auth": "dXNlcjo=", "identitytoken": "id" },
    });
    assert_eq!(read(dir.path()), expected);

    assert!(logins.erase("registry.lan").await.unwrap());
    assert!(!logins.erase("registry.lan").await.unwrap());
    expected["auths"].as_object_mut().unwrap().remove("registry.lan");
    assert_eq!(read(dir.path()), expected);
    let names = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(names, 1, "no temporary file stays");
}

#[tokio::test]
async fn the_first_login_makes_the_file_and_a_link_to_it_stays_one() {
    let dir = tempfile::tempdir().unwrap();
    let logins = Logins::at(dir.path().join("new/.docker"));
    assert_eq!(logins.get("registry.lan").await.unwrap(), None);
    logins.store("registry.lan", "u", &basic("u", "p")).await.unwrap();
    assert_eq!(logins.get("registry.lan").await.unwrap(), Some(basic("u", "p")));

    let linked = dir.path().join("linked");
    fs::create_dir(&linked).unwrap();
    let target = dir.path().join("dotfiles.json");
    fs::write(&target, "").unwrap();
    std::os::unix::fs::symlink(&target, linked.join("config.json")).unwrap();
    Logins::at(linked.clone()).store("registry.lan", "u", &basic("u", "p")).await.unwrap();
    assert!(linked.join("config.json").is_symlink());
    assert!(fs::read_to_string(target).unwrap().contains("registry.lan"));
}

/// A helper that keeps one credential in a file beside it and writes down how it was called.
fn install(dir: &Path, name: &str, get: &str) {
    let here = dir.display();
    let script = format!(
        "#!/bin/sh\necho \"$0 $*\" >>{here}/calls\ncase $1 in\n\
         get) read -r server; echo \"$server\" >>{here}/calls; {get};;\n\
         store) cat >{here}/stored;;\nerase) cat >{here}/erased;;\nesac\n"
    );
    let program = dir.join(format!("docker-credential-{name}"));
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
}

fn of(dir: &Path, get: &str) -> Helper {
    install(dir, "test", get);
    Helper::at(dir.join("docker-credential-test"))
}

#[tokio::test]
async fn helpers_are_told_through_standard_input() {
    let dir = tempfile::tempdir().unwrap();
    let found = r#"echo '{"ServerURL":"x","Username":"u","Secret":"hunter2"}'"#;
    let helper = of(dir.path(), found);
    assert_eq!(helper.get("docker.io").await.unwrap(), Some(basic("u", "hunter2")));
    helper.store("registry.lan", &basic("u", "hunter2")).await.unwrap();
    let stored: Value =
        serde_json::from_slice(&fs::read(dir.path().join("stored")).unwrap()).unwrap();
    let expected = json!({ "ServerURL": "registry.lan", "Username": "u", "Secret": "hunter2" });
    assert_eq!(stored, expected);
    helper.store("registry.lan", &RegistryAuth::Identity("id".into())).await.unwrap();
    let stored: Value =
        serde_json::from_slice(&fs::read(dir.path().join("stored")).unwrap()).unwrap();
    assert_eq!(stored["Username"], "<token>");
    helper.erase("registry.lan").await.unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("erased")).unwrap(), "registry.lan");
    let calls = fs::read_to_string(dir.path().join("calls")).unwrap();
    assert!(calls.contains("https://index.docker.io/v1/"), "{calls}");
    assert!(!calls.contains("hunter2"), "{calls}");

    let token = r#"echo '{"Username":"<token>","Secret":"id"}'"#;
    let got = of(dir.path(), token).get("registry.lan").await.unwrap();
    assert_eq!(got, Some(RegistryAuth::Identity("id".into())));
}

#[tokio::test]
async fn what_helpers_refuse_is_said_without_a_secret() {
    let dir = tempfile::tempdir().unwrap();
    let none = of(dir.path(), "echo credentials not found in native keychain; exit 1");
    assert_eq!(none.get("registry.lan").await.unwrap(), None);
    for (get, expected) in [
        ("echo keychain is locked; exit 2", "exit status: 2: keychain is locked"),
        ("echo boom >&2; exit 3", "exit status: 3: boom"),
        (r#"echo '{"Username":"u","Secret":["hunter2"]}'"#, "its answer is not a credential"),
        ("echo hunter2", "its answer is not a credential"),
    ] {
        let error = of(dir.path(), get).get("registry.lan").await.unwrap_err();
        let said = CommandError::failed("no").because(error).report();
        assert!(said.contains(expected) && !said.contains("hunter2"), "{said}");
    }
}

#[tokio::test]
async fn the_helper_of_a_registry_comes_before_that_of_all() {
    let (dir, logins) = logins(&json!({
        "credsStore": "no-such-helper", "credHelpers": { "own.lan": "", "bad.lan": "../../bin/sh" },
        "auths": { "own.lan": { "auth": AUTH } },
    }));
    assert_eq!(logins.get("own.lan").await.unwrap(), Some(basic("user", "pa:ss")));
    for (registry, expected) in [
        ("other.lan", "cannot run docker-credential-no-such-helper: No such file"),
        ("bad.lan", "../../bin/sh: it is not the name of a program"),
    ] {
        let error = logins.get(registry).await.unwrap_err();
        let said = CommandError::failed("no").because(error).report();
        assert!(said.contains(expected), "{said}");
    }
    drop(dir);
}

#[tokio::test]
async fn a_damaged_file_says_where_and_shows_no_secret() {
    for (text, expected) in [
        ("{\"auths\": hunter2", "expected value at line 1 column 11"),
        ("[]", "it is not an object"),
        ("{\"auths\": [\"hunter2\"]}", "auths is not an object"),
        (
            "{\"auths\": {\"a.lan\": {\"auth\": \"hunter2\"}}}",
            "auths[\"a.lan\"].auth is not base64",
        ),
        ("{\"credsStore\": 7}", "credsStore is not the name of a helper"),
        ("{\"auths\": {\"a.lan\": {\"username\": \"u:x\", \"password\": \"hunter2\"}}}", "colon"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), text).unwrap();
        let error = Logins::at(dir.path().to_owned()).get("a.lan").await.unwrap_err();
        let said = CommandError::failed("no").because(error).report();
        assert!(said.contains(expected) && !said.contains("hunter2"), "{said}");
    }
}
