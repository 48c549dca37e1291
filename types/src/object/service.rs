//! Services.

use std::sync::Arc;

use serde::Serialize;

use super::{Meta, Payloads, TaskNetwork};
use crate::id::{DeploymentId, NetworkId, ServiceId, StackId};
use crate::spec::{EndpointSpec, PortConfig, ServiceSpec};

/// A service.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Service {
    /// Its id.
    #[serde(rename = "ID")]
    pub id: ServiceId,
    /// Versions and times.
    #[serde(flatten)]
    pub meta: Meta,
    /// What the user wants.
    pub spec: Arc<ServiceSpec>,
    /// The spec before this one, for a rollback.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_spec: Option<Arc<ServiceSpec>>,
    /// The stack that it was applied with.
    #[serde(rename = "StackID", skip_serializing_if = "Option::is_none")]
    pub stack_id: Option<StackId>,
    /// The rollout of the present spec.
    #[serde(rename = "DeploymentID")]
    pub deployment_id: DeploymentId,
    /// Networks of the spec, looked up.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub networks: Arc<[TaskNetwork]>,
    /// Secrets and configs of the spec, looked up.
    #[serde(flatten)]
    pub payloads: Arc<Payloads>,
    /// Where it is reached.
    pub endpoint: Endpoint,
}

impl Service {
    /// Whether a task that was made with this endpoint is reached as one that is made now.
    #[must_use]
    pub fn has_endpoint(&self, of_task: Option<&EndpointSpec>) -> bool {
        match (of_task, &self.spec.endpoint_spec) {
            (Some(EndpointSpec { mode, ports, affinity, locality }), Some(wanted)) => {
                (*mode, *affinity, *locality) == (wanted.mode, wanted.affinity, wanted.locality)
                    && *ports == self.endpoint.ports
            }
            (of_task, wanted) => of_task.is_none() && wanted.is_none(),
        }
    }
}

/// Where a service is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Endpoint {
    /// The spec that it was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec: Option<EndpointSpec>,
    /// Ports with their numbers chosen.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortConfig>,
    /// Virtual addresses.
    #[serde(rename = "VirtualIPs", skip_serializing_if = "Vec::is_empty")]
    pub virtual_ips: Vec<VirtualIp>,
}

/// The virtual address of a service on one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VirtualIp {
    /// Which network.
    #[serde(rename = "NetworkID")]
    pub network_id: NetworkId,
    /// The address with the network's prefix length.
    #[serde(rename = "Addr")]
    pub addr: ipnet::IpNet,
}
