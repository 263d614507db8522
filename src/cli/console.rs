//! `hive exec`, `hive recording …` and `hive logs --node`: what an operator does on one node, from any.
//!
//! Never done here: terminals, which are a browser's (`web::terminal`).

use clap::{Args, Subcommand, ValueEnum};

use super::args::LogsArgs;
use super::client::{Client, Download, segment};
use super::output::{Failure, Outcome, Ui};
use super::text::{self, StreamCleaner};
use crate::api::{ApiError, ErrorCode, ExecLine, ExecRequest, RecordingList};

/// Exit code of a command that hive or a signal ended, as `timeout` has it.
const EXIT_ENDED: u8 = 124;
/// Added to the number of a signal, as shells do.
const EXIT_SIGNAL: i32 = 128;
/// Longest line of an answer, bytes.
const LINE_MAX: usize = 1 << 20;

/// `hive exec …`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  hive exec build2 -- df -h /var/lib/build\n  hive exec build2 --timeout 10m -- emerge --info\n\n\
                        It runs as the agent's user there, without a shell and without input, and ends with this command. That node must \
                        allow it: terminal.enabled. Each one is written down with who ran it."
)]
pub(crate) struct ExecArgs {
    /// Where.
    #[arg(value_name = "NODE")]
    pub(crate) node: String,
    /// End it after so long; as 30s, 10m or 1h.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = super::farm_args::duration)]
    pub(crate) timeout: u64,
    /// Program and arguments.
    #[arg(value_name = "ARGV", last = true, required = true, num_args = 1..)]
    pub(crate) argv: Vec<String>,
}

/// `hive recording …`
#[derive(Debug, Subcommand)]
pub(crate) enum RecordingVerb {
    /// List what terminals showed, on all nodes, the newest first.
    List,
    /// Print one as asciicast v2: hive recording get ID > x.cast, then asciinema play x.cast.
    Get {
        /// As listed: `NODE:NAME`.
        #[arg(value_name = "ID")]
        id: String,
    },
}

/// Which log of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Source {
    /// The agent's own, from its memory.
    #[default]
    Agent,
    /// The machine's: journal, /var/log/messages or syslog.
    System,
    /// The kernel's.
    Kernel,
    /// Portage's.
    Emerge,
}

/// The part of `hive logs` that is about a node.
#[derive(Debug, Args)]
pub(crate) struct NodeLogArgs {
    /// A log of this node instead of a build's.
    #[arg(long, value_name = "NODE", conflicts_with_all = ["attempt", "grep", "phases", "first_error", "download"])]
    pub(crate) node: Option<String>,
    /// Which log of the node.
    #[arg(long, value_enum, requires = "node", default_value_t)]
    pub(crate) source: Source,
    /// The last so many lines of it.
    #[arg(long, value_name = "N", requires = "node", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    pub(crate) lines: u32,
}

/// `hive logs --node`.
pub(crate) async fn node_log(ui: &Ui, client: &Client, args: LogsArgs) -> Outcome {
    let Some(node) = &args.of_node.node else {
        return Err(Failure::usage("a job or --node is needed", "hive logs --help"));
    };
    let source = match args.of_node.source {
        Source::Agent => "agent",
        Source::System => "system",
        Source::Kernel => "kernel",
        Source::Emerge => "emerge",
    };
    let follow = if args.follow { "&follow=1" } else { "" };
    let lines = args.of_node.lines;
    let path = format!("/api/v2/nodes/{}/logs?source={source}&lines={lines}{follow}", segment(node));
    let mut stream = client.stream(&path, args.follow).await?;
    let mut cleaner = StreamCleaner::new(ui.paint.0);
    while let Some(bytes) = stream.next().await.map_err(|error| broken(&error))? {
        if args.raw {
            ui.bytes(&bytes)?;
        } else if ui.json {
            ui.raw_json(&serde_json::json!({ "text": String::from_utf8_lossy(&bytes) }))?;
        } else {
            ui.bytes(cleaner.push(&bytes).as_bytes())?;
        }
    }
    if !args.raw && !ui.json {
        ui.bytes(cleaner.finish().as_bytes())?;
    }
    Ok(0)
}

fn broken(error: &std::io::Error) -> ApiError {
    ApiError::new(ErrorCode::Unreachable, format!("the answer broke off: {error}"), "try again; see: hive peers")
}

