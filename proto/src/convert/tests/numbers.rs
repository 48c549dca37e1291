//! What is stored, or sent between programs of different versions, must stay readable: field numbers
//! of such messages never change.

use std::collections::BTreeSet;

use prost::Message;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet};

/// What logs, snapshots and ledgers are made of. Everything below these is stored, too.
const STORED: [&str; 9] = [
    ".shoal.v1.LogEntry",
    ".shoal.v1.LogState",
    ".shoal.v1.Command",
    ".shoal.v1.SnapshotHeader",
    ".shoal.v1.SnapshotRecord",
    ".shoal.v1.LedgerTask",
    ".shoal.v1.LedgerNetworks",
    ".shoal.v1.LedgerTerm",
    ".shoal.v1.LedgerTold",
];

/// Every field and enum value below the stored and the sent messages, one a line. All services: managers,
/// agents and clients are not upgraded at the same moment.
fn layout() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(crate::FILE_DESCRIPTOR_SET).unwrap();
    let mut lines = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut todo: Vec<String> = STORED.map(str::to_owned).into();
    let services = set.file.iter().flat_map(|file| &file.service);
    for method in services.flat_map(|service| &service.method) {
        todo.extend([method.input_type().to_owned(), method.output_type().to_owned()]);
    }
    while let Some(name) = todo.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        match find(&set, &name) {
            Found::Message(message) => {
                for field in &message.field {
                    let kind = format!("{:?}", field.r#type()).to_lowercase();
                    let many = format!("{:?}", field.label()).to_lowercase();
                    let (field_name, number) = (field.name(), field.number());
                    let of = field.type_name();
                    lines.insert(format!("{name} {number} {many} {kind}{of} {field_name}"));
                    todo.extend(Some(of.to_owned()).filter(|of| !of.is_empty()));
                }
            }
            Found::Enum(choice) => {
                for value in &choice.value {
                    lines.insert(format!("{name} {} {}", value.number(), value.name()));
                }
            }
        }
    }
    lines
}

enum Found<'a> {
    Message(&'a DescriptorProto),
    Enum(&'a EnumDescriptorProto),
}

fn find<'a>(set: &'a FileDescriptorSet, name: &str) -> Found<'a> {
    let mut parts = name.trim_start_matches(".shoal.v1.").split('.');
    let top = parts.next().unwrap();
    for file in &set.file {
        if let Some(choice) = file.enum_type.iter().find(|e| e.name() == top) {
            return Found::Enum(choice);
        }
        if let Some(mut message) = file.message_type.iter().find(|m| m.name() == top) {
            // Only the entries of maps are nested here.
            for part in parts {
                message = message.nested_type.iter().find(|m| m.name() == part).unwrap();
            }
            return Found::Message(message);
        }
    }
    panic!("{name} is nowhere");
}

/// `golden/layout.txt` holds what has been stored by some version. New fields are added to it; a
/// line is never changed or removed once a release has written it.
#[test]
fn stored_fields_keep_their_numbers() {
    let layout = layout();
    let known: BTreeSet<String> =
        include_str!("golden/layout.txt").lines().map(str::to_owned).collect();
    let changed: Vec<_> = known.difference(&layout).collect();
    assert!(changed.is_empty(), "stored bytes would be misread: {changed:#?}");
    let added: Vec<_> = layout.difference(&known).cloned().collect();
    assert!(added.is_empty(), "add to golden/layout.txt:\n{}", added.join("\n"));
}
