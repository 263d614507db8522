//! What filters take, what they refuse and where, and that no text makes them panic.

use proptest::prelude::*;

use super::*;
use crate::engine::id::UnixMillis;
use crate::engine::wire::{Protocol, Record};

const JOB: &str = "018f3c2e-7a11-7c3e-9d53-0242ac120002";

pub(in crate::engine) fn record() -> Record {
    Record {
        id: "5@n1".into(),
        number: 5,
        at: UnixMillis(1),
        node: "n1".into(),
        sent: false,
        from: "build1".into(),
        to: "n1".into(),
        protocol: Protocol::Control,
        kind: "ADVICE".into(),
        path: None,
        job: Some(JOB.into()),
        jobs: 1,
        session: None,
        bytes: 4_096,
        latency_ms: Some(20.5),
        status: Some("404".into()),
        verdict: "taken".into(),
        trace: "00112233aabbccdd".into(),
        summary: "advises build1: builder".into(),
    }
}

fn takes(text: &str) -> bool {
    Filter::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).takes(&record())
}

#[test]
fn comparisons_mean_what_they_say() {
    for text in [
        "",
        "  ",
        r#"kind == "ADVICE" && from == "build1""#,
        r#"kind == "advice""#,
        "kind = 'ADVICE'",
        "latency > 20ms",
        "latency > 20",
        "latency < 0.03s",
        "latency >= 20500us",
        "bytes >= 4KiB && bytes <= 4KiB && bytes == 4096",
        "bytes < 5kB",
        "status >= 400 && status < 500",
        r#"status == "404""#,
        r#"summary contains "BUILDER""#,
        r#"summary matches "^advises\s+build\d:""#,
        r#"kind in ("LEASE", "ADVICE")"#,
        r#"job == "018f3c2e""#,
        r#"trace == "00112233aabbccdd""#,
        "job and not session",
        "!session && !sent",
        "sent == false",
        "sent != true",
        r#"!(verdict == "replay" || verdict == "wrong_secret")"#,
        r#"from != "n2""#,
        "jobs == 1",
        r#"not kind == "LEASE" or sent"#,
    ] {
        assert!(takes(text), "{text}");
    }
    for text in [
        r#"kind == "LEASE""#,
        "latency > 21ms",
        "bytes > 4KiB",
        "session",
        "sent",
        r#"job == "018f3c2""#,
        r#"path contains "x""#,
        r#"!(kind == "ADVICE")"#,
        r#"kind == "ADVICE" && from == "n2" || bytes < 1"#,
    ] {
        assert!(!takes(text), "{text}");
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    for (text, position, words) in [
        ("kind ==", 8, "a value"),
        ("knd == 'x'", 1, "no field knd; there are from"),
        ("kind == ADVICE", 9, "text in quotes"),
        ("latency > 20kb", 11, "no unit here; there are us"),
        ("latency > 'x'", 11, "a time, such as 20ms"),
        ("(kind == 'x'", 1, "not closed"),
        ("kind == 'x' from", 13, "&& or ||"),
        ("kind == 'x", 9, "no closing"),
        ("kind ~ 'x'", 6, "means nothing"),
        ("kind matches '('", 14, "regular expression"),
        ("é == 1", 1, "no field"),
        ("kind == 'é' && %", 16, "means nothing"),
        ("sent == 'yes'", 9, "true or false"),
        ("kind in 'x'", 9, "after in"),
        ("1.2.3 == 1", 1, "no number"),
        ("jobs > 3ms", 8, "no unit"),
        ("bytes contains 3", 16, "takes a text"),
    ] {
        let error = Filter::parse(text).expect_err(text);
        assert_eq!(error.position, position, "{text}: {error}");
        assert!(error.message.contains(words), "{text}: {error}");
    }
}

#[test]
fn length_and_depth_are_bounded() {
    let deep = format!("{}sent{}", "(".repeat(DEPTH_MAX + 2), ")".repeat(DEPTH_MAX + 2));
    assert!(Filter::parse(&deep).expect_err("too deep").message.contains("deep"));
    assert!(Filter::parse(&"!".repeat(LENGTH_MAX)).is_err());
    assert!(
        Filter::parse(&format!("kind == '{}'", "x".repeat(LENGTH_MAX)))
            .expect_err("too long")
            .message
            .contains("bytes")
    );
    let fine = format!("{}sent{}", "(".repeat(DEPTH_MAX), ")".repeat(DEPTH_MAX));
    assert!(Filter::parse(&fine).is_ok());
    assert!(Filter::parse("kind matches '(a{1000}){1000}'").is_err(), "an expression that would fill the memory");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,80}") {
        if let Ok(filter) = Filter::parse(&text) {
            filter.takes(&record());
        }
    }

    /// Nearly right ones get further into the parser than noise.
    #[test]
    fn no_jumble_of_words_makes_it_panic(words in proptest::collection::vec(
        prop_oneof![
            Just("kind"), Just("latency"), Just("bytes"), Just("sent"), Just("job"), Just("=="), Just("!="), Just("<"), Just(">="),
            Just("&&"), Just("||"), Just("!"), Just("("), Just(")"), Just(","), Just("in"), Just("contains"), Just("matches"),
            Just("\"a\""), Just("'\\d+'"), Just("20ms"), Just("4KiB"), Just("7"), Just("true"), Just("\""), Just("é"), Just("9µs"),
        ], 0..14))
    {
        let text = words.join(" ");
        match Filter::parse(&text) {
            Ok(filter) => { filter.takes(&record()); }
            Err(error) => prop_assert!(error.position >= 1 && error.position <= text.chars().count() + 1),
        }
    }

    #[test]
    fn negation_turns_everything_round(bytes in 0u64..10_000, limit in 0u64..10_000) {
        let record = Record { bytes, ..record() };
        let plain = Filter::parse(&format!("bytes < {limit}")).expect("understood");
        let turned = Filter::parse(&format!("!(bytes < {limit})")).expect("understood");
        prop_assert_eq!(plain.takes(&record), bytes < limit);
        prop_assert_ne!(plain.takes(&record), turned.takes(&record));
        let both = Filter::parse(&format!("bytes < {limit} && !(bytes < {limit})")).expect("understood");
        prop_assert!(!both.takes(&record));
    }

    #[test]
    fn any_text_in_quotes_is_compared_as_it_is(text in "\\PC{1,40}") {
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        let record = Record { from: text.clone(), ..record() };
        let filter = Filter::parse(&format!("from == \"{quoted}\"")).expect("understood");
        prop_assert!(filter.takes(&record), "{}", text);
    }
}
