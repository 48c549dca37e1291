//! Questions to nodes and their answers.

use shoal_types::question::{
    Answer, DiskPart, DiskUsage, Finding, ImagePrune, LabelFilter, NamedUsage, NetworkQuestion,
    NetworkUsed, NodeNetworks, NodeUsage, NodeVolume, PeerReach, PlacedDisk, PlacedNetworks,
    PlacedUsage, PlacedVolume, Prune, Pruned, PrunedNode, Question, Silent, TaskUsage, TraceStep,
    UsageQuestion, Used, Verdict, VolumePrune,
};

use super::field::{self, Kind};
use super::{InvalidMessage, by_value, choice, message};
use crate::v1 as pb;

message!(NodeVolume {
    name: Same,
    driver: Same,
    options: Same,
    labels: Same,
    mountpoint: Same,
    created_at: Time,
    users: Same,
});

message!(Prune { volumes: OptionalMessage, images: OptionalMessage, containers: Same });

message!(ImagePrune { all: Same });

message!(DiskUsage {
    images: DefaultMessage,
    containers: DefaultMessage,
    volumes: DefaultMessage,
    logs: DefaultMessage,
    whole: Same,
});

message!(DiskPart { count: Same, active: Same, bytes: Same, reclaimable_bytes: Same });

message!(PlacedDisk { node_id: Text, hostname: Same, usage: Message });

message!(VolumePrune { all: Same, labels: List });

message!(LabelFilter { key: Same, value: Same, negated: Same });

message!(Pruned {
    volumes: Same,
    images: Same,
    containers: Same,
    reclaimed_bytes: Same,
    errors: Same,
});

message!(PlacedVolume { node_id: Text, hostname: Same, volume: Message, used_by: Same });

message!(PrunedNode { node_id: Text, hostname: Same, pruned: Message });

message!(UsageQuestion { without_tasks: Same, tasks: TextList });

message!(Used {
    at_nanos: Same,
    cpu_nanos: Same,
    memory_bytes: Same,
    memory_limit_bytes: Same,
    network: OptionalMessage,
    pids: Same,
});

message!(NetworkUsed { received_bytes: Same, sent_bytes: Same });

message!(NodeUsage { node: Message, cpus: Same, tasks: List });

message!(TaskUsage { id: Text, used: Message });

message!(PlacedUsage { node_id: Text, hostname: Same, usage: Message, tasks: List });

message!(NamedUsage { id: Text, name: Same, service: Same, used: Message });

message!(NetworkQuestion { peers: TextList, peers_max: Same });

message!(NodeNetworks { mtu: Same, findings: List, notes: Same, peers: Same, reached: List });

message!(Finding { subject: Same, expected: Same, found: Same, known_since: Time });

message!(PeerReach {
    node_id: Text,
    hostname: Same,
    endpoint: Same,
    handshake_age_seconds: Same,
    received_bytes: Same,
    sent_bytes: Same,
    full_bytes: Same,
    passes_bytes: Same,
    trouble: Same,
});

message!(PlacedNetworks { node_id: Text, hostname: Same, networks: Message });

message!(TraceStep { node: Same, what: Same, verdict: Choice, why: Same });

choice!(Verdict { Passes, Doubtful, Stops });

message!(Silent { node_id: Text, hostname: Same, reason: Same });

impl From<&Question> for pb::NodeQuestion {
    fn from(question: &Question) -> Self {
        use pb::node_question::Question as Wire;
        let question = match question {
            Question::Volumes => Wire::Volumes(pb::Nothing {}),
            Question::RemoveVolume(name) => Wire::RemoveVolume(name.clone()),
            Question::Prune(prune) => Wire::Prune(prune.into()),
            Question::Usage(usage) => Wire::Usage(usage.into()),
            Question::DiskUsage => Wire::DiskUsage(pb::Nothing {}),
            Question::Networks(asked) => Wire::Networks(asked.into()),
        };
        Self { question: Some(question) }
    }
}

impl TryFrom<pb::NodeQuestion> for Question {
    type Error = InvalidMessage;

    fn try_from(wire: pb::NodeQuestion) -> Result<Self, InvalidMessage> {
        use pb::node_question::Question as Wire;
        Ok(match wire.question {
            Some(Wire::Volumes(pb::Nothing {})) => Self::Volumes,
            Some(Wire::RemoveVolume(name)) => Self::RemoveVolume(name),
            Some(Wire::Prune(prune)) => Self::Prune(field::Message::read("prune", Some(prune))?),
            Some(Wire::Usage(usage)) => Self::Usage(field::Message::read("usage", Some(usage))?),
            Some(Wire::DiskUsage(pb::Nothing {})) => Self::DiskUsage,
            Some(Wire::Networks(asked)) => {
                Self::Networks(field::Message::read("networks", Some(asked))?)
            }
            None => return Err(InvalidMessage::missing("question")),
        })
    }
}

by_value!(Question => pb::NodeQuestion);

impl From<&Answer> for pb::NodeAnswer {
    fn from(answer: &Answer) -> Self {
        use pb::node_answer::Answer as Wire;
        let answer = match answer {
            Answer::Volumes(volumes) => {
                Wire::Volumes(pb::NodeVolumes { volumes: field::List::write(volumes) })
            }
            Answer::Pruned(pruned) => Wire::Pruned(pruned.into()),
            Answer::Usage(usage) => Wire::Usage(usage.into()),
            Answer::DiskUsage(usage) => Wire::DiskUsage(usage.into()),
            Answer::Networks(networks) => Wire::Networks(networks.into()),
        };
        Self { answer: Some(answer) }
    }
}

impl TryFrom<pb::NodeAnswer> for Answer {
    type Error = InvalidMessage;

    fn try_from(wire: pb::NodeAnswer) -> Result<Self, InvalidMessage> {
        use pb::node_answer::Answer as Wire;
        Ok(match wire.answer {
            Some(Wire::Volumes(list)) => Self::Volumes(field::List::read("volumes", list.volumes)?),
            Some(Wire::Pruned(pruned)) => {
                Self::Pruned(field::Message::read("pruned", Some(pruned))?)
            }
            Some(Wire::Usage(usage)) => Self::Usage(field::Message::read("usage", Some(usage))?),
            Some(Wire::DiskUsage(usage)) => {
                Self::DiskUsage(field::Message::read("disk_usage", Some(usage))?)
            }
            Some(Wire::Networks(networks)) => {
                Self::Networks(field::Message::read("networks", Some(networks))?)
            }
            None => return Err(InvalidMessage::missing("answer")),
        })
    }
}

by_value!(Answer => pb::NodeAnswer);
