//! The command line: nouns and verbs, and what each takes. Meaning only; what is done is beside it in `cli`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::admin_args::{AdminVerb, AuditArgs};
use super::agent_args::AgentArgs;
use super::backup_args::{BackupArgs, DbVerb, RestoreArgs};
use super::console::{ExecArgs, NodeLogArgs, RecordingVerb};
use super::demo::TryArgs;
use super::farm_args::{ControlArgs, DroneVerb, EventsArgs, HistoryArgs, ImportArgs, SessionVerb};
use super::sql::SqlArgs;
use super::wire::WireArgs;

/// Machines that find each other, agree, and build.
#[derive(Debug, Parser)]
#[command(
    name = "hive",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 ok, 1 error, 2 usage, 3 cannot connect, 4 not allowed, 5 not found, 6 degraded, 7 no quorum, 130 interrupted."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Common {
    /// Answer as one JSON object: {"schema":1,"ok":true,"data":…}; `logs -f`, `wire -f` and `listen` print one object per line.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Unix socket of the agent to talk to [env: HIVE_SOCKET].
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<String>,
    /// Address of an agent, as http://HOST:PORT or https://HOST:PORT; its admin port (8093) takes changes with a key [env: HIVE_URL, SWARMV3_URL; the key: HIVE_ADMIN_KEY].
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// For https: whom to believe, as `hive admin ca --pem` prints it; the system's authorities when left out [env: HIVE_CA].
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca: Option<std::path::PathBuf>,
}

/// Nouns.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the agent of this machine.
    Agent(AgentArgs),
    /// Show the hive: members, coordinator, queue, and what needs attention.
    Status {
        /// Exit with 6 when something is degraded.
        #[arg(long)]
        check: bool,
    },
    /// List the other nodes.
    Peers,
    /// What this node became, by whom and why.
    Identity {
        #[command(subcommand)]
        verb: Option<IdentityVerb>,
    },
    /// Queue work, and see what is queued.
    Queue {
        #[command(subcommand)]
        verb: QueueVerb,
    },
    /// Show one job, cancel it, or have it tried again.
    Job {
        #[command(subcommand)]
        verb: JobVerb,
    },
    /// Jobs that were queued together: list, show, cancel.
    Session {
        #[command(subcommand)]
        verb: SessionVerb,
    },
    /// Act on the queue: pause it, block jobs, try them again.
    Control(ControlArgs),
    /// Build what a Gentoo drone's @world consists of.
    Fresh(FreshArgs),
    /// Show the drones and what they build.
    Fleet,
    /// Show one drone, pause it, empty it, limit it.
    Drone {
        #[command(subcommand)]
        verb: DroneVerb,
    },
    /// List attempts that are over, and what is known of packages.
    #[command(args_conflicts_with_subcommands = true)]
    History(HistoryArgs),
    /// Show what happened.
    Events(EventsArgs),
    /// Show queue, drones, builds, events and a log on one screen, with keys to act on them.
    Monitor {
        /// Seconds between two looks.
        #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3_600))]
        interval: u64,
        /// Look once, and print it as text.
        #[arg(long)]
        once: bool,
    },
    /// Say why a job waits or a node gets no work, and what would change it.
    Explain {
        /// A job's id or a node's name.
        #[arg(value_name = "JOB|NODE")]
        what: String,
    },
    /// Ask the node's data with SQL.
    Sql(SqlArgs),
    /// Run one command on a node, with its output and exit code.
    Exec(ExecArgs),
    /// What terminals showed: list, fetch.
    Recording {
        #[command(subcommand)]
        verb: RecordingVerb,
    },
    /// Print the output of a build, or a log of a node.
    Logs(LogsArgs),
    /// List and fetch what builds produced.
    Artifact {
        #[command(subcommand)]
        verb: ArtifactVerb,
    },
    /// Show the hive's datagrams as they come and go.
    Listen,
    /// Show what passes between nodes: every message, request and datagram, with filters, and as a capture.
    Wire(WireArgs),
    /// Find out what is wrong, and which command mends it.
    Doctor(DoctorArgs),
    /// Begin a new epoch after the majority of the voters was lost for good.
    Recover {
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Write what the hive knows (jobs, history, members, decisions) into a file.
    Backup(BackupArgs),
    /// Begin a new hive on this machine with what a backup holds.
    Restore(RestoreArgs),
    /// The databases of this node: look for damage, set one aside.
    Db {
        #[command(subcommand)]
        verb: DbVerb,
    },
    /// The secret that all nodes of a hive share.
    Secret {
        #[command(subcommand)]
        verb: SecretVerb,
    },
    /// List what people had the hive do: who, from where, what, when.
    Audit(AuditArgs),
    /// Keys for control from other machines: the admin key, tokens, and browsers that are signed in.
    Admin {
        #[command(subcommand)]
        verb: AdminVerb,
    },
    /// This machine's network, and free addresses in it.
    Net {
        #[command(subcommand)]
        verb: NetVerb,
    },
    /// The agent's configuration.
    Config {
        #[command(subcommand)]
        verb: ConfigVerb,
    },
    /// Try it out: a hive of three on this machine, a fourth that joins, a package, a crash.
    Try(TryArgs),
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page.
    Man {
        /// Write the pages of all commands into this directory instead.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// The privileged helper (started by the service manager).
    #[command(hide = true)]
    Helper(Passthrough),
    /// First process of a build (started by the agent).
    #[command(hide = true)]
    BuildShim(Passthrough),
}

/// Arguments that another module understands.
#[derive(Debug, Args)]
pub(crate) struct Passthrough {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<OsString>,
}

/// `hive identity …`
#[derive(Debug, Subcommand)]
pub(crate) enum IdentityVerb {
    /// Show role, packages, and who assigned it (the default).
    Show,
    /// Show every advisor's ranking, rule and reason, and who dissented.
    Explain,
    /// Ask the hive again.
    Reset,
}

/// `hive queue …`
#[derive(Debug, Subcommand)]
pub(crate) enum QueueVerb {
    /// Queue work.
    Add(Box<QueueAddArgs>),
    /// List jobs, the newest first.
    List {
        /// Only jobs in these states, separated by commas: needed, delegated, received, blocked, failed, cancelled, quarantined.
        #[arg(long, value_name = "STATE", value_delimiter = ',')]
        state: Vec<String>,
        /// Only jobs of this session: id, beginning of it, or name.
        #[arg(long, value_name = "SESSION")]
        session: Option<String>,
        /// Only jobs of this kind of builder: command, debian, portage, maven or resolve.
        #[arg(long, value_name = "BACKEND")]
        backend: Option<String>,
        /// Only jobs whose last attempt is or was on this drone.
        #[arg(long, value_name = "DRONE")]
        drone: Option<String>,
        /// At most so many.
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        limit: u32,
    },
    /// Queue the jobs of a file, all of them or none.
    Import(ImportArgs),
    /// Count jobs by state.
    Status,
}

/// Kind of builder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    /// Run one program in a checkout.
    Command,
    /// Build Debian source packages.
    Debian,
    /// Find out what has to be built for Gentoo packages, and build it in order.
    Portage,
    /// Build Java trees with Maven, and their Debian packages when there is a debian directory.
    Maven,
}

