//! What JSON leaves out of objects because it is empty, put back for templates: there `{{if
//! .Spec.Mode.Global}}` is a question about any service, as it is with Docker, where a field that has
//! no value is nil, empty or zero. A field that no object of the kind has stays a mistake.

use serde_json::{Map, Value, json};

/// An object of one kind: what tells it, and what it may lack.
#[derive(Default)]
struct Shape {
    /// The field that holds it, if that matters.
    under: &'static str,
    /// Fields that it always has.
    has: &'static [&'static str],
    nil: &'static [&'static str],
    text: &'static [&'static str],
    list: &'static [&'static str],
    map: &'static [&'static str],
    no: &'static [&'static str],
    zero: &'static [&'static str],
}

const ANY: Shape =
    Shape { under: "", has: &[], nil: &[], text: &[], list: &[], map: &[], no: &[], zero: &[] };

/// The first one that fits counts.
const SHAPES: [Shape; 36] = [
    Shape {
        has: &["DeploymentID", "Endpoint"],
        nil: &["PreviousSpec", "Deployment"],
        text: &["StackID"],
        list: &["Networks"],
        ..ANY
    },
    Shape {
        has: &["TaskTemplate", "Mode"],
        nil: &["UpdateConfig", "RollbackConfig", "EndpointSpec"],
        ..ANY
    },
    Shape {
        has: &["ForceUpdate"],
        nil: &[
            "ContainerSpec",
            "PluginSpec",
            "NetworkAttachmentSpec",
            "Resources",
            "RestartPolicy",
            "Placement",
            "LogDriver",
        ],
        list: &["Networks"],
        ..ANY
    },
    Shape {
        under: "ContainerSpec",
        nil: &[
            "Command",
            "Args",
            "Privileges",
            "Init",
            "StopGracePeriod",
            "DrainTimeout",
            "Healthcheck",
            "DNSConfig",
            "OomScoreAdj",
        ],
        text: &["Hostname", "Dir", "User", "StopSignal", "Isolation"],
        list: &[
            "Env",
            "Groups",
            "Mounts",
            "Hosts",
            "Secrets",
            "Configs",
            "CapabilityAdd",
            "CapabilityDrop",
            "Ulimits",
        ],
        map: &["Labels", "Sysctls"],
        no: &["TTY", "OpenStdin", "ReadOnly"],
        ..ANY
    },
    Shape {
        has: &["NoNewPrivileges"],
        nil: &["CredentialSpec", "SELinuxContext", "Seccomp", "AppArmor"],
        ..ANY
    },
    Shape {
        has: &["Test", "Retries"],
        nil: &["Interval", "Timeout", "StartPeriod", "StartInterval"],
        ..ANY
    },
    Shape {
        has: &["Type", "Target"],
        text: &["Source", "Consistency"],
        no: &["ReadOnly"],
        nil: &["BindOptions", "VolumeOptions", "ImageOptions", "TmpfsOptions"],
        ..ANY
    },
    Shape { under: "BindOptions", text: &["Propagation"], ..ANY },
    Shape { under: "VolumeOptions", text: &["Subpath"], nil: &["DriverConfig"], ..ANY },
    Shape { under: "ImageOptions", text: &["Subpath"], ..ANY },
    Shape { under: "TmpfsOptions", list: &["Options"], ..ANY },
    Shape { under: "LogDriver", map: &["Options"], ..ANY },
    Shape { has: &["NanoCPUs", "MemoryBytes"], list: &["GenericResources"], ..ANY },
    Shape { under: "Limits", zero: &["NanoCPUs", "MemoryBytes", "Pids"], ..ANY },
    Shape {
        under: "Resources",
        nil: &["Limits", "Reservations", "SwapBytes", "MemorySwappiness"],
        ..ANY
    },
    Shape { has: &["Condition", "MaxAttempts"], nil: &["Delay", "Window"], ..ANY },
    Shape { has: &["MaxReplicas"], list: &["Constraints", "Preferences", "Platforms"], ..ANY },
    Shape { has: &["Parallelism", "FailureAction"], nil: &["Monitor"], ..ANY },
    Shape { under: "Mode", nil: &["Replicated", "Global", "ReplicatedJob", "GlobalJob"], ..ANY },
    Shape { under: "ReplicatedJob", nil: &["MaxConcurrent", "TotalCompletions"], ..ANY },
    Shape { has: &["TargetPort", "PublishedPort"], text: &["Name", "HostIP"], ..ANY },
    // Of a task, which has the spec of its service there; of a service.
    Shape { under: "Endpoint", has: &["Mode"], ..ANY },
    Shape { under: "Endpoint", nil: &["Spec"], list: &["Ports", "VirtualIPs"], ..ANY },
    Shape { has: &["NetworkID", "Addr"], ..ANY },
    Shape {
        has: &["NetworkID"],
        list: &["Aliases", "Addresses"],
        map: &["DriverOpts"],
        no: &["Connected"],
        ..ANY
    },
    Shape {
        has: &["DesiredState", "ServiceID"],
        text: &["NodeID"],
        nil: &["Endpoint", "StartAfter"],
        list: &["NetworksAttachments"],
        zero: &["Rejections"],
        ..ANY
    },
    Shape {
        under: "Status",
        has: &["State", "Timestamp"],
        text: &["Err"],
        nil: &["ContainerStatus"],
        list: &["PortStatus"],
        ..ANY
    },
    Shape { has: &["ContainerID", "PID"], nil: &["ExitCode", "Signal"], no: &["OOMKilled"], ..ANY },
    Shape { has: &["Description", "Status"], nil: &["ManagerStatus", "Assignment"], ..ANY },
    Shape { under: "Description", has: &["Hostname", "Engine"], nil: &["Tunnel"], ..ANY },
    Shape { under: "Tunnel", text: &["Addr"], ..ANY },
    Shape { under: "Status", has: &["State", "Since"], text: &["Message", "Addr"], ..ANY },
    Shape { has: &["ServiceVersion", "Kind"], nil: &["StackVersion", "CompletedAt"], ..ANY },
    Shape { has: &["Predefined"], text: &["StackID"], ..ANY },
    Shape {
        has: &["EnableIPv6", "ConfigOnly"],
        text: &["Scope"],
        nil: &["EnableIPv4", "IPAM", "ConfigFrom"],
        ..ANY
    },
    Shape { has: &["Subnet"], text: &["IPRange", "Gateway"], map: &["AuxiliaryAddresses"], ..ANY },
];

