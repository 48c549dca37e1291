//! What is found is taken over, and changed where it differs.

use proptest::prelude::*;
use serde_json::json;

use super::super::mend::{Mend, Shown};
use super::*;

/// As the kernel shows the tables of [`sample`].
fn listed() -> Value {
    serde_json::from_str(include_str!("../listed.json")).unwrap()
}

/// The tables, as they are shown, and how they were when they were made.
fn found() -> (Ruleset, Value, Shown) {
    let (ruleset, listed) = (of(&sample()), listed());
    let shown = ruleset.shown("shoal", &listed);
    (ruleset, listed, shown)
}

fn objects(listed: &mut Value) -> &mut Vec<Value> {
    listed["nftables"].as_array_mut().unwrap()
}

fn elements<'a>(listed: &'a mut Value, set: &str) -> &'a mut Vec<Value> {
    let mut all = objects(listed).iter_mut().flat_map(|o| o.as_object_mut().unwrap().values_mut());
    let body = all.find(|body| body["name"] == set && body.get("type").is_some()).unwrap();
    let body = body.as_object_mut().unwrap();
    body.entry("elem").or_insert_with(|| json!([])).as_array_mut().unwrap()
}

fn parts(mend: Mend) -> String {
    match mend {
        Mend::Parts(script) => script,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_as_it_should_be_is_left_alone() {
    let (ruleset, listed, shown) = found();
    assert_eq!(ruleset.mend("shoal", Some(&listed), Some(&shown)), Mend::Nothing);
    // The next agent has it from a file.
    let read: Shown = serde_json::from_str(&serde_json::to_string(&shown).unwrap()).unwrap();
    assert_eq!(ruleset.mend("shoal", Some(&listed), Some(&read)), Mend::Nothing);
    let nothing = json!({ "nftables": [] });
    for none in [None, Some(&nothing)] {
        assert_eq!(Ruleset::default().mend("shoal", none, None), Mend::Nothing);
    }
}

#[test]
fn what_nobody_can_judge_is_replaced() {
    let (ruleset, listed, shown) = found();
    let whole = |of: &Ruleset, listed: Option<&Value>, shown: Option<&Shown>, why: &str| {
        assert_eq!(of.mend("shoal", listed, shown), Mend::Whole, "{why}");
    };
    whole(&ruleset, None, Some(&shown), "there are none");
    whole(&ruleset, Some(&json!({ "nftables": [] })), Some(&shown), "there are none");
    whole(&ruleset, Some(&listed), None, "nobody knows how they were shown");
    whole(&Ruleset::default(), Some(&listed), Some(&shown), "none are wanted");
    let closed = HostFacts { forwards_for_us: true, ..host() };
    whole(&Ruleset::of(&sample(), &closed), Some(&listed), Some(&shown), "of other rules");
    whole(&ruleset.without_frames(), Some(&listed), Some(&shown), "of less");
}

#[test]
fn a_chain_with_other_rules_gets_its_own_and_the_rest_stays() {
    let (ruleset, right, shown) = found();
    let of_chain =
        |o: &Value, family: &str| o["rule"]["chain"] == "forward" && o["rule"]["family"] == family;
    let (mut without, mut more, mut turned) = (right.clone(), right.clone(), right.clone());
    let first = objects(&mut without).iter().position(|o| of_chain(o, "inet")).unwrap();
    let rule = objects(&mut without).remove(first);
    objects(&mut more).push(rule);
    objects(&mut turned).swap(first, first + 1);
    for (listed, what) in [(without, "one less"), (more, "one more"), (turned, "in another order")]
    {
        let script = parts(ruleset.mend("shoal", Some(&listed), Some(&shown)));
        let (flush, rest) = script.split_once('\n').unwrap();
        assert_eq!(flush, "flush chain inet shoal forward", "{what}");
        let (head, rest) = rest.split_once('\n').unwrap();
        assert_eq!(head, "table inet shoal {", "{what}");
        // Written as it was at first, hook and all, and nothing else is.
        let block = rest.strip_suffix("}\n").unwrap();
        assert!(block.starts_with("  chain forward {\n    type filter hook forward"), "{what}");
        assert_eq!(block.matches("chain ").count(), 1, "{what}: {block}");
        let inet = GOLDEN.split("table bridge shoal {").next().unwrap();
        assert!(inet.contains(block), "{what}: {block}");
    }
}

#[test]
fn a_table_with_other_sets_or_chains_is_replaced_alone() {
    let (ruleset, right, shown) = found();
    let mut other = right.clone();
    objects(&mut other).push(json!({ "chain":
        { "family": "bridge", "table": "shoal", "name": "mine", "handle": 99 } }));
    let mut gone = right.clone();
    objects(&mut gone)
        .retain(|o| o.as_object().unwrap().values().all(|body| body["family"] != "bridge"));
    let mut unreadable = right.clone();
    elements(&mut unreadable, "held_macs").push(json!("\" }\nflush ruleset"));
    for listed in [other, gone, unreadable] {
        let script = parts(ruleset.mend("shoal", Some(&listed), Some(&shown)));
        let (before, rest) = script.split_once("table bridge shoal {\n").unwrap();
        assert_eq!(before, "add table bridge shoal\ndelete table bridge shoal\n");
        assert!(rest.contains("add element bridge shoal own {"), "{script}");
        assert!(!script.contains(" inet ") && !script.contains("flush"), "{script}");
    }
    // One that is there and should not be.
    let mut more = right;
    objects(&mut more).push(json!({ "table":
        { "family": "netdev", "name": "shoal", "handle": 99 } }));
    let without = HostFacts { mesh: false, ..host() };
    let plain = Ruleset::of(&sample(), &without);
    let shown = plain.shown("shoal", &listed());
    let script = parts(plain.mend("shoal", Some(&more), Some(&shown)));
    assert!(script.contains("delete table netdev shoal\n"), "{script}");
}

/// A strange element of every kind that the kernel shows.
#[test]
fn strange_elements_are_taken_away_by_their_keys() {
    let (ruleset, mut listed, shown) = found();
    let strange = [
        ("bridges", json!("eth7")),
        ("subnets", json!({ "prefix": { "addr": "10.9.0.0", "len": 24 } })),
        ("subnets", json!({ "range": ["10.8.0.3", "10.8.0.9"] })),
        ("published_any", json!([{ "concat": ["tcp", 1] }, { "concat": ["10.0.0.1", 80] }])),
        ("backends", json!([{ "concat": ["10.0.5.99", 0] }, "10.0.5.7"])),
        ("held_addresses", json!({ "elem": { "val": "10.7.0.1", "comment": "mine" } })),
    ];
    for (set, element) in strange {
        elements(&mut listed, set).push(element);
    }
    let script = parts(ruleset.mend("shoal", Some(&listed), Some(&shown)));
    let expected = [
        r#"delete element inet shoal bridges { "eth7" }"#,
        r#"delete element inet shoal subnets { "10.9.0.0"/24, "10.8.0.3"-"10.8.0.9" }"#,
        r#"delete element inet shoal published_any { "tcp" . 1 }"#,
        r#"delete element inet shoal backends { "10.0.5.99" . 0 }"#,
        r#"delete element bridge shoal held_addresses { "10.7.0.1" }"#,
    ];
    assert_eq!(script.lines().collect::<Vec<_>>(), expected);
}

/// Marks are numbers, however they are written.
fn plain(word: &str) -> String {
    let mark = word.strip_prefix("0x").and_then(|digits| u32::from_str_radix(digits, 16).ok());
    mark.map_or_else(|| word.to_owned(), |mark| mark.to_string())
}

/// What a script does, in whatever order: verb, set and element.
fn deeds(script: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for line in script.lines() {
        let (head, elements) = line.split_once(" { ").unwrap();
        let elements = elements.strip_suffix(" }").unwrap();
        all.extend(elements.split(", ").map(|one| {
            let words = one.split(' ').map(|word| plain(word.trim_matches('"')));
            format!("{head} {}", words.collect::<Vec<_>>().join(" "))
        }));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Where elements alone differ, the change is the one that leads from what is there to what is wanted, as if the
    /// agent had known it, and each element that is right is in none of it.
    #[test]
    fn what_differs_is_changed_and_nothing_else(
        lost in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        moved in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let (ruleset, mut listed, shown) = found();
        let wanted = ruleset.elements();
        let all: Vec<_> = wanted
            .iter()
            .flat_map(|(set, elements)| elements.iter().map(move |one| (*set, one.clone())))
            .collect();
        let mut there = wanted.clone();
        for index in &lost {
            let (set, element) = index.get(&all);
            there.get_mut(set).unwrap().remove(element);
        }
        // Leads elsewhere: the key is to be taken away before it is given.
        let maps: Vec<_> = all.iter().filter(|(_, one)| !one.value.is_empty()).collect();
        for index in &moved {
            let (set, element) = index.get(&maps);
            let elements = there.get_mut(set).unwrap();
            let is_it = |one: &&(_, Element)| one.0 == *set && one.1.value != element.value;
            let Some((_, other)) = all.iter().find(is_it) else { continue };
            if elements.remove(element) {
                elements.insert(Element { key: element.key.clone(), value: other.value.clone() });
            }
        }
        for ((set, family), found) in &there {
            *elements(&mut listed, &set.name(*family)) = found.iter().map(Element::json).collect();
        }
        let change = Change::between(&there, &wanted);
        match ruleset.mend("shoal", Some(&listed), Some(&shown)) {
            Mend::Nothing => prop_assert!(change.is_empty()),
            Mend::Parts(script) => {
                prop_assert_eq!(deeds(&script), deeds(&change.text("shoal")));
                let lines: Vec<&str> = script.lines().collect();
                for (n, line) in lines.iter().enumerate().filter(|(_, l)| l.starts_with("add ")) {
                    let set = line.split(" { ").next().unwrap().strip_prefix("add ").unwrap();
                    let taken = format!("delete {set} ");
                    prop_assert!(lines[n..].iter().all(|later| !later.starts_with(&taken)));
                }
            }
            Mend::Whole => prop_assert!(false, "replaced"),
        }
    }
}
