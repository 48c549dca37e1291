//! Secrets and configs.

use std::collections::BTreeMap;

use shoal_proto::convert::field::{Kind as _, TextMap};
use shoal_proto::v1 as pb;
use shoal_types::id::DeploymentId;
use shoal_types::object::{Config, Secret};
use shoal_types::spec::{ConfigSpec, SecretSpec};

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

macro_rules! payloads {
    ($(
        $object:ident $spec:ident $word:literal $one:ident $many:ident
        $create:ident $create_request:ident $list:ident $list_request:ident $get:ident $get_request:ident
        $remove:ident $remove_request:ident;
    )*) => {
        impl Client {$(
            #[doc = concat!("Makes a ", $word, "; another version of one that there is, if that is to be replaced.")]
            pub async fn $create(&self, spec: &$spec, replace: bool) -> Result<Made<$object>> {
                let request = pb::$create_request { spec: Some(spec.into()), replace };
                let answer = self.rpc.clone().$create(request).await?.into_inner();
                Ok(Made {
                    payload: required($word, answer.$one)?,
                    unchanged: answer.unchanged,
                    deployments: TextMap::read("deployments", answer.deployments)?,
                })
            }

            #[doc = concat!("All versions of all ", $word, "s, without what is in them.")]
            pub async fn $many(&self) -> Result<Vec<$object>> {
                let mut found = Vec::new();
                parts::each(self.rpc.clone().$list(pb::$list_request {}).await?.into_inner(), |part| {
                    found.extend(all::<_, $object>($word, part.$many)?);
                    Ok(())
                })
                .await?;
                Ok(found)
            }

            #[doc = concat!("A version of a ", $word, ": by id, by name (the latest one) or by `name@version`.")]
            pub async fn $one(&self, reference: &str) -> Result<Held<$object>> {
                let request = pb::$get_request { reference: reference.to_owned() };
                let answer = self.rpc.clone().$get(request).await?.into_inner();
                let payload = required($word, answer.$one)?;
                Ok(Held { payload, services: answer.services })
            }

            #[doc = concat!("Removes a ", $word, ": all versions, or the one that is referred to. Its name.")]
            pub async fn $remove(&self, reference: &str) -> Result<String> {
                let request = pb::$remove_request { reference: reference.to_owned() };
                Ok(self.rpc.clone().$remove(request).await?.into_inner().name)
            }
        )*}
    };
}

payloads! {
    Secret SecretSpec "secret" secret secrets create_secret CreateSecretRequest
        list_secrets ListSecretsRequest get_secret GetSecretRequest
        remove_secret RemoveSecretRequest;
    Config ConfigSpec "config" config configs create_config CreateConfigRequest
        list_configs ListConfigsRequest get_config GetConfigRequest
        remove_config RemoveConfigRequest;
}
