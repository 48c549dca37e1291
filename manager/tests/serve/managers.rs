//! Several managers: they join, lead, move, go, and come back.

use shoal_transport::certify;

use super::*;

/// Managers of one cluster, each with its node; the first one has made it.
struct Group {
    dirs: Vec<tempfile::TempDir>,
    addresses: Vec<SocketAddr>,
    managers: Vec<Option<Manager>>,
    nodes: Vec<Credentials>,
    user: Credentials,
}

impl Group {
    /// So many, all of which vote.
    async fn start(count: usize) -> Self {
        let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
        let Made { manager, node, .. } = bootstrap(dir.path(), address).await;
        let key = PrivateKey::generate().unwrap();
        let request = pb::IssueUserCertificateRequest { csr_der: key.request().unwrap() };
        let mut client = BootstrapClient::new(unix_channel(&dir.path().join("manager.sock")));
        let issued = client.issue_user_certificate(request).await.unwrap().into_inner();
        let user = Credentials::from_pem(issued.chain_pem, key.to_pem(), issued.root_pem).unwrap();
        let mut group = Self {
            dirs: vec![dir],
            addresses: vec![address],
            managers: vec![Some(manager)],
            nodes: vec![node.current()],
            user,
        };
        for at in 1..count {
            let joined = joined(address, &group.token().await).await;
            assert_eq!(joined.identity().role, shoal_transport::Role::Manager);
            group.nodes.push(joined);
            group.dirs.push(tempfile::tempdir().unwrap());
            group.addresses.push(free_address());
            group.managers.push(None);
            group.enter(at).await;
            group.reachable(at + 1).await;
        }
        group
    }

    async fn token(&self) -> String {
        let role = pb::NodeRole::Manager as i32;
        let request = pb::GetJoinTokenRequest { role };
        self.led(async |mut control| control.get_join_token(request).await).await.token
    }

    /// Starts one that has nothing, and brings it in as its agent does.
    async fn enter(&mut self, at: usize) {
        self.run(at);
        let socket = self.dirs[at].path().join("manager.sock");
        let prepared = eventually("its socket", || async {
            let mut client = BootstrapClient::new(unix_channel(&socket));
            client.prepare_manager(pb::PrepareManagerRequest {}).await.ok()
        });
        let prepared = prepared.await.into_inner();
        assert!(!prepared.is_member);
        let node = self.nodes[at].clone();
        let certificate = eventually("a certificate", || async {
            for address in self.others(at) {
                let channel = channel(address, node.clone());
                if let Ok(certificate) = certify(channel, prepared.csr_der.clone()).await {
                    return Some(certificate);
                }
            }
            None
        });
        let request = pb::JoinManagersRequest {
            certificate: Some(certificate.await),
            manager_addrs: self.others(at).map(|address| address.to_string()).collect(),
        };
        BootstrapClient::new(unix_channel(&socket)).join_managers(request).await.unwrap();
    }

    fn others(&self, at: usize) -> impl Iterator<Item = SocketAddr> {
        let running =
            self.managers.iter().enumerate().filter(move |(n, m)| *n != at && m.is_some());
        running.map(|(n, _)| self.addresses[n])
    }

    fn run(&mut self, at: usize) {
        self.managers[at] = Some(Manager::start(self.dirs[at].path(), self.addresses[at]));
    }

    async fn stop(&mut self, at: usize) {
        self.managers[at].take().unwrap().stop().await;
    }

    async fn end(mut self) {
        for at in 0..self.managers.len() {
            if self.managers[at].is_some() {
                self.stop(at).await;
            }
        }
    }

    fn id(&self, at: usize) -> String {
        self.nodes[at].identity().node().unwrap().to_string()
    }

