//! The `hive` command: understands the command line, does what it says, and ends with the exit code that scripts rely on.
//!
//! Each command is one function that asks the local API (`client`) and shows the answer (`output`, `render`). Only `agent`,
//! `helper` and `build-shim` run something here; everything else is a client. Never done here: deciding anything about the hive.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use crate::config::{ConfigError, Flags, Loaded, Surroundings, load};
use crate::exec::helper::server::HelperOptions;

mod admin;
mod admin_args;
mod agent_args;
mod args;
mod artifacts;
mod backup;
mod backup_args;
mod client;
mod console;
mod db;
mod demo;
mod doctor;
mod farm;
mod farm_args;
mod logs;
mod monitor;
mod net;
mod node;
mod output;
mod pack;
mod queue;
mod render;
mod secret;
mod sql;
mod surroundings;
mod text;
mod wire;

use agent_args::AgentArgs;
use args::{Cli, Command, Common, ConfigVerb, IdentityVerb};
use client::Client;
use output::{Failure, Outcome, Ui};

/// Exit code after Ctrl-C: 128 and the number of SIGINT, as shells report it.
const EXIT_INTERRUPTED: u8 = 130;
/// Exit code of a command line that is not understood.
const EXIT_USAGE: u8 = 2;

/// Everything that `main` does.
pub fn main() -> ExitCode {
    let line: Vec<OsString> = std::env::args_os().collect();
    match line.get(1).and_then(|word| word.to_str()) {
        // The shim changes user and limits of its own process, which must not have any thread yet.
        Some("build-shim") => return crate::exec::shim::main(line.into_iter().skip(2)),
        Some("helper") => return helper(line.into_iter().skip(2)),
        Some(_) | None => {}
    }
    match parse(&line) {
        Ok(cli) => ExitCode::from(dispatch(cli)),
        Err(code) => ExitCode::from(code),
    }
}

/// Understands the command line, or says what is wrong with it (in the envelope when JSON was asked for).
fn parse(line: &[OsString]) -> Result<Cli, u8> {
    let error = match Cli::command().try_get_matches_from(line).and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => return Ok(cli),
        Err(error) => error,
    };
    let before_dashes = line.iter().take_while(|word| *word != "--");
    let json = before_dashes.into_iter().any(|word| word == "--json");
    if !error.use_stderr() {
        let ui = Ui::of_process(false);
        let text = if ui.paint.0 { error.render().ansi().to_string() } else { error.render().to_string() };
        return Err(match ui.text(&text) {
            Ok(()) => 0,
            Err(failure) => ui.failure(&failure),
        });
    }
    if json {
        let message = error.render().to_string().trim().trim_start_matches("error: ").to_owned();
        let (first, rest) = message.split_once('\n').unwrap_or((&message, ""));
        let failure = Failure::usage(first, rest.split_whitespace().collect::<Vec<_>>().join(" "));
        Ui::of_process(true).failure(&failure);
    } else {
        // Nothing is left to do when even standard error is gone.
        let _ = error.print();
    }
    Err(EXIT_USAGE)
}

/// Runs a command to its exit code.
fn dispatch(cli: Cli) -> u8 {
    let ui = Ui::of_process(cli.common.json);
    let surroundings = surroundings::of_process();
    let outcome = match cli.command {
        // Those that run for long and bring their own runtime.
        Command::Agent(args) => agent(&surroundings, &args),
        Command::Helper(_) | Command::BuildShim(_) => {
            Err(Failure::usage("this command must be the first word of the line", "hive helper --help"))
        }
        // Those that need nobody.
        Command::Completions { shell } => completions(&ui, shell),
        Command::Man { dir } => man(&ui, dir.as_deref()),
        Command::Config { verb } => config(&ui, &surroundings, verb),
        Command::Restore(args) => backup::restore(&ui, &surroundings, args),
        Command::Db { verb } => db::db(&ui, &surroundings, verb),
        asking @ (Command::Status { .. }
        | Command::Peers
        | Command::Identity { .. }
        | Command::Queue { .. }
        | Command::Job { .. }
        | Command::Session { .. }
        | Command::Control(_)
        | Command::Fresh(_)
        | Command::Fleet
        | Command::Drone { .. }
        | Command::History(_)
        | Command::Events(_)
        | Command::Monitor { .. }
        | Command::Explain { .. }
        | Command::Sql(_)
        | Command::Exec(_)
        | Command::Recording { .. }
        | Command::Logs(_)
        | Command::Artifact { .. }
        | Command::Listen
        | Command::Wire(_)
        | Command::Doctor(_)
        | Command::Recover { .. }
        | Command::Backup(_)
        | Command::Secret { .. }
        | Command::Admin { .. }
        | Command::Audit(_)
        | Command::Net { .. }
        | Command::Try(_)) => ask(&ui, &surroundings, &cli.common, asking),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => ui.failure(&failure),
    }
}

