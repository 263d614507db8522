use proptest::prelude::*;

use super::*;

fn roles() -> Arc<RoleSet> {
    let role = |name: &str, rank: u32, more: &str| {
        (format!("roles/{name}.toml"), format!("name = \"{name}\"\npurpose = \"x\"\nrank = {rank}\n{more}"))
    };
    let files =
        [role("controller", 10, "max = 1"), role("builder", 20, ""), role("runner", 30, ""), role("tester", 30, "")];
    Arc::new(RoleSet::parse(files).expect("valid"))
}

fn peer(n: usize) -> PeerId {
    PeerId::new(format!("peer-{n:02}"))
}

fn advice(ranking: &[(&str, Option<u32>)]) -> AdviceMsg {
    let ranked = |(role, cap): &(&str, Option<u32>)| RankedAdvice {
        role: (*role).to_owned(),
        rule: "r".into(),
        cap: *cap,
        reason: format!("need {role}"),
    };
    AdviceMsg {
        ballot: "b1".into(),
        policy: "default".into(),
        roles_digest: roles().digest(),
        advice: Advice { ranking: ranking.iter().map(ranked).collect(), skipped: vec![] },
    }
}

fn only(role: &str) -> AdviceMsg {
    advice(&[(role, None)])
}

fn ballot(advisors: usize) -> Ballot {
    Ballot::new("b1", (0..advisors).map(peer).collect(), roles(), 1_000)
}

fn ranked(step: BallotStep) -> Ranked {
    match step {
        BallotStep::Decided(Outcome::Ranked(ranked)) => ranked,
        other @ (BallotStep::Wait { .. } | BallotStep::Decided(_)) => panic!("not decided: {other:?}"),
    }
}

fn order(ranked: &Ranked) -> Vec<(&str, Option<u32>)> {
    ranked.ranking.iter().map(|ranked| (ranked.role.as_str(), ranked.cap)).collect()
}

#[test]
fn the_seed_example_three_against_one_makes_a_builder() {
    let mut ballot = ballot(4);
    for (advisor, role) in [(0, "builder"), (1, "runner"), (2, "builder")] {
        ballot.on_advice(&peer(advisor), only(role), 1_010).expect("counted");
    }
    ballot.on_advice(&peer(3), only("builder"), 1_020).expect("counted");
    let ranked = ranked(ballot.poll(1_020));
    assert_eq!(order(&ranked), [("builder", None), ("runner", None)]);
    let given = ranked.for_role("builder").expect("ranked");
    assert_eq!(given.assigned_by, BTreeSet::from([peer(0), peer(2), peer(3)]));
    assert_eq!(given.dissent, BTreeSet::from([peer(1)]));
    assert_eq!(given.reason, "need builder");
    assert!(ranked.unanswered.is_empty());
}

fn step_until(step: &BallotStep) -> u64 {
    match step {
        BallotStep::Wait { until_ms, .. } => *until_ms,
        BallotStep::Decided(outcome) => panic!("decided {outcome:?}"),
    }
}

#[test]
fn it_decides_as_soon_as_first_place_is_certain() {
    let mut open = ballot(5);
    for advisor in 0..2 {
        open.on_advice(&peer(advisor), only("builder"), 1_010).expect("counted");
        assert!(matches!(open.poll(1_010), BallotStep::Wait { until_ms: 1_260, .. }));
    }
    open.on_advice(&peer(2), only("builder"), 1_010).expect("counted");
    let result = ranked(open.poll(1_010));
    assert_eq!(result.unanswered, BTreeSet::from([peer(3), peer(4)]));

    // Of two, one vote for the role that wins every tie is enough; one for another is not.
    let mut tie = ballot(2);
    tie.on_advice(&peer(0), only("controller"), 1_010).expect("counted");
    assert_eq!(ranked(tie.poll(1_010)).ranking[0].role, "controller");
    let mut tie = ballot(2);
    tie.on_advice(&peer(0), only("runner"), 1_010).expect("counted");
    assert_eq!(step_until(&tie.poll(1_010)), 1_260);
    assert_eq!(ranked(tie.poll(1_260)).ranking[0].role, "runner");
}

#[test]
fn silence_and_deadline_end_it() {
    let mut slow = ballot(20);
    assert!(matches!(slow.poll(1_000), BallotStep::Wait { until_ms: 3_000, why: "the first advice" }));
    for (n, at_ms) in (0..9).map(|n| (n, 1_200 + 200 * n as u64)) {
        slow.on_advice(&peer(n), only(if n % 2 == 0 { "runner" } else { "builder" }), at_ms).expect("counted");
        let until_ms = (at_ms + BALLOT_SILENCE_MS).min(3_000);
        assert_eq!(step_until(&slow.poll(at_ms)), until_ms);
    }
    let result = ranked(slow.poll(3_000));
    assert_eq!(result.ranking[0].role, "runner");
    assert_eq!(result.unanswered.len(), 11);
    assert_eq!(slow.on_advice(&peer(15), only("builder"), 3_001), Err(AdviceRefused::OtherBallot));
    assert_eq!(ranked(slow.poll(9_000)), result, "a decision stays");
}

