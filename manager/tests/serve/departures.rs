//! A node on its way out, over the wire.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_drains_itself_and_nobody_else() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, node, agent_token } = bootstrap(dir.path(), address).await;
    let joined = joined(address, &agent_token).await;
    let leaver = joined.identity().node().unwrap().to_string();
    let first = Agent::connect(channel(address, node.current()), "first").await;
    let second = Agent::connect(channel(address, joined), "second").await;

    // People drain nodes by another call, that names one.
    let admin = control.clone();
    let labels = [("disk".to_owned(), "ssd".to_owned())].into();
    let spec = pb::NodeSpec {
        labels,
        role: pb::NodeRole::Agent as i32,
        availability: pb::Availability::Active as i32,
        ..Default::default()
    };
    let request = pb::UpdateNodeRequest {
        reference: leaver.clone(),
        expected_version: 1,
        spec: Some(spec.clone()),
    };
    control.update_node(request).await.unwrap();
    let specs = async || {
        let mut admin = admin.clone();
        let nodes = whole(admin.list_nodes(pb::ListNodesRequest {})).await.unwrap().nodes;
        let mut nodes: Vec<_> = nodes.into_iter().map(|n| n.node.unwrap()).collect();
        nodes.sort_by_key(|node| node.id != leaver);
        nodes.into_iter().map(|node| node.spec.unwrap()).collect::<Vec<_>>()
    };
    let before = specs().await;
    let drain =
        async || second.client.clone().drain(pb::DrainNodeRequest {}).await.unwrap().into_inner();
    let begun = drain().await;
    assert!(begun.begun && begun.hostname == "second", "{begun:?}");
    assert_eq!((begun.left, begun.awaited, begun.unplaced), (0, 0, 0));
    let after = specs().await;
    let drained = pb::NodeSpec { availability: pb::Availability::Drain as i32, ..spec };
    assert_eq!(after[0], drained, "its labels stay");
    assert_eq!(after[1..], before[1..], "nobody else's availability changes");
    assert!(!drain().await.begun, "a repeat");
    drop(first);
    manager.stop().await;
}