/// The privileged helper: root's acts for an agent that is not root.
fn helper(words: impl Iterator<Item = OsString>) -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    log.with_ansi(false).init();
    let options = match helper_options(&surroundings::of_process()) {
        Ok(options) => options,
        Err(failure) => return ExitCode::from(Ui::of_process(false).failure(&failure)),
    };
    match crate::exec::helper::server::parse(options, words) {
        Ok(options) => crate::exec::helper::server::main(options),
        Err(problem) => {
            ExitCode::from(Ui::of_process(false).failure(&Failure::usage(problem, "see hive-helper.service")))
        }
    }
}

/// What the helper goes by: the agent's own file, so that both mean the same directory, user and limits. A file that somebody other
/// than root may have written is left out, since the agent may write beside it and must not tell root what to do.
fn helper_options(surroundings: &Surroundings) -> Result<HelperOptions, Failure> {
    let named = surroundings.variables.get("HIVE_CONFIG").map(PathBuf::from);
    let path = named.unwrap_or_else(|| surroundings.default_file());
    let trusted = match std::fs::symlink_metadata(&path) {
        Ok(metadata) => is_roots_alone(&metadata),
        Err(_) => false,
    };
    if !trusted && path.symlink_metadata().is_ok() {
        let path = path.display();
        tracing::warn!(
            "{path} is not read: it must be a file of root's that nobody else can write; mend it with: chown root {path} && chmod 0644 {path}"
        );
    }
    // Nothing to read, where a path must be named lest the default one is taken.
    let path = if trusted { path } else { PathBuf::from("/dev/null") };
    let loaded = load(surroundings, Some(&path), &Flags::new()).map_err(misconfigured)?;
    let mut options = HelperOptions { exec: crate::agent::exec_options(&loaded.config), ..HelperOptions::default() };
    if let Some(socket) = loaded.config.helper {
        options.socket = socket;
    }
    Ok(options)
}

/// Root wrote it, and nobody else has or can.
fn is_roots_alone(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    metadata.is_file() && metadata.uid() == 0 && metadata.nlink() == 1 && metadata.mode() & 0o022 == 0
}

/// The agent. Configuration problems end with code 2 before anything binds.
fn agent(surroundings: &Surroundings, args: &AgentArgs) -> Outcome {
    let prepared = crate::agent::prepare(configuration(surroundings, args)?).map_err(misconfigured)?;
    Ok(crate::agent::run(prepared).code())
}

fn configuration(surroundings: &Surroundings, args: &AgentArgs) -> Result<Loaded, Failure> {
    load(surroundings, args.config.as_deref(), &args.flags).map_err(misconfigured)
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that map_err takes")]
fn misconfigured(error: ConfigError) -> Failure {
    let hint = "all settings: hive config reference; where values come from: hive config show --origin";
    Failure::usage(error.to_string(), hint)
}

/// Runs a command that may wait, until it is done or interrupted.
fn ask(ui: &Ui, surroundings: &Surroundings, common: &Common, command: Command) -> Outcome {
    let target = surroundings::target(surroundings, common.socket.as_deref(), common.url.as_deref())?;
    let mut client = Client::new(target);
    if let Some(file) = surroundings::authorities(surroundings, common.ca.as_deref()) {
        client = client.with_authorities(file);
    }
    if let Some(key) = surroundings::key(surroundings) {
        client = client.with_key(key)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::internal(format!("cannot start: {error}"), ""))?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = run(ui, &client, surroundings, command) => outcome,
            signal = tokio::signal::ctrl_c() => {
                ui.clear_progress();
                match signal {
                    Ok(()) => Ok(EXIT_INTERRUPTED),
                    Err(error) => Err(Failure::internal(format!("cannot listen for signals: {error}"), "")),
                }
            }
        }
    });
    // A read from the terminal cannot be called off; it must not keep the process.
    runtime.shutdown_background();
    outcome
}