#[test]
fn without_advice_it_says_so_and_names_who_was_silent() {
    let mut silent = ballot(2);
    assert_eq!(step_until(&silent.poll(2_999)), 3_000);
    let unanswered = BTreeSet::from([peer(0), peer(1)]);
    let expected = BallotStep::Decided(Outcome::NoAdvice { unanswered, advice: BTreeMap::new() });
    assert_eq!(silent.poll(3_000), expected);

    let mut alone = ballot(0);
    assert!(matches!(alone.poll(1_000), BallotStep::Decided(Outcome::NoAdvice { .. })));

    let mut empty = ballot(1);
    empty.on_advice(&peer(0), advice(&[]), 1_001).expect("counted");
    let BallotStep::Decided(Outcome::NoAdvice { unanswered, advice }) = empty.poll(1_001) else { panic!("must end") };
    assert!(unanswered.is_empty() && advice.len() == 1);
}

#[test]
fn an_advisor_that_dies_in_the_middle_is_not_waited_for() {
    let mut open = ballot(3);
    open.on_advice(&peer(0), only("runner"), 1_010).expect("counted");
    open.on_advice(&peer(1), only("builder"), 1_015).expect("counted");
    assert!(matches!(open.poll(1_015), BallotStep::Wait { .. }));
    open.on_advisor_gone(&peer(2));
    open.on_advisor_gone(&peer(99));
    let result = ranked(open.poll(1_016));
    assert_eq!(order(&result), [("builder", None), ("runner", None)]);
    assert_eq!(result.unanswered, BTreeSet::from([peer(2)]));
}

#[test]
fn advice_that_was_not_asked_for_is_ignored() {
    let mut open = ballot(3);
    assert_eq!(open.on_advice(&peer(7), only("runner"), 1_010), Err(AdviceRefused::NotAsked));
    let other = AdviceMsg { ballot: "b2".into(), ..only("runner") };
    assert_eq!(open.on_advice(&peer(0), other, 1_010), Err(AdviceRefused::OtherBallot));
    open.on_advice(&peer(0), only("runner"), 1_010).expect("counted");
    assert_eq!(open.on_advice(&peer(0), only("builder"), 1_010), Err(AdviceRefused::Twice));

    let long = AdviceMsg { policy: "x".repeat(33), ..only("runner") };
    let mut control = only("runner");
    control.advice.ranking[0].reason = "a\u{1b}[2J".into();
    let mut huge = only("runner");
    huge.advice.ranking[0].reason = "a".repeat(REASON_MAX_BYTES + 1);
    let twice = advice(&[("runner", None), ("runner", Some(3))]);
    for bad in [long, control, huge, twice, only("founder"), only("../x"), advice(&[("runner", Some(0))])] {
        assert_eq!(open.on_advice(&peer(1), bad, 1_011), Err(AdviceRefused::Malformed));
    }
    let result = ranked(open.poll(1_260));
    assert_eq!(result.advice.len(), 1);
}

#[test]
fn the_cap_is_the_lowest_of_the_supporters_and_of_the_role() {
    let mut open = ballot(4);
    for (n, ranking) in [
        advice(&[("builder", Some(5)), ("runner", None)]),
        advice(&[("builder", Some(3)), ("runner", Some(9))]),
        advice(&[("builder", None), ("controller", Some(4)), ("runner", None)]),
        advice(&[("runner", Some(1)), ("builder", Some(1))]),
    ]
    .into_iter()
    .enumerate()
    {
        open.on_advice(&peer(n), ranking, 1_010).expect("counted");
    }
    let result = ranked(open.poll(1_010));
    // The advice of the dissenter caps only what it puts first.
    assert_eq!(order(&result), [("builder", Some(3)), ("runner", Some(1)), ("controller", Some(1))]);
    assert_eq!(result.for_role("runner").expect("ranked").dissent, BTreeSet::from([peer(2)]));
    assert!(result.for_role("tester").is_none());
}

#[test]
fn later_places_follow_the_advice_as_if_earlier_roles_were_full() {
    let mut open = ballot(3);
    for n in 0..3 {
        open.on_advice(&peer(n), advice(&[("controller", Some(1)), ("tester", None), ("builder", None)]), 1_010)
            .expect("ok");
    }
    let result = ranked(open.poll(1_010));
    assert_eq!(order(&result), [("controller", Some(1)), ("tester", None), ("builder", None)]);
    assert_eq!(result.for_role("tester").expect("ranked").assigned_by.len(), 3);
}