impl Shape {
    fn of(under: &str, fields: &Map<String, Value>) -> Option<&'static Self> {
        SHAPES.iter().find(|shape| {
            (shape.under.is_empty() || shape.under == under)
                && shape.has.iter().all(|field| fields.contains_key(*field))
        })
    }

    /// Each field that may be lacking, with what it is then.
    fn fields(&self) -> impl Iterator<Item = (&'static str, Value)> {
        let kinds = [
            (self.nil, Value::Null),
            (self.text, json!("")),
            (self.list, json!([])),
            (self.map, json!({})),
            (self.no, json!(false)),
            (self.zero, json!(0)),
        ];
        kinds.into_iter().flat_map(|(names, empty)| names.iter().map(move |n| (*n, empty.clone())))
    }
}

/// Puts back what was left out because it is empty.
pub(super) fn filled(mut document: Value) -> Value {
    each(&mut document, "", &mut |shape, fields| {
        for (name, empty) in shape.fields() {
            fields.entry(name).or_insert(empty);
        }
    });
    document
}

/// Leaves out again what [`filled`] has put back.
pub(super) fn emptied(mut document: Value) -> Value {
    each(&mut document, "", &mut |shape, fields| {
        for (name, empty) in shape.fields() {
            if fields.get(name) == Some(&empty) {
                fields.remove(name);
            }
        }
    });
    document
}

fn each(value: &mut Value, under: &str, act: &mut impl FnMut(&Shape, &mut Map<String, Value>)) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| each(item, under, act)),
        Value::Object(fields) if !super::template::MAPS.contains(&under) || has_objects(fields) => {
            fields.iter_mut().for_each(|(name, below)| each(below, name, act));
            if let Some(shape) = Shape::of(under, fields) {
                act(shape, fields);
            }
        }
        _ => {}
    }
}

