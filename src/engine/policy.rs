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

mod expr;
pub mod source;
mod template;

use expr::{Expr, Names, Scope};
use template::Template;

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

/// Jobs by state, as policies see them: `queue.needed`, …
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct QueueCounts {
    /// Jobs that wait.
    pub needed: u64,
    /// Jobs given to a drone.
    pub delegated: u64,
    /// Attempts that run.
    pub building: u64,
    /// Jobs done.
    pub received: u64,
    /// Jobs blocked.
    pub blocked: u64,
    /// Jobs failed.
    pub failed: u64,
    /// Jobs cancelled.
    pub cancelled: u64,
    /// Jobs quarantined.
    pub quarantined: u64,
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
mod tests;
