//! Running one health check.

use std::time::Duration;

use shoal_agent_planning::health::{HealthConfig, OUTPUT_MAX, Probe};
use shoal_types::error_chain::chain;
use shoal_types::id::TaskId;

use shoal_agent_runtime::{ExecSession, ExecSpec, Runtime, RuntimeError};

/// Executes the check in the container and waits for its answer, or for as long as it may take. A
/// check that takes longer is killed. The program's own end decides; what it has left running is
/// killed with it.
pub(super) async fn probe(runtime: &dyn Runtime, task: TaskId, config: &HealthConfig) -> Probe {
    match tokio::time::timeout(config.timeout, check(runtime, task, config)).await {
        Ok(probe) => probe,
        Err(_) => {
            let output = format!("the health check took longer than {}", seconds(config.timeout));
            Probe::new(false, output)
        }
    }
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

async fn check(runtime: &dyn Runtime, task: TaskId, config: &HealthConfig) -> Probe {
    let spec = ExecSpec { argv: config.argv.clone(), sweep: true, ..ExecSpec::default() };
    let mut session = match runtime.exec(&task.into(), spec).await {
        Ok(session) => session,
        Err(error @ RuntimeError::OtherVersion { .. }) => {
            return Probe::impossible(chain(&error).to_string());
        }
        Err(error) => return Probe::new(false, chain(&error).to_string()),
    };
    let said = read(&mut session).await;
    match session.wait.await {
        Ok(status) if status.code == Some(0) => Probe::new(true, said),
        Ok(status) if said.trim().is_empty() => {
            Probe::new(false, format!("the health check ended with {status}"))
        }
        Ok(_) => Probe::new(false, said),
        Err(error) => Probe::new(false, chain(&error).to_string()),
    }
}

/// Reads to the end, keeps the beginning.
async fn read(session: &mut ExecSession) -> String {
    let mut said = Vec::new();
    while let Some((_, bytes)) = session.output.recv().await {
        let room = OUTPUT_MAX.saturating_sub(said.len()).min(bytes.len());
        said.extend_from_slice(&bytes[..room]);
    }
    String::from_utf8_lossy(&said).into_owned()
}