    /// What the leader answers, as soon as there is one that does.
    async fn led<T>(
        &self,
        ask: impl AsyncFn(ControlClient<Channel>) -> Result<tonic::Response<T>, tonic::Status>,
    ) -> T {
        let answer = eventually("a leader answers", || async {
            for at in 0..self.managers.len() {
                if self.managers[at].is_none() {
                    continue;
                }
                let control = ControlClient::new(channel(self.addresses[at], self.user.clone()));
                let asked = tokio::time::timeout(Duration::from_secs(2), ask(control)).await;
                match asked {
                    Ok(Ok(answer)) => return Some(Ok(answer)),
                    Ok(Err(status)) if status.code() != Code::Unavailable => {
                        return Some(Err(status));
                    }
                    _ => {}
                }
            }
            None
        });
        answer.await.unwrap().into_inner()
    }

    async fn nodes(&self) -> Vec<pb::NodeSummary> {
        let list = async |control: ControlClient<Channel>| {
            let mut control = control;
            whole(control.list_nodes(pb::ListNodesRequest {})).await.map(tonic::Response::new)
        };
        self.led(list).await.nodes
    }

    /// Waits until so many managers answer the leader, and no other is known.
    async fn reachable(&self, count: usize) {
        eventually(&format!("{count} managers are reachable"), || async {
            let nodes = self.nodes().await;
            let health: Vec<_> = nodes.iter().filter_map(|n| n.manager.as_ref()).collect();
            let answers = |h: &&&pb::ManagerHealth| h.reachability() == pb::Reachability::Reachable;
            (health.len() == count && health.iter().filter(answers).count() == count).then_some(())
        })
        .await;
    }

    /// Who leads.
    async fn leader(&self) -> usize {
        eventually("somebody leads", || async {
            let nodes = self.nodes().await;
            let leads = |n: &&pb::NodeSummary| n.manager.as_ref().is_some_and(|m| m.leader);
            let id = nodes.iter().find(leads)?.node.as_ref()?.id.clone();
            (0..self.nodes.len()).find(|at| self.id(*at) == id)
        })
        .await
    }

    async fn write(&self, name: &str) {
        let made = async |mut control: ControlClient<Channel>| {
            let request =
                pb::CreateServiceRequest { spec: Some(spec(name, 0)), ..Default::default() };
            match control.create_service(request).await {
                // An attempt whose outcome nobody could tell had worked.
                Err(status) if status.code() == Code::AlreadyExists => {
                    Ok(tonic::Response::new(Default::default()))
                }
                Err(status) if status.code() == Code::Unknown => {
                    Err(tonic::Status::unavailable(status.message()))
                }
                answer => answer,
            }
        };
        self.led(made).await;
    }

    async fn services(&self) -> Vec<String> {
        let list = async |control: ControlClient<Channel>| {
            let mut control = control;
            let request = pb::ListServicesRequest { stack: None };
            whole(control.list_services(request)).await.map(tonic::Response::new)
        };
        let services = self.led(list).await.services;
        let name = |s: pb::ServiceSummary| s.service.unwrap().spec.unwrap().name;
        let mut names: Vec<String> = services.into_iter().map(name).collect();
        names.sort();
        names
    }

