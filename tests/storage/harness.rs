//! Uses a storage, crashes it everywhere, breaks it everywhere, and compares what is found with what was promised.
//!
//! A storage is asked for one thing after the other. After each request its content is known: `states[n]` after request `n`. Requests and
//! acknowledgements are noted in the record of the disk. A crash between them may leave any content from the last acknowledged
//! request up to the last one that was made, and no other: nothing lost, nothing half done, nothing out of order.

use std::collections::BTreeSet;
use std::collections::hash_map::DefaultHasher;
use std::fmt::Debug;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crash_disk::{Crash, Disk, Fault, Image, Lie, Model, Op, Random, Trace};
use hive::store::FatalHook;
use tokio::sync::watch;

/// What a refusal begins with when the process neither ended nor goes on.
pub(crate) const STUCK: &str = "it lives on and serves nobody";

/// What a refusal begins with when something is missing although nothing crashed.
pub(crate) const LOST: &str = "it is gone";

/// A kind of storage, and how it is used.
pub(crate) trait Subject {
    /// What is in it.
    type Content: PartialEq + Debug;
    const NAME: &'static str;
    /// One in so many crash points is tried.
    const CRASHES_ONE_IN: u64 = 1;
    /// One in so many calls is broken.
    const FAULTS_ONE_IN: u64 = 2;
    /// Whoever starts relies on what it reads, so it must be durable by then.
    const READ_IS_DURABLE: bool = true;

    /// Whether a start relies on this.
    fn is_relied_on(_: &Self::Content) -> bool {
        Self::READ_IS_DURABLE
    }

    /// Uses it as production does, and tells the story. An error when it refused; then it must go on refusing.
    async fn act(&self, story: &mut Story<Self::Content>, random: &mut Random) -> Result<(), String>;

    /// Opens what a crash left, as production does, and reads it.
    async fn reopen(root: &Path) -> Result<Self::Content, String>;
}

/// What was asked for and promised so far.
pub(crate) struct Story<T> {
    disk: Arc<Disk>,
    states: Vec<T>,
    ended: watch::Sender<bool>,
}

/// An acknowledgement that is yet to come.
#[derive(Clone)]
pub(crate) struct Promise {
    disk: Arc<Disk>,
    number: u64,
}

impl Promise {
    /// The production code said so.
    pub(crate) fn keep(&self) {
        self.disk.note("promised", self.number);
    }
}

impl<T> Story<T> {
    pub(crate) fn root(&self) -> PathBuf {
        self.disk.root().to_owned()
    }

    /// Something is about to be asked for that leads to this content.
    pub(crate) fn ask(&mut self, content: T) -> Promise {
        self.states.push(content);
        let number = self.states.len() as u64 - 1;
        self.disk.note("asked", number);
        Promise { disk: Arc::clone(&self.disk), number }
    }

    /// Stands for everything that was asked for so far.
    pub(crate) fn all(&self) -> Promise {
        Promise { disk: Arc::clone(&self.disk), number: self.states.len() as u64 - 1 }
    }

    pub(crate) fn last(&self) -> &T {
        self.states.last().expect("it begins with one")
    }

    /// In production the process ends here. Here its threads go on, and so that they do nothing more, the device fails for good.
    pub(crate) fn hook(&self) -> FatalHook {
        let (disk, ended) = (Arc::clone(&self.disk), self.ended.clone());
        FatalHook::new(move |_| {
            if !ended.send_replace(true) {
                disk.break_at(disk.attempts(), Fault::ErrorForEver);
                disk.note("ended", 0);
            }
        })
    }

    /// Whether the process would have ended.
    pub(crate) fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Whether it ends within a moment: whoever asked is told that the writer is gone just before.
    pub(crate) async fn ends(&self) -> bool {
        tokio::time::timeout(Duration::from_millis(300), self.ending()).await.is_ok()
    }

