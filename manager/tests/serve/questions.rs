//! Questions to nodes: who answers, who does not, and what that costs.

use std::time::Instant;

use pb::answer_message::Message as FromAgent;
use shoal_types::id::TaskId;
use shoal_types::question::{
    Answer, NodeUsage, NodeVolume, PlacedUsage, PlacedVolume, Pruned, PrunedNode, Question,
    TaskUsage, Used,
};
use tokio_stream::wrappers::ReceiverStream;

use super::*;

impl Agent {
    /// Waits until it is asked something.
    pub(crate) async fn is_questioned(&mut self) -> (String, Question) {
        let asked = async {
            loop {
                let message = self.session.message().await.unwrap().unwrap().message;
                if let Some(pb::session_message::Message::Ask(ask)) = message {
                    return (ask.question_id, ask.question.unwrap().try_into().unwrap());
                }
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.expect("the agent is asked")
    }

    async fn answers(&self, question_id: &str, rest: Vec<FromAgent>) -> Result<(), tonic::Status> {
        let attach = pb::AnswerAttach { question_id: question_id.to_owned() };
        let all = std::iter::once(FromAgent::Attach(attach)).chain(rest);
        let all = all.map(|message| pb::AnswerMessage { message: Some(message) });
        let messages = tokio_stream::iter(all.collect::<Vec<_>>());
        self.client.clone().answer_question(messages).await.map(drop)
    }
}

fn volumes(names: &[&str]) -> FromAgent {
    let one = |name: &&str| NodeVolume { name: (*name).to_owned(), ..NodeVolume::default() };
    FromAgent::Part(Answer::Volumes(names.iter().map(one).collect()).into())
}

pub(crate) async fn join_as(address: SocketAddr, token: &str, hostname: &str) -> Agent {
    Agent::connect(channel(address, joined(address, token).await), hostname).await
}

fn names(answer: &pb::ListVolumesResponse) -> Vec<(String, String)> {
    let placed = answer.volumes.iter().map(|v| PlacedVolume::try_from(v.clone()).unwrap());
    placed.map(|v| (v.hostname, v.volume.name)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_answer_is_named_and_costs_no_more_than_its_time() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, control, node, agent_token } = bootstrap(dir.path(), address).await;
    let mut first = Agent::connect(channel(address, node.current()), "first").await;
    let _mute = join_as(address, &agent_token, "mute").await;
    let mut liar = join_as(address, &agent_token, "liar").await;
    let gone = join_as(address, &agent_token, "gone").await;
    drop(gone);
    // Its heartbeats are missed first.
    eventually("the one that went is down", || {
        let mut control = control.clone();
        async move {
            let nodes = whole(control.list_nodes(pb::ListNodesRequest {})).await.ok()?.nodes;
            let down = |n: &&pb::NodeSummary| status(n).state() == pb::NodeState::Down;
            (nodes.iter().filter(down).count() == 1).then_some(())
        }
    })
    .await;

    let mut user = control.clone();
    let began = Instant::now();
    let asking = tokio::spawn(async move {
        whole(user.list_volumes(pb::ListVolumesRequest::default())).await.unwrap()
    });
    let (id, question) = first.is_questioned().await;
    assert_eq!(question, Question::Volumes);
    // Nobody answers for another node.
    let stolen = liar.answers(&id, vec![volumes(&["forged"])]).await.unwrap_err();
    assert_eq!(stolen.code(), Code::NotFound, "{stolen}");
    first.answers(&id, vec![volumes(&["b"]), volumes(&["a"])]).await.unwrap();
    let (id, _) = liar.is_questioned().await;
    let pruned = FromAgent::Part(Answer::Pruned(Pruned::default()).into());
    liar.answers(&id, vec![volumes(&["c"]), pruned]).await.unwrap();

    let answer = asking.await.unwrap();
    let took = began.elapsed();
    assert_eq!(names(&answer), [("first", "a"), ("first", "b")].map(|(h, v)| (h.into(), v.into())));
    let silent: Vec<(&str, &str)> =
        answer.silent.iter().map(|s| (&*s.hostname, &*s.reason)).collect();
    assert_eq!(
        silent,
        [
            ("gone", "it cannot be reached"),
            ("liar", "its answer cannot be understood: its parts do not belong together"),
            ("mute", "it did not answer within 5 s"),
        ]
    );
    assert!((5..15).contains(&took.as_secs()), "{took:?}");
    manager.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_has_a_bound_and_a_volume_in_use_stays() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, control, node, .. } = bootstrap(dir.path(), address).await;
    let mut agent = Agent::connect(channel(address, node.current()), "first").await;

    // Without end.
    let mut user = control.clone();
    let asking = tokio::spawn(async move {
        whole(user.list_volumes(pb::ListVolumesRequest::default())).await.unwrap()
    });
    let (question_id, _) = agent.is_questioned().await;
    let (to_manager, messages) = tokio::sync::mpsc::channel(4);
    let mut client = agent.client.clone();
    let call =
        tokio::spawn(async move { client.answer_question(ReceiverStream::new(messages)).await });
    let part = volumes(&[&"x".repeat(1 << 20)]);
    let all = std::iter::once(FromAgent::Attach(pb::AnswerAttach { question_id }));
    for message in all.chain(std::iter::repeat_n(part, 10_000)) {
        let message = pb::AnswerMessage { message: Some(message) };
        if to_manager.send(message).await.is_err() {
            break;
        }
    }
    call.await.unwrap().unwrap();
    let answer = asking.await.unwrap();
    assert!(answer.volumes.is_empty());
    assert_eq!(answer.silent[0].reason, "its answer is longer than 8 MiB");

    // Used by somebody whom the manager does not know.
    let remove = |name: &str| {
        let mut user = control.clone();
        let request = pb::RemoveVolumeRequest { name: name.to_owned(), nodes: Vec::new() };
        tokio::spawn(async move { whole(user.remove_volume(request)).await })
    };
    let list = || {
        let users = vec!["somebody".to_owned()];
        let used = NodeVolume { name: "used".to_owned(), users, ..NodeVolume::default() };
        let free = NodeVolume { name: "free".to_owned(), ..NodeVolume::default() };
        vec![FromAgent::Part(Answer::Volumes(vec![used, free]).into())]
    };
    let asking = remove("used");
    let (id, question) = agent.is_questioned().await;
    assert_eq!(question, Question::Volumes);
    agent.answers(&id, list()).await.unwrap();
    let refused = asking.await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(refused.message(), "volume used is in use by somebody on first");

    let asking = remove("free");
    let (id, _) = agent.is_questioned().await;
    agent.answers(&id, list()).await.unwrap();
    // The next thing that it is asked: the refusal above has led to nothing.
    let (id, question) = agent.is_questioned().await;
    assert_eq!(question, Question::RemoveVolume("free".to_owned()));
    let pruned =
        Pruned { volumes: vec!["free".to_owned()], reclaimed_bytes: 9, ..Pruned::default() };
    agent.answers(&id, vec![FromAgent::Part(Answer::Pruned(pruned.clone()).into())]).await.unwrap();
    let done = asking.await.unwrap().unwrap();
    let node = PrunedNode::try_from(done.nodes[0].clone()).unwrap();
    assert_eq!((&*node.hostname, node.pruned), ("first", pruned));

    let unknown = remove("none");
    let (id, _) = agent.is_questioned().await;
    agent.answers(&id, list()).await.unwrap();
    assert_eq!(unknown.await.unwrap().unwrap_err().code(), Code::NotFound);
    manager.stop().await;
}

/// A user who asks all nodes for their volumes.
fn list_volumes(control: &ControlClient<Channel>) -> JoinHandle<pb::ListVolumesResponse> {
    let mut user = control.clone();
    tokio::spawn(async move {
        whole(user.list_volumes(pb::ListVolumesRequest::default())).await.unwrap()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_a_node_nor_a_user_takes_what_others_need() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, control, node, .. } = bootstrap(dir.path(), address).await;
    let mut agent = Agent::connect(channel(address, node.current()), "first").await;

    // Little on the wire and much in memory.
    let asking = list_volumes(&control);
    let (id, _) = agent.is_questioned().await;
    let all = vec![NodeVolume::default(); 50_001];
    let part = FromAgent::Part(Answer::Volumes(all).into());
    agent.answers(&id, vec![part]).await.unwrap();
    let answer = asking.await.unwrap();
    assert!(answer.volumes.is_empty());
    assert_eq!(answer.silent[0].reason, "its answer has more than 50000 items");
    // A reason without end.
    let asking = list_volumes(&control);
    let (id, _) = agent.is_questioned().await;
    agent.answers(&id, vec![FromAgent::Failed("x".repeat(1 << 20))]).await.unwrap();
    let reason = asking.await.unwrap().silent.swap_remove(0).reason;
    assert!(reason.len() <= 4096 && reason.ends_with("x…"), "{} bytes", reason.len());

    // One who asks much leaves the others their turns.
    let asking: Vec<_> = (0..4).map(|_| list_volumes(&control)).collect();
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(agent.is_questioned().await.0);
    }
    let fifth = control.clone().list_volumes(pb::ListVolumesRequest::default()).await;
    let status = fifth.map(drop).unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    for id in ids {
        agent.answers(&id, vec![volumes(&["a"])]).await.unwrap();
    }
    for asked in asking {
        assert_eq!(asked.await.unwrap().volumes.len(), 1);
    }
    manager.stop().await;
}

/// A deployer asks what it may: for what others have no node is even asked, and what a node says of it
/// all the same is kept back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployer_hears_of_the_volumes_and_usage_of_its_own_stacks_alone() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, node, .. } = bootstrap(dir.path(), address).await;
    let mut agent = Agent::connect(channel(address, node.current()), "first").await;
    for name in ["shop", "blog"] {
        let spec = Some(users::stack(name));
        control.apply_stack(pb::ApplyStackRequest { spec, ..Default::default() }).await.unwrap();
    }
    let tasks = eventually("both have their task on the node", || {
        let mut control = control.clone();
        async move {
            let listed = whole(control.list_tasks(pb::ListTasksRequest::default())).await;
            let tasks = listed.ok()?.tasks;
            let placed = |t: &pb::Task| t.node_id.is_some();
            (tasks.len() == 2 && tasks.iter().all(placed)).then_some(tasks)
        }
    })
    .await;
    let id = |service: &str| {
        tasks.iter().find(|t| t.service_name == service).unwrap().id.parse::<TaskId>().unwrap()
    };
    let (own, other) = (id("shop_web"), id("blog_web"));
    let ci = users::user_spec("ci", pb::UserRole::Deployer, &["shop"]);
    let mut ci = users::make(&mut control, address, ci).await.control;

