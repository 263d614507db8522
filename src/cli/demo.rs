//! `hive try`: a real hive on this machine, from nothing to a package that survived the coordinator's death.
//!
//! Starts agents as children of this process, with states of their own below one directory and everything on the loopback
//! interface, and then does what a person would do. Every wait has a deadline; a step that fails says which, and shows the ends
//! of the agents' logs. All children end with it.

use std::fs;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::json;
use uuid::Uuid;

use super::client::{Client, segment};
use super::output::{Failure, Outcome, Ui};
use super::text::{bytes, clean, duration};
use super::{pack, queue, render};
use crate::api::{JobView, NodePhase, RaftPart, Status, StoredBlob, SubmitRequest, Submitted, words};
use crate::clock;
use crate::engine::id::{JobId, SessionId};
use crate::engine::job::{AttemptState, DebianSource, JobSpec, JobState, Limits, Source, Work};
use crate::keyring::Secret;

mod node;
mod package;

use node::Node;

/// `hive try …`
#[derive(Debug, Args)]
pub(crate) struct TryArgs {
    /// End when the demonstration is over instead of waiting for Enter.
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Keep the directory with states and logs.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Where to put states and logs; a new temporary directory when left out.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// Nodes that start together.
const FIRST: usize = 3;
/// How often is looked.
const POLL: Duration = Duration::from_millis(150);
/// Time for three nodes to become a hive; it takes about 6 s, a busy machine several times that.
const FORM_MS: u64 = 60_000;
/// Directory of what was built; it stays.
const ARTIFACTS: &str = "artifacts";
/// Time for a node to join and get a role.
const JOIN_MS: u64 = 30_000;
/// Time for a new coordinator.
const ELECT_MS: u64 = 30_000;
/// Time for the build to begin.
const START_MS: u64 = 60_000;
/// Time for the build to end, including a second try on another node.
const BUILD_MS: u64 = 240_000;

/// The hive of the demonstration.
struct Demo<'a> {
    ui: &'a Ui,
    directory: PathBuf,
    nodes: Vec<Node>,
    started_ms: u64,
    /// Interrupted, nothing but the artifacts is worth keeping.
    disposable: bool,
}

impl Drop for Demo<'_> {
    /// Ctrl-C drops what runs: the agents are asked to end, so that they end their builds too, and then made to.
    fn drop(&mut self) {
        if !self.disposable {
            return;
        }
        for node in &mut self.nodes {
            node.ask_to_end();
        }
        let deadline = clock::now_ms() + node::END_MS;
        while clock::now_ms() < deadline && self.nodes.iter_mut().any(Node::is_running) {
            std::thread::sleep(POLL);
        }
        self.nodes.clear();
        self.clear_away();
    }
}

/// `hive try`.
pub(crate) async fn run(ui: &Ui, args: TryArgs) -> Outcome {
    let directory = match &args.dir {
        Some(directory) => {
            fs::create_dir_all(directory).map_err(|error| local(directory, &error))?;
            std::path::absolute(directory).map_err(|error| local(directory, &error))?
        }
        None => {
            let made = tempfile::Builder::new().prefix("hive-try-").tempdir();
            made.map_err(|error| local(Path::new("a temporary directory"), &error))?.keep()
        }
    };
    // A directory that was named may hold other things.
    let disposable = !args.keep && args.dir.is_none();
    let mut demo =
        Demo { ui, directory: directory.clone(), nodes: Vec::new(), started_ms: clock::now_ms(), disposable };
    let result = demo.play(&args).await;
    // From here on it is decided below what stays.
    demo.disposable = false;
    demo.end().await;
    match result {
        Ok(()) => {
            if disposable {
                demo.clear_away();
            } else {
                ui.remark(&format!("states and logs are kept in {}", directory.display()));
            }
            Ok(0)
        }
        Err(failure) => {
            ui.remark(&format!("\n{}", demo.log_ends()));
            ui.remark(&format!("states and logs are kept in {}", directory.display()));
            Err(failure)
        }
    }
}

