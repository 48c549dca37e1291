//! Secrets and configs of a stack.

use shoal_types::spec::{FileTarget, OnChange, PayloadReference, PayloadTarget};

use super::{Loaded, load_all, problems, web};

fn loaded(text: &str) -> Loaded {
    load_all(&[text]).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn what_is_in_them_comes_from_files_variables_or_the_stack_file() {
    let declared = "secrets:\n  db: {file: ./password, labels: {a: b}}\n  tag: {environment: TAG}\n  \
                    theirs: {external: true}\nconfigs:\n  motd: {content: 'welcome, ${N}', name: other}\n";
    let lines = "secrets:\n  - db\n  - {source: tag, target: /etc/tag, uid: '7', mode: 0400}\n  \
                 - {source: theirs, env: PASSWORD, version: 3}\n\
                 configs: [{source: motd, on_change: nothing}]";
    let loaded = loaded(&format!("{}{declared}", web(lines)));
    let data = |key: &str| loaded.secrets.get(key).map(|s| (s.name.as_str(), s.data.as_slice()));
    assert_eq!(data("db"), Some(("shop_db", &b"hunter2"[..])));
    assert_eq!(data("tag"), Some(("shop_tag", &b"1.2"[..])));
    assert_eq!(data("theirs"), None);
    let motd = &loaded.configs["motd"];
    assert_eq!((motd.name.as_str(), motd.data.as_slice()), ("other", &b"welcome, 3"[..]));
    assert_eq!(loaded.secrets["db"].labels["com.docker.stack.namespace"], "shop");
    let names: Vec<&String> = loaded.spec.secrets.values().collect();
    assert_eq!(names, ["shop_db", "shop_tag"]);
    let container = loaded.spec.services["web"].task_template.container().unwrap();
    let file = |name: &str, uid: &str, mode| {
        let (name, uid) = (name.to_owned(), uid.to_owned());
        PayloadTarget::File(FileTarget { name, uid, mode, ..FileTarget::default() })
    };
    let to = |name: &str, target| PayloadReference { target, ..PayloadReference::to(name) };
    let env = PayloadTarget::Env("PASSWORD".to_owned());
    let expected = [
        to("shop_db", file("db", "0", 0o444)),
        to("shop_tag", file("/etc/tag", "7", 0o400)),
        PayloadReference { version: Some(3), ..to("theirs", env) },
    ];
    assert_eq!(container.secrets, expected);
    let motd = to("other", file("motd", "0", 0o444));
    assert_eq!(container.configs, [PayloadReference { on_change: OnChange::Nothing, ..motd }]);
    let shown = format!("{:?}", loaded.secrets);
    assert!(!shown.contains("hunter2") && !shown.contains("104, 117"), "{shown}");
}

#[test]
fn what_is_wrong_with_them_is_said_where_it_stands() {
    let with = |declared: &str, lines: &str| problems(&format!("{}{declared}", web(lines)));
    for (declared, lines, expected) in [
        ("secrets:\n  db: {file: gone}\n", "", "secrets.db.file: /app/gone does not exist"),
        ("secrets:\n  db: {environment: GONE}\n", "", "has no variable \"GONE\""),
        ("secrets:\n  db: {}\n", "", "secrets.db: has nothing in it: expected file"),
        ("secrets:\n  db: {file: password, content: x}\n", "", "has more than one of file"),
        (
            "secrets:\n  db: {external: true, file: password}\n",
            "",
            "cannot be combined with external",
        ),
        ("configs:\n  c: {environment: EMPTY}\n", "", "configs.c: data is empty"),
        (
            "secrets:\n  db: {file: password, driver: vault}\n",
            "",
            "secrets.db.driver: is not supported yet",
        ),
        (
            "secrets:\n  db: {file: password}\n",
            "secrets: [bd]",
            "\"bd\" is not declared: did you mean \"db\"?",
        ),
        ("secrets:\n  db: {file: password}\n", "secrets: [{target: x}]", "has no source"),
        (
            "secrets:\n  db: {file: password}\n",
            "secrets: [{source: db, target: x, env: Y}]",
            "has env and target",
        ),
        (
            "secrets:\n  db: {file: password}\n",
            "secrets: [{source: db, on_change: explode}]",
            "expected restart, nothing",
        ),
        ("secrets:\n  db: {file: password}\n", "secrets: [db, db]", "is given twice"),
    ] {
        let said = with(declared, lines);
        assert!(said.contains(expected), "{declared}{lines}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}
