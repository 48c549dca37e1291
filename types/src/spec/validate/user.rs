//! Checks of users.

use std::collections::BTreeSet;

use super::super::{UserRole, UserSpec};
use super::{Check, service};
use crate::name;

/// Stacks that one user may have: a user is read with every call.
const STACKS_MAX: usize = 100;

pub(super) fn user(c: &mut Check, spec: &UserSpec) {
    c.name(&spec.name);
    service::labels(c, &spec.labels);
    let role = spec.role;
    if role != UserRole::Deployer {
        let others = "is for deployers: other roles are not bound to stacks";
        c.at("stacks", |c| c.that(spec.stacks.is_empty(), spec.stacks.join(", "), others));
        let host = "is for deployers: operators and admins have it, viewers run nothing";
        c.at("host_access", |c| c.that(!spec.host_access, spec.host_access, host));
        return;
    }
    if spec.stacks.is_empty() {
        c.at("stacks", |c| {
            c.wrong("", "is empty: a deployer needs the name of one stack at least");
        });
    }
    let count = spec.stacks.len();
    c.at("stacks", |c| {
        c.that(count <= STACKS_MAX, count, &format!("are too many: expected {STACKS_MAX} at most"));
    });
    let mut seen = BTreeSet::new();
    c.each("stacks", &spec.stacks, |c, stack| {
        let rule = format!("is not a name: expected {}", name::NAME_RULE);
        c.that(name::is_valid(stack), stack, &rule);
        c.that(seen.insert(stack.clone()), stack, "is there twice");
    });
}

#[test]
fn stacks_are_for_deployers() {
    let spec = |role, stacks: &[&str]| UserSpec {
        name: "ci".to_owned(),
        role,
        stacks: stacks.iter().map(|s| (*s).to_owned()).collect(),
        ..UserSpec::default()
    };
    let said = |spec: UserSpec| spec.validate().map_err(|e| e.to_string());
    assert_eq!(said(spec(UserRole::Deployer, &["shop", "blog"])), Ok(()));
    assert_eq!(said(spec(UserRole::Admin, &[])), Ok(()));
    let refused = [
        (spec(UserRole::Deployer, &[]), "stacks: is empty"),
        (spec(UserRole::Deployer, &["shop", "shop"]), "stacks[1]: \"shop\" is there twice"),
        (spec(UserRole::Deployer, &["a b"]), "stacks[0]: \"a b\" is not a name"),
        (spec(UserRole::Viewer, &["shop"]), "stacks: \"shop\" is for deployers"),
        (
            UserSpec { host_access: true, ..spec(UserRole::Operator, &[]) },
            "host_access: \"true\" is for deployers",
        ),
        (UserSpec::default(), "name: is not a name"),
    ];
    for (spec, expected) in refused {
        let error = said(spec).unwrap_err();
        assert!(error.contains(expected), "{error} lacks {expected}");
    }
}