fn local(path: &Path, error: &std::io::Error) -> Failure {
    Failure::internal(format!("cannot use {}: {error}", path.display()), "choose another place with --dir")
}

impl Demo<'_> {
    fn say(&self, text: &str) {
        let at = duration(clock::now_ms() - self.started_ms);
        self.ui.remark(&format!("[{at:>8}] {text}"));
    }

    async fn play(&mut self, args: &TryArgs) -> Result<(), Failure> {
        let secret_file = self.directory.join("shared_secret");
        if !secret_file.exists() {
            let wrote = Secret::generate().write_new(&secret_file);
            wrote.map_err(|error| Failure::internal(error.to_string(), "choose another place with --dir"))?;
        }
        self.start_first()?;
        self.form().await?;
        self.join_fourth().await?;
        let coordinator = self.coordinator_index().await?;
        let job = self.queue_package(coordinator).await?;
        let survivor = (coordinator + 1) % self.nodes.len();
        self.wait_building(survivor, job).await?;
        self.kill_coordinator(coordinator, survivor).await?;
        let view = self.wait_received(survivor, job).await?;
        let artifacts = self.fetch(&view, coordinator).await?;
        self.finish(survivor, &view, &artifacts).await?;
        if args.no_wait || !std::io::stdin().is_terminal() {
            return Ok(());
        }
        self.ui.remark("the hive keeps running; press Enter to end it");
        let line = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
        // Whatever came of reading the key, the demonstration is over.
        let _ = line.await;
        Ok(())
    }

    fn start_first(&mut self) -> Result<(), Failure> {
        for index in 0..FIRST {
            self.nodes.push(Node::prepare(&self.directory, &format!("try{}", index + 1))?);
        }
        let ports: Vec<u16> = self.nodes.iter().map(|node| node.port).collect();
        self.say(&format!("starting {FIRST} agents in {}", self.directory.display()));
        for node in &mut self.nodes {
            node.start(&ports)?;
        }
        Ok(())
    }

    /// Waits for a condition on what one node says, with a deadline. Nodes that have ended are a failure at once.
    async fn until<T>(
        &mut self,
        what: &str,
        within_ms: u64,
        index: usize,
        mut condition: impl FnMut(&Status) -> Option<T>,
    ) -> Result<T, Failure> {
        let deadline = clock::now_ms() + within_ms;
        loop {
            for node in &mut self.nodes {
                node.check_alive()?;
            }
            let last = match self.client(index).get::<Status>("/api/v2/status").await {
                Ok(answer) => {
                    if let Some(value) = condition(&answer.data) {
                        self.ui.clear_progress();
                        return Ok(value);
                    }
                    answer.data.degraded.join(", ")
                }
                Err(error) => error.message,
            };
            if clock::now_ms() >= deadline {
                let name = &self.nodes[index].name;
                let message = format!("{name} waited {} in vain {what} ({})", duration(within_ms), clean(&last));
                return Err(Failure::internal(message, "the ends of the logs above say more"));
            }
            self.ui.show_progress(&format!("{what} …"));
            tokio::time::sleep(POLL).await;
        }
    }

    fn client(&self, index: usize) -> Client {
        self.nodes[index].client()
    }

    async fn form(&mut self) -> Result<(), Failure> {
        for index in 0..FIRST {
            self.until_role(index, FORM_MS).await?;
        }
        let what = "for three members that agree";
        self.until(what, FORM_MS, 0, |status| {
            let members = status.members.iter().filter(|member| member.raft != RaftPart::None).count();
            let voters = status.members.iter().filter(|member| member.raft == RaftPart::Voter).count();
            (status.quorum && members >= FIRST && voters >= FIRST).then_some(())
        })
        .await?;
        let hives = self.distinct_hives().await?;
        if hives != 1 {
            return Err(Failure::internal(format!("{hives} hives were founded instead of one"), "this is a bug"));
        }
        self.say("three nodes are one hive; three of them vote");
        Ok(())
    }

    async fn until_role(&mut self, index: usize, within_ms: u64) -> Result<(), Failure> {
        let ready = |status: &Status| {
            let member = status.this.state == NodePhase::Member && status.hive_id.is_some();
            if member { status.this.role.clone() } else { None }
        };
        let role = self.until("for a role", within_ms, index, ready).await?;
        let name = self.nodes[index].name.clone();
        let identity = self.client(index).get::<crate::api::Identity>("/api/v2/identity").await;
        let why = identity.map_or_else(|_| String::new(), |answer| format!(" ({})", clean(&answer.data.reason)));
        self.say(&format!("{name} became {}{why}", clean(&role)));
        Ok(())
    }

    async fn distinct_hives(&self) -> Result<usize, Failure> {
        let mut seen = std::collections::BTreeSet::new();
        for node in &self.nodes {
            seen.insert(node.client().get::<Status>("/api/v2/status").await?.data.hive_id);
        }
        Ok(seen.len())
    }

    async fn join_fourth(&mut self) -> Result<(), Failure> {
        let mut node = Node::prepare(&self.directory, &format!("try{}", FIRST + 1))?;
        self.say(&format!("{} starts and is told one address", node.name));
        node.start(&[self.nodes[0].port])?;
        self.nodes.push(node);
        self.until_role(FIRST, JOIN_MS).await
    }

    async fn coordinator_index(&mut self) -> Result<usize, Failure> {
        let names: Vec<String> = self.nodes.iter().map(|node| node.name.clone()).collect();
        let index = self
            .until("for a coordinator", ELECT_MS, 0, |status| {
                let coordinator = status.coordinator.as_ref().filter(|_| status.quorum)?;
                names.iter().position(|name| *name == coordinator.name)
            })
            .await?;
        self.say(&format!("{} is the coordinator", self.nodes[index].name));
        Ok(index)
    }

    /// Queues a package for a node that is not the coordinator, so that one crash does not hit both parts of the story.
    async fn queue_package(&mut self, coordinator: usize) -> Result<JobId, Failure> {
        let builder = (coordinator + 2) % self.nodes.len();
        let source_directory = self.directory.join("hive-hello");
        let debian = package::write(&source_directory, package::TEST_SECONDS)
            .map_err(|error| local(&source_directory, &error))?;
        let packed = pack::pack_directory(&source_directory)?;
        let client = self.client(builder);
        let reader = tokio::fs::File::from_std(packed.file);
        let stored = client.put::<StoredBlob>("/api/v2/blobs", reader, packed.size).await?.data;
        let source = Source::Blob { sha256: stored.sha256, size: stored.size };
        let work = if debian {
            Work::Debian { source: DebianSource::Tree { source } }
        } else {
            let argv = package::COMMAND.iter().map(|word| (*word).to_owned()).collect();
            Work::Command { source, argv, artifacts: vec![package::COMMAND_ARTIFACT.to_owned()] }
        };
        let spec = JobSpec {
            labels: std::iter::once(self.nodes[builder].name.clone()).collect(),
            pure: true,
            limits: Limits { timeout_ms: BUILD_MS, ..Limits::default() },
            ..JobSpec::new(JobId(Uuid::new_v4()), "hive-hello", work)
        };
        let id = spec.id;
        let request =
            SubmitRequest { session: SessionId(Uuid::new_v4()), name: String::new(), profile: None, jobs: vec![spec] };
        client.post::<Submitted>("/api/v2/jobs", &request).await?;
        let kind = if debian { "a Debian package" } else { "a C program (dpkg-buildpackage is not installed)" };
        self.say(&format!("queued {kind} through {}: job {id}", self.nodes[builder].name));
        Ok(id)
    }

    async fn job_until<T>(
        &mut self,
        what: &str,
        within_ms: u64,
        index: usize,
        job: JobId,
        mut condition: impl FnMut(&JobView) -> Result<Option<T>, Failure>,
    ) -> Result<T, Failure> {
        let deadline = clock::now_ms() + within_ms;
        loop {
            let last = match queue::view(&self.client(index), job).await {
                Ok(answer) => {
                    if let Some(value) = condition(&answer.data)? {
                        self.ui.clear_progress();
                        return Ok(value);
                    }
                    let waiting = answer.data.waiting_for.unwrap_or_default();
                    format!("it is {} {waiting}", words::job_state(answer.data.state))
                }
                // The node that is asked may not have applied yet what another one acknowledged a moment ago.
                Err(error) if queue::patience_ms(&error) > 0 => error.message,
                Err(error) => return Err(error.into()),
            };
            if clock::now_ms() >= deadline {
                let message = format!("waited {} in vain {what} ({})", duration(within_ms), clean(&last));
                return Err(Failure::internal(message, "the ends of the logs above say more"));
            }
            self.ui.show_progress(&format!("{what} …"));
            tokio::time::sleep(POLL).await;
        }
    }

    async fn wait_building(&mut self, index: usize, job: JobId) -> Result<(), Failure> {
        let node = self
            .job_until("for the build to begin", START_MS, index, job, |view| {
                still_possible(view)?;
                let running = view.attempts.last().filter(|attempt| attempt.state == AttemptState::Building);
                Ok(running.map(|attempt| attempt.node.clone()))
            })
            .await?;
        self.say(&format!("{} builds it", clean(&node)));
        Ok(())
    }

    async fn kill_coordinator(&mut self, coordinator: usize, survivor: usize) -> Result<(), Failure> {
        let name = self.nodes[coordinator].name.clone();
        let killed_at = clock::now_ms();
        self.nodes[coordinator].kill()?;
        self.say(&format!("killed the coordinator {name} (SIGKILL) while the build runs"));
        let next = self
            .until("for another coordinator", ELECT_MS, survivor, |status| {
                let coordinator = status.coordinator.as_ref().filter(|_| status.quorum)?;
                (coordinator.name != name).then(|| (coordinator.name.clone(), coordinator.term))
            })
            .await?;
        let took = duration(clock::now_ms() - killed_at);
        self.say(&format!("{} took over after {took} (term {})", clean(&next.0), next.1));
        Ok(())
    }

    async fn wait_received(&mut self, index: usize, job: JobId) -> Result<JobView, Failure> {
        let view = self
            .job_until("for the package", BUILD_MS, index, job, |view| {
                still_possible(view)?;
                Ok((view.state == JobState::Received).then(|| view.clone()))
            })
            .await?;
        let tries = view.attempts.len();
        let word = if tries == 1 { "attempt" } else { "attempts" };
        self.say(&format!("the package is there, after {tries} {word}"));
        Ok(view)
    }

    /// Fetches what came out through a node that did not build it.
    async fn fetch(&self, view: &JobView, dead: usize) -> Result<Vec<PathBuf>, Failure> {
        let builder =
            view.attempts.iter().rfind(|attempt| attempt.state == AttemptState::Accepted).map(|attempt| &attempt.node);
        let other = self.nodes.iter().enumerate().find(|(index, node)| *index != dead && Some(&node.name) != builder);
        let Some((_, other)) = other else { return Err(Failure::internal("no other node is left", "this is a bug")) };
        let directory = self.directory.join(ARTIFACTS);
        let mut out = Vec::new();
        for artifact in &view.artifacts {
            let wanted = crate::api::ArtifactView {
                job: view.id,
                name: artifact.name.clone(),
                sha256: artifact.sha256,
                size: artifact.size,
            };
            let path = super::artifacts::destination(&artifact.name, false, Some(&directory))?;
            super::artifacts::fetch(self.ui, &other.client(), &wanted, &path).await?;
            out.push(path);
        }
        let builder = builder.map_or("another node", String::as_str);
        self.say(&format!(
            "fetched {} files, built on {}, through {} and verified them",
            out.len(),
            clean(builder),
            other.name
        ));
        Ok(out)
    }

    async fn finish(&self, survivor: usize, view: &JobView, artifacts: &[PathBuf]) -> Result<(), Failure> {
        let status = self.client(survivor).get::<Status>("/api/v2/status").await?;
        let page = format!("http://127.0.0.1:{}/", self.nodes[survivor].http);
        let files: Vec<String> = artifacts
            .iter()
            .map(|path| {
                let size = fs::metadata(path).map_or(0, |metadata| metadata.len());
                format!("  {}  {}", path.display(), bytes(size))
            })
            .collect();
        let socket = self.nodes[survivor].socket.display().to_string();
        let data =
            json!({ "status": status.data, "job": view.id, "artifacts": artifacts, "page": page, "socket": socket });
        self.ui.data(&data, || {
            format!(
                "\n{}\nartifacts\n{}\n\npage    {page}jobs/{}\nask     hive --socket {} status\n",
                render::status(&status.data, self.ui.paint),
                files.join("\n"),
                segment(&view.id.to_string()),
                socket
            )
        })
    }

    /// Removes states and logs; what was built stays where it was said to be.
    fn clear_away(&self) {
        let kept = self.directory.join(ARTIFACTS);
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten().map(|entry| entry.path());
        for path in entries.filter(|path| *path != kept) {
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            if let Err(error) = removed {
                self.ui.remark(&format!("cannot remove {}: {error}", path.display()));
            }
        }
        // Goes only when nothing is left in it.
        if fs::remove_dir(&self.directory).is_err() {
            self.ui.remark(&format!("what was built stays in {}", kept.display()));
        }
    }

    fn log_ends(&self) -> String {
        self.nodes.iter().map(Node::log_end).collect::<Vec<_>>().join("\n")
    }

    /// Asks all to end, and makes them.
    async fn end(&mut self) {
        for node in &mut self.nodes {
            node.ask_to_end();
        }
        let deadline = clock::now_ms() + node::END_MS;
        while clock::now_ms() < deadline && self.nodes.iter_mut().any(Node::is_running) {
            tokio::time::sleep(POLL).await;
        }
        for node in &mut self.nodes {
            // What is left is ended by dropping it too; an error here has no other consequence.
            let _ = node.kill();
        }
    }
}

