//! What is asked of a node, and what it asks for.

use super::*;

#[tokio::test]
async fn a_question_is_answered_in_parts_or_with_a_reason() {
    use shoal_types::question::{Answer, NodeVolume, Question};
    use v1::answer_message::Message as Part;
    let (bench, manager) = Bench::with_manager().await;
    // Together more than one message may be long.
    let volume = |n: usize| NodeVolume {
        name: format!("v{n}"),
        labels: [("a".to_owned(), "x".repeat(100_000))].into(),
        ..NodeVolume::default()
    };
    let volumes: Vec<NodeVolume> = (0..60).map(volume).collect();
    bench.workload.inner().answers.push_back(Ok(Answer::Volumes(volumes.clone())));
    bench.workload.inner().answers.push_back(Err("the disk is gone".to_owned()));
    let ask = |id: &str, question: Option<v1::NodeQuestion>| {
        manager.say(Message::Ask(v1::AskNode { question_id: id.to_owned(), question }))
    };
    let ended = |n: usize| {
        let manager = &manager;
        async move {
            eventually("an answer", || (manager.seen().answers_ended >= n).then_some(())).await;
            std::mem::take(&mut manager.seen().answers)
        }
    };
    ask("one", Some((&Question::Volumes).into())).await;
    let mut told = ended(1).await.into_iter().map(|m| m.message.expect("a message"));
    let Some(Part::Attach(attach)) = told.next() else { panic!("attach comes first") };
    assert_eq!(attach.question_id, "one");
    let (mut found, mut parts) = (Vec::new(), 0);
    for part in told {
        let Part::Part(part) = part else { panic!("{part:?}") };
        parts += 1;
        let Ok(Answer::Volumes(some)) = Answer::try_from(part) else { panic!("volumes") };
        assert!(some.len() <= 3, "{}", some.len());
        found.extend(some);
    }
    assert!(found == volumes && parts >= 20, "{parts} parts");

    ask("two", Some((&Question::RemoveVolume("v".to_owned())).into())).await;
    let last = |mut told: Vec<v1::AnswerMessage>| told.pop().and_then(|m| m.message);
    assert_eq!(last(ended(2).await), Some(Part::Failed("the disk is gone".to_owned())));
    // What a later manager asks is refused, not left without an answer.
    ask("three", Some(v1::NodeQuestion { question: None })).await;
    assert_eq!(
        last(ended(3).await),
        Some(Part::Failed("it does not know the question".to_owned()))
    );
}

#[tokio::test]
async fn credentials_are_asked_for_in_the_present_session() {
    use crate::worker::Credentials as _;
    let (bench, manager) = Bench::with_manager().await;
    let auth = RegistryAuth::Basic { username: "u".to_owned(), password: "hunter2".to_owned() };
    manager.seen().auth = Some(Ok(Some((&auth).into())));
    let wait = Duration::from_secs(10);
    assert_eq!(bench.line.for_task(7.into(), wait).await.unwrap(), Some(auth));
    let asked = manager.seen().auths_asked.clone();
    assert_eq!(asked, [("session-0".to_owned(), TaskId::from(7).to_string())]);

    manager.seen().auth = Some(Ok(None));
    assert_eq!(bench.line.for_task(7.into(), wait).await.unwrap(), None);
    manager.seen().auth = None;
    let of_older = bench.line.for_task(7.into(), wait).await;
    assert_eq!(of_older.unwrap(), None, "an older manager has none to give");
    manager.seen().auth = Some(Err(Status::not_found("no task of this node")));
    let refused = bench.line.for_task(7.into(), wait).await.unwrap_err();
    assert_eq!(refused.to_string(), "no task of this node");

    assert_eq!(bench.line.withdrawn(8.into()).await.unwrap(), 3);
    let asked = manager.seen().withdrawals.clone();
    assert_eq!(asked, [("session-0".to_owned(), TaskId::from(8).to_string())]);

    drop(manager);
    eventually("the session's end", || {
        matches!(*bench.standing.borrow(), Standing::Pending(_)).then_some(())
    })
    .await;
    let nobody = bench.line.for_task(7.into(), Duration::ZERO).await.unwrap_err();
    assert_eq!(nobody.to_string(), "there is no session with a manager");
    let nobody = bench.line.withdrawn(8.into()).await.unwrap_err();
    assert_eq!(nobody.to_string(), "there is no session with a manager");
}
