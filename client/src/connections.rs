//! Connections of single tasks to networks.

use std::net::IpAddr;

use shoal_proto::v1 as pb;
use shoal_types::object::Task;

use super::{Client, Result, required};

impl Client {
    /// Connects a task to a further network, under these names beside its own and, if any are given, with these
    /// addresses. The task as it is then.
    ///
    /// # Errors
    /// What the manager refuses; no manager answers.
    pub async fn connect_task(
        &self,
        task: &str,
        network: &str,
        aliases: &[String],
        addresses: &[IpAddr],
    ) -> Result<Task> {
        let request = pb::ConnectTaskRequest {
            task: task.to_owned(),
            network: network.to_owned(),
            aliases: aliases.to_vec(),
            addresses: addresses.iter().map(ToString::to_string).collect(),
        };
        required("task", self.rpc.clone().connect_task(request).await?.into_inner().task)
    }

    /// Disconnects a task from a network to which it was connected; with `force` it is fine if it was not. The
    /// task as it is then.
    ///
    /// # Errors
    /// As [`connect_task`](Self::connect_task).
    pub async fn disconnect_task(&self, task: &str, network: &str, force: bool) -> Result<Task> {
        let (task, network) = (task.to_owned(), network.to_owned());
        let request = pb::DisconnectTaskRequest { task, network, force };
        required("task", self.rpc.clone().disconnect_task(request).await?.into_inner().task)
    }
}
