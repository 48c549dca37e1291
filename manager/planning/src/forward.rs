//! Which manager answers a call, and what is done when one does not.
//!
//! Users, agents and joining hosts may call any manager. What only the leader can answer is passed on to it
//! once, with the identity of who called; meanwhile nobody hears that a manager does not lead.

use std::time::Duration;

/// How long a user's call waits for a leader: an election and a second one take less.
const PATIENCE: Duration = Duration::from_secs(8);

/// The same of an agent, which has other managers to try and might stand at one that is cut off.
const AGENTS_PATIENCE: Duration = Duration::from_secs(2);

const AGENTS: &str = "/shoal.v1.Dispatcher/";
/// Begins the methods by which managers share their log.
pub const RAFT: &str = "/shoal.v1.Raft/";

/// What every manager answers for itself.
const OWN: [&str; 2] = ["/shoal.v1.Control/GetVersion", "/shoal.v1.Ca/GetRootCertificate"];

/// Calls whose answers last until one side has enough.
const LASTING: [&str; 3] =
    ["/shoal.v1.Control/Exec", "/shoal.v1.Control/ServiceLogs", "/shoal.v1.Control/Watch"];

/// How a call gets to the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passing {
    /// Not at all: every manager answers it.
    Never,
    /// It is one message, which is kept until there is an answer, and may be sent again.
    Whole {
        /// Also when it may have been done.
        harmless: bool,
    },
    /// As it comes, once. Who calls so begins anew by itself.
    Flowing,
}

/// How calls of a method get to the leader, if its users talk on, and if it does no harm when it is done twice.
#[must_use]
pub fn passing(path: &str, talks: bool, harmless: bool) -> Passing {
    if path.starts_with(RAFT) || OWN.contains(&path) {
        Passing::Never
    } else if talks || path.starts_with(AGENTS) {
        Passing::Flowing
    } else {
        Passing::Whole { harmless }
    }
}

/// Whether answers last, and so may outlive the lead of who gives them.
#[must_use]
pub fn lasts(path: &str) -> bool {
    LASTING.contains(&path)
}

/// How long a call of a method waits for a leader, if its caller waits for `timeout` at most.
#[must_use]
pub fn patience(path: &str, timeout: Option<Duration>) -> Duration {
    let patience = if path.starts_with(AGENTS) { AGENTS_PATIENCE } else { PATIENCE };
    timeout.map_or(patience, |timeout| timeout.min(patience))
}

/// Who leads, as one manager knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lead<L> {
    /// This manager, in this term.
    Own(u64),
    /// Another one.
    Other(L),
    /// Nobody, or nobody knows.
    Nobody,
}

/// Where a call goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way<L> {
    /// It is answered here.
    Here,
    /// It is passed on to this manager.
    To(L),
    /// It waits until somebody leads.
    Wait,
    /// Back to the manager that has passed it on, with word that it was not done.
    Back,
}

/// Where a call goes. One that was passed on is never passed on again.
#[must_use]
pub fn way<L>(passing: Passing, was_passed_on: bool, lead: Lead<L>) -> Way<L> {
    match (passing, lead) {
        (Passing::Never, _) | (_, Lead::Own(_)) => Way::Here,
        (_, Lead::Other(_) | Lead::Nobody) if was_passed_on => Way::Back,
        (_, Lead::Other(leader)) => Way::To(leader),
        (_, Lead::Nobody) => Way::Wait,
    }
}

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An answer, be it a refusal.
    Answered,
    /// Word that nothing was done of it.
    Undone,
    /// Word that who passed it on is no manager any more: nothing was done, and nothing will be.
    Dismissed,
    /// It could not be sent.
    Unsent,
    /// It may have been sent, and there is no answer.
    Broken,
}

/// What is done then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The answer goes to the caller.
    Answer,
    /// It is tried again.
    Again,
    /// The caller hears that it was not done, and may try again.
    Undone,
    /// The caller hears that the connection is gone; to begin anew does no harm.
    Gone,
    /// The caller hears that nobody knows whether it was done.
    Unknown,
}

/// What is done after an attempt, with so much of the patience left.
#[must_use]
pub fn then(outcome: Outcome, passing: Passing, left: Duration) -> Then {
    let again = !left.is_zero();
    match (outcome, passing) {
        (Outcome::Answered, _) => Then::Answer,
        (Outcome::Undone | Outcome::Unsent, Passing::Whole { .. })
        | (Outcome::Broken, Passing::Whole { harmless: true })
            if again =>
        {
            Then::Again
        }
        (Outcome::Undone | Outcome::Dismissed | Outcome::Unsent, _) => Then::Undone,
        (Outcome::Broken, Passing::Whole { harmless: false }) => Then::Unknown,
        (Outcome::Broken, _) => Then::Gone,
    }
}

