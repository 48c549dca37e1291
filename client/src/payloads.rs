//! Secrets and configs.

use std::collections::BTreeMap;

use shoal_proto::convert::field::{Kind as _, TextMap};
use shoal_proto::v1 as pb;
use shoal_types::id::DeploymentId;
use shoal_types::object::{Config, Payload, Secret};

use super::{Client, Result, all, parts, required};

/// What came of making a secret or a config, or another version of one.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Made<T> {
    /// The latest version, without what is in it.
    #[serde(flatten)]
    pub payload: T,
    /// It was the same before.
    pub unchanged: bool,
    /// Deployments that have begun, by names of services.
    pub deployments: BTreeMap<String, DeploymentId>,
}

/// A secret or a config, and who has it.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Held<T> {
    /// One version; of a secret without what is in it.
    #[serde(flatten)]
    pub payload: T,
    /// Names of services that have it.
    pub services: Vec<String>,
}

/// Secrets, or configs, as they are made and found.
#[expect(async_fn_in_trait, reason = "nobody has to send what they return to another thread")]
pub trait Payloads: Payload {
    /// Makes one; another version of one that there is, if that is to be replaced.
    async fn make(client: &Client, spec: &Self::Spec, replace: bool) -> Result<Made<Self>>;
    /// All versions of all, without what is in them.
    async fn all(client: &Client) -> Result<Vec<Self>>;
    /// A version: by id, by name (the latest one) or by `name@version`.
    async fn one(client: &Client, reference: &str) -> Result<Held<Self>>;
    /// Removes all versions, or the one that is referred to. Its name.
    async fn remove(client: &Client, reference: &str) -> Result<String>;
}

macro_rules! payloads {
    ($(
        $object:ident $word:literal $one:ident $many:ident
        $create:ident $create_request:ident $list:ident $list_request:ident $get:ident $get_request:ident
        $remove:ident $remove_request:ident;
    )*) => {$(
        impl Payloads for $object {
            async fn make(client: &Client, spec: &Self::Spec, replace: bool) -> Result<Made<Self>> {
                let request = pb::$create_request { spec: Some(spec.into()), replace };
                let answer = client.rpc.clone().$create(request).await?.into_inner();
                Ok(Made {
                    payload: required($word, answer.$one)?,
                    unchanged: answer.unchanged,
                    deployments: TextMap::read("deployments", answer.deployments)?,
                })
            }

            async fn all(client: &Client) -> Result<Vec<Self>> {
                let (mut found, request) = (Vec::new(), pb::$list_request {});
                parts::each(client.rpc.clone().$list(request).await?.into_inner(), |part| {
                    found.extend(all::<_, Self>($word, part.$many)?);
                    Ok(())
                })
                .await?;
                Ok(found)
            }

            async fn one(client: &Client, reference: &str) -> Result<Held<Self>> {
                let request = pb::$get_request { reference: reference.to_owned() };
                let answer = client.rpc.clone().$get(request).await?.into_inner();
                let payload = required($word, answer.$one)?;
                Ok(Held { payload, services: answer.services })
            }

            async fn remove(client: &Client, reference: &str) -> Result<String> {
                let request = pb::$remove_request { reference: reference.to_owned() };
                Ok(client.rpc.clone().$remove(request).await?.into_inner().name)
            }
        }
    )*};
}

payloads! {
    Secret "secret" secret secrets create_secret CreateSecretRequest
        list_secrets ListSecretsRequest get_secret GetSecretRequest
        remove_secret RemoveSecretRequest;
    Config "config" config configs create_config CreateConfigRequest
        list_configs ListConfigsRequest get_config GetConfigRequest
        remove_config RemoveConfigRequest;
}
