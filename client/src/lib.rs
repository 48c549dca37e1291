//! The connection to a manager. Messages stop here: what goes in and comes out is
//! `shoal_types`.

use std::collections::BTreeMap;

use futures::{Stream, StreamExt as _};
use shoal_proto::convert::InvalidMessage;
use shoal_proto::convert::field::{Auths, Kind as _, Map, Text, TextMap};
use shoal_proto::v1 as pb;
use shoal_proto::v1::control_client::ControlClient;
use shoal_transport::{Credentials, LiveCredentials};
use shoal_types::id::{DeploymentId, StackId};
use shoal_types::object::{
    AddressCount, Cluster, Deployment, Network, NetworkSummary, Node, NodeSummary, Service, Stack,
    Task, User,
};
use shoal_types::registry_auth::RegistryAuths;
use shoal_types::spec::{
    ClusterSpec, ConfigSpec, NetworkSpec, NodeRole, NodeSpec, SecretSpec, ServiceSpec, StackSpec,
    UserSpec,
};
use tonic::Code;

use crate::context::{Context, ContextError, Store};
use crate::portable::Portable;
use crate::roam::Managers;

mod connections;
pub mod context;
mod error;
pub mod local;
mod nodes;
mod parts;
mod payloads;
pub mod portable;
mod renewal;
mod resume;
mod roam;
mod stream;

pub use error::ClientError;
pub use nodes::{Partial, UsageQuery};
pub use payloads::{Held, Made, Payloads};
pub use renewal::Notice;
pub use resume::{LogPlace, Place};
pub use stream::{Event, EventAction, LogLine, LogQuery, LogStream, Object, Watch, WatchSpan};

/// The largest message that is taken, in bytes. Lists come in parts; what is largest is one stack with
/// the ten specs before its own, each of which came in a command of at most 2 MiB.
const MESSAGE_BYTES_MAX: usize = 32 << 20;

type Result<T, E = ClientError> = std::result::Result<T, E>;

/// The managers of a cluster.
#[derive(Debug, Clone)]
pub struct Client {
    rpc: ControlClient<Managers>,
    managers: Managers,
}

/// A service and how it fares.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceSummary {
    /// The service.
    #[serde(flatten)]
    pub service: Service,
    /// How many of its tasks run.
    pub running_tasks: u64,
    /// How many should.
    pub desired_tasks: u64,
    /// Its newest rollout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment: Option<Deployment>,
}

/// What a manager is.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ManagerVersion {
    /// Of its program.
    pub version: String,
    /// The node that it runs on.
    #[serde(rename = "NodeID")]
    pub node_id: String,
}

/// Which tasks are wanted; all that is given must hold.
#[derive(Debug, Clone, Default)]
pub struct TaskQuery {
    /// Of these services; of all if none is named.
    pub service_ids: Vec<String>,
    /// On these nodes; on all if none is named.
    pub node_ids: Vec<String>,
    /// Of services of this stack.
    pub stack: Option<String>,
    /// Only those that should run.
    pub desired_running: bool,
}

/// What applying a stack did; full names.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Applied {
    /// The stack.
    #[serde(rename = "StackID")]
    pub stack_id: StackId,
    /// Made anew.
    pub created: Vec<String>,
    /// Changed.
    pub updated: Vec<String>,
    /// Left as they were.
    pub unchanged: Vec<String>,
    /// Not in the stack any more.
    pub removed: Vec<String>,
    /// Not in the stack any more, but not removed.
    pub kept: Vec<String>,
    /// Version of the stack that is in force now.
    pub spec_version: u64,
    /// Deployments of its services that are in force now.
    pub deployments: BTreeMap<String, DeploymentId>,
}

fn applied(wire: pb::ApplyStackResponse) -> Result<Applied> {
    let pb::ApplyStackResponse {
        stack_id,
        created,
        updated,
        unchanged,
        removed,
        kept,
        spec_version,
        deployments,
    } = wire;
    let deployments = TextMap::read("deployments", deployments)?;
    Ok(Applied {
        stack_id: Text::read("stack_id", stack_id)?,
        created,
        updated,
        unchanged,
        removed,
        kept,
        spec_version,
        deployments,
    })
}

/// A service with the deployment that a request began as its present one: by the time of the
/// answer another one may have taken its place.
fn begun(service: Option<pb::Service>, deployment_id: &str) -> Result<Service> {
    let mut service: Service = required("service", service)?;
    service.deployment_id = Text::read("deployment_id", deployment_id.to_owned())?;
    Ok(service)
}