/// `hive queue add …`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hive queue add --backend command --dir . --artifact 'out/*' -- make all\n  \
                        hive queue add --backend command --repo https://example.org/x.git --branch main -- cargo build\n  \
                        hive queue add --backend debian hello=2.10-3 ./my-package --wait\n  \
                        hive queue add --backend debian --dsc ../hello_2.10-3.dsc\n  \
                        hive queue add sys-apps/portage dev-lang/python\n  \
                        hive queue add --backend maven --repo https://example.org/x.git --commit 1f0c… --threads 1C --goal package --goal -Psystemvm")]
pub(crate) struct QueueAddArgs {
    /// Kind of builder; left out, what the hive's drones can do for a SOURCE, when that is one thing.
    #[arg(long, value_enum)]
    pub(crate) backend: Option<Backend>,
    /// Directory that travels with the job.
    #[arg(long, value_name = "PATH", conflicts_with = "repo")]
    pub(crate) dir: Option<PathBuf>,
    /// Git repository that the drone fetches.
    #[arg(long, value_name = "URL")]
    pub(crate) repo: Option<String>,
    /// Branch or tag of the repository.
    #[arg(long, value_name = "BRANCH", requires = "repo")]
    pub(crate) branch: Option<String>,
    /// Commit of the repository, all 40 or 64 digits of it; without it the first attempt pins the branch.
    #[arg(long, value_name = "COMMIT", requires = "repo")]
    pub(crate) commit: Option<String>,
    /// Files to keep, as a pattern relative to the checkout; can be given several times.
    #[arg(long, value_name = "GLOB")]
    pub(crate) artifact: Vec<String>,
    /// Priority, higher first.
    #[arg(long, value_name = "-100..100", default_value_t = 0, allow_hyphen_values = true, value_parser = clap::value_parser!(i32).range(-100..=100))]
    pub(crate) priority: i32,
    /// Label, tool or feature that the drone must have; can be given several times.
    #[arg(long, value_name = "LABEL")]
    pub(crate) label: Vec<String>,
    /// Tool that the drone must have, with the lowest version that will do; can be given several times.
    #[arg(long, value_name = "NAME[>=VERSION]")]
    pub(crate) tool: Vec<String>,
    /// What the drone must offer to builds (sandbox, netns, user, cgroup-memory …); can be given several times.
    #[arg(long, value_name = "FEATURE")]
    pub(crate) require: Vec<String>,
    /// Processors that the drone must have.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) cores: u32,
    /// Memory of an attempt, MiB; what the drone allows when left out.
    #[arg(long, value_name = "MIB", default_value_t = 0, hide_default_value = true)]
    pub(crate) memory_mb: u64,
    /// Space that must be free where the drone builds, MiB.
    #[arg(long, value_name = "MIB", default_value_t = 0, hide_default_value = true)]
    pub(crate) disk_mb: u64,
    /// Job that must have succeeded before; can be given several times.
    #[arg(long, value_name = "JOB")]
    pub(crate) after: Vec<String>,
    /// Name of a secret that the drone has, put into the environment of the build; can be given several times.
    #[arg(long, value_name = "NAME")]
    pub(crate) secret: Vec<String>,
    /// Id of the job, so that adding it twice adds it once; made up when left out.
    #[arg(long, value_name = "UUID")]
    pub(crate) id: Option<String>,
    /// The artifacts are its only effect: it may run on through a partition and be run again.
    #[arg(long)]
    pub(crate) pure: bool,
    /// It has effects outside, and having them twice does no harm: it is tried again after it was interrupted.
    #[arg(long, conflicts_with = "pure")]
    pub(crate) idempotent: bool,
    #[command(flatten)]
    pub(crate) maven: MavenArgs,
    /// For portage: build everything anew that the packages need, also what is installed.
    #[arg(long)]
    pub(crate) empty_tree: bool,
    /// For debian: a source package as a .dsc file, which travels with the files that it names.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dir", "repo", "sources"])]
    pub(crate) dsc: Option<PathBuf>,
    /// Longest time of an attempt.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub(crate) timeout: Option<u64>,
    /// Name of the session, for people.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(crate) session_name: String,
    /// Build profile of the session.
    #[arg(long, value_name = "PROFILE")]
    pub(crate) profile: Option<String>,
    /// Wait for the end; exit with 1 when a job fails.
    #[arg(long)]
    pub(crate) wait: bool,
    /// For debian: a source package NAME, NAME=VERSION, or a directory with debian/ in it, which is known by a slash: ./DIR.
    /// For portage: category/name, category/name-VERSION, or a set such as @world.
    #[arg(value_name = "SOURCE")]
    pub(crate) sources: Vec<String>,
    /// For command: program and arguments, after `--`. Never passed through a shell.
    #[arg(last = true, value_name = "ARGV")]
    pub(crate) argv: Vec<String>,
}

