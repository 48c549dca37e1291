//! What is refused, and what the refusal says.

use shoal_types::object::{Network, Node, Task};
use shoal_types::spec::{
    ContainerSpec, EndpointSpec, NodeSpec, RestartCondition, RestartPolicy, ServiceSpec, StackSpec,
};

use super::golden_spec;
use crate::convert::InvalidMessage;
use crate::v1 as pb;

fn refusal<T: TryFrom<W, Error = InvalidMessage>, W>(wire: W) -> String {
    T::try_from(wire).err().map_or_else(|| "accepted".to_owned(), |e| e.to_string())
}

/// The refusal of the golden spec after a change to its message.
fn changed(change: impl FnOnce(&mut pb::ServiceSpec)) -> String {
    let mut wire = pb::ServiceSpec::from(&golden_spec());
    change(&mut wire);
    refusal::<ServiceSpec, _>(wire)
}

fn container(wire: &mut pb::ServiceSpec) -> &mut pb::ContainerSpec {
    match &mut task(wire).runtime {
        Some(pb::task_spec::Runtime::Container(container)) => container,
        other => panic!("{other:?}"),
    }
}

fn task(wire: &mut pb::ServiceSpec) -> &mut pb::TaskSpec {
    wire.task_template.as_mut().unwrap()
}

fn port(wire: &mut pb::ServiceSpec) -> &mut pb::PortConfig {
    &mut wire.endpoint_spec.as_mut().unwrap().ports[0]
}

type Change = fn(&mut pb::ServiceSpec);

#[test]
fn a_refusal_names_the_field_and_says_why() {
    let cases: &[(Change, &str)] = &[
        (|_| {}, "accepted"),
        (|s| s.task_template = None, "field task_template: is missing"),
        (|s| s.mode = None, "field mode: is missing"),
        (|s| s.mode.as_mut().unwrap().mode = None, "field mode.mode: is missing"),
        (|s| task(s).runtime = None, "field task_template.runtime: is missing"),
        (
            |s| task(s).restart_policy.as_mut().unwrap().condition = 9,
            "field task_template.restart_policy.condition: has the unknown value 9",
        ),
        (
            |s| s.update_config.as_mut().unwrap().order = -1,
            "field update_config.order: has the unknown value -1",
        ),
        (
            |s| container(s).mounts[0].kind = 0,
            "field task_template.container.mounts[0].kind: is not set",
        ),
        (
            |s| container(s).secrets[0].target = None,
            "field task_template.container.secrets[0].target: is missing",
        ),
        (
            |s| container(s).privileges.as_mut().unwrap().seccomp = Some(pb::Seccomp::default()),
            "field task_template.container.privileges.seccomp.profile: is missing",
        ),
        (
            |s| container(s).privileges.as_mut().unwrap().app_armor.as_mut().unwrap().mode = 0,
            "field task_template.container.privileges.app_armor.mode: is not set",
        ),
        (
            |s| port(s).target_port = 65536,
            "field endpoint_spec.ports[0].target_port: is 65536: expected at most 65535",
        ),
        (|s| port(s).publish_mode = 0, "field endpoint_spec.ports[0].publish_mode: is not set"),
        (
            |s| port(s).host_ip = Some("host".to_owned()),
            "field endpoint_spec.ports[0].host_ip: \"host\" is refused: invalid IP address syntax",
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(changed(change), *expected);
    }
}

#[test]
fn a_path_through_a_map_quotes_the_key() {
    let services = [("web \"1\"".to_owned(), pb::ServiceSpec::default())].into();
    let wire = pb::StackSpec { services, ..pb::StackSpec::default() };
    let expected = "field services[\"web \\\"1\\\"\"].task_template: is missing";
    assert_eq!(refusal::<StackSpec, _>(wire), expected);
}

#[test]
fn empty_messages_of_objects_are_refused() {
    assert_eq!(refusal::<Node, _>(pb::Node::default()), "field id: is missing");
    assert_eq!(refusal::<Task, _>(pb::Task::default()), "field id: is missing");
    let id = "0".repeat(25);
    let network = pb::Network { id, ..pb::Network::default() };
    assert_eq!(refusal::<Network, _>(network), "field meta: is missing");
}

#[test]
fn what_is_not_set_means_its_default_where_the_contract_says_so() {
    let policy = RestartPolicy::try_from(pb::RestartPolicy::default()).unwrap();
    assert_eq!(policy, RestartPolicy::default());
    assert_eq!(policy.condition, RestartCondition::Any);
    assert_eq!(NodeSpec::try_from(pb::NodeSpec::default()), Ok(NodeSpec::default()));
    assert_eq!(EndpointSpec::try_from(pb::EndpointSpec::default()), Ok(EndpointSpec::default()));
    assert_eq!(ContainerSpec::try_from(pb::ContainerSpec::default()), Ok(ContainerSpec::default()));
}
