//! Stacks.

use shoal_types::object::{Stack, StackRevision};
use shoal_types::spec::StackSpec;

use super::field;
use super::message;

message!(StackSpec {
    name: Same,
    services: Map,
    networks: Map,
    volumes: Map,
    secrets: Same,
    configs: Same,
});

message!(Stack {
    id: Text,
    meta: Message,
    spec: Shared,
    services: TextMap,
    networks: TextMap,
    secrets: Same,
    configs: Same,
    history: List,
});

message!(StackRevision {
    spec_version: Same,
    applied_at: Time,
    spec: Shared,
    rolled_back: Same,
    by_hand: Same
});
