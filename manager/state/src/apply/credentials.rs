//! Commands that bring credentials for registries.

use shoal_types::id::ServiceId;
use shoal_types::registry_auth::RegistryAuths;

use crate::cluster_state::Writer;
use crate::command::{Command, Outcome};
use crate::rejected::Rejected;

pub(super) fn with(
    w: &mut Writer<'_>,
    auths: &RegistryAuths,
    command: Command,
) -> Result<Outcome, Rejected> {
    enum About {
        Service(ServiceId),
        Names(Vec<String>),
    }
    let about = match &command {
        Command::CreateService { id, .. } | Command::UpdateService { id, .. } => {
            About::Service(*id)
        }
        Command::ApplyStack { spec, .. } => {
            About::Names(spec.services.values().map(|s| s.name.clone()).collect())
        }
        _ => return Err(Rejected::CredentialsForNothing),
    };
    let outcome = super::dispatch(w, command)?;
    let services: Vec<ServiceId> = match about {
        About::Service(id) => vec![id],
        // Also those that are as wanted already: a password may be new where nothing else is.
        About::Names(names) => {
            names.iter().filter_map(|name| Some(w.state.service_by_name(name)?.id)).collect()
        }
    };
    for id in services {
        w.give_credentials(id, auths);
    }
    Ok(outcome)
}
