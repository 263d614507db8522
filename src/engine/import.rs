//! Lines of an import as jobs: a whole job as it is submitted, or a short form of it.
//!
//! ```text
//!   {"id":"…","target":"…","work":{"backend":"command",…},…}                            a job, as in a submission
//!   {"target":"dev-libs/b","backend":"portage","after":["dev-libs/a"],"priority":5}     a short form
//! ```
//!
//! A short form needs no id: it gets one that follows from the session and its target, so that the same lines give the same jobs.
//! `after` names jobs by id, or by the target of another line, before or after it. Never done here: reading a file.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::grammar;
use super::id::{JobId, SessionId};
use super::job::{DebianSource, JobSpec, Source, Work};

/// Longest line, bytes: no longer job fits into a command of the log.
pub const LINE_MAX_BYTES: usize = super::command::COMMAND_MAX_BYTES;

/// A line that is not a job that can be queued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct BadLine {
    /// 1 is the first.
    pub line: u64,
    /// What is wrong with it.
    pub problem: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Short {
    target: String,
    backend: String,
    id: Option<JobId>,
    #[serde(default)]
    after: Vec<String>,
    #[serde(default)]
    priority: i32,
    #[serde(default)]
    labels: BTreeSet<String>,
    pure: Option<bool>,
    tree: Option<String>,
    source: Option<Source>,
    #[serde(default)]
    argv: Vec<String>,
    #[serde(default)]
    artifacts: Vec<String>,
}

/// A target, and what lines say of it.
#[derive(Clone, Copy, Debug)]
struct Named {
    /// The job of the first line with this target; the one that it will be while there is none.
    id: JobId,
    /// Lines with this target so far.
    lines: u64,
    /// A line that named it in `after`.
    wanted_by: Option<u64>,
}

/// Reads an import line by line. Its memory grows with targets and ids, not with what the jobs do.
#[derive(Debug)]
pub struct Lines {
    session: SessionId,
    line: u64,
    targets: BTreeMap<String, Named>,
    ids: BTreeSet<JobId>,
}

impl Lines {
    /// Of an import into this session.
    pub fn new(session: SessionId) -> Self {
        Self { session, line: 0, targets: BTreeMap::new(), ids: BTreeSet::new() }
    }

    /// Number of the line that was read last.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Something is wrong with the line that was read last.
    pub fn bad(&self, problem: impl Into<String>) -> BadLine {
        BadLine { line: self.line, problem: problem.into() }
    }

    /// The job of the next line; none when it is empty.
    pub fn push(&mut self, text: &[u8]) -> Result<Option<JobSpec>, BadLine> {
        self.line += 1;
        if text.len() > LINE_MAX_BYTES {
            return Err(self.bad(format!("longer than {LINE_MAX_BYTES} bytes")));
        }
        let text = std::str::from_utf8(text).map_err(|_| self.bad("not UTF-8"))?.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let not_a_job = |error: serde_json::Error| format!("not a job: {error}");
        let value: serde_json::Value = serde_json::from_str(text).map_err(|error| self.bad(not_a_job(error)))?;
        let spec = if value.get("work").is_some() {
            let spec: JobSpec = serde_json::from_value(value).map_err(|error| self.bad(not_a_job(error)))?;
            self.name(&spec.target, Some(spec.id))?;
            spec
        } else {
            let short: Short = serde_json::from_value(value).map_err(|error| self.bad(not_a_job(error)))?;
            self.complete(short)?
        };
        grammar::job(&spec).map_err(|error| self.bad(error.to_string()))?;
        if !self.ids.insert(spec.id) {
            return Err(self.bad(format!("job {} is there twice", spec.id)));
        }
        Ok(Some(spec))
    }

    /// All lines were read.
    pub fn finish(&self) -> Result<(), BadLine> {
        let missing = |(target, named): (&String, &Named)| {
            let line = named.wanted_by.filter(|_| named.lines == 0)?;
            Some(BadLine { line, problem: format!("after {target:?}: no line has this target") })
        };
        self.targets.iter().filter_map(missing).min_by_key(|bad| bad.line).map_or(Ok(()), Err)
    }