async fn run(ui: &Ui, client: &Client, surroundings: &Surroundings, command: Command) -> Outcome {
    match command {
        Command::Status { check } => node::status(ui, client, check).await,
        Command::Peers => node::peers(ui, client).await,
        Command::Identity { verb } => node::identity(ui, client, verb.unwrap_or(IdentityVerb::Show)).await,
        Command::Queue { verb } => queue::queue(ui, client, verb).await,
        Command::Job { verb } => queue::job(ui, client, verb).await,
        Command::Session { verb } => farm::session(ui, client, verb).await,
        Command::Control(args) => farm::control(ui, client, args).await,
        Command::Fresh(args) => queue::fresh(ui, client, args).await,
        Command::Fleet => farm::fleet(ui, client).await,
        Command::Drone { verb } => farm::drone(ui, client, verb).await,
        Command::History(args) => farm::history(ui, client, args).await,
        Command::Events(args) => farm::events(ui, client, args).await,
        Command::Monitor { interval, once } => monitor::monitor(ui, client, interval, once).await,
        Command::Explain { what } => node::explain(ui, client, &what).await,
        Command::Sql(args) => sql::sql(ui, client, args).await,
        Command::Exec(args) => console::exec(ui, client, args).await,
        Command::Recording { verb } => console::recording(ui, client, verb).await,
        Command::Logs(args) => logs::logs(ui, client, args).await,
        Command::Artifact { verb } => artifacts::artifact(ui, client, verb).await,
        Command::Listen => node::listen(ui, client).await,
        Command::Wire(args) => wire::wire(ui, client, args).await,
        Command::Doctor(args) => doctor::doctor(ui, client, surroundings, args).await,
        Command::Recover { yes } => node::recover(ui, client, yes).await,
        Command::Backup(args) => backup::backup(ui, client, surroundings, args).await,
        Command::Secret { verb } => secret::secret(ui, client, surroundings, verb).await,
        Command::Admin { verb } => admin::admin(ui, client, verb).await,
        Command::Audit(args) => admin::audit(ui, client, args).await,
        Command::Net { verb } => net::net(ui, client, verb).await,
        Command::Try(args) => demo::run(ui, args).await,
        Command::Agent(_)
        | Command::Helper(_)
        | Command::BuildShim(_)
        | Command::Completions { .. }
        | Command::Man { .. }
        | Command::Restore(_)
        | Command::Db { .. }
        | Command::Config { .. } => Err(Failure::internal("this command does not wait for anything", "this is a bug")),
    }
}

fn config(ui: &Ui, surroundings: &Surroundings, verb: ConfigVerb) -> Outcome {
    match verb {
        ConfigVerb::Reference => {
            refuse_json(ui, "hive config show --json gives every setting with its value")?;
            ui.text(&crate::config::reference())?;
        }
        ConfigVerb::Example => {
            refuse_json(ui, "hive config show --json gives every setting with its value")?;
            ui.text(&crate::config::example_file())?;
        }
        ConfigVerb::Check { agent } => {
            let prepared = crate::agent::prepare(configuration(surroundings, &agent)?).map_err(misconfigured)?;
            drop(prepared);
            ui.data(&serde_json::json!({ "good": true }), || {
                "The agent can start with this configuration.\n".to_owned()
            })?;
        }
        ConfigVerb::Show { origin, agent } => {
            let loaded = configuration(surroundings, &agent)?;
            crate::agent::check(&loaded).map_err(misconfigured)?;
            for warning in &loaded.warnings {
                ui.remark(&format!("warning: {warning}"));
            }
            let settings: serde_json::Map<String, serde_json::Value> = loaded
                .entries
                .iter()
                .map(|entry| {
                    let value =
                        serde_json::json!({ "value": entry.value.to_json(), "origin": entry.origin.to_string() });
                    (entry.setting.key.to_owned(), value)
                })
                .collect();
            let data = serde_json::json!({ "file": loaded.file, "settings": settings, "warnings": loaded.warnings });
            ui.data(&data, || shown_config(ui, &loaded, origin))?;
        }
    }
    Ok(0)
}

fn shown_config(ui: &Ui, loaded: &Loaded, origin: bool) -> String {
    let mut columns = vec![text::left("SETTING", 28), text::left("VALUE", 48)];
    if origin {
        columns.push(text::left("ORIGIN", 120));
    }
    let rows: Vec<Vec<text::Cell>> = loaded
        .entries
        .iter()
        .map(|entry| {
            let mut row = vec![text::cell(entry.setting.key), text::cell(entry.value.to_string())];
            if origin {
                row.push(text::cell(entry.origin.to_string()));
            }
            row
        })
        .collect();
    text::table(&columns, &rows, ui.paint)
}