/// A user that was made.
pub struct NewUser {
    /// As it was made.
    pub user: User,
    /// Its certificate with those above it, in PEM.
    pub chain_pem: String,
    /// The cluster's root certificate, in PEM.
    pub root_pem: String,
    /// What the caller is called now, if it was no user before.
    pub adopted: String,
}

/// A field that has to be there.
fn required<W, T>(field: &str, wire: Option<W>) -> Result<T>
where
    T: TryFrom<W, Error = InvalidMessage>,
{
    let wire = wire.ok_or_else(|| InvalidMessage::missing(field))?;
    T::try_from(wire).map_err(|e| e.under(field).into())
}

/// A field that may be there.
fn part<W, T>(field: &str, wire: W) -> Result<T>
where
    T: TryFrom<W, Error = InvalidMessage>,
{
    T::try_from(wire).map_err(|e| e.under(field).into())
}

fn all<W, T>(field: &str, wire: Vec<W>) -> Result<Vec<T>>
where
    T: TryFrom<W, Error = InvalidMessage>,
{
    wire.into_iter().map(|w| T::try_from(w).map_err(|e| e.under(field).into())).collect()
}

impl TryFrom<pb::ServiceSummary> for ServiceSummary {
    type Error = InvalidMessage;

    fn try_from(wire: pb::ServiceSummary) -> Result<Self, InvalidMessage> {
        let pb::ServiceSummary { service, running_tasks, desired_tasks, deployment } = wire;
        let service = service.ok_or_else(|| InvalidMessage::missing("service"))?;
        Ok(Self {
            service: service.try_into().map_err(|e: InvalidMessage| e.under("service"))?,
            running_tasks,
            desired_tasks,
            deployment: deployment.map(Deployment::try_from).transpose()?,
        })
    }
}

macro_rules! call {
    ($self:ident . $method:ident ( $request:expr )) => {
        $self.rpc.clone().$method($request).await?.into_inner()
    };
}

/// All elements of a list.
macro_rules! list {
    ($self:ident . $method:ident ( $request:expr ) . $field:ident) => {{
        let mut found = Vec::new();
        parts::each(call!($self.$method($request)), |part| {
            found.extend(all(stringify!($field), part.$field)?);
            Ok(())
        })
        .await?;
        Ok(found)
    }};
}

fn summary(network: Network, counted: Option<pb::NetworkAddresses>) -> NetworkSummary {
    let addresses = counted.map(|counted| {
        let pb::NetworkAddresses { network_id: _, used, free } = counted;
        AddressCount { used, free }
    });
    NetworkSummary { network, addresses, members: None }
}

impl Client {
    /// Connects to the first manager of a context that answers, and renews the context's
    /// certificate if it is time.
    ///
    /// # Errors
    /// There is no such context, or no manager of it answers.
    pub async fn connect(store: &Store, named: Option<&str>) -> Result<(Self, Option<Notice>)> {
        let contexts = store.load()?;
        let Some((name, context)) = contexts.select(named)? else {
            return Err(ClientError::NoContext);
        };
        let (client, told, live) = Self::dial(name, context, store.credentials(name)?).await?;
        if !told.is_empty() && told != context.managers {
            // The next command does it, or has to get along without.
            let _ = store.learn(name, told);
        }
        let notice = renewal::on_use(store, name, client.managers.clone(), &live).await;
        Ok((client, notice))
    }

