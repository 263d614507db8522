//! Secrets that a job names and this host has: one file per name, read when an attempt needs it, masked wherever its output goes.
//!
//! A secret travels from its file to the environment of the build and nowhere else. What a build encodes or sends away itself cannot be
//! masked. Never done here: keeping secrets longer than the attempt that uses them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::users;
use crate::engine::grammar;

/// Shortest value: a shorter one would mask words that mean nothing.
const VALUE_MIN_BYTES: usize = 6;
/// Longest value.
const VALUE_MAX_BYTES: u64 = 4 << 10;
/// All values of one job: they travel to the helper in one frame.
const TOTAL_MAX_BYTES: usize = 24 << 10;
/// What is shown instead.
const MASK: &[u8] = b"***";
/// Names that mean something to the programs that start a build, or to hive.
const RESERVED: [&str; 7] = ["PATH", "HOME", "LANG", "LANGUAGE", "SHELL", "USER", "IFS"];
const RESERVED_BEGINNINGS: [&str; 4] = ["HIVE_", "LD_", "LC_", "BASH_"];

/// Values by name. Shows names only.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Secrets(BTreeMap<String, String>);

impl fmt::Debug for Secrets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.0.keys()).finish()
    }
}

impl Secrets {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// For the environment of a build.
    pub(super) fn variables(&self) -> impl Iterator<Item = (String, String)> {
        self.0.clone().into_iter()
    }

    /// What can be wrong with them, whoever sent them. Never names a value.
    pub(super) fn check(&self) -> Result<(), String> {
        self.0.iter().try_for_each(|(name, value)| {
            check_name(name)?;
            if value.contains('\0') || value.len() as u64 > VALUE_MAX_BYTES {
                return Err(format!("secret {name} is not a value for an environment"));
            }
            Ok(())
        })
    }

    /// Reads what a job names. The error says what to do.
    pub(super) fn load(directory: &Path, names: &BTreeSet<String>) -> Result<Self, String> {
        let mut secrets = Self::default();
        for name in names {
            check_name(name)?;
            let path = directory.join(name);
            let value = read(&path).map_err(|why| {
                let shown = path.display();
                format!(
                    "secret {name}: {shown} {why}; write its value there (owner {}, mode 0600) on every node that may run this job",
                    users::own_name()
                )
            })?;
            secrets.0.insert(name.clone(), value);
        }
        if secrets.0.values().map(String::len).sum::<usize>() > TOTAL_MAX_BYTES {
            return Err(format!("the job's secrets are longer than {TOTAL_MAX_BYTES} bytes together"));
        }
        Ok(secrets)
    }
}

fn check_name(name: &str) -> Result<(), String> {
    grammar::secret_name(name).map_err(|error| error.to_string())?;
    let reserved = RESERVED.contains(&name) || RESERVED_BEGINNINGS.iter().any(|beginning| name.starts_with(beginning));
    if reserved {
        Err(format!("{name} is no name for a secret: it means something to the programs that start a build"))
    } else {
        Ok(())
    }
}

fn read(path: &Path) -> Result<String, String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    let file = fs::File::from(opened.map_err(|error| match error {
        rustix::io::Errno::NOENT => "is not there".to_owned(),
        other => format!("cannot be read ({})", std::io::Error::from(other)),
    })?);
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    let own = rustix::process::geteuid().as_raw();
    let own_group = rustix::process::getegid().as_raw();
    if !metadata.is_file() {
        return Err("is no regular file".to_owned());
    }
    if metadata.uid() != 0 && metadata.uid() != own {
        return Err("belongs to another user than root or the agent".to_owned());
    }
    if metadata.mode() & 0o007 != 0
        || (metadata.mode() & 0o070 != 0 && metadata.gid() != own_group && metadata.gid() != 0)
    {
        return Err("can be read by others".to_owned());
    }
    let mut text = String::new();
    let limited = file.take(VALUE_MAX_BYTES + 1).read_to_string(&mut text);
    limited.map_err(|_| "is not text".to_owned())?;
    let value = text.trim_end_matches(['\n', '\r']);
    if value.len() < VALUE_MIN_BYTES || value.len() as u64 > VALUE_MAX_BYTES || value.contains('\0') {
        return Err(format!("does not hold {VALUE_MIN_BYTES} to {VALUE_MAX_BYTES} bytes of text"));
    }
    Ok(value.to_owned())
}

/// Replaces values in a stream, also where they are cut between two pieces.
#[derive(Default)]
pub(super) struct Mask {
    /// Longest first.
    values: Vec<Vec<u8>>,
    /// The end of the stream so far, when it may be the beginning of a value.
    held: Vec<u8>,
}