fn still_possible(view: &JobView) -> Result<(), Failure> {
    if view.state.is_terminal() && view.state != JobState::Received || view.state == JobState::Blocked {
        let reason = view.reason.as_deref().unwrap_or("no reason given");
        let message = format!("the job is {}: {}", words::job_state(view.state), clean(reason));
        return Err(Failure::internal(message, "the ends of the logs above say more"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_demonstration_leaves_nothing_but_what_was_built() {
        let ui = Ui { json: false, paint: super::super::text::Paint(false), terminal: false, progress: false };
        for built in [false, true] {
            let directory = tempfile::tempdir().expect("temporary directory").keep();
            fs::create_dir_all(directory.join("try1/state")).expect("makes");
            fs::write(directory.join("shared_secret"), "x").expect("writes");
            if built {
                fs::create_dir(directory.join(ARTIFACTS)).expect("makes");
                fs::write(directory.join(ARTIFACTS).join("a.deb"), "x").expect("writes");
            }
            drop(Demo { ui: &ui, directory: directory.clone(), nodes: Vec::new(), started_ms: 0, disposable: true });
            assert_eq!(directory.exists(), built);
            assert!(!directory.join("try1").exists() && !directory.join("shared_secret").exists());
            assert_eq!(directory.join(ARTIFACTS).join("a.deb").exists(), built);
            if built {
                fs::remove_dir_all(&directory).expect("removes");
            }
        }
    }
}
