//! Advisor policies: ordered rules that say what the hive needs a node to become, and why.
//!
//! ```text
//!   advisor-policies/*.toml ── Policy::parse ──► Policy ─┐
//!   census, queue, node, facts ──────────────► Snapshot ─┴─► evaluate ──► Advice { ranking, skipped }
//! ```
//!
//! A rule applies when its CEL expression is true. Earlier rules give higher ranks, and a role is ranked once, by the first rule
//! that advised it. A rule that cannot be judged (a fact that nobody has read yet, an expression that fails on these values) is
//! left out and says so; it never fails the others. What is wrong in the text itself is an error when the file is loaded, with
//! file and line.
//!
//! Never done here: reading facts, asking anybody, counting votes.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::member::Inventory;
use super::role::{DefinitionError, FOUNDER, RoleSet, Source, is_name};
use super::state::QueueCounts;

mod expr;
pub mod source;
mod template;

use self::expr::{Expr, Names, Scope};
use self::template::Template;

/// Most rules of a policy.
pub const RULES_MAX: usize = 200;
/// Longest reason an advisor gives, bytes: it travels in a frame with up to [`RULES_MAX`] others and lands in `identity.json`.
pub const REASON_MAX_BYTES: usize = 200;
/// Longest sentence about a skipped rule, bytes.
pub const SKIPPED_MAX_BYTES: usize = 300;
/// Longest description, bytes.
const DESCRIPTION_MAX_BYTES: usize = 500;

/// A value that comes from outside the hive, and how old it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    /// What was read.
    pub value: serde_json::Value,
    /// How long ago, milliseconds.
    pub age_ms: u64,
}

/// Everything a policy may look at when it is asked about one node.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Snapshot {
    /// Members by role, without the node that asks (see [`census`](super::role::census)). A role that is not here counts 0.
    pub census: BTreeMap<String, u32>,
    /// Members of the hive, with the node that asks.
    pub members: u32,
    /// The queue.
    pub queue: QueueCounts,
    /// The node that asks.
    pub node: Inventory,
    /// Cached facts of the advisor.
    pub facts: BTreeMap<String, Fact>,
}

/// One role in an advisor's ranking.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankedAdvice {
    /// The role.
    pub role: String,
    /// Name of the rule that advised it.
    pub rule: String,
    /// At most so many of this role; none: no limit.
    pub cap: Option<u32>,
    /// Why, at most [`REASON_MAX_BYTES`].
    pub reason: String,
}

/// What one advisor says.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Advice {
    /// Roles, best first.
    pub ranking: Vec<RankedAdvice>,
    /// Rules that were left out, and why: `rule NAME: …`.
    pub skipped: Vec<String>,
}

/// A loaded policy.
#[derive(Debug)]
pub struct Policy {
    name: String,
    description: String,
    rules: Vec<Rule>,
    scope: Scope,
}

#[derive(Debug)]
struct Rule {
    name: String,
    when: Expr,
    advise: String,
    cap: Cap,
    reason: Template,
    /// Facts without which the rule cannot be judged.
    facts: BTreeSet<String>,
}