/// Whether a map whose keys users chose has objects, whose fields they did not choose.
fn has_objects(fields: &Map<String, Value>) -> bool {
    fields.values().any(Value::is_object)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shoal_types::id::{DeploymentId, NodeId, ServiceId};
    use shoal_types::object::{
        Endpoint, Meta, Node, NodeDescription, NodeState, NodeStatus, Service,
    };
    use shoal_types::spec::{
        ContainerSpec, EndpointSpec, Labels, NetworkSpec, NodeSpec, ServiceMode, ServiceSpec,
        TaskRuntime, TaskSpec, UpdateConfig,
    };
    use shoal_types::time::Timestamp;

    use super::super::template::Template;
    use super::*;

    /// With as little as there may be.
    fn service() -> Service {
        Service {
            id: ServiceId::from(1),
            meta: Meta::created(1, Timestamp::ZERO),
            spec: Arc::new(ServiceSpec {
                name: "web".to_owned(),
                labels: Labels::new(),
                task_template: Arc::new(TaskSpec::of(TaskRuntime::Container(
                    ContainerSpec::default(),
                ))),
                mode: ServiceMode::Replicated { replicas: 3 },
                update_config: None,
                rollback_config: None,
                endpoint_spec: None,
            }),
            previous_spec: None,
            stack_id: None,
            deployment_id: DeploymentId::from(1),
            networks: [].into(),
            payloads: Default::default(),
            endpoint: Endpoint::default(),
        }
    }

    fn node() -> Node {
        Node {
            id: NodeId::from(1),
            meta: Meta::created(1, Timestamp::ZERO),
            spec: NodeSpec::default(),
            description: NodeDescription::default(),
            status: NodeStatus { state: NodeState::Ready, ..NodeStatus::default() },
            manager_status: None,
            tunnel_address: None,
        }
    }

    fn shown(object: &impl serde::Serialize, text: &str) -> String {
        let object = serde_json::to_value(object).unwrap();
        let template = Template::new(text).unwrap();
        template.objects(&[object]).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn what_an_object_may_lack_is_no_mistake() {
        let (service, node) = (service(), node());
        let cases = [
            (
                "{{if .Spec.Mode.Global}}global{{else}}{{.Spec.Mode.Replicated.Replicas}}{{end}}",
                "3",
            ),
            ("{{with .Spec.UpdateConfig}}{{.Parallelism}}{{else}}none{{end}}", "none"),
            ("{{.Deployment.State}}", "<no value>"),
            ("{{if .PreviousSpec}}x{{end}}", ""),
            ("{{range .Endpoint.Ports}}{{.PublishedPort}}{{end}}", ""),
            ("{{with .Spec.TaskTemplate.Resources}}{{.Limits.NanoCPUs}}{{end}}", ""),
            ("{{.Spec.TaskTemplate.ContainerSpec.User}}", ""),
            ("{{len .Spec.TaskTemplate.ContainerSpec.Mounts}}", "0"),
            ("{{range .Spec.TaskTemplate.ContainerSpec.Args}}x{{end}}", ""),
            ("{{index .Spec.TaskTemplate.ContainerSpec.Labels \"a\"}}", "<no value>"),
            ("{{if .Spec.TaskTemplate.ContainerSpec.ReadOnly}}x{{else}}y{{end}}", "y"),
        ];
        for (text, expected) in cases {
            assert_eq!(shown(&service, text), expected, "{text}");
        }
        assert_eq!(shown(&node, "{{if .ManagerStatus}}manager{{else}}agent{{end}}"), "agent");
        assert_eq!(shown(&node, "{{.Status.Message}}|{{.Status.Addr}}"), "|");
        assert_eq!(
            shown(&node, "{{with .Description.Tunnel}}{{.Kind}}{{else}}none{{end}}"),
            "none"
        );
        assert_eq!(shown(&NetworkSpec::default(), "{{with .IPAM}}x{{end}}{{.Scope}}"), "");
    }

    #[test]
    fn a_typing_mistake_is_one_still() {
        let object = serde_json::to_value(service()).unwrap();
        for (text, expected) in [
            ("{{.Spec.Mode.Globl}}", "Global, GlobalJob, Replicated, ReplicatedJob"),
            ("{{.Spec.UpdateConfg}}", "UpdateConfig"),
        ] {
            let error = Template::new(text).unwrap().objects(std::slice::from_ref(&object));
            assert!(error.unwrap_err().to_string().contains(expected), "{text}");
        }
    }

    #[test]
    fn json_is_as_without_a_template() {
        let rich = ServiceSpec {
            update_config: Some(UpdateConfig { max_failure_ratio: 0.5, ..UpdateConfig::default() }),
            endpoint_spec: Some(EndpointSpec::default()),
            mode: ServiceMode::Global {},
            ..ServiceSpec::clone(&service().spec)
        };
        let rich = Service { spec: Arc::new(rich), ..service() };
        for object in [
            serde_json::to_value(service()).unwrap(),
            serde_json::to_value(rich).unwrap(),
            serde_json::to_value(node()).unwrap(),
            serde_json::to_value(NetworkSpec::default()).unwrap(),
        ] {
            assert_eq!(emptied(filled(object.clone())), object);
            let shown: Value = serde_json::from_str(&shown(&object, "{{json .}}")).unwrap();
            assert_eq!(shown, object);
        }
    }
}