    /// Connects with a context that is not kept here, so that its certificate stays as it is.
    /// `variable` is where it comes from.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn over(carried: Portable, variable: &str) -> Result<(Self, Option<Notice>)> {
        let name = carried.name.clone();
        let (context, credentials) = carried.open()?;
        let notice = renewal::end_of(&name, credentials.identity(), variable);
        Ok((Self::dial(&name, &context, credentials).await?.0, notice))
    }

    /// A client, and where the managers are by the word of one of them.
    async fn dial(
        name: &str,
        context: &Context,
        credentials: Credentials,
    ) -> Result<(Self, Vec<String>, LiveCredentials)> {
        let unusable = |source| ContextError::Credentials { name: name.to_owned(), source };
        let live = LiveCredentials::new(credentials).map_err(unusable)?;
        let addresses = context.addresses()?;
        if addresses.is_empty() {
            return Err(ClientError::NoEndpoint(name.to_owned()));
        }
        let managers = Managers::new(addresses, &live).map_err(unusable)?;
        let rpc = ControlClient::new(managers.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let client = Self { rpc, managers };
        let told = match client.rpc.clone().get_version(pb::GetVersionRequest {}).await {
            Ok(answer) => answer.into_inner().manager_addrs,
            Err(status) if status.code() == Code::Unavailable => return Err(status.into()),
            // Whatever is asked next is refused, too.
            Err(_) => Vec::new(),
        };
        let current = client.managers.current();
        let told = current.map(|current| Context::learned(current, &told)).unwrap_or_default();
        Ok((client, told, live))
    }

    /// What the manager is.
    pub async fn version(&self) -> Result<ManagerVersion> {
        let answer = call!(self.get_version(pb::GetVersionRequest {}));
        Ok(ManagerVersion { version: answer.version, node_id: answer.node_id })
    }

    /// The cluster.
    pub async fn cluster(&self) -> Result<Cluster> {
        required("cluster", call!(self.get_cluster(pb::GetClusterRequest {})).cluster)
    }

    /// Changes the settings of the cluster that was read.
    pub async fn update_cluster(&self, cluster: &Cluster, spec: &ClusterSpec) -> Result<Cluster> {
        let request = pb::UpdateClusterRequest {
            expected_version: cluster.meta.spec_version,
            spec: Some(spec.into()),
        };
        required("cluster", call!(self.update_cluster(request)).cluster)
    }

    /// Raises the cluster's feature level, up to that of its managers if none is named. The cluster as it
    /// is then, and whether its level was lower before.
    ///
    /// # Errors
    /// As the manager says: one of them has not got that level.
    pub async fn raise_level(&self, level: Option<u32>) -> Result<(Cluster, bool)> {
        let level = level.unwrap_or_default();
        let answer = call!(self.raise_level(pb::RaiseLevelRequest { level }));
        Ok((required("cluster", answer.cluster)?, answer.raised))
    }

    /// The token, and addresses of managers.
    pub async fn join_token(&self, role: NodeRole) -> Result<(String, Vec<String>)> {
        let role = pb::NodeRole::from(role).into();
        let answer = call!(self.get_join_token(pb::GetJoinTokenRequest { role }));
        Ok((answer.token, answer.manager_addrs))
    }

    /// Replaces the token of a role, and returns the new one.
    pub async fn rotate_join_token(&self, role: NodeRole) -> Result<String> {
        let role = pb::NodeRole::from(role).into();
        Ok(call!(self.rotate_join_token(pb::RotateJoinTokenRequest { role })).token)
    }

    /// All nodes, and how their managers fare.
    pub async fn node_summaries(&self) -> Result<Vec<NodeSummary>> {
        list!(self.list_nodes(pb::ListNodesRequest {}).nodes)
    }

    /// All nodes.
    pub async fn nodes(&self) -> Result<Vec<Node>> {
        Ok(self.node_summaries().await?.into_iter().map(|summary| summary.node).collect())
    }

    /// A node by id, unique beginning of an id, or hostname.
    pub async fn node(&self, reference: &str) -> Result<Node> {
        Ok(self.node_summary(reference).await?.node)
    }

    /// As [`Self::node`], and how its manager fares.
    pub async fn node_summary(&self, reference: &str) -> Result<NodeSummary> {
        let reference = reference.to_owned();
        required("node", call!(self.get_node(pb::GetNodeRequest { reference })).node)
    }

    /// Changes the node that was read.
    pub async fn update_node(&self, node: &Node, spec: &NodeSpec) -> Result<Node> {
        let request = pb::UpdateNodeRequest {
            reference: node.id.to_string(),
            expected_version: node.meta.spec_version,
            spec: Some(spec.into()),
        };
        required("node", call!(self.update_node(request)).node)
    }

    /// Removes a node, and returns its id.
    pub async fn remove_node(&self, reference: &str, force: bool) -> Result<String> {
        let request = pb::RemoveNodeRequest { reference: reference.to_owned(), force };
        Ok(call!(self.remove_node(request)).id)
    }

    /// Makes a service.
    pub async fn create_service(
        &self,
        spec: &ServiceSpec,
        auths: &RegistryAuths,
    ) -> Result<Service> {
        let registry_auths = Auths::write(auths);
        let request = pb::CreateServiceRequest { spec: Some(spec.into()), registry_auths };
        let answer = call!(self.create_service(request));
        begun(answer.service, &answer.deployment_id)
    }

    /// All services, or those of a stack.
    pub async fn services(&self, stack: Option<&str>) -> Result<Vec<ServiceSummary>> {
        let request = pb::ListServicesRequest { stack: stack.map(str::to_owned) };
        list!(self.list_services(request).services)
    }

    /// A service by id or name.
    pub async fn service(&self, reference: &str) -> Result<ServiceSummary> {
        let request = pb::GetServiceRequest { reference: reference.to_owned() };
        required("service", call!(self.get_service(request)).service)
    }

    /// `None` puts the previous spec back.
    pub async fn update_service(
        &self,
        service: &Service,
        spec: Option<&ServiceSpec>,
        auths: &RegistryAuths,
    ) -> Result<Service> {
        use pb::update_service_request::Change;
        let request = pb::UpdateServiceRequest {
            reference: service.id.to_string(),
            expected_version: Some(service.meta.spec_version),
            change: Some(match spec {
                Some(spec) => Change::Spec(spec.into()),
                None => Change::Rollback(pb::Nothing {}),
            }),
            registry_auths: Auths::write(auths),
        };
        let answer = call!(self.update_service(request));
        begun(answer.service, &answer.deployment_id)
    }

    /// Removes a service, and returns its id.
    pub async fn remove_service(&self, reference: &str) -> Result<String> {
        let request = pb::RemoveServiceRequest { reference: reference.to_owned() };
        Ok(call!(self.remove_service(request)).id)
    }

    /// `None` if there is no such deployment, or not any more.
    pub async fn find_deployment(&self, id: &str) -> Result<Option<Deployment>> {
        let request = pb::GetDeploymentRequest { id: id.to_owned() };
        match self.rpc.clone().get_deployment(request).await {
            Ok(answer) => required("deployment", answer.into_inner().deployment).map(Some),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status.into()),
        }
    }

    /// Tasks that a query asks for.
    pub async fn tasks(&self, query: &TaskQuery) -> Result<Vec<Task>> {
        let TaskQuery { service_ids, node_ids, stack, desired_running } = query.clone();
        let request = pb::ListTasksRequest { service_ids, node_ids, stack, desired_running };
        list!(self.list_tasks(request).tasks)
    }

    /// `None` if there is no such task.
    pub async fn find_task(&self, reference: &str) -> Result<Option<Task>> {
        let request = pb::GetTaskRequest { reference: reference.to_owned() };
        match self.rpc.clone().get_task(request).await {
            Ok(answer) => required("task", answer.into_inner().task).map(Some),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status.into()),
        }
    }

    /// `None` if there is no such service.
    pub async fn find_service(&self, reference: &str) -> Result<Option<ServiceSummary>> {
        let request = pb::GetServiceRequest { reference: reference.to_owned() };
        match self.rpc.clone().get_service(request).await {
            Ok(answer) => required("service", answer.into_inner().service).map(Some),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status.into()),
        }
    }

    /// All networks, and how many addresses are in use of those that span nodes.
    pub async fn networks(&self) -> Result<Vec<NetworkSummary>> {
        let mut found: Vec<NetworkSummary> = Vec::new();
        parts::each(call!(self.list_networks(pb::ListNetworksRequest {})), |part| {
            let counts = part.addresses.into_iter().map(|count| (count.network_id.clone(), count));
            let counts: BTreeMap<_, _> = counts.collect();
            let networks: Vec<Network> = all("networks", part.networks)?;
            found.extend(networks.into_iter().map(|network| {
                let counted = counts.get(&network.id.to_string()).cloned();
                summary(network, counted)
            }));
            Ok(())
        })
        .await?;
        Ok(found)
    }

    /// A network by id or name, and if it spans nodes who is reached there, and how many of its addresses are in use.
    pub async fn network(&self, reference: &str) -> Result<NetworkSummary> {
        let request = pb::GetNetworkRequest { reference: reference.to_owned() };
        let answer = call!(self.get_network(request));
        let pb::GetNetworkResponse { network, addresses, members } = answer;
        let members = members.map(|members| required("members", Some(members))).transpose()?;
        Ok(NetworkSummary { members, ..summary(required("network", network)?, addresses) })
    }

    /// Makes a network.
    pub async fn create_network(&self, spec: &NetworkSpec) -> Result<Network> {
        let request = pb::CreateNetworkRequest { spec: Some(spec.into()) };
        required("network", call!(self.create_network(request)).network)
    }

    /// Removes a network, and returns its id.
    pub async fn remove_network(&self, reference: &str) -> Result<String> {
        let request = pb::RemoveNetworkRequest { reference: reference.to_owned() };
        Ok(call!(self.remove_network(request)).id)
    }

    /// Makes a stack what a file says.
    pub async fn apply_stack(
        &self,
        spec: &StackSpec,
        (secrets, configs): (&BTreeMap<String, SecretSpec>, &BTreeMap<String, ConfigSpec>),
        prune: bool,
        auths: &RegistryAuths,
    ) -> Result<Applied> {
        let request = pb::ApplyStackRequest {
            spec: Some(spec.into()),
            secrets: Map::write(secrets),
            configs: Map::write(configs),
            prune,
            expected_version: None,
            registry_auths: Auths::write(auths),
        };
        applied(call!(self.apply_stack(request)))
    }

    /// Puts an earlier version of a stack back; if none is named, the last one that was not left so itself.
    pub async fn roll_back_stack(&self, stack: &Stack, to: Option<u64>) -> Result<Applied> {
        let request = pb::RollBackStackRequest {
            reference: stack.id.to_string(),
            to,
            expected_version: Some(stack.meta.spec_version),
        };
        applied(call!(self.roll_back_stack(request)))
    }

    /// `None` if there is no such stack.
    pub async fn find_stack(&self, reference: &str) -> Result<Option<Stack>> {
        let request = pb::GetStackRequest { reference: reference.to_owned() };
        match self.rpc.clone().get_stack(request).await {
            Ok(answer) => required("stack", answer.into_inner().stack).map(Some),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status.into()),
        }
    }

    /// All stacks.
    pub async fn stacks(&self) -> Result<Vec<Stack>> {
        list!(self.list_stacks(pb::ListStacksRequest {}).stacks)
    }

    /// A stack by id or name.
    pub async fn stack(&self, reference: &str) -> Result<Stack> {
        let request = pb::GetStackRequest { reference: reference.to_owned() };
        required("stack", call!(self.get_stack(request)).stack)
    }

    /// Full names of what was removed.
    pub async fn remove_stack(&self, reference: &str) -> Result<Vec<String>> {
        let request = pb::RemoveStackRequest { reference: reference.to_owned() };
        Ok(call!(self.remove_stack(request)).removed)
    }

    /// All users.
    pub async fn users(&self) -> Result<Vec<User>> {
        list!(self.list_users(pb::ListUsersRequest {}).users)
    }

    /// The caller if `reference` is empty.
    pub async fn user(&self, reference: &str) -> Result<User> {
        let reference = reference.to_owned();
        required("user", call!(self.get_user(pb::GetUserRequest { reference })).user)
    }

    /// Makes a user whose certificate is for the key of a request.
    pub async fn create_user(&self, spec: &UserSpec, csr_der: Vec<u8>) -> Result<NewUser> {
        let request = pb::CreateUserRequest { spec: Some(spec.into()), csr_der };
        let pb::CreateUserResponse { user, certificate, adopted } =
            call!(self.create_user(request));
        let user = required("user", user)?;
        let certificate = certificate.ok_or_else(|| InvalidMessage::missing("certificate"))?;
        let pb::Certificate { chain_pem, root_pem } = certificate;
        Ok(NewUser { user, chain_pem, root_pem, adopted })
    }

    /// Changes the user that was read.
    pub async fn update_user(&self, user: &User, spec: &UserSpec) -> Result<User> {
        let request = pb::UpdateUserRequest {
            reference: user.id.to_string(),
            expected_version: user.meta.spec_version,
            spec: Some(spec.into()),
        };
        required("user", call!(self.update_user(request)).user)
    }

    /// Removes a user, and returns its id.
    pub async fn remove_user(&self, reference: &str) -> Result<String> {
        let request = pb::RemoveUserRequest { reference: reference.to_owned() };
        Ok(call!(self.remove_user(request)).id)
    }

    /// What a process in a container says, in answer to what is put in.
    pub async fn exec(
        &self,
        input: impl Stream<Item = pb::ExecInput> + Send + 'static,
    ) -> Result<tonic::Streaming<pb::ExecOutput>> {
        Ok(call!(self.exec(input.boxed())))
    }
}
