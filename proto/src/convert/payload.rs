//! Secrets, configs and volumes.

use shoal_types::object::{Config, Payloads, Secret, Volume};
use shoal_types::spec::{ConfigSpec, SecretSpec, VolumeSpec};

use super::field;
use super::message;

message!(SecretSpec {
    name: Same,
    labels: Same,
    data: Same,
    driver: OptionalMessage,
    templating: OptionalMessage,
});

message!(ConfigSpec { name: Same, labels: Same, data: Same, templating: OptionalMessage });

message!(VolumeSpec { name: Same, labels: Same, driver: DefaultMessage });

message!(Secret { id: Text, meta: Message, spec: Message, version: Same, stack_id: OptionalText });

message!(Config { id: Text, meta: Message, spec: Message, version: Same, stack_id: OptionalText });

message!(Payloads { secrets: TextList, configs: TextList });

message!(Volume { id: Text, meta: Message, spec: Message, node_id: OptionalText });