    /// Waits for that.
    pub(crate) fn ending(&self) -> impl Future<Output = ()> + use<T> {
        let mut ended = self.ended.subscribe();
        async move { drop(ended.wait_for(|ended| *ended).await) }
    }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

#[derive(Debug, Default)]
pub(crate) struct Report {
    what: &'static str,
    pub(crate) images: usize,
    /// Images of power cuts that lack something that the process had written.
    pub(crate) differing: usize,
    /// Runs with a fault.
    pub(crate) runs: usize,
    /// Those in which it was met.
    pub(crate) bitten: usize,
    pub(crate) lost: Vec<String>,
}

impl Report {
    pub(crate) fn explain(&self) -> String {
        let first: Vec<_> = self.lost.iter().take(3).map(String::as_str).collect();
        format!("{}: {} of {} images are wrong:\n{}", self.what, self.lost.len(), self.images, first.join("\n"))
    }
}

/// The contents that may be there after a crash behind so many steps: from which to which request.
fn window(ops: &[Op]) -> (u64, u64) {
    ops.iter().fold((0, 0), |(promised, asked), op| match op {
        Op::Note { what: "asked", number } => (promised, asked.max(*number)),
        Op::Note { what: "promised", number } => (promised.max(*number), asked),
        Op::Create { .. }
        | Op::MakeDirectory { .. }
        | Op::Write { .. }
        | Op::Truncate { .. }
        | Op::Sync { .. }
        | Op::SyncFailed { .. }
        | Op::SyncDirectory { .. }
        | Op::Rename { .. }
        | Op::Unlink { .. }
        | Op::Note { .. } => (promised, asked),
    })
}

fn checked<S: Subject>(root: &Path, image: &Image, states: &[S::Content], window: (u64, u64)) -> Result<(), String> {
    image.write(root).expect("the image can be written");
    // Recorded again, so that nothing waits for a real disk.
    let _quick = Disk::watch(root).expect("watched");
    let found = runtime().block_on(S::reopen(root))?;
    let allowed = window.0..=window.1;
    if allowed.clone().filter_map(|number| states.get(usize::try_from(number).ok()?)).any(|state| *state == found) {
        return Ok(());
    }
    let known = states.iter().position(|state| *state == found);
    let known = known.map_or("nothing that ever was".to_owned(), |known| format!("that of request {known}"));
    Err(format!("content of a request in {allowed:?} was expected and {known} found: {found:?}"))
}

fn shortened(text: &str) -> String {
    text.chars().take(400).collect()
}

/// The files without those that are thrown away at every start.
fn lasting(image: &Image) -> Image {
    let kept = image.0.iter().filter(|(name, _)| !name.starts_with("snapshots"));
    Image(kept.map(|(name, bytes)| (name.clone(), bytes.clone())).collect())
}

/// The record must explain what is on the disk, byte for byte: else something went by unseen.
fn assert_complete(trace: &Trace, root: &Path) {
    let mut model = Model::new(trace);
    trace.ops.iter().for_each(|op| model.step(op));
    let (told, real) = (model.image(Crash::Kill, &mut Random::new(0)), Image::read(root).expect("reads"));
    let differing = |(name, bytes): (&String, &Option<Vec<u8>>), other: &Image| {
        let there = other.0.get(name);
        (there != Some(bytes)).then(|| format!("{name}: {:?} bytes", bytes.as_ref().map(Vec::len)))
    };
    let (told, real) = (lasting(&told), lasting(&real));
    let only: Vec<_> = told.0.iter().filter_map(|entry| differing(entry, &real)).collect();
    let more: Vec<_> = real.0.iter().filter_map(|entry| differing(entry, &told)).collect();
    assert!(only.is_empty() && more.is_empty(), "recorded: {only:?}, on the disk: {more:?}");
}

/// Lets a subject act once, and then crashes it behind every step in every way.
pub(crate) fn crash_everywhere<S: Subject>(subject: &S, seed: u64, lie: Lie) -> Report {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (trace, states, root) = recorded(subject, seed, lie, directory.path());
    if lie == Lie::Honest {
        assert_complete(&trace, &root);
    }
    let mut random = Random::new(seed ^ 0x00c0_ffee);
    let mut report = Report { what: S::NAME, ..Report::default() };
    let (mut model, mut seen) = (Model::new(&trace), BTreeSet::new());
    for (step, op) in trace.ops.iter().enumerate() {
        model.step(op);
        if random.below(S::CRASHES_ONE_IN) != 0 {
            continue;
        }
        let window = window(&trace.ops[..=step]);
        let kept = model.image(Crash::Kill, &mut random);
        for crash in Crash::ALL {
            let image = model.image(crash, &mut random);
            let mut hasher = DefaultHasher::new();
            (&image.0, window).hash(&mut hasher);
            if !seen.insert(hasher.finish()) {
                continue;
            }
            report.images += 1;
            report.differing += usize::from(image != kept);
            if let Err(why) = checked::<S>(&root, &image, &states, window) {
                let why = shortened(&why);
                report.lost.push(format!("seed {seed}, {crash:?} behind step {step} of {}: {why}", trace.ops.len()));
            }
        }
    }
    report
}

fn recorded<S: Subject>(subject: &S, seed: u64, lie: Lie, directory: &Path) -> (Trace, Vec<S::Content>, PathBuf) {
    let disk = Arc::new(Disk::watch(directory).expect("watched"));
    disk.lie(lie);
    let (mut story, root) = story_of::<S>(&disk);
    let acted = runtime().block_on(subject.act(&mut story, &mut Random::new(seed)));
    assert_eq!(acted, Ok(()), "{}: with a sound device nothing is refused", S::NAME);
    assert!(!story.has_ended());
    let trace = disk.trace();
    // A thread that is about to end may still hold it.
    disk.stop();
    (trace, story.states, root)
}

fn story_of<S: Subject>(disk: &Arc<Disk>) -> (Story<S::Content>, PathBuf) {
    let root = disk.root().to_owned();
    let first = runtime().block_on(S::reopen(&root)).expect("an empty directory can be opened");
    (Story { disk: Arc::clone(disk), states: vec![first], ended: watch::Sender::new(false) }, root)
}

/// Lets a subject act with a fault at every call, one at a time, and looks at what a crash leaves then; and at what is left when the
/// process starts again on the same machine, relies on what it finds, and the power fails.
pub(crate) fn break_everything<S: Subject>(subject: &S, seed: u64) -> Report {
    let mut report = Report { what: S::NAME, ..Report::default() };
    let mut random = Random::new(seed ^ 0xfa17);
    for fault in [Fault::ErrorOnce, Fault::ErrorForEver, Fault::Full] {
        let mut at = random.below(S::FAULTS_ONE_IN);
        while break_once(subject, seed, fault, at, &mut report) {
            at += 1 + random.below(2 * S::FAULTS_ONE_IN - 1);
        }
    }
    report
}

/// Whether there were more calls than that.
fn break_once<S: Subject>(subject: &S, seed: u64, fault: Fault, at: u64, report: &mut Report) -> bool {
    let directory = tempfile::tempdir().expect("temporary directory");
    let disk = Arc::new(Disk::watch(directory.path()).expect("watched"));
    let (mut story, root) = story_of::<S>(&disk);
    let before = disk.attempts();
    disk.break_at(before + at, fault);
    let acted = runtime().block_on(subject.act(&mut story, &mut Random::new(seed)));
    let (met, calls) = (disk.broken(), disk.attempts() - before);
    disk.repair();
    let end = disk.trace().ops.len();
    report.runs += 1;
    report.bitten += usize::from(met.is_some());
    let here = format!("seed {seed}, {fault:?} at call {at} ({met:?}), acted {acted:?}");
    if acted.is_err() && met.is_none() {
        report.lost.push(format!("{here}: refused with a sound device"));
    }
    if acted.as_ref().is_err_and(|why| why.starts_with(STUCK) || why.starts_with(LOST)) {
        report.lost.push(format!("{here}: that is no refusal"));
    }
    let again = runtime().block_on(S::reopen(&root));
    let trace = disk.trace();
    disk.stop();
    let states = std::mem::take(&mut story.states);
    let mut random = Random::new(seed ^ at);
    let mut look = |report: &mut Report, when: &str, ops: &[Op], window: (u64, u64)| {
        let mut model = Model::new(&trace);
        ops.iter().for_each(|op| model.step(op));
        for crash in [Crash::Kill, Crash::Lost, Crash::Sectors] {
            report.images += 1;
            if let Err(why) = checked::<S>(&root, &model.image(crash, &mut random), &states, window) {
                report.lost.push(format!("{here}, {crash:?} {when}: {}", shortened(&why)));
            }
        }
    };
    let ended = trace.ops.iter().position(|op| matches!(op, Op::Note { what: "ended", .. })).unwrap_or(end);
    // What was said until the last thread stood still counts, too.
    let promised = window(&trace.ops[..end]);
    look(report, "at the end", &trace.ops[..ended], promised);
    let found = again.map(|content| states.iter().rposition(|state| *state == content));
    match found {
        Ok(Some(number)) if !S::is_relied_on(&states[number]) => {}
        Ok(Some(number)) if (promised.0..=promised.1).contains(&(number as u64)) => {
            look(report, "after another start", &trace.ops, (number as u64, number as u64));
        }
        other => report.lost.push(format!("{here}: another start finds {other:?}, {promised:?} were promised")),
    }
    met.is_some() || at < calls
}