    /// The id of a job that has none: the same for the same session, target and number of earlier lines with this target.
    fn derived(&self, target: &str, earlier: u64) -> JobId {
        let mut hasher = Sha256::new();
        hasher.update(self.session.0.as_bytes());
        hasher.update(earlier.to_be_bytes());
        hasher.update(target.as_bytes());
        let digest: [u8; 32] = hasher.finalize().into();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        JobId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }

    /// Notes a line's target, and answers with the line's id.
    fn name(&mut self, target: &str, id: Option<JobId>) -> Result<JobId, BadLine> {
        let known = self.targets.get(target).copied();
        let earlier = known.map_or(0, |named| named.lines);
        let id = id.unwrap_or_else(|| self.derived(target, earlier));
        if let Some(wanted_by) = known.and_then(|named| named.wanted_by) {
            if earlier > 0 {
                let problem = format!("line {wanted_by} waits for {target:?}, of which this is another; name it by id");
                return Err(self.bad(problem));
            }
            if known.is_some_and(|named| named.id != id) {
                let problem = format!("line {wanted_by} waits for {target:?}, which has an id of its own: name that");
                return Err(self.bad(problem));
            }
        }
        let named = self.targets.entry(target.to_owned()).or_insert(Named { id, lines: 0, wanted_by: None });
        named.lines += 1;
        Ok(id)
    }

    fn dependency(&mut self, text: &str) -> Result<JobId, BadLine> {
        if let Ok(id) = text.parse() {
            return Ok(id);
        }
        let (line, later) = (self.line, self.derived(text, 0));
        let named = self.targets.entry(text.to_owned()).or_insert(Named { id: later, lines: 0, wanted_by: None });
        named.wanted_by = named.wanted_by.or(Some(line));
        if named.lines > 1 {
            return Err(self.bad(format!("after {text:?}: several lines have this target; name it by id")));
        }
        Ok(named.id)
    }