    let other_id = other.to_string();
    refused_for_others(&mut ci, &other_id).await;

    let mut user = ci.clone();
    let asking = tokio::spawn(async move {
        whole(user.get_usage(pb::GetUsageRequest::default())).await.unwrap()
    });
    let (id, question) = agent.is_questioned().await;
    let Question::Usage(question) = question else { panic!("{question:?}") };
    assert_eq!(question.tasks, [own], "nobody else's are asked for");
    let used = |pids| Used { pids, memory_bytes: 7, cpu_nanos: 7, ..Used::default() };
    let told = [own, other].map(|id| TaskUsage { id, used: used(3) });
    let told = NodeUsage { node: used(99), cpus: 2, tasks: told.into() };
    agent.answers(&id, vec![FromAgent::Part(Answer::Usage(told).into())]).await.unwrap();
    let answer = asking.await.unwrap();
    let placed = PlacedUsage::try_from(answer.nodes[0].clone()).unwrap();
    assert_eq!((answer.nodes.len(), answer.silent.len()), (1, 0));
    let names: Vec<&str> = placed.tasks.iter().map(|t| &*t.name).collect();
    assert_eq!((names, placed.usage.node), (vec!["shop_web.1"], Used::default()));

    let mut user = ci.clone();
    let asking = tokio::spawn(async move {
        whole(user.list_volumes(pb::ListVolumesRequest::default())).await.unwrap()
    });
    let (id, _) = agent.is_questioned().await;
    let volume = |name: &str, users: &[TaskId]| NodeVolume {
        name: name.to_owned(),
        users: users.iter().map(ToString::to_string).collect(),
        ..NodeVolume::default()
    };
    let told = vec![volume("shop_data", &[own, other]), volume("blog_secret_name", &[other])];
    agent.answers(&id, vec![FromAgent::Part(Answer::Volumes(told).into())]).await.unwrap();
    let answer = asking.await.unwrap();
    let said = format!("{answer:?}");
    assert_eq!(names_of(&answer), ["shop_data"]);
    for foreign in ["blog", &other_id] {
        assert!(!said.contains(foreign), "{foreign}: {said}");
    }
    manager.stop().await;
}

fn names_of(answer: &pb::ListVolumesResponse) -> Vec<String> {
    names(answer).into_iter().map(|(_, name)| name).collect()
}

async fn refused_for_others(ci: &mut ControlClient<Channel>, other_id: &str) {
    // Of the other stack it learns nothing, by whatever name, and nothing of the whole.
    let usage = |references: &[&str], without_tasks| pb::GetUsageRequest {
        references: references.iter().map(|r| (*r).to_owned()).collect(),
        without_tasks,
        ..Default::default()
    };
    for (references, whole) in [
        (&["blog_web"][..], false),
        (&[other_id], false),
        (&["shop_web", "blog_web"], false),
        (&[], true),
    ] {
        let status = ci.get_usage(usage(references, whole)).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{references:?}: {status}");
    }
    for status in [
        ci.get_disk_usage(pb::GetDiskUsageRequest::default()).await.unwrap_err(),
        ci.prune_nodes(pb::PruneNodesRequest::default()).await.unwrap_err(),
        ci.remove_volume(pb::RemoveVolumeRequest::default()).await.unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    }
}