/// Whether an answer of who led at its beginning goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// It does.
    On,
    /// For a while: perhaps the same one leads again.
    Doubtful,
    /// Another one leads.
    Over,
}

/// Whether an answer that began under one lead goes on under another.
#[must_use]
pub fn course<L: PartialEq>(began: &Lead<L>, now: &Lead<L>) -> Course {
    match now {
        Lead::Nobody => Course::Doubtful,
        now if now == began => Course::On,
        Lead::Own(_) | Lead::Other(_) => Course::Over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEC: Duration = Duration::from_secs(1);
    const WRITE: Passing = Passing::Whole { harmless: false };
    const READ: Passing = Passing::Whole { harmless: true };

    #[test]
    fn each_kind_of_call_has_its_way() {
        for (path, talks, harmless, expected) in [
            ("/shoal.v1.Raft/AppendEntries", false, false, Passing::Never),
            ("/shoal.v1.Control/GetVersion", false, true, Passing::Never),
            ("/shoal.v1.Ca/GetRootCertificate", false, true, Passing::Never),
            ("/shoal.v1.Control/GetCluster", false, true, READ),
            ("/shoal.v1.Control/CreateService", false, false, WRITE),
            ("/shoal.v1.Control/Exec", true, false, Passing::Flowing),
            ("/shoal.v1.Dispatcher/Session", false, false, Passing::Flowing),
        ] {
            assert_eq!(passing(path, talks, harmless), expected, "{path}");
        }
    }

    #[test]
    fn a_call_is_passed_on_once_and_waits_for_a_leader() {
        for (kind, passed, lead, expected) in [
            (Passing::Never, false, Lead::Other(7), Way::Here),
            (Passing::Never, true, Lead::Nobody, Way::Here),
            (WRITE, false, Lead::Own(1), Way::Here),
            (WRITE, true, Lead::Own(1), Way::Here),
            (WRITE, false, Lead::Other(7), Way::To(7)),
            (Passing::Flowing, false, Lead::Other(7), Way::To(7)),
            (READ, false, Lead::Nobody, Way::Wait),
            (WRITE, true, Lead::Other(7), Way::Back),
            (READ, true, Lead::Nobody, Way::Back),
        ] {
            assert_eq!(way(kind, passed, lead.clone()), expected, "{kind:?} {passed} {lead:?}");
        }
    }

    #[test]
    fn what_may_have_been_done_is_not_done_again() {
        let zero = Duration::ZERO;
        for (outcome, kind, left, expected) in [
            (Outcome::Answered, WRITE, SEC, Then::Answer),
            (Outcome::Undone, WRITE, SEC, Then::Again),
            (Outcome::Undone, WRITE, zero, Then::Undone),
            (Outcome::Dismissed, READ, SEC, Then::Undone),
            (Outcome::Dismissed, Passing::Flowing, SEC, Then::Undone),
            (Outcome::Unsent, WRITE, SEC, Then::Again),
            (Outcome::Unsent, WRITE, zero, Then::Undone),
            (Outcome::Unsent, Passing::Flowing, SEC, Then::Undone),
            (Outcome::Broken, WRITE, SEC, Then::Unknown),
            (Outcome::Broken, WRITE, zero, Then::Unknown),
            (Outcome::Broken, READ, SEC, Then::Again),
            (Outcome::Broken, READ, zero, Then::Gone),
            (Outcome::Broken, Passing::Flowing, SEC, Then::Gone),
        ] {
            assert_eq!(then(outcome, kind, left), expected, "{outcome:?} {kind:?} {left:?}");
        }
    }

    #[test]
    fn nobody_waits_longer_than_the_caller_does() {
        let (user, agent) = ("/shoal.v1.Control/GetNode", "/shoal.v1.Dispatcher/Session");
        assert_eq!(patience(user, None), PATIENCE);
        assert_eq!(patience(user, Some(SEC)), SEC);
        assert_eq!(patience(user, Some(60 * SEC)), PATIENCE);
        assert_eq!(patience(agent, None), AGENTS_PATIENCE);
    }

    #[test]
    fn an_answer_goes_on_under_the_same_lead() {
        use Lead::{Nobody, Other, Own};
        for (began, now, expected) in [
            (Own(1), Own(1), Course::On),
            (Own(1), Own(3), Course::Over),
            (Own(1), Other(7), Course::Over),
            (Own(1), Nobody, Course::Doubtful),
            (Other(7), Other(7), Course::On),
            (Other(7), Other(8), Course::Over),
            (Other(7), Own(2), Course::Over),
            (Other(7), Nobody, Course::Doubtful),
        ] {
            assert_eq!(course(&began, &now), expected, "{began:?} {now:?}");
        }
    }
}
