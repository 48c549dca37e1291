//! The specs can carry every field of Docker's, under Docker's names.

use std::collections::BTreeSet;

use serde_json::Value;
use shoal_types::spec::{
    ConfigSpec, NetworkSpec, NodeSpec, SecretSpec, ServiceSpec, TaskSpec, VolumeSpec,
};

use super::arbitrary::{Arbitrary, Source};

/// Docker's fields as paths, `a.b{c,d{e}}`; of list items with `[]`, of maps that users fill without
/// their keys. From the REST API's reference, version 1.47 and later.
const SERVICE: &str = "Name,Labels,TaskTemplate,\
    Mode{Replicated{Replicas},Global,ReplicatedJob{MaxConcurrent,TotalCompletions},GlobalJob},\
    UpdateConfig{Parallelism,Delay,FailureAction,Monitor,MaxFailureRatio,Order},\
    RollbackConfig{Parallelism,Delay,FailureAction,Monitor,MaxFailureRatio,Order},\
    EndpointSpec{Mode,Ports[]{Name,Protocol,TargetPort,PublishedPort,PublishMode}}";

const TASK: &str = "ContainerSpec,\
    PluginSpec{Name,Remote,PluginPrivilege[]{Name,Description,Value[]},Disabled,Env[]},\
    NetworkAttachmentSpec{ContainerID},\
    Resources{Limits{NanoCPUs,MemoryBytes,Pids},\
    Reservations{NanoCPUs,MemoryBytes,GenericResources[]{\
    NamedResourceSpec{Kind,Value},DiscreteResourceSpec{Kind,Value}}},SwapBytes,MemorySwappiness},\
    RestartPolicy{Condition,Delay,MaxAttempts,Window},\
    Placement{Constraints[],Preferences[]{Spread{SpreadDescriptor}},MaxReplicas,\
    Platforms[]{Architecture,OS}},\
    Networks[]{Target,Aliases[],DriverOpts},LogDriver{Name,Options},ForceUpdate,Runtime";

const CONTAINER: &str = "Image,Labels,Command[],Args[],Hostname,Env[],Dir,User,Groups[],\
    Privileges{CredentialSpec{Config,File,Registry},SELinuxContext{Disable,User,Role,Type,Level},\
    Seccomp{Mode,Profile},AppArmor{Mode},NoNewPrivileges},\
    Init,StopSignal,TTY,OpenStdin,ReadOnly,\
    Mounts[]{Type,Source,Target,ReadOnly,Consistency,\
    BindOptions{Propagation,NonRecursive,CreateMountpoint,ReadOnlyNonRecursive,\
    ReadOnlyForceRecursive},\
    VolumeOptions{NoCopy,Labels,Subpath,DriverConfig{Name,Options}},ImageOptions{Subpath},\
    TmpfsOptions{SizeBytes,Mode,Options[][]}},\
    StopGracePeriod,Healthcheck{Test[],Interval,Timeout,StartPeriod,StartInterval,Retries},\
    Hosts[],DNSConfig{Nameservers[],Search[],Options[]},\
    Secrets[]{File{Name,UID,GID,Mode},SecretName},\
    Configs[]{File{Name,UID,GID,Mode},Runtime,ConfigName},\
    Isolation,Sysctls,CapabilityAdd[],CapabilityDrop[],Ulimits[]{Name,Soft,Hard},OomScoreAdj";

const NETWORK: &str = "Name,Labels,Driver,Options,Scope,EnableIPv4,EnableIPv6,Internal,\
    Attachable,Ingress,IPAM{Driver,Options,Config[]{Subnet,IPRange,Gateway,AuxiliaryAddresses}},\
    ConfigFrom{Network},ConfigOnly";

const NODE: &str = "Name,Labels,Role,Availability";

// `Data` of a secret is written, never read.
const SECRET: &str = "Name,Labels,Driver{Name,Options},Templating{Name,Options}";

const CONFIG: &str = "Name,Labels,Data,Templating{Name,Options}";

const VOLUME: &str = "Name,Labels,Driver,Options";

/// Maps whose keys are the user's.
const MAPS: [&str; 6] =
    ["Labels", "Options", "DriverOpts", "Sysctls", "AuxiliaryAddresses", "Global"];

/// Paths of all fields in a JSON value.
fn paths(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                if MAPS.contains(&name.as_str()) && value.is_object() {
                    found.insert(path);
                } else {
                    paths(value, &path, found);
                }
            }
            if fields.is_empty() {
                found.insert(at.to_owned());
            }
        }
        Value::Array(items) => {
            for item in items {
                paths(item, &format!("{at}[]"), found);
            }
        }
        _ => {
            found.insert(at.to_owned());
        }
    }
}

/// Paths of all fields that values of this type can have.
fn ours<T: Arbitrary + serde::Serialize>() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for seed in 0..400 {
        let value: T = Source::full(seed).any();
        paths(&serde_json::to_value(&value).unwrap(), "", &mut found);
    }
    found
}