/// Documents and scripts are what they are; wrapped in JSON they would be of no use to anyone.
fn refuse_json(ui: &Ui, hint: &str) -> Result<(), Failure> {
    if ui.json { Err(Failure::usage("this prints a document, which has no form as JSON", hint)) } else { Ok(()) }
}

fn completions(ui: &Ui, shell: clap_complete::Shell) -> Outcome {
    refuse_json(ui, "leave --json out")?;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "hive", &mut script);
    ui.bytes(&script)?;
    Ok(0)
}

fn man(ui: &Ui, directory: Option<&std::path::Path>) -> Outcome {
    refuse_json(ui, "leave --json out")?;
    let failed = |error: std::io::Error| Failure::internal(format!("cannot write the manual: {error}"), "");
    match directory {
        Some(directory) => {
            std::fs::create_dir_all(directory).map_err(failed)?;
            clap_mangen::generate_to(Cli::command(), directory).map_err(failed)?;
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(failed)?;
            ui.bytes(&page)?;
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clap::Parser as _;

    use super::*;
    use crate::web::fake::{FakeNode, JOB};
    use crate::web::{Options, bind};

    /// What a command comes to that talks to the port of a real web in front of a made-up node.
    fn over_the_port(url: &str, line: &str) -> (u8, String) {
        let surroundings =
            Surroundings { system: false, host_name: "here".to_owned(), variables: std::collections::BTreeMap::new() };
        let ui = Ui { json: true, paint: text::Paint(false), terminal: false, progress: false };
        let cli = Cli::try_parse_from(line.split_whitespace()).expect("understood");
        let common = Common { url: Some(url.to_owned()), ..cli.common };
        match ask(&ui, &surroundings, &common, cli.command) {
            Ok(code) => (code, String::new()),
            Err(failure) => (failure.exit_code, format!("{}: {}", failure.error.message, failure.error.hint)),
        }
    }

    #[test]
    fn over_the_port_reads_answer_and_everything_else_says_where_it_is_done() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
        let node = Arc::new(FakeNode::new());
        let options = Options {
            http: "127.0.0.1:0".parse().expect("address"),
            socket: directory.path().join("hive.sock"),
            ..Options::default()
        };
        let web = {
            let _within = runtime.enter();
            bind(options).expect("binds").serve(node.clone())
        };
        let url = format!("http://{}", web.address());
        let reads = [
            "hive status",
            "hive status --check",
            "hive peers",
            "hive queue list",
            "hive queue status",
            "hive job show JOB",
            "hive explain JOB",
            "hive explain build1",
            "hive logs JOB",
            "hive artifact list JOB",
            "hive session list",
            "hive fleet",
            "hive monitor --once",
            "hive drone list",
            "hive history",
            "hive history packages",
        ];
        for line in reads {
            assert_eq!(over_the_port(&url, &line.replace("JOB", &JOB.to_string())), (0, String::new()), "{line}");
        }
        assert_eq!(over_the_port(&url, "hive identity").0, 5, "the made-up node has none");
        let local = [
            "hive identity reset",
            "hive queue add --backend debian hello",
            "hive queue add --backend command --dir src/cli/doctor -- true",
            "hive job cancel JOB",
            "hive job retry JOB",
            "hive control pause",
            "hive session cancel nightly",
            "hive drone drain build1",
            "hive queue import src/engine.rs",
            "hive listen",
            "hive recover --yes",
            "hive backup",
        ];
        for line in local {
            let (code, told) = over_the_port(&url, &line.replace("JOB", &JOB.to_string()));
            assert_eq!(code, 4, "{line}: {told}");
            assert!(told.contains("over its socket"), "{line}: {told}");
        }
        let changes: Vec<String> =
            node.acts().into_iter().filter(|act| !act.starts_with("refused local_only")).collect();
        let reads = [
            "jobs [] limit 50",
            "sessions SessionQuery { open: true, limit: 50 }",
            "history limit 40",
            "history limit 50",
        ];
        assert_eq!(changes, reads);
        assert_eq!(over_the_port(&url, "hive doctor").0, 0, "what it may not ask is a remark");
        runtime.block_on(web.shutdown());
    }
}
