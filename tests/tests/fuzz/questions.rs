//! What containers ask for names.

use std::collections::BTreeSet;

use shoal_agent_dns::answer::{TCP_BYTES_MAX, UDP_BYTES_MAX, Verdict, judge};
use shoal_agent_planning::zone::{Asker, Change, Claim, TaskNames, Zone, ZoneNetwork};

use super::bytes::mutated;
use super::driver::{Answer, BOUNDS, Target, corpus, fuzz};

/// Pieces of messages.
const WORDS: [&str; 8] = [
    "\u{3}web",
    "\u{5}tasks",
    "\u{8}shop_web",
    "\0\u{1}\0\u{1}",
    "\0\u{c}",
    "\0\0)\u{4}\0",
    "\u{2}me\0",
    "\0",
];

/// Everything that a name can lead to: one address, many, none, and names of addresses.
fn zone() -> Zone {
    let mut zone = Zone::default();
    let subnets = vec!["10.0.0.0/16".parse().unwrap()];
    let network = ZoneNetwork { name: "shop_back".to_owned(), subnets };
    zone.take(Change::Network { id: "n1".to_owned(), network });
    for n in 0..200 {
        let (slot, aliases) = (n.to_string(), BTreeSet::from(["web".to_owned()]));
        let serving = n != 7;
        let task = TaskNames { service: "shop_web", slot: &slot, aliases: &aliases, serving };
        let claims = vec![Claim::of_task(&task, "n1", [10, 0, 1, n].into(), false)];
        zone.take(Change::Claims { owner: format!("t{n}"), claims });
    }
    zone
}

/// The bytes of a header (RFC 1035, 4.1.1) that answers have to agree in with their questions.
fn is_answer(question: &[u8], answer: &[u8]) -> bool {
    answer.len() >= 12 && answer[..2] == question[..2] && answer[2] & 0x80 != 0
}

#[test]
fn what_containers_ask() {
    let zone = zone();
    let networks = vec!["n1".to_owned()];
    let container = "t3".to_owned();
    let asker = Asker { container, networks, hostname: "me".to_owned(), ..Asker::default() };
    let stranger = Asker { networks: vec!["n2".to_owned()], ..Asker::default() };
    let target = Target { name: "questions", seeds: corpus("questions"), bounds: BOUNDS };
    fuzz(
        &target,
        |random, corpus| mutated(random, corpus, &WORDS),
        |input| {
            let (mut kinds, mut read) = (Vec::new(), false);
            for (tcp, longest) in [(false, UDP_BYTES_MAX), (true, TCP_BYTES_MAX)] {
                let verdict = judge(input, &zone, &asker, tcp);
                let kind = match &verdict {
                    Verdict::Answer(answer) => {
                        assert!(is_answer(input, answer), "{answer:?} is none");
                        assert!(answer.len() <= longest, "{} bytes", answer.len());
                        // An answer is nothing to be answered.
                        assert_eq!(judge(answer, &zone, &asker, tcp), Verdict::Silence);
                        format!("{} {}", answer[3] & 0x0f, answer.len().ilog2())
                    }
                    Verdict::Forward(question, limit) => {
                        assert!(*limit <= longest);
                        // Nobody is taken for one who has answered it.
                        assert_eq!(question.is_answered_by(input, question.id()), None);
                        "forward".to_owned()
                    }
                    Verdict::Silence => "silence".to_owned(),
                };
                // FORMERR (RFC 1035, 4.1.1).
                read |= !(verdict == Verdict::Silence || kind.starts_with("1 "));
                // Who is on another network is told no address.
                if let Verdict::Answer(answer) = judge(input, &zone, &stranger, tcp) {
                    assert_eq!(answer[6..8], [0, 0], "a stranger is told {answer:?}");
                }
                kinds.push(kind);
            }
            let kinds = kinds.join(", ");
            if read {
                Answer::Read(kinds)
            } else {
                Answer::Refused(format!("no question: {kinds}"))
            }
        },
    );
}