/// Expands `a{b,c}` to `a.b` and `a.c`.
fn expand(list: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let (mut outer, mut name) = (Vec::new(), String::new());
    for c in format!("{list},").chars() {
        match c {
            '{' => outer.push(std::mem::take(&mut name)),
            ',' | '}' => {
                if !name.is_empty() {
                    let path = [&*outer, &[std::mem::take(&mut name)]].concat();
                    found.insert(path.join("."));
                }
                if c == '}' {
                    outer.pop();
                }
            }
            _ => name.push(c),
        }
    }
    found
}

#[track_caller]
fn same(found: &BTreeSet<String>, dockers: &BTreeSet<String>, own: &[&str]) {
    let lost: Vec<_> = dockers.difference(found).collect();
    assert!(lost.is_empty(), "cannot be carried, or has another name: {lost:?}");
    let more: Vec<_> = found.difference(dockers).collect();
    assert_eq!(more, own, "fields that Docker does not have");
}

#[test]
fn lists_expand() {
    let expected = ["a", "b.c", "b.d[].e"].map(str::to_owned);
    assert_eq!(expand("a,b{c,d[]{e}}"), BTreeSet::from(expected));
}

#[test]
fn services() {
    let whole = ours::<ServiceSpec>();
    let prefix = "TaskTemplate.";
    let task = whole.iter().filter_map(|p| p.strip_prefix(prefix)).map(str::to_owned).collect();
    let mut service: BTreeSet<String> =
        whole.iter().filter(|p| !p.starts_with(prefix)).cloned().collect();
    service.insert("TaskTemplate".to_owned());
    // Compose can publish on one address of the host; Docker's services cannot. It has neither
    // affinity nor locality.
    same(
        &service,
        &expand(SERVICE),
        &["EndpointSpec.Affinity", "EndpointSpec.Locality", "EndpointSpec.Ports[].HostIP"],
    );
    tasks(&task);
    tasks(&ours::<TaskSpec>());
}

#[track_caller]
fn tasks(found: &BTreeSet<String>) {
    let prefix = "ContainerSpec.";
    let container: BTreeSet<_> =
        found.iter().filter_map(|p| p.strip_prefix(prefix)).map(str::to_owned).collect();
    let mut task: BTreeSet<String> =
        found.iter().filter(|p| !p.starts_with(prefix)).cloned().collect();
    task.insert("ContainerSpec".to_owned());
    // SwarmKit has addresses; Docker's API leaves them out. Whose network is shared Docker says of containers alone.
    same(&task, &expand(TASK), &["NetworkOf", "Networks[].Addresses[]"]);
    // A reference that the runtime uses, which Docker has for configs alone. It has no versions of either, and no
    // variables of them.
    let own = [
        "Configs[].Env",
        "Configs[].OnChange",
        "Configs[].Version",
        "DrainTimeout",
        "Secrets[].Env",
        "Secrets[].OnChange",
        "Secrets[].Runtime",
        "Secrets[].Version",
    ];
    same(&container, &expand(CONTAINER), &own);
}

#[test]
fn others() {
    same(&ours::<NetworkSpec>(), &expand(NETWORK), &[]);
    same(&ours::<NodeSpec>(), &expand(NODE), &[]);
    same(&ours::<SecretSpec>(), &expand(SECRET), &[]);
    same(&ours::<ConfigSpec>(), &expand(CONFIG), &[]);
    same(&ours::<VolumeSpec>(), &expand(VOLUME), &[]);
}

/// How Docker writes what JSON has no type for.
#[test]
fn values() {
    let config = ConfigSpec { data: b"a\xff".to_vec(), ..ConfigSpec::default() };
    assert_eq!(serde_json::to_value(&config).unwrap()["Data"], "Yf8=");
    let json = serde_json::to_value(super::golden_spec()).unwrap();
    let cases = [
        ("/Mode/Replicated/Replicas", Value::from(3)),
        ("/TaskTemplate/Runtime", Value::from("container")),
        ("/TaskTemplate/RestartPolicy/Condition", Value::from("on-failure")),
        ("/TaskTemplate/RestartPolicy/Delay", Value::from(1_000_000)),
        ("/TaskTemplate/ContainerSpec/StopGracePeriod", Value::from(3_000_000_000u64)),
        ("/TaskTemplate/ContainerSpec/Privileges/Seccomp/Mode", Value::from("custom")),
        ("/TaskTemplate/ContainerSpec/Privileges/Seccomp/Profile", Value::from("e30=")),
        ("/TaskTemplate/ContainerSpec/Mounts/0/Type", Value::from("tmpfs")),
        ("/TaskTemplate/ContainerSpec/Secrets/0/File/Mode", Value::from(0o400)),
        ("/EndpointSpec/Mode", Value::from("vip")),
        ("/EndpointSpec/Ports/0/PublishMode", Value::from("host")),
        ("/UpdateConfig/Order", Value::from("start-first")),
    ];
    for (path, expected) in cases {
        assert_eq!(json.pointer(path), Some(&expected), "{path}");
    }
}
