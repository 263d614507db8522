//! What the fuzz targets share: corpora, mutations, and the bounds that hold for every input.
//!
//! A target is a test in a `fuzz` module beside the code that it attacks. As a plain test it replays `tests/corpora/NAME`, then takes
//! mutations of that corpus for a moment; `make fuzz` lets it run longer. Built for libFuzzer the same function gets the bytes that
//! coverage leads to. Every input has a bound of memory and of processor time of its own. Never done here: knowing any format.

use std::panic::RefUnwindSafe;
use std::path::{Path, PathBuf};

use bolero::TypeGenerator;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::transport;

/// How long a target runs as a plain test, milliseconds. `BOLERO_RANDOM_TEST_TIME_MS` says otherwise.
const TEST_TIME_MS: u64 = 500;
/// Processor time that one input may take, milliseconds; unoptimised, on a busy machine.
const CPU_MAX_MS: i64 = 2_000;
/// Inputs grow no longer than this by mutation, bytes.
const INPUT_MAX: usize = 64 << 10;

/// Memory that one input may take beyond what was there, bytes: decoders take a list's announced length for true up to 1 MiB.
pub(crate) const SMALL: u64 = 4 << 20;

/// One change of an input. Numbers pick places by remainder, so that each of them means something.
#[derive(Clone, Debug, TypeGenerator)]
enum Change {
    Set {
        at: u16,
        to: u8,
    },
    Flip {
        at: u16,
        bit: u8,
    },
    Remove {
        at: u16,
        count: u8,
    },
    Insert {
        at: u16,
        bytes: Vec<u8>,
    },
    /// The same again, many times: nesting, long names, full tables.
    Repeat {
        at: u16,
        count: u8,
        times: u8,
    },
    Cut {
        at: u16,
    },
    /// A part of another input.
    Graft {
        at: u16,
        from: u8,
        there: u16,
        count: u8,
    },
    /// A number of one to eight bytes that often stands at an edge.
    Edge {
        at: u16,
        which: u8,
    },
}

/// An input of the corpus and what is done to it.
#[derive(Clone, Debug, TypeGenerator)]
struct Mutated {
    of: u8,
    /// Most inputs are changed a little: what is changed everywhere is refused at its first byte.
    depth: u8,
    changes: Vec<Change>,
}

const EDGES: [&[u8]; 12] = [
    &[0],
    &[0x7f],
    &[0x80],
    &[0xff],
    &[0xff, 0xff],
    &[0x7f, 0xff, 0xff, 0xff],
    &[0xff, 0xff, 0xff, 0xff],
    &[0x00, 0x40, 0x00, 0x00],
    &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0x5b, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00],
    &[0x9f, 0x9f, 0x9f, 0x9f],
    b"99999999999999999999",
];

impl Mutated {
    fn apply(&self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let pick = |which: u8| corpus.get(usize::from(which) % corpus.len().max(1)).cloned().unwrap_or_default();
        let mut bytes = pick(self.of);
        for change in self.changes.iter().take(1 + usize::from(self.depth % 8) / 2) {
            let place = |at: u16| usize::from(at) % (bytes.len() + 1);
            match change {
                Change::Set { at, to } => {
                    let at = place(*at);
                    bytes.get_mut(at).into_iter().for_each(|byte| *byte = *to);
                }
                Change::Flip { at, bit } => {
                    let at = place(*at);
                    bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << (bit % 8));
                }
                Change::Remove { at, count } => {
                    let at = place(*at);
                    let end = (at + usize::from(*count)).min(bytes.len());
                    bytes.drain(at..end);
                }
                Change::Insert { at, bytes: more } => {
                    let at = place(*at);
                    bytes.splice(at..at, more.iter().copied());
                }
                Change::Repeat { at, count, times } => {
                    let at = place(*at);
                    let end = (at + usize::from(*count)).min(bytes.len());
                    let part = bytes[at..end].repeat(usize::from(*times));
                    bytes.splice(at..at, part);
                }
                Change::Cut { at } => bytes.truncate(place(*at)),
                Change::Graft { at, from, there, count } => {
                    let (at, other) = (place(*at), pick(*from));
                    let there = usize::from(*there) % (other.len() + 1);
                    let end = (there + usize::from(*count)).min(other.len());
                    bytes.splice(at..at, other[there..end].iter().copied());
                }
                Change::Edge { at, which } => {
                    let (at, edge) = (place(*at), EDGES[usize::from(*which) % EDGES.len()]);
                    let end = (at + edge.len()).min(bytes.len());
                    bytes.splice(at..end, edge.iter().copied());
                }
            }
            bytes.truncate(INPUT_MAX);
        }
        bytes
    }
}

fn corpus_directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpora").join(name)
}

/// The recorded inputs of a target, in the order of their names.
pub(crate) fn recorded(name: &str) -> Vec<Vec<u8>> {
    let Ok(files) = std::fs::read_dir(corpus_directory(name)) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = files.map(|file| file.expect("readable corpus").path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("readable corpus")).collect()
}