/// `hive exec`: its own output is the command's, its exit code too.
pub(crate) async fn exec(ui: &Ui, client: &Client, args: ExecArgs) -> Outcome {
    let path = format!("/api/v2/nodes/{}/exec", segment(&args.node));
    let request = ExecRequest { argv: args.argv, timeout_ms: Some(args.timeout) };
    let mut lines = Lines { stream: client.post_for_stream(&path, &request).await?, held: Vec::new() };
    let mut cleaners = (StreamCleaner::new(ui.paint.0), StreamCleaner::new(ui.paint.0));
    while let Some(line) = lines.next().await? {
        if ui.json {
            ui.raw_json(&line)?;
        }
        match line {
            ExecLine::Stdout { text, hex } if !ui.json => show(ui, &mut cleaners.0, text, hex, false)?,
            ExecLine::Stderr { text, hex } if !ui.json => show(ui, &mut cleaners.1, text, hex, true)?,
            ExecLine::Stdout { .. } | ExecLine::Stderr { .. } => {}
            ExecLine::Ended { exit_code, signal, why } => {
                if let Some(why) = why.filter(|_| !ui.json) {
                    ui.remark(&format!("hive: {}", text::clean(&why)));
                }
                let code = exit_code.or(signal.map(|signal| EXIT_SIGNAL + signal));
                return Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(EXIT_ENDED));
            }
            ExecLine::Broken { message } => {
                return Err(Failure::new(ErrorCode::Unreachable, message, "see: hive peers"));
            }
        }
    }
    Err(Failure::new(ErrorCode::Unreachable, "the answer broke off", "what ran there has ended; see: hive peers"))
}

/// Output as it is into a file or pipe, harmless onto a terminal.
fn show(
    ui: &Ui,
    cleaner: &mut StreamCleaner,
    text: Option<String>,
    hex: Option<String>,
    error: bool,
) -> Result<(), Failure> {
    let bytes = match (text, hex) {
        (Some(text), _) => text.into_bytes(),
        (None, Some(hex)) => hex::decode(hex).unwrap_or_default(),
        (None, None) => Vec::new(),
    };
    if error {
        return ui.error_bytes(cleaner.push(&bytes).as_bytes());
    }
    if ui.terminal { ui.bytes(cleaner.push(&bytes).as_bytes()) } else { ui.bytes(&bytes) }
}

/// JSON objects, one per line.
struct Lines {
    stream: Download,
    held: Vec<u8>,
}

impl Lines {
    async fn next(&mut self) -> Result<Option<ExecLine>, Failure> {
        loop {
            if let Some(end) = self.held.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.held.drain(..=end).collect();
                let line = serde_json::from_slice(&line);
                return line.map(Some).map_err(|error| {
                    let hint = "check that agent and command have the same version: hive --version";
                    Failure::internal(format!("the agent's answer is not understood: {error}"), hint)
                });
            }
            if self.held.len() > LINE_MAX {
                return Err(Failure::internal("a line of the answer is too long", "this is a bug"));
            }
            match self.stream.next().await.map_err(|error| broken(&error))? {
                Some(bytes) => self.held.extend_from_slice(&bytes),
                None => return Ok(None),
            }
        }
    }
}

/// `hive recording …`
pub(crate) async fn recording(ui: &Ui, client: &Client, verb: RecordingVerb) -> Outcome {
    match verb {
        RecordingVerb::List => {
            let answer = client.get::<RecordingList>("/api/v2/recordings").await?;
            ui.answer(&answer, |list| table(ui, list))?;
            if !answer.data.unreachable.is_empty() && !ui.json {
                ui.remark(&format!("no answer from {}", text::clean(&answer.data.unreachable.join(", "))));
            }
        }
        RecordingVerb::Get { id } => {
            if ui.terminal {
                let hint = format!("keep it: hive recording get {id} > terminal.cast");
                return Err(Failure::usage("a recording could take over this terminal", hint));
            }
            let mut stream = client.stream(&format!("/api/v2/recordings/{}", segment(&id)), false).await?;
            while let Some(bytes) = stream.next().await.map_err(|error| broken(&error))? {
                ui.bytes(&bytes)?;
            }
        }
    }
    Ok(0)
}

fn table(ui: &Ui, list: &RecordingList) -> String {
    let columns = [
        text::left("ID", 60),
        text::left("BEGAN", 20),
        text::right("TOOK", 8),
        text::right("SIZE", 10),
        text::left("BY", 40),
    ];
    let row = |recording: &crate::api::RecordingView| {
        vec![
            text::cell(&recording.id),
            text::cell(recording.started_at.to_string()),
            text::cell(text::short_duration(recording.duration_ms)),
            text::cell(text::bytes(recording.size_bytes)),
            text::cell(&recording.by),
        ]
    };
    text::table(&columns, &list.recordings.iter().map(row).collect::<Vec<_>>(), ui.paint)
}