impl Mask {
    /// For these secrets, and for each line of those that have several.
    pub(super) fn new(secrets: &Secrets) -> Self {
        let lines =
            secrets.0.values().flat_map(|value| std::iter::once(value.as_str()).chain(value.lines().map(str::trim)));
        let distinct: BTreeSet<&str> = lines.filter(|line| line.len() >= VALUE_MIN_BYTES).collect();
        let mut values: Vec<Vec<u8>> = distinct.into_iter().map(|line| line.as_bytes().to_vec()).collect();
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        Self { values, held: Vec::new() }
    }

    /// What of the stream can be shown now.
    pub(super) fn pass(&mut self, chunk: &[u8]) -> Vec<u8> {
        if self.values.is_empty() {
            return chunk.to_vec();
        }
        let mut text = std::mem::take(&mut self.held);
        text.extend_from_slice(chunk);
        let mut shown = Vec::with_capacity(text.len());
        let mut at = 0;
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
            let begun = |value: &&Vec<u8>| value.len() > rest.len() && value.starts_with(rest);
            if self.values.iter().any(|value| begun(&value)) {
                self.held = rest.to_vec();
                break;
            }
            match self.values.iter().find(|value| rest.starts_with(value)) {
                Some(value) => {
                    shown.extend_from_slice(MASK);
                    at += value.len();
                }
                None => {
                    shown.extend_from_slice(&rest[..1]);
                    at += 1;
                }
            }
        }
        shown
    }

    /// What was held back, when nothing follows.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        // It may hold a whole shorter value.
        let mut shorter = Self {
            values: self.values.iter().filter(|value| value.len() <= held.len()).cloned().collect(),
            held: Vec::new(),
        };
        let mut shown = shorter.pass(&held);
        shown.append(&mut shorter.held);
        shown
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn secrets(values: &[&str]) -> Secrets {
        Secrets(values.iter().enumerate().map(|(number, value)| (format!("S{number}"), (*value).to_owned())).collect())
    }

    #[test]
    fn secrets_come_from_files_that_nobody_else_reads() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let put = |name: &str, content: &str, mode: u32| {
            fs::write(directory.path().join(name), content).expect("writes");
            fs::set_permissions(directory.path().join(name), fs::Permissions::from_mode(mode)).expect("chmod");
        };
        put("TOKEN", "s3cr3t-value\n", 0o600);
        put("OPEN", "s3cr3t-value\n", 0o604);
        put("SHORT", "abc\n", 0o600);
        let load = |name: &str| Secrets::load(directory.path(), &names(&[name]));
        let found = load("TOKEN").expect("reads");
        assert_eq!(found.variables().collect::<Vec<_>>(), [("TOKEN".to_owned(), "s3cr3t-value".to_owned())]);
        assert_eq!(format!("{found:?}"), "{\"TOKEN\"}");
        for (name, why) in [("ABSENT", "is not there"), ("OPEN", "by others"), ("SHORT", "does not hold")] {
            let told = load(name).expect_err("refused");
            assert!(told.contains(why) && told.contains("mode 0600") && !told.contains("s3cr3t"), "{told}");
        }
        for name in ["PATH", "LD_PRELOAD", "HIVE_ATTEMPT", "../TOKEN", ""] {
            assert!(load(name).is_err(), "{name}");
        }
        std::os::unix::fs::symlink(directory.path().join("TOKEN"), directory.path().join("LINK")).expect("links");
        assert!(load("LINK").is_err());
    }

    fn masked(values: &[&str], text: &str, piece: usize) -> String {
        let mut mask = Mask::new(&secrets(values));
        let mut shown: Vec<u8> = text.as_bytes().chunks(piece).flat_map(|chunk| mask.pass(chunk)).collect();
        shown.extend(mask.finish());
        String::from_utf8(shown).expect("UTF-8")
    }

    #[test]
    fn values_are_masked_wherever_the_stream_is_cut() {
        let text = "a hunter22 b hunter2-long hunter hunter22hunter2-long\nhunter2-lo";
        for piece in 1..=text.len() {
            let shown = masked(&["hunter22", "hunter2-long"], text, piece);
            assert_eq!(shown, "a *** b *** hunter ******\nhunter2-lo", "pieces of {piece}");
        }
        assert_eq!(masked(&["abcdef", "abcdefghij"], "x abcdefgh", 3), "x ***gh", "the shorter of two, at the end");
        assert_eq!(masked(&["-----BEGIN\nline-one\nline-two"], "> line-two <", 2), "> *** <");
        assert_eq!(masked(&[], "as it is", 3), "as it is");
    }

    proptest::proptest! {
        #[test]
        fn nothing_else_is_changed_and_nothing_is_let_through(text in "[ab]{0,60}", piece in 1usize..9) {
            let shown = masked(&["abbaab"], &text, piece);
            proptest::prop_assert!(!shown.contains("abbaab"));
            proptest::prop_assert_eq!(shown.replace("***", "abbaab"), text);
        }
    }
}