fn cpu_ms() -> i64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec * 1_000 + now.tv_nsec / 1_000_000
}

/// One input within its bounds. Answers whether it was accepted.
fn bounded(bytes: &[u8], memory_max: u64, look: &(impl Fn(&[u8]) -> bool + RefUnwindSafe)) -> bool {
    let (began_ms, mut outcome) = (cpu_ms(), Ok(false));
    // A panic must not leave the counter before the end.
    let memory = allocation_counter::measure(|| outcome = std::panic::catch_unwind(|| look(bytes)));
    let took_ms = cpu_ms() - began_ms;
    let accepted = outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    assert!(memory.bytes_max <= memory_max, "{} bytes took {} bytes of memory", bytes.len(), memory.bytes_max);
    assert!(took_ms <= CPU_MAX_MS, "{} bytes took {took_ms} ms of processor time", bytes.len());
    accepted
}

/// Attacks `look`, which answers whether it took an input, and panics when what it took or refused breaks a promise. `made` are
/// inputs that are written by our own encoders. At least one input of the corpus has to be taken.
pub(crate) fn attack(name: &str, made: Vec<Vec<u8>>, memory_max: u64, look: impl Fn(&[u8]) -> bool + RefUnwindSafe) {
    let mut corpus = recorded(name);
    corpus.extend(made);
    assert!(!corpus.is_empty(), "there is no corpus of {name}");
    let taken = corpus.iter().filter(|bytes| bounded(bytes, memory_max, &look)).count();
    assert!(taken > 0, "not one of {} inputs of {name} was taken: the target proves nothing", corpus.len());
    more(name, corpus, memory_max, look);
}

#[cfg(not(fuzzing_libfuzzer))]
#[expect(clippy::print_stdout, reason = "how much was tried is told to whoever asks for it with --nocapture")]
fn more(name: &str, corpus: Vec<Vec<u8>>, memory_max: u64, look: impl Fn(&[u8]) -> bool + RefUnwindSafe) {
    use std::sync::atomic::{AtomicU64, Ordering};
    let (tried, taken) = (AtomicU64::new(0), AtomicU64::new(0));
    bolero::check!().with_type::<Mutated>().with_test_time(std::time::Duration::from_millis(TEST_TIME_MS)).for_each(
        |mutated| {
            let accepted = bounded(&mutated.apply(&corpus), memory_max, &look);
            tried.fetch_add(1, Ordering::Relaxed);
            taken.fetch_add(u64::from(accepted), Ordering::Relaxed);
        },
    );
    let (tried, taken) = (tried.into_inner(), taken.into_inner());
    println!("{name}: {} recorded or made, {tried} mutated, {taken} of those taken", corpus.len());
}

/// libFuzzer takes the corpus from a directory and never comes back.
#[cfg(fuzzing_libfuzzer)]
fn more(_name: &str, corpus: Vec<Vec<u8>>, memory_max: u64, look: impl Fn(&[u8]) -> bool + RefUnwindSafe) {
    if let Some(directory) = std::env::var_os("FUZZ_CORPUS") {
        for bytes in &corpus {
            let name = hex::encode(&crate::keyring::sha256(bytes)[..8]);
            std::fs::write(Path::new(&directory).join(name), bytes).expect("writes the corpus");
        }
    }
    bolero::check!().for_each(|bytes: &[u8]| {
        bounded(bytes, memory_max, &look);
    });
}

/// A CBOR message: what is taken is encoded again, and from there on stays as it is.
pub(crate) fn cbor<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> bool {
    let value = match transport::decode::<T>(bytes) {
        Ok(value) => value,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    let once = transport::encode(&value).expect("what was taken can be sent on");
    let again: T = transport::decode(&once).expect("what is sent on is taken");
    assert_eq!(transport::encode(&again).expect("encodes"), once);
    true
}

/// A directory of its own, in memory where there is such a place: thousands are made.
pub(crate) fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("temporary directory")
}

/// Encodes a message for a corpus.
pub(crate) fn made<T: Serialize>(value: &T) -> Vec<u8> {
    transport::encode(value).expect("encodes")
}

#[test]
fn every_corpus_belongs_to_a_target_and_is_small() {
    let sources = sources(Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    for entry in
        std::fs::read_dir(corpus_directory("")).expect("corpora").flatten().filter(|entry| entry.path().is_dir())
    {
        let name = entry.file_name().into_string().expect("text");
        assert!(sources.contains(&format!("\"{name}\"")), "no target reads tests/corpora/{name}");
        let bytes: usize = recorded(&name).iter().map(Vec::len).sum();
        assert!(bytes > 0 && bytes < 64 << 10, "{name}: {bytes} bytes");
    }
}

/// All `fuzz` modules, one after the other.
fn sources(directory: PathBuf) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(directory).expect("source tree").flatten() {
        let path = entry.path();
        if path.is_dir() {
            text.push_str(&sources(path));
        } else if path.file_name().is_some_and(|name| name == "fuzz.rs") {
            text.push_str(&std::fs::read_to_string(path).expect("source"));
        }
    }
    text
}