/// `hive fresh …`
#[derive(Debug, Args)]
pub(crate) struct FreshArgs {
    /// Whose @world; left out, that of the one drone with Portage.
    #[arg(long, value_name = "DRONE")]
    pub(crate) drone: Option<String>,
    /// Build everything anew, also what is installed.
    #[arg(long)]
    pub(crate) empty_tree: bool,
    /// Build profile of the session.
    #[arg(long, value_name = "PROFILE")]
    pub(crate) profile: Option<String>,
    /// Wait for the end; exit with 1 when a job fails.
    #[arg(long)]
    pub(crate) wait: bool,
}

/// What only `--backend maven` takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Maven")]
pub(crate) struct MavenArgs {
    /// Goal, -Pprofile or -Dname=value; can be given several times [default: package].
    #[arg(long, value_name = "GOAL", allow_hyphen_values = true)]
    pub(crate) goal: Vec<String>,
    /// Maven's -T: a number of threads, or one per processor and factor (1C).
    #[arg(long, value_name = "T")]
    pub(crate) threads: Option<String>,
    /// Without the network: everything must be in the drone's repository.
    #[arg(long)]
    pub(crate) offline: bool,
    /// No Debian packages, though the tree has a debian directory.
    #[arg(long)]
    pub(crate) no_packages: bool,
    /// Fall-back: an empty package may stand in for this build dependency when it cannot be had; can be given several times.
    #[arg(long, value_name = "NAME")]
    pub(crate) dummy: Vec<String>,
    /// Fall-back: build the packages though build dependencies are missing.
    #[arg(long)]
    pub(crate) unchecked_dependencies: bool,
}