    fn complete(&mut self, short: Short) -> Result<JobSpec, BadLine> {
        let foreign = match short.backend.as_str() {
            "portage" | "debian" if short.source.is_some() || !short.argv.is_empty() || !short.artifacts.is_empty() => {
                Some("source, argv and artifacts belong to command jobs")
            }
            "debian" | "command" if short.tree.is_some() => Some("a tree belongs to portage jobs"),
            _ => None,
        };
        if let Some(problem) = foreign {
            return Err(self.bad(problem));
        }
        let work = match (short.backend.as_str(), short.source) {
            ("portage", _) => Work::Portage { atom: short.target.clone(), tree: short.tree },
            ("debian", _) => {
                let named = short.target.split_once('=');
                let (package, version) = named.map_or((short.target.as_str(), None), |(name, of)| (name, Some(of)));
                let version = version.map(str::to_owned);
                Work::Debian { source: DebianSource::Archive { package: package.to_owned(), version } }
            }
            ("command", Some(source)) => Work::Command { source, argv: short.argv, artifacts: short.artifacts },
            ("command", None) => return Err(self.bad("a command job needs a source and argv")),
            (other, _) => {
                let other: String = other.chars().take(40).collect();
                let problem = format!(
                    "backend {other:?}: a short form is of portage, debian or command; others are given whole, with \"work\""
                );
                return Err(self.bad(problem));
            }
        };
        let id = self.name(&short.target, short.id)?;
        let depends_on: BTreeSet<JobId> =
            short.after.iter().map(|text| self.dependency(text)).collect::<Result<_, _>>()?;
        // Package builds have no effect but their packages.
        let pure = short.pure.unwrap_or(!matches!(work, Work::Command { .. }));
        let rest = JobSpec::new(id, short.target, work);
        Ok(JobSpec { priority: short.priority, labels: short.labels, depends_on, pure, ..rest })
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const SESSION: SessionId = SessionId(Uuid::from_u128(7));

    fn read(lines: &[&str]) -> Result<Vec<JobSpec>, String> {
        let mut reader = Lines::new(SESSION);
        let mut out = Vec::new();
        for line in lines {
            out.extend(reader.push(line.as_bytes()).map_err(|bad| bad.to_string())?);
        }
        reader.finish().map_err(|bad| bad.to_string())?;
        Ok(out)
    }

    #[test]
    fn short_forms_are_jobs_with_ids_that_follow_from_session_and_target() {
        let lines = [
            r#"{"target":"dev-libs/b","backend":"portage","after":["dev-libs/a"],"priority":5}"#,
            "",
            r#"{"target":"dev-libs/a","backend":"portage","labels":["fast"]}"#,
            r#"{"target":"hello=2.10-3","backend":"debian","pure":false}"#,
        ];
        let jobs = read(&lines).expect("good");
        assert_eq!(jobs, read(&lines).expect("good"), "the same lines give the same jobs");
        assert_eq!(jobs.len(), 3);
        assert_eq!(jobs[0].depends_on, BTreeSet::from([jobs[1].id]), "a line may wait for a later one");
        assert_eq!((jobs[0].priority, jobs[0].pure, jobs[2].pure), (5, true, false));
        let version = Some("2.10-3".to_owned());
        let source = DebianSource::Archive { package: "hello".to_owned(), version };
        assert_eq!(jobs[2].work, Work::Debian { source });
        let elsewhere = Lines::new(SessionId(Uuid::from_u128(8))).push(lines[2].as_bytes()).expect("good");
        assert_ne!(elsewhere.map(|job| job.id), Some(jobs[1].id));
    }

    #[test]
    fn whole_jobs_are_taken_as_they_are_and_can_be_waited_for() {
        let id = JobId(Uuid::from_u128(0x77));
        let whole = JobSpec::new(id, "first", Work::Portage { atom: "dev-libs/a".to_owned(), tree: None });
        let text = serde_json::to_string(&whole).expect("JSON");
        let by_target = r#"{"target":"dev-libs/b","backend":"portage","after":["first"]}"#;
        let by_id = format!(r#"{{"target":"dev-libs/c","backend":"portage","after":["{id}"]}}"#);
        let jobs = read(&[&text, by_target, &by_id]).expect("good");
        assert_eq!(jobs[0], whole);
        assert_eq!((&jobs[1].depends_on, &jobs[2].depends_on), (&BTreeSet::from([id]), &BTreeSet::from([id])));
        let late = read(&[by_target, &text]).expect_err("the id cannot be known when it is named");
        assert!(late.starts_with("line 2: line 1 waits for \"first\""), "{late}");
    }

    #[test]
    fn every_bad_line_is_named_with_its_number_and_what_is_wrong() {
        let good = r#"{"target":"dev-libs/a","backend":"portage"}"#;
        let after = r#"{"target":"dev-libs/b","backend":"portage","after":["dev-libs/a"]}"#;
        let cases: [(&[&str], &str); 13] = [
            (&[good, "{"], "line 2: not a job: EOF"),
            (&["[]"], "line 1: not a job"),
            (&[r#"{"target":"x","backend":"portage","afetr":[]}"#], "unknown field `afetr`"),
            (&[r#"{"backend":"portage"}"#], "missing field `target`"),
            (&[good, "", r#"{"target":"no package","backend":"portage"}"#], "line 3: "),
            (&[r#"{"target":"x","backend":"maven"}"#], "others are given whole"),
            (&[r#"{"target":"x","backend":"command","argv":["true"]}"#], "needs a source"),
            (&[r#"{"target":"dev-libs/a","backend":"portage","argv":["x"]}"#], "belong to command"),
            (&[r#"{"target":"hello","backend":"debian","tree":"x"}"#], "belongs to portage"),
            (&[after], "line 1: after \"dev-libs/a\": no line has this target"),
            (&[good, good, after], "line 3: after \"dev-libs/a\": several lines"),
            (&[good, after, good], "line 3: line 2 waits for \"dev-libs/a\", of which this is another"),
            (&[r#"{"target":"dev-libs/a","backend":"portage","priority":101}"#], "priority"),
        ];
        for (lines, expected) in cases {
            let told = read(lines).expect_err(expected);
            assert!(told.contains(expected), "{expected}: {told}");
        }
        let twice = r#"{"id":"6f9619ff-8b86-4011-b42d-00c04fc964ff","target":"dev-libs/a","backend":"portage"}"#;
        assert!(read(&[twice, twice]).expect_err("twice").contains("line 2: job 6f9619ff"));
        let mut reader = Lines::new(SESSION);
        assert_eq!(reader.push(&[0xff]).expect_err("no text").problem, "not UTF-8");
        assert!(
            reader.push(&vec![b'x'; LINE_MAX_BYTES + 1]).expect_err("long").to_string().starts_with("line 2: longer")
        );
    }
}