#[derive(Debug)]
enum Cap {
    None,
    Number(u32),
    Expr(Expr),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    name: Spanned<String>,
    #[serde(default)]
    description: String,
    #[serde(default, rename = "rule")]
    rules: Vec<Spanned<RuleFile>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    name: Spanned<String>,
    when: Spanned<String>,
    advise: Spanned<String>,
    cap: Option<Spanned<CapFile>>,
    reason: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a whole number from 1, or a CEL expression in quotes")]
enum CapFile {
    Number(u32),
    Expr(String),
}

impl Policy {
    /// Reads a policy file. Roles and facts it may speak of are those of `roles`, and any fact name.
    pub fn parse(file: &str, text: &str, roles: &RoleSet) -> Result<Self, DefinitionError> {
        let source = Source { file, text };
        let raw: PolicyFile = source.parse()?;
        if !is_name(raw.name.get_ref()) {
            let what =
                format!("policy name {:?}, expected a letter a-z and up to 31 of a-z, 0-9, -", raw.name.get_ref());
            return Err(source.error_at(raw.name.span().start, what));
        }
        if raw.description.len() > DESCRIPTION_MAX_BYTES {
            return Err(source.error_at(0, format!("description, expected at most {DESCRIPTION_MAX_BYTES} bytes")));
        }
        if raw.rules.is_empty() {
            return Err(source.error_at(0, "no rules, expected at least one [[rule]]"));
        }
        let mut rules: Vec<Rule> = Vec::with_capacity(raw.rules.len());
        for rule in raw.rules {
            let at = rule.span().start;
            if rules.len() == RULES_MAX {
                return Err(source.error_at(at, format!("more than {RULES_MAX} rules")));
            }
            let rule = Rule::from_file(source, rule.into_inner(), roles)?;
            if rules.iter().any(|other| other.name == rule.name) {
                let what = format!("rule {:?} is there twice, expected names of their own", rule.name);
                return Err(source.error_at(at, what));
            }
            rules.push(rule);
        }
        Ok(Self { name: raw.name.into_inner(), description: raw.description, rules, scope: Scope::new() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is for.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Facts that any rule speaks of, so that a policy that asks for a fact nobody configured can be reported.
    pub fn facts(&self) -> BTreeSet<&str> {
        self.rules.iter().flat_map(|rule| rule.facts.iter().map(String::as_str)).collect()
    }
}

impl Rule {
    fn from_file(source: Source<'_>, raw: RuleFile, roles: &RoleSet) -> Result<Self, DefinitionError> {
        let advise_at = raw.advise.span().start;
        let (name, advise) = (raw.name.get_ref(), raw.advise.get_ref());
        if !is_name(name) {
            let what = format!("rule name {name:?}, expected a letter a-z and up to 31 of a-z, 0-9, -");
            return Err(source.error_at(raw.name.span().start, what));
        }
        if advise == FOUNDER {
            let what = "founder is held by whoever creates the hive and cannot be advised, expected another role";
            return Err(source.error_at(advise_at, what));
        }
        if roles.get(advise).is_none() {
            let what = format!("unknown role {advise:?}, expected one of: {}", roles.names());
            return Err(source.error_at(advise_at, what));
        }
        let names = Names { roles };
        let mut facts = BTreeSet::new();
        let when = compile(source, &raw.when, &names, &mut facts)?;
        let cap = match raw.cap {
            None => Cap::None,
            Some(cap) => {
                let span = cap.span();
                match cap.into_inner() {
                    CapFile::Number(0) => {
                        return Err(source.error_at(span.start, "cap = 0 would never advise the role, expected from 1"));
                    }
                    CapFile::Number(number) => Cap::Number(number),
                    CapFile::Expr(text) => Cap::Expr(compile(source, &Spanned::new(span, text), &names, &mut facts)?),
                }
            }
        };
        let reason_at = raw.reason.span().start;
        let reason = Template::parse(raw.reason.get_ref(), &names).map_err(|what| source.error_at(reason_at, what))?;
        facts.extend(reason.facts().map(str::to_owned));
        Ok(Self { name: raw.name.into_inner(), when, advise: raw.advise.into_inner(), cap, reason, facts })
    }
}

/// Compiles one expression; an error points at the line in the file.
fn compile(
    source: Source<'_>,
    text: &Spanned<String>,
    names: &Names<'_>,
    facts: &mut BTreeSet<String>,
) -> Result<Expr, DefinitionError> {
    let start = text.span().start;
    let expr = Expr::compile(text.get_ref(), names).map_err(|error| {
        let mut located = source.error_at(start, error.what);
        // The text of a multi-line string begins on the line after its quotes.
        let opening = source.text.get(start..).unwrap_or_default();
        let opened_before = opening.starts_with("'''\n") || opening.starts_with("\"\"\"\n");
        located.line += error.line_offset + usize::from(opened_before);
        located
    })?;
    facts.extend(expr.facts().iter().cloned());
    Ok(expr)
}

/// Judges every rule of a policy on one snapshot.
pub fn evaluate(policy: &Policy, roles: &RoleSet, snapshot: &Snapshot) -> Advice {
    let mut advice = Advice::default();
    let bound = policy.scope.bind(snapshot);
    for rule in &policy.rules {
        let outcome = judge(rule, &bound, roles, snapshot);
        match outcome {
            Ok(Some(ranked)) => {
                if !advice.ranking.iter().any(|other| other.role == ranked.role) {
                    advice.ranking.push(ranked);
                }
            }
            Ok(None) => {}
            Err(why) => {
                let mut line = format!("rule {}: {why}", rule.name);
                cut(&mut line, SKIPPED_MAX_BYTES);
                advice.skipped.push(line);
            }
        }
    }
    advice
}

/// The advice of one rule, none when it does not apply, or why it cannot be judged.
fn judge(
    rule: &Rule,
    bound: &expr::Bound<'_>,
    roles: &RoleSet,
    snapshot: &Snapshot,
) -> Result<Option<RankedAdvice>, String> {
    if let Some(missing) = rule.facts.iter().find(|name| !snapshot.facts.contains_key(*name)) {
        return Err(format!("fact {missing} has not been read yet"));
    }
    if !bound.is_true(&rule.when)? {
        return Ok(None);
    }
    if let Some(lacking) = roles.get(&rule.advise).and_then(|role| role.lacks(&snapshot.node)) {
        return Err(format!("advises {}, which needs {lacking}; the node has none", rule.advise));
    }
    let cap = match &rule.cap {
        Cap::None => None,
        Cap::Number(number) => Some(*number),
        Cap::Expr(expr) => Some(bound.count(expr)?),
    };
    let mut reason = rule.reason.render(snapshot);
    let oldest = rule.facts.iter().filter_map(|name| snapshot.facts.get(name).map(|fact| (fact.age_ms, name))).max();
    let age = oldest.map(|(age_ms, name)| format!(" ({name} is {} old)", span(age_ms))).unwrap_or_default();
    cut(&mut reason, REASON_MAX_BYTES - age.len());
    reason.push_str(&age);
    let role = rule.advise.clone();
    Ok(Some(RankedAdvice { role, rule: rule.name.clone(), cap, reason }))
}

/// A duration for people.
fn span(ms: u64) -> String {
    match ms / 1_000 {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7_199 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}

/// Shortens text to at most `max_bytes` without cutting a character in two.
pub(super) fn cut(text: &mut String, max_bytes: usize) {
    if text.len() > max_bytes {
        let mut end = max_bytes;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::json;

    use super::expr::{Expr, Names, Scope};
    use super::*;

    const ROLES: [(&str, &str); 4] = [
        ("roles/controller.toml", "name = \"controller\"\npurpose = \"c\"\nrank = 10\nmax = 1\n"),
        ("roles/builder.toml", "name = \"builder\"\npurpose = \"b\"\nrank = 20\n"),
        ("roles/ml-trainer.toml", "name = \"ml-trainer\"\npurpose = \"m\"\nrank = 25\nrequires = [\"gpu\"]\n"),
        ("roles/runner.toml", "name = \"runner\"\npurpose = \"r\"\nrank = 30\n"),
    ];

    fn roles() -> RoleSet {
        RoleSet::parse(ROLES).expect("valid")
    }

    fn rule(when: &str, advise: &str, more: &str) -> String {
        format!(
            "name = \"p\"\n[[rule]]\nname = \"r\"\nwhen = '''{when}'''\nadvise = \"{advise}\"\nreason = \"because\"\n{more}"
        )
    }

    fn ask(text: &str, snapshot: &Snapshot) -> Advice {
        let roles = roles();
        let policy = Policy::parse("p.toml", text, &roles).unwrap_or_else(|error| panic!("{error}\n{text}"));
        evaluate(&policy, &roles, snapshot)
    }

    fn holds(when: &str, snapshot: &Snapshot) -> bool {
        let advice = ask(&rule(when, "builder", ""), snapshot);
        assert!(advice.skipped.is_empty(), "{when}: {:?}", advice.skipped);
        !advice.ranking.is_empty()
    }

    fn refused(text: &str) -> DefinitionError {
        Policy::parse("advisor-policies/p.toml", text, &roles()).expect_err(text)
    }

    fn snapshot() -> Snapshot {
        let mut snapshot = Snapshot { members: 5, ..Snapshot::default() };
        snapshot.census = BTreeMap::from([("controller".into(), 1), ("builder".into(), 2)]);
        snapshot.queue.needed = 12;
        snapshot.node.cpu_cores = 8;
        snapshot.node.ram_gb = 32;
        snapshot.node.arch = "x86_64".into();
        snapshot.node.tools.insert("git".into(), "2.39".into());
        snapshot.node.labels.insert("fast".into());
        snapshot
            .facts
            .insert("needs".into(), Fact { value: json!({"builders": 4, "who": ["a", "b"]}), age_ms: 12_900 });
        snapshot
    }

    #[test]
    fn the_whole_vocabulary_can_be_asked() {
        let snapshot = snapshot();
        for when in [
            "census.builder == 2",
            "census['builder'] < 3 && census[\"runner\"] == 0",
            "census.runner == 0",
            "members >= 5",
            "queue.needed > 10 && queue.delegated + queue.building + queue.blocked + queue.failed == 0",
            "node.cpu_cores * 2 == 16 && node.ram_gb > 16 && node.disk_free_gb == 0",
            "node.arch == 'x86_64' && node.virt == '' && !node.has_gpu && !node.docker_installed",
            "'git' in node.tools && node.tools['git'].startsWith('2.')",
            "'fast' in node.labels && size(node.languages) == 0",
            "facts.needs.builders > census.builder",
            "facts['needs'].who.exists(w, w == 'b')",
            "fact_age_s.needs < 60",
            "has(facts.needs) && !has(facts.other)",
            "!has(facts.other) || facts.other > 3",
            "facts.needs.who.filter(w, w != 'a').size() == 1",
            "['builder', 'runner'].all(role, census[role] < 3)",
            "true\n  && true",
        ] {
            assert!(holds(when, &snapshot), "{when}");
        }
        assert!(!holds("census.builder < 2", &snapshot));
    }

    #[test]
    fn earlier_rules_rank_higher_and_each_role_is_ranked_once() {
        let text = "name = \"p\"\n".to_owned()
            + &[
                ("a", "false", "controller"),
                ("b", "true", "runner"),
                ("c", "true", "builder"),
                ("d", "true", "runner"),
            ]
            .map(|(name, when, role)| {
                format!("[[rule]]\nname = \"{name}\"\nwhen = \"{when}\"\nadvise = \"{role}\"\nreason = \"x\"\n")
            })
            .concat();
        let advice = ask(&text, &snapshot());
        let ranking: Vec<_> = advice.ranking.iter().map(|r| (r.role.as_str(), r.rule.as_str())).collect();
        assert_eq!(ranking, [("runner", "b"), ("builder", "c")]);
    }

    #[test]
    fn caps_are_numbers_or_computed() {
        let cap = |cap: &str| ask(&rule("true", "builder", cap), &snapshot());
        assert_eq!(cap("").ranking[0].cap, None);
        assert_eq!(cap("cap = 3").ranking[0].cap, Some(3));
        assert_eq!(cap("cap = \"members / 2\"").ranking[0].cap, Some(2));
        assert_eq!(cap("cap = \"facts.needs.builders\"").ranking[0].cap, Some(4));
        for (bad, why) in
            [("members - 5", "leaves no room"), ("'x'", "expected a whole number"), ("members / 0", "fails")]
        {
            let advice = cap(&format!("cap = \"{bad}\""));
            assert!(advice.ranking.is_empty());
            assert!(advice.skipped[0].contains(why), "{:?}", advice.skipped);
        }
    }

    #[test]
    fn rules_that_cannot_be_judged_are_skipped_and_say_so() {
        let mut asked = snapshot();
        asked.facts.clear();
        for (when, advise, why) in [
            ("facts.needs.builders > 3", "builder", "rule r: fact needs has not been read yet"),
            ("node.tools['absent'] == '1'", "builder", "rule r: its condition fails: No such key: absent"),
            ("members / (members - 5) > 1", "builder", "its condition fails: Division by zero"),
            ("members", "builder", "rule r: its condition gives Int, expected true or false"),
            ("true", "ml-trainer", "rule r: advises ml-trainer, which needs gpu; the node has none"),
        ] {
            let advice = ask(&rule(when, advise, ""), &asked);
            assert!(advice.ranking.is_empty(), "{when}");
            assert!(advice.skipped[0].contains(why), "{when}: {:?}", advice.skipped);
            assert!(advice.skipped[0].len() <= SKIPPED_MAX_BYTES);
        }
        asked.node.has_gpu = true;
        assert_eq!(ask(&rule("node.has_gpu", "ml-trainer", ""), &asked).ranking[0].role, "ml-trainer");
    }

    #[test]
    fn reasons_are_filled_in_say_how_old_facts_are_and_stay_short() {
        let reason = |template: &str, snapshot: &Snapshot| {
            let text = rule("true", "builder", "").replace("because", template);
            ask(&text, snapshot).ranking[0].reason.clone()
        };
        let mut asked = snapshot();
        assert_eq!(reason("only {census.builder} of {members}, {census.runner} {{x}}", &asked), "only 2 of 5, 0 {x}");
        assert_eq!(
            reason("{queue.needed} wait; {node.ram_gb} GiB, git {node.tools.git}", &asked),
            "12 wait; 32 GiB, git 2.39"
        );
        assert_eq!(
            reason("need {facts.needs.builders} for {facts.needs.who}", &asked),
            "need 4 for a, b (needs is 12 s old)"
        );
        assert_eq!(reason("{facts.needs.nothing}", &asked), "? (needs is 12 s old)");
        asked.facts.insert("needs".into(), Fact { value: json!("ä\n".repeat(200)), age_ms: 7_300_000 });
        let long = reason("{facts.needs}", &asked);
        assert!(
            long.len() <= REASON_MAX_BYTES && long.ends_with(" (needs is 2 h old)") && !long.contains('\n'),
            "{long}"
        );
    }

    #[test]
    fn mistakes_in_the_text_are_load_errors_with_their_line() {
        let cases: &[(&str, usize, &str)] = &[
            ("census.buidler < 2", 4, "census.buidler is not known, expected one of: builder, controller"),
            ("census['x'] < 2", 4, "census.x is not known"),
            ("queue.waiting > 1", 4, "queue.waiting is not known, expected one of: needed"),
            ("node.cores > 1", 4, "node.cores is not known, expected one of: cpu_cores"),
            ("sensus.builder < 2", 4, "\"sensus\" is not known, expected one of: census"),
            ("true &&\n\n  (members > ", 6, "not a CEL expression"),
            ("members.map(x, [x, x]) == []", 4, "map() is not available"),
            ("shell('x')", 4, "function \"shell\" is not known"),
            ("[1].exists(a, [1].exists(b, [1].exists(c, true)))", 4, "nested deeper than 2"),
            ("Message{x: 1} == 1", 4, "messages are not available"),
            ("", 4, "expected 1 to 1024"),
        ];
        for (when, line, what) in cases {
            let error = refused(&rule(when, "builder", ""));
            assert!(error.what.contains(what), "{when}: {error}");
            assert_eq!(error.line, *line, "{when}: {error}");
        }
        let good = rule("true", "builder", "");
        for (from, to, line, what) in [
            ("advise = \"builder\"", "advise = \"bulider\"", 5, "unknown role \"bulider\", expected one of: builder"),
            ("advise = \"builder\"", "advise = \"founder\"", 5, "cannot be advised"),
            ("because", "{census.x}", 6, "placeholder {census.x}: census.x is not known"),
            ("because", "{whatever}", 6, "is not known, expected one of: census"),
            ("because", "{members", 6, ""),
            ("because", "a } b", 6, "expected }}"),
            ("name = \"r\"", "name = \"R\"", 3, "rule name"),
            ("name = \"p\"", "name = \"P\"", 1, "policy name"),
            ("name = \"r\"", "nmae = \"r\"", 3, "unknown field `nmae`"),
            ("reason = \"because\"", "reason = \"x\"\ncap = 0", 7, "expected from 1"),
            ("reason = \"because\"", "reason = \"x\"\ncap = -1", 7, "expected a whole number from 1"),
            ("reason = \"because\"", "reason = \"x\"\ncap = \"membrs\"", 7, "\"membrs\" is not known"),
        ] {
            assert!(good.contains(from), "{from}");
            if to == "{members" {
                // An unclosed placeholder runs to the end and is then a name like any other.
                continue;
            }
            let error = refused(&good.replacen(from, to, 1));
            assert!(error.what.contains(what), "{to}: {error}");
            assert_eq!(error.line, line, "{to}: {error}");
        }
        assert!(refused("name = \"p\"").what.contains("expected at least one [[rule]]"));
        let one = good.split_once("[[rule]]").map(|(_, rule)| rule.to_owned()).expect("has a rule");
        assert!(refused(&format!("{good}[[rule]]{one}")).what.contains("there twice"));
        let many: String =
            (0..=RULES_MAX).map(|n| format!("[[rule]]{}", one.replace("\"r\"", &format!("\"r{n}\"")))).collect();
        assert!(refused(&format!("name = \"p\"\n{many}")).what.contains("more than 200 rules"));
        assert!(refused(&format!("{good}#{}", "x".repeat(64 << 10))).what.contains("at most"));
    }

    #[test]
    fn depth_and_size_are_bounded_whatever_the_shape() {
        let deep = |open: &str, inner: &str, close: &str| format!("{}{inner}{}", open.repeat(200), close.repeat(200));
        for when in [
            deep("[", "1", "]"),
            format!("members{} == 1", " + 1".repeat(240)),
            format!("facts.x{} == 1", ".a".repeat(480)),
            format!("true{}", " ? true : true".repeat(60)),
            format!("[{}1].all(x, true)", "-x,".repeat(330)).replace('x', "members"),
            format!("[{}1].all(x, true)", "[1],".repeat(255)),
            format!("'{}' == ''", "x".repeat(2_000)),
        ] {
            let error = refused(&rule(&when, "builder", ""));
            assert!(!error.what.is_empty(), "{when}");
        }
        // The parser may take these or not; it must not run out of stack on the 2 MiB of a worker thread.
        let nested = |open: &str, inner: &str, close: &str, times: usize| {
            format!("{}{inner}{}", open.repeat(times), close.repeat(times))
        };
        for when in [
            nested("(", "true", ")", 500),
            nested("!", "true", "", 1_001),
            nested("-", "1", "", 1_001),
            nested("1?", "1", ":1", 250),
            nested("1?1:", "1", "", 250),
            nested("[", "1", "", 1_000),
            nested("{1:", "1", "}", 200),
            nested("!(", "true", ")", 300),
            nested("1+(", "1", ")", 240),
            nested("f(", "", ")", 300),
            nested("a[", "1", "]", 300),
            nested("-(-", "1", ")", 240),
            nested("has(", "facts.x", ")", 190),
            nested("[1].all(x,", "true", ")", 90),
        ] {
            let _ = Policy::parse("p.toml", &rule(&when, "builder", ""), &roles());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1_500, ..ProptestConfig::default() })]

        /// Whatever stands in a policy, loading it and judging it ends with an answer.
        #[test]
        fn no_text_makes_the_parser_or_the_evaluation_panic(
            pieces in proptest::collection::vec(prop_oneof![
                prop::sample::select(vec![
                    "census", "members", "queue", "node", "facts", ".needed", ".builder", "['x']", "[0]", "[", "]", "(", ")", "{", "}",
                    " && ", " || ", "!", "-", " + ", " * ", " / ", " % ", " == ", " < ", " in ", " ? ", " : ", "1", "0", "0u", "1.5",
                    "-9223372036854775808", "'a'", "\"", "'", "'''", "r'\\x'", "b'\\xff'", "'\\u00e9'", "'\\", "true", "null", ".",
                    ",", ".exists(x, x > 1)", ".all(x, true)", ".filter(x, x)", ".map(x, x)", "has(facts.a)", "size(", "int(", "string(",
                    "double(", "uint(", ".contains('a')", "`a`", "//", "\n", "x{", "e: 1", "..", "[?", ".?a", "0x", "1e999", "facts.a",
                ]).prop_map(str::to_owned),
                "\\PC{0,3}",
            ], 0..14)
        ) {
            let roles = roles();
            if let Ok(expr) = Expr::compile(&pieces.concat(), &Names { roles: &roles }) {
                let mut asked = snapshot();
                asked.facts.insert("a".into(), Fact { value: json!([1, "x", null, 1.5, {"k": [u64::MAX]}]), age_ms: 0 });
                let scope = Scope::new();
                let bound = scope.bind(&asked);
                let _ = bound.is_true(&expr);
                let _ = bound.count(&expr);
            }
        }
    }
}
