//! This host as a node: whether it belongs to a cluster, and what follows from that.

use std::sync::Arc;

use shoal_transport::{Credentials, CredentialsError, LiveCredentials};
use shoal_types::object::NodeDescription;
use tokio::sync::{Mutex, MutexGuard, watch};

use crate::description::Describe;
use crate::identity::{ClusterFile, IdentityError, IdentityStore};
use crate::manager_child::ManagerChild;
use crate::managing;
use crate::session::{self, CredentialLine, Managers, Member, SessionContext, Standing, Workload};

/// Why a membership cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// What was kept of it cannot be read, or not be written.
    #[error("cannot take up the membership")]
    Identity(#[from] IdentityError),
    /// The credentials cannot be used.
    #[error("cannot use this host's credentials")]
    Credentials(#[from] CredentialsError),
}

/// What a node is made of.
pub struct NodeParts {
    /// Keeps the membership.
    pub store: IdentityStore,
    /// Runs the manager where there is one.
    pub manager: ManagerChild,
    /// Runs the tasks.
    pub workload: Arc<dyn Workload>,
    /// With which the workload asks for credentials.
    pub line: CredentialLine,
    /// Describes this host.
    pub describe: Describe,
}

/// This host as a node.
pub struct Node {
    store: IdentityStore,
    manager: ManagerChild,
    context: SessionContext,
    member: watch::Sender<Option<Member>>,
    /// Whether something of a membership's sessions is alive.
    busy: watch::Sender<bool>,
    changing: Mutex<()>,
}

impl Node {
    /// Takes up the membership that was kept, if there is one. Sessions begin with [`Node::run`],
    /// the manager begins at once.
    ///
    /// # Errors
    /// [`NodeError`].
    pub fn open(parts: NodeParts) -> Result<Self, NodeError> {
        let NodeParts { store, manager, workload, line, describe } = parts;
        let context = SessionContext {
            workload,
            describe,
            line,
            standing: watch::Sender::new(Standing::Inactive),
        };
        let node = Self {
            store,
            manager,
            context,
            member: watch::Sender::new(None),
            busy: watch::Sender::new(false),
            changing: Mutex::new(()),
        };
        if let Some(credentials) = node.store.credentials()? {
            node.enter(credentials)?;
        }
        Ok(node)
    }

    /// Holds sessions whenever there is a membership. Never returns.
    pub async fn run(&self) {
        let mut members = self.member.subscribe();
        loop {
            let member = members.borrow_and_update().clone();
            if let Some(member) = member {
                self.busy.send_replace(true);
                tokio::select! {
                    () = session::run(&self.context, &member) => {}
                    () = managing::follow(self, &member) => {}
                    // Fails only when we are gone.
                    _ = members.changed() => {}
                }
            } else {
                self.context.standing.send_replace(Standing::Inactive);
                self.busy.send_replace(false);
                let _ = members.changed().await;
            }
        }
    }

    /// Keeps two changes of the membership apart.
    pub(crate) async fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().await
    }

    pub(crate) fn store(&self) -> &IdentityStore {
        &self.store
    }

    /// The manager of this host.
    #[must_use]
    pub fn manager(&self) -> &ManagerChild {
        &self.manager
    }

    pub(crate) fn workload(&self) -> &Arc<dyn Workload> {
        &self.context.workload
    }

    /// What this host says of itself.
    pub async fn describe(&self) -> NodeDescription {
        (self.context.describe)().await
    }

    /// The membership.
    #[must_use]
    pub fn member(&self) -> Option<Member> {
        self.member.borrow().clone()
    }

    /// Where this host stands with its cluster.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.context.standing.borrow().clone()
    }

    /// Makes this host a member, durably, and begins sessions.
    ///
    /// # Errors
    /// [`NodeError`]; the host is then no member.
    pub(crate) fn join(
        &self,
        credentials: Credentials,
        cluster: &ClusterFile,
    ) -> Result<(), NodeError> {
        self.store.save_cluster(cluster)?;
        self.store.save_credentials(&credentials)?;
        self.enter(credentials)?;
        // Not worth failing for: the next membership begins with removing it.
        let _ = self.store.forget_enrolment_key();
        Ok(())
    }

    fn enter(&self, credentials: Credentials) -> Result<(), NodeError> {
        let credentials = LiveCredentials::new(credentials)?;
        let managers = Arc::new(Managers::load(self.store.clone())?);
        if let Some(endpoint) = self.store.cluster()?.manager {
            self.manager.ensure(endpoint);
        }
        let pending = "no session yet".to_owned();
        self.context.standing.send_replace(Standing::Pending(pending));
        self.member.send_replace(Some(Member {
            credentials,
            managers,
            store: self.store.clone(),
            manager_socket: self.manager.config().socket(),
            role: watch::Sender::new(None),
        }));
        Ok(())
    }

    /// Ends the sessions, in memory only, and returns when nothing of them is left.
    pub(crate) async fn suspend(&self) {
        self.member.send_replace(None);
        // Fails only when we are gone.
        let _ = self.busy.subscribe().wait_for(|busy| !busy).await;
    }

    /// Takes the kept membership up again after [`Node::suspend`].
    pub(crate) fn resume(&self) {
        let resumed = self.store.credentials().map_err(NodeError::from);
        let resumed = resumed.and_then(|credentials| credentials.map_or(Ok(()), |c| self.enter(c)));
        if let Err(error) = resumed {
            let why = shoal_types::error_chain::chain(&error).to_string();
            tracing::error!(why, "cannot go on as a member");
            self.context.standing.send_replace(Standing::Refused(why));
        }
    }
}