    /// Asks for another role of a node.
    async fn role(&self, at: usize, role: pb::NodeRole) -> Result<(), tonic::Status> {
        let outcome = async |mut control: ControlClient<Channel>| {
            let reference = self.id(at);
            let found =
                control.get_node(pb::GetNodeRequest { reference: reference.clone() }).await?;
            let node = found.into_inner().node.unwrap().node.unwrap();
            let mut spec = node.spec.unwrap();
            spec.set_role(role);
            let expected_version = node.meta.unwrap().spec_version;
            let request = pb::UpdateNodeRequest { reference, expected_version, spec: Some(spec) };
            match control.update_node(request).await {
                Err(status) if status.code() == Code::Unavailable => Err(status),
                outcome => Ok(tonic::Response::new(outcome.map(drop))),
            }
        };
        self.led(outcome).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_managers_outlive_each_of_them() {
    let mut group = Group::start(3).await;
    group.write("first").await;
    // In good order: the lead is handed over before, so that nobody waits for an election.
    for round in 0..3 {
        let leader = group.leader().await;
        group.stop(leader).await;
        let name = format!("round-{round}");
        group.write(&name).await;
        assert_ne!(group.leader().await, leader);
        group.run(leader);
        group.reachable(3).await;
    }
    assert_eq!(group.services().await, ["first", "round-0", "round-1", "round-2"]);
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn managers_are_demoted_and_promoted_again_and_the_last_one_stays() {
    let mut group = Group::start(3).await;
    group.write("first").await;
    // Whoever leads: it hands over, and the next leader takes it out.
    let leader = group.leader().await;
    group.role(leader, pb::NodeRole::Agent).await.unwrap();
    group.reachable(2).await;
    let next = group.leader().await;
    assert_ne!(next, leader);
    group.stop(leader).await;
    group.dirs[leader] = tempfile::tempdir().unwrap();
    group.write("second").await;
    let other = (0..3).find(|at| *at != leader && *at != next).unwrap();
    group.role(other, pb::NodeRole::Agent).await.unwrap();
    group.reachable(1).await;
    let refused = group.role(next, pb::NodeRole::Agent).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("is the last manager"), "{refused}");

    group.role(leader, pb::NodeRole::Manager).await.unwrap();
    group.enter(leader).await;
    group.reachable(2).await;
    group.write("third").await;
    assert_eq!(group.services().await, ["first", "second", "third"]);
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_goes_who_is_needed_and_who_is_dead_may() {
    let mut group = Group::start(3).await;
    let leader = group.leader().await;
    let others: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
    let [dead, alive] = others[..] else { panic!("{others:?}") };
    group.stop(dead).await;
    eventually("it is known to be silent", || async {
        let nodes = group.nodes().await;
        let health: Vec<_> = nodes.iter().filter_map(|n| n.manager.as_ref()).collect();
        health.iter().any(|h| h.reachability() == pb::Reachability::Unreachable).then_some(())
    })
    .await;
    let refused = group.role(alive, pb::NodeRole::Agent).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    for part in ["lose its quorum", "2 of the 2 other managers are needed", "does not answer"] {
        assert!(refused.message().contains(part), "{part}: {refused}");
    }
    group.role(dead, pb::NodeRole::Agent).await.unwrap();
    group.reachable(2).await;
    group.role(alive, pb::NodeRole::Agent).await.unwrap();
    group.reachable(1).await;
    group.write("alone").await;
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_manager_that_lost_its_disk_comes_back_as_another_member() {
    let mut group = Group::start(3).await;
    group.write("first").await;
    let leader = group.leader().await;
    let lost = (0..3).find(|at| *at != leader).unwrap();
    let raft_id = async || {
        let nodes = group.nodes().await;
        let own = nodes.iter().filter_map(|n| n.node.as_ref()).find(|n| n.id == group.id(lost));
        own.unwrap().manager_status.as_ref().unwrap().raft_id
    };
    let before = raft_id().await;
    group.stop(lost).await;
    group.dirs[lost] = tempfile::tempdir().unwrap();
    group.enter(lost).await;
    let raft_id = async || {
        let nodes = group.nodes().await;
        let own = nodes.iter().filter_map(|n| n.node.as_ref()).find(|n| n.id == group.id(lost));
        own.unwrap().manager_status.as_ref().unwrap().raft_id
    };
    eventually("it is another member", || async { (raft_id().await != before).then_some(()) })
        .await;
    group.reachable(3).await;
    // It has all that it had, and counts: the former leader is not needed.
    group.stop(leader).await;
    group.write("second").await;
    assert_eq!(group.services().await, ["first", "second"]);
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_manager_that_follows_moves_to_another_address() {
    let mut group = Group::start(3).await;
    let leader = group.leader().await;
    let moving = (0..3).find(|at| *at != leader).unwrap();
    group.stop(moving).await;
    group.addresses[moving] = free_address();
    group.run(moving);
    eventually("its new address is known", || async {
        let nodes = group.nodes().await;
        let own = nodes.iter().filter_map(|n| n.node.as_ref()).find(|n| n.id == group.id(moving));
        let addr = own?.manager_status.as_ref()?.addr.clone();
        (addr == group.addresses[moving].to_string()).then_some(())
    })
    .await;
    group.reachable(3).await;
    group.stop(leader).await;
    group.write("moved").await;
    group.end().await;
}
