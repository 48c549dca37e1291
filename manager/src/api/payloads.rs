//! Secrets and configs. What is in a secret is never answered, and what is in a config only by `GetConfig`.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_manager_state::{ClusterState, Command, Outcome, Rejected, permission};
use shoal_proto::convert::field::{Kind as _, TextMap};
use shoal_proto::v1 as pb;
use shoal_types::id::{DeploymentId, IdSource as _};
use shoal_types::object::{Config, Payload, Secret, Service};
use shoal_types::spec::{ConfigSpec, SecretSpec};
use tonic::Status;

use super::asked::Asker;
use super::error::{required, vanished};
use super::parts::in_parts;
use super::{Answers, ControlService, invalid, unresolved, violations};
use crate::clock::RandomIds;
use crate::cluster::ProposalError;

/// How often it is tried again when a service has come to follow what is changed meanwhile.
const TRIES: usize = 5;

/// A secret without what is in it.
pub(super) fn bare_secret(secret: &Secret) -> pb::Secret {
    let mut wire = pb::Secret::from(secret);
    wire.spec.get_or_insert_default().data.clear();
    wire
}

/// A config without what is in it.
pub(super) fn bare_config(config: &Config) -> pb::Config {
    let mut wire = pb::Config::from(config);
    wire.spec.get_or_insert_default().data.clear();
    wire
}

/// Ids of the deployments that services begin by a change, by their names.
fn deployments<'a>(
    services: impl Iterator<Item = &'a Arc<Service>>,
) -> BTreeMap<String, DeploymentId> {
    services.map(|service| (service.spec.name.clone(), RandomIds.next_id())).collect()
}

/// Those that have begun.
fn begun(view: &ClusterState, mut all: BTreeMap<String, DeploymentId>) -> BTreeMap<String, String> {
    all.retain(|name, id| view.service_by_name(name).is_some_and(|s| s.deployment_id == *id));
    TextMap::write(&all)
}

fn is_followed_by_others(error: &ProposalError) -> bool {
    use shoal_manager_state::PayloadRefused::Followed;
    matches!(error, ProposalError::Rejected(Rejected::Payload(Followed { .. })))
}

macro_rules! payloads {
    ($(
        $object:ident $spec:ident $bare:ident $named:ident $resolve:ident $following:ident
        $many:ident $what:literal
        create $create:ident $create_command:ident $create_request:ident $create_response:ident $one:ident
        list $list:ident $list_request:ident $list_response:ident

        remove $remove:ident $remove_command:ident $remove_request:ident $remove_response:ident;
    )*) => {$(
        pub(super) async fn $create(
            api: &ControlService,
            request: pb::$create_request,
        ) -> Result<pb::$create_response, Status> {
            let spec: $spec = required(request.spec, "spec")?.try_into().map_err(|e| invalid(&e))?;
            spec.validate().map_err(|e| violations(&e))?;
            let (replace, mut tries) = (request.replace, TRIES);
            loop {
                tries -= 1;
                let view = api.cluster.read().await?;
                let (id, name) = (RandomIds.next_id(), spec.name.clone());
                let deployments = deployments(view.$following(&name));
                let command = Command::$create_command {
                    id,
                    spec: spec.clone(),
                    replace,
                    deployments: deployments.clone(),
                };
                let outcome = match api.cluster.propose(command).await {
                    Err(error) if tries > 0 && is_followed_by_others(&error) => continue,
                    other => other?,
                };
                let view = api.written();
                let made = view.$named(&name, None).ok_or_else(|| vanished($what))?;
                return Ok(pb::$create_response {
                    $one: Some($bare(made)),
                    unchanged: outcome == Outcome::Unchanged,
                    deployments: begun(&view, deployments),
                });
            }
        }

        pub(super) async fn $list(
            api: &ControlService,
            asker: &Asker,
            _: pb::$list_request,
        ) -> Result<Answers<pb::$list_response>, Status> {
            let view = api.cluster.read().await?;
            let mut all: Vec<Arc<$object>> = view.$many().cloned().collect();
            if let Some(user) = asker.bound() {
                all.retain(|one| permission::sees_payload(&view, &user.spec, &**one));
            }
            all.sort_by(|a, b| (a.name(), a.version).cmp(&(b.name(), b.version)));
            let all = all.into_iter().map(|one| $bare(&one));
            Ok(in_parts(all, |$many| pb::$list_response { $many }))
        }

        pub(super) async fn $remove(
            api: &ControlService,
            request: pb::$remove_request,
        ) -> Result<pb::$remove_response, Status> {
            let view = api.cluster.read().await?;
            let found = view.$resolve(&request.reference).map_err(|e| unresolved(&e))?;
            let name = found.spec.name.clone();
            // By their name all versions are meant.
            let version = (request.reference != name).then_some(found.version);
            let command = Command::$remove_command { name: name.clone(), version };
            api.cluster.propose(command).await?;
            Ok(pb::$remove_response { name })
        }
    )*};
}

payloads! {
    Secret SecretSpec bare_secret secret_named resolve_secret following_secret
        secrets "secret"
        create create_secret CreateSecret CreateSecretRequest CreateSecretResponse secret
        list list_secrets ListSecretsRequest ListSecretsResponse
        remove remove_secret RemoveSecret RemoveSecretRequest RemoveSecretResponse;
    Config ConfigSpec bare_config config_named resolve_config following_config
        configs "config"
        create create_config CreateConfig CreateConfigRequest CreateConfigResponse config
        list list_configs ListConfigsRequest ListConfigsResponse
        remove remove_config RemoveConfig RemoveConfigRequest RemoveConfigResponse;
}

pub(super) async fn get_secret(
    _: &ControlService,
    _: &Asker,
    view: &ClusterState,
    request: pb::GetSecretRequest,
) -> Result<pb::GetSecretResponse, Status> {
    let secret = view.resolve_secret(&request.reference).map_err(|e| unresolved(&e))?;
    let services = view.having_secret(secret);
    Ok(pb::GetSecretResponse { secret: Some(bare_secret(secret)), services })
}

pub(super) async fn get_config(
    _: &ControlService,
    _: &Asker,
    view: &ClusterState,
    request: pb::GetConfigRequest,
) -> Result<pb::GetConfigResponse, Status> {
    let config = view.resolve_config(&request.reference).map_err(|e| unresolved(&e))?;
    let services = view.having_config(config);
    Ok(pb::GetConfigResponse { config: Some((&**config).into()), services })
}
