//! A task that shares the network of another one, its partner: it waits for that one's, starts when that one runs, and
//! is stopped with it. The end of the partner is no failure of its own.

use shoal_types::task_state::DesiredState;

use super::super::{Moment, Operation};
use super::{Container, Machine};

/// What is said first of a task that is stopped because its partner is. A restarted agent knows it by this.
const LEFT: &str = "the task whose network it shares";

/// What the task whose network another one shares is doing, for that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Partner {
    /// It shares the network of none.
    #[default]
    None,
    /// Its network is not there, for this reason.
    Absent(String),
    /// Its network is there; how often it has been made.
    SetUp(u32),
    /// It runs, with the network that was made so often.
    Runs(u32),
    /// It has ended or is about to, as is said.
    Ends(String),
}

impl Machine {
    /// What the container of a task is to those that share its network. The task is called by `name`.
    #[must_use]
    pub fn as_partner(&self, name: &str) -> Partner {
        let stops = matches!(self.busy, Some(Operation::Stop | Operation::Kill));
        let signalled = self.stopped_at.is_some() || stops;
        match self.container {
            _ if self.outcome.is_some() => Partner::Ends(format!("{LEFT}, {name}, has ended")),
            Container::Ended => Partner::Ends(format!("{LEFT}, {name}, has ended")),
            Container::Running if signalled => {
                Partner::Ends(format!("{LEFT}, {name}, is being stopped"))
            }
            Container::Running if self.busy != Some(Operation::Start) => Partner::Runs(self.made),
            Container::Running | Container::Prepared => Partner::SetUp(self.made),
            Container::Absent | Container::Leftover => {
                Partner::Absent(format!("waits for {LEFT}, {name}: it is not prepared yet"))
            }
        }
    }

    /// What its partner is doing now.
    pub fn set_partner(&mut self, partner: Partner, now: impl Into<Moment>) {
        if self.partner == partner {
            return;
        }
        self.partner = partner;
        let (there, made) = match &self.partner {
            Partner::None => return,
            Partner::Absent(_) | Partner::Ends(_) => (false, None),
            Partner::SetUp(made) | Partner::Runs(made) => (true, Some(*made)),
        };
        if self.joined.is_none() {
            self.joined = made;
        }
        let stays = there && self.joined == made;
        let starts = self.busy == Some(Operation::Start);
        match self.container {
            // It is in a network that nobody else is in any more.
            Container::Prepared if !stays && !starts => {
                self.container = Container::Leftover;
            }
            Container::Prepared | Container::Running if !stays && !self.ends_with_host() => {
                let why = match &self.partner {
                    Partner::Ends(why) => why.clone(),
                    _ => format!("{LEFT} is made anew"),
                };
                self.left.get_or_insert(why);
            }
            _ => {}
        }
        self.refresh(now.into().wall);
    }

    /// Whether its host stops, and it with that.
    const fn ends_with_host(&self) -> bool {
        self.interrupted || self.halted
    }

    /// Why it is not prepared or started yet though it is to be, if that is because of its partner.
    pub(super) fn awaits_partner(&self) -> Option<&str> {
        match (&self.partner, self.container) {
            (
                Partner::Absent(why) | Partner::Ends(why),
                Container::Absent | Container::Prepared,
            ) => Some(why),
            (Partner::SetUp(_), Container::Prepared) if self.desired == DesiredState::Running => {
                Some("waits for the start of the task whose network it shares")
            }
            _ => None,
        }
    }

    /// It is about to be prepared: it joins the network that is there now.
    pub(super) const fn join_partner(&mut self) {
        self.joined = match &self.partner {
            Partner::SetUp(made) | Partner::Runs(made) => Some(*made),
            Partner::None | Partner::Absent(_) | Partner::Ends(_) => None,
        };
    }

    /// Whether the network that it has joined has been made anew since.
    pub(super) fn is_out_of_date(&self) -> bool {
        match &self.partner {
            Partner::SetUp(made) | Partner::Runs(made) => self.joined != Some(*made),
            Partner::None | Partner::Absent(_) | Partner::Ends(_) => false,
        }
    }

    /// Whether what it was being stopped for was the end of its partner, as its status says.
    pub(super) fn was_left(err: &str) -> bool {
        err.starts_with(LEFT)
    }
}

/// Whether the cleaning up of a task waits: those that share its network are stopped with it, and are to have it until
/// they have ended.
#[must_use]
pub fn is_still_shared<'a>(sharers: impl IntoIterator<Item = &'a Machine>) -> bool {
    sharers.into_iter().any(|sharer| !sharer.is_at_rest())
}