/// `hive job …`
#[derive(Debug, Subcommand)]
pub(crate) enum JobVerb {
    /// Show a job with all its attempts.
    Show {
        /// The job's id, or the beginning of it.
        #[arg(value_name = "JOB")]
        job: String,
    },
    /// End a job.
    Cancel {
        /// The job's id, or the beginning of it.
        #[arg(value_name = "JOB")]
        job: String,
        /// Why, for the others.
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Try a job again that is blocked, failed or quarantined.
    Retry(JobActArgs),
    /// Do not try a job until it is unblocked.
    Block(JobActArgs),
    /// Let a blocked job be tried again at once.
    Unblock(JobActArgs),
}

/// A job, and why something is done to it.
#[derive(Debug, Args)]
pub(crate) struct JobActArgs {
    /// The job's id, or the beginning of it.
    #[arg(value_name = "JOB")]
    pub(crate) job: String,
    /// Why, for the others.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) reason: String,
}

/// `hive logs …`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hive logs -f 47f7eae6\n  hive logs 47f7eae6 --first-error\n  \
                        hive logs 47f7eae6 --grep 'undefined reference' --attempt 1\n  hive logs 47f7eae6 --download build.log\n\n\
                        What is shown is harmless: escape sequences other than colours are made visible, long lines are cut. \
                        --grep, --phases and --first-error exit with 5 when there is nothing.")]
pub(crate) struct LogsArgs {
    /// The job's id, or the beginning of it.
    #[arg(value_name = "JOB", required_unless_present = "node", conflicts_with = "node")]
    pub(crate) job: Option<String>,
    #[command(flatten)]
    pub(crate) of_node: NodeLogArgs,
    /// Go on until the job is over, or for ever with a node's.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// The attempt; the last one when left out.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) attempt: Option<u32>,
    /// Print the bytes as they are. Not onto a terminal: a build could take it over.
    #[arg(long)]
    pub(crate) raw: bool,
    /// Print only lines with this text, found by the node that keeps the log.
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["follow", "raw"])]
    pub(crate) grep: Option<String>,
    /// Capital and small letters are the same.
    #[arg(short, long, requires = "grep")]
    pub(crate) ignore_case: bool,
    /// The text is a regular expression.
    #[arg(long, requires = "grep")]
    pub(crate) regex: bool,
    /// At most so many lines.
    #[arg(long, value_name = "N", requires = "grep", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) limit: u32,
    /// List the phases of the build: what, when, how long, and where in the log.
    #[arg(long, conflicts_with_all = ["follow", "raw", "grep"])]
    pub(crate) phases: bool,
    /// Show the line that tells best what went wrong, with its neighbours.
    #[arg(long, conflicts_with_all = ["follow", "raw", "grep", "phases"])]
    pub(crate) first_error: bool,
    /// Keep the bytes as they are in a file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["follow", "raw", "grep", "phases", "first_error"])]
    pub(crate) download: Option<PathBuf>,
    /// Replace the file when it is there already.
    #[arg(long, requires = "download")]
    pub(crate) force: bool,
}

/// `hive artifact …`
#[derive(Debug, Subcommand)]
pub(crate) enum ArtifactVerb {
    /// List what a job produced.
    List {
        /// The job's id, or the beginning of it.
        #[arg(value_name = "JOB")]
        job: String,
    },
    /// Fetch it, from whichever node has it; verified before it gets its name.
    Get {
        /// The job's id, or the beginning of it.
        #[arg(value_name = "JOB")]
        job: String,
        /// One artifact; all when left out.
        #[arg(value_name = "NAME")]
        name: Option<String>,
        /// Directory, or file for a single artifact.
        #[arg(short, long, value_name = "DIR|FILE")]
        output: Option<PathBuf>,
        /// Replace files that are there already.
        #[arg(long)]
        force: bool,
    },
}

