//! Asking the agent that runs to stop all containers.

use std::path::Path;

use anyhow::bail;
use shoal_proto::v1::StopContainersRequest;
use shoal_proto::v1::local_agent_client::LocalAgentClient;
use shoal_transport::unix_channel;

/// For whoever shuts the host down; how long that may take is theirs to say.
///
/// # Errors
/// The agent does not answer at this socket, or cannot do it.
pub fn stop_containers(socket: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let request = StopContainersRequest {};
    let asked = runtime.block_on(async {
        LocalAgentClient::new(unix_channel(socket)).stop_containers(request).await
    });
    match asked {
        Ok(_) => Ok(()),
        Err(status) => bail!("the agent at {}: {}", socket.display(), status.message()),
    }
}