#[test]
fn roles_that_this_node_cannot_look_up_do_not_count() {
    let mut open = ballot(2);
    let foreign = AdviceMsg { roles_digest: Sha256Hash([9; 32]), ..advice(&[("ml-trainer", None), ("runner", None)]) };
    open.on_advice(&peer(0), foreign, 1_010).expect("counted");
    open.on_advice(&peer(1), only("runner"), 1_010).expect("counted");
    let result = ranked(open.poll(1_010));
    assert_eq!(order(&result), [("runner", None)]);
    assert_eq!(result.unknown_roles, BTreeSet::from(["ml-trainer".to_owned()]));
    assert_eq!(result.other_definitions, BTreeSet::from([peer(0)]));
}

fn any_ranking() -> impl Strategy<Value = Vec<(&'static str, Option<u32>)>> {
    let roles = vec!["controller", "builder", "runner", "tester"];
    let shuffled =
        Just(roles).prop_shuffle().prop_flat_map(|roles| (0..=roles.len()).prop_map(move |n| roles[..n].to_vec()));
    shuffled.prop_flat_map(|roles| {
        let caps = proptest::collection::vec(proptest::option::of(1u32..6), roles.len());
        caps.prop_map(move |caps| roles.iter().copied().zip(caps).collect())
    })
}

proptest! {
    /// The order in which answers arrive changes nothing but how early the ballot ends.
    #[test]
    fn the_count_does_not_depend_on_the_order_of_answers(
        rankings in proptest::collection::vec(any_ranking(), 1..9),
        order in Just((0..9usize).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let outcome = |order: &[usize]| {
            let mut open = ballot(rankings.len());
            for n in order.iter().filter(|n| **n < rankings.len()) {
                open.on_advice(&peer(*n), advice(&rankings[*n]), 1_010).expect("counted");
            }
            open.poll(1_010)
        };
        let sorted: Vec<usize> = (0..9).collect();
        prop_assert_eq!(outcome(&sorted), outcome(&order));
    }

    /// Whoever is put first early would have been put first by all votes together.
    #[test]
    fn an_early_decision_is_the_one_of_the_full_count(
        rankings in proptest::collection::vec(any_ranking(), 1..9),
        answering in 0..9usize,
    ) {
        let mut early = ballot(rankings.len());
        let mut full = ballot(rankings.len());
        let mut first = None;
        for (n, ranking) in rankings.iter().enumerate() {
            full.on_advice(&peer(n), advice(ranking), 1_010).expect("counted");
            if first.is_none() && n < answering {
                early.on_advice(&peer(n), advice(ranking), 1_010).expect("counted");
                if let BallotStep::Decided(Outcome::Ranked(ranked)) = early.poll(1_010) {
                    first = Some(ranked);
                }
            }
        }
        if let Some(early) = first {
            prop_assert_eq!(&early.ranking[0].role, &ranked(full.poll(1_010)).ranking[0].role);
        }
    }

    /// Every place: no other role left has more first votes, the cap is nobody's excess, supporters are real.
    #[test]
    fn each_place_belongs_to_a_role_with_most_votes_among_those_left(
        rankings in proptest::collection::vec(any_ranking(), 1..9),
    ) {
        let mut open = ballot(rankings.len());
        for (n, ranking) in rankings.iter().enumerate() {
            open.on_advice(&peer(n), advice(ranking), 1_010).expect("counted");
        }
        let BallotStep::Decided(Outcome::Ranked(result)) = open.poll(1_010) else { return Ok(()) };
        let mut placed: Vec<&str> = vec![];
        for place in &result.ranking {
            let first_left = |ranking: &Vec<(&'static str, Option<u32>)>| {
                ranking.iter().find(|(role, _)| !placed.contains(role)).copied()
            };
            let votes = |role: &str| rankings.iter().filter(|r| first_left(r).is_some_and(|(first, _)| first == role)).count();
            let mine = votes(&place.role);
            prop_assert!(mine > 0);
            prop_assert_eq!(result.for_role(&place.role).expect("ranked").assigned_by.len(), mine);
            for other in ["controller", "builder", "runner", "tester"] {
                prop_assert!(votes(other) <= mine);
            }
            for (first, cap) in rankings.iter().filter_map(first_left) {
                if first == place.role && cap.is_some() {
                    prop_assert!(place.cap.is_some() && place.cap <= cap);
                }
            }
            let name = roles().iter().map(|role| role.name.clone()).find(|name| *name == place.role).expect("known");
            placed.push(match name.as_str() { "controller" => "controller", "builder" => "builder", "runner" => "runner", _ => "tester" });
        }
    }
}