/// `hive doctor …`
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The agent's configuration file, when it is not in its usual place.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// `hive secret …`
#[derive(Debug, Subcommand)]
pub(crate) enum SecretVerb {
    /// Print a new secret of 256 bit, or write it where the agent looks for it.
    Generate {
        /// Write it into the secret file (mode 0600), which must not exist.
        #[arg(long)]
        write: bool,
        /// The file; the configured one when left out.
        #[arg(long, value_name = "FILE", requires = "write")]
        secret_file: Option<PathBuf>,
    },
    /// Print the secret.
    Show {
        /// The file; the configured one when left out.
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
    },
    /// Print what tells two secrets apart without revealing them.
    Fingerprint {
        /// The file; the configured one when left out.
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
    },
    /// Print the value of the header X-Hive-Auth for one HTTP request, which is good once and for two minutes.
    #[command(
        after_help = "Example:\n  curl -H \"X-Hive-Auth: $(hive secret sign GET /hive/peers)\" http://10.0.0.5:8100/hive/peers"
    )]
    Sign {
        /// GET or POST.
        #[arg(value_name = "METHOD", value_parser = ["GET", "POST"])]
        method: String,
        /// The path, with its query if there is one.
        #[arg(value_name = "PATH")]
        path: String,
        /// The file whose bytes are the request's body.
        #[arg(long, value_name = "FILE")]
        body: Option<PathBuf>,
        /// The file of the secret; the configured one when left out.
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
    },
}

/// `hive net …`
#[derive(Debug, Subcommand)]
pub(crate) enum NetVerb {
    /// Show the interface of the default route, its network and its gateway.
    Show(NetArgs),
    /// Find the next free address of the network by asking for each.
    NextIp(NetArgs),
    /// Find it and add it to the interface as a secondary address: as root, or through the agent and its helper.
    Claim(NetArgs),
}

/// What all of `hive net` take.
#[derive(Clone, Debug, Args)]
pub(crate) struct NetArgs {
    /// The interface; the one with the default route when left out.
    #[arg(long, value_name = "IF")]
    pub(crate) interface: Option<String>,
    /// First address to consider; the one after this machine's own when left out.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) from: Option<std::net::Ipv4Addr>,
}

/// `hive config …`
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Show every setting with its value.
    Show {
        /// Also where each value came from.
        #[arg(long)]
        origin: bool,
        #[command(flatten)]
        agent: Box<AgentArgs>,
    },
    /// Check settings, roles, policies, facts, build user and secret as the agent does before it starts.
    Check {
        #[command(flatten)]
        agent: Box<AgentArgs>,
    },
    /// Print all settings with flag, variable, default and meaning, as Markdown.
    Reference,
    /// Print a configuration file with every setting at its default.
    Example,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_stand_before_and_after_the_noun() {
        for line in [["hive", "--json", "status"], ["hive", "status", "--json"]] {
            assert!(Cli::try_parse_from(line).expect("understood").common.json);
        }
        let cli = Cli::try_parse_from(["hive", "job", "show", "x", "--socket", "/s"]).expect("understood");
        assert_eq!(cli.common.socket.as_deref(), Some("/s"));
        let cli = Cli::try_parse_from(["hive", "agent", "--socket", "/s", "--port", "7"]).expect("understood");
        let Command::Agent(agent) = cli.command else { panic!("agent") };
        assert_eq!(
            (agent.flags["socket"].as_slice(), agent.flags["port"].as_slice()),
            (&["/s".to_owned()][..], &["7".to_owned()][..])
        );
    }

    #[test]
    fn queue_add_takes_the_shapes_that_scripts_rely_on() {
        let line = [
            "hive",
            "queue",
            "add",
            "--backend",
            "command",
            "--dir",
            ".",
            "--artifact",
            "a/*",
            "--artifact",
            "b",
            "--priority",
            "-5",
            "--label",
            "gpu",
            "--pure",
            "--",
            "make",
            "-j",
            "--all",
        ];
        let Command::Queue { verb: QueueVerb::Add(add) } = Cli::try_parse_from(line).expect("understood").command
        else {
            panic!("queue add")
        };
        assert_eq!(
            (add.argv.as_slice(), add.priority),
            (&["make".to_owned(), "-j".to_owned(), "--all".to_owned()][..], -5)
        );
        assert_eq!(add.artifact, ["a/*", "b"]);
        let line = ["hive", "queue", "add", "--backend", "debian", "hello", "./x", "--wait", "--json"];
        let Command::Queue { verb: QueueVerb::Add(add) } = Cli::try_parse_from(line).expect("understood").command
        else {
            panic!("queue add")
        };
        assert!(add.wait && add.sources == ["hello", "./x"]);
        for bad in [
            vec!["hive", "queue", "add", "--backend", "command", "--dir", ".", "--repo", "x"],
            vec!["hive", "queue", "add", "--backend", "command", "--branch", "main"],
            vec!["hive", "queue", "add", "--backend", "ebuild", "x"],
            vec!["hive", "queue", "add", "--backend", "debian", "--priority", "101", "x"],
        ] {
            assert!(Cli::try_parse_from(&bad).is_err(), "{bad:?}");
        }
    }
}
