//! `make bench`: the figures that hive promises, measured on real agents.
//!
//! Every figure has a lab of its own (`tests/lab/harness.rs`): hosts are network namespaces on one bridge, with the program's
//! defaults, real sockets and real SQLite with full sync. A figure is printed with the number of its samples and their spread, and
//! says MISSED where its goal was not reached; that is no error, since it says as much about the machine. `--short` is for `make
//! test`: few samples, and an error only where their median misses the goal by a factor of [`SLACK`].

#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout
)]

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[path = "../tests/lab/harness.rs"]
mod harness;

#[path = "figures/client.rs"]
mod client;
#[path = "figures/drones.rs"]
mod drones;
#[path = "figures/farm.rs"]
mod farm;
#[path = "figures/faults.rs"]
mod faults;
#[path = "figures/forming.rs"]
mod forming;
#[path = "../tests/sample/gpkg.rs"]
mod gpkg;
#[path = "figures/hive_of.rs"]
mod hive_of;
#[path = "figures/idle.rs"]
mod idle;
#[path = "figures/legacy.rs"]
mod legacy;
#[path = "figures/log.rs"]
mod log;
#[path = "figures/row.rs"]
mod row;
#[path = "figures/watching.rs"]
mod watching;
#[path = "figures/wire.rs"]
mod wire;

use harness::Lab;
use row::Row;

/// Where the rows are collected; also tells the inner process how much to do.
const ROWS: &str = "FIGURES_ROWS";
/// Set for few samples.
const SHORT: &str = "FIGURES_SHORT";
/// The lab's own tmpfs.
const ON_TMPFS: &str = "/run/hosts";
/// By which factor a goal may be missed before `--short` calls it an error: the machine is not known, and it is busy with other tests.
const SLACK: f64 = 10.0;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub short: bool,
}

impl Effort {
    /// One of two numbers.
    pub fn pick<T>(self, full: T, short: T) -> T {
        if self.short { short } else { full }
    }
}

/// A figure, or several that one lab yields.
struct Figure {
    name: &'static str,
    measure: fn(&mut Lab, Effort) -> Vec<Row>,
    /// Longest time of its lab in seconds, full and short. Reaching it is a failure; figures end their rounds before.
    deadline_s: (u64, u64),
    /// Whether `--short` measures it.
    in_short: bool,
    /// The hosts' files are on the disk of the temporary directory, with all that its sync costs. Where twenty machines would share it,
    /// which in life have one each, they are on a tmpfs instead, as in the lab tests.
    on_disk: bool,
}

const FIGURES: [Figure; 14] = [
    Figure { name: "start", measure: forming::start_to_identity, deadline_s: (480, 90), in_short: true, on_disk: true },
    Figure {
        name: "twenty",
        measure: forming::twenty_at_once,
        deadline_s: (240, 120),
        in_short: false,
        on_disk: false,
    },
    Figure { name: "crash", measure: faults::crash_seen, deadline_s: (420, 90), in_short: true, on_disk: false },
    Figure {
        name: "coordinator",
        measure: faults::coordinator_killed,
        deadline_s: (420, 90),
        in_short: true,
        on_disk: true,
    },
    Figure { name: "observer", measure: log::observer_lag, deadline_s: (180, 90), in_short: false, on_disk: true },
    Figure { name: "bytes", measure: log::coordinator_bytes, deadline_s: (300, 90), in_short: false, on_disk: false },
    Figure { name: "transitions", measure: log::transitions, deadline_s: (180, 90), in_short: true, on_disk: true },
    Figure {
        name: "watching",
        measure: watching::line_to_watcher,
        deadline_s: (180, 90),
        in_short: true,
        on_disk: true,
    },
    Figure { name: "native", measure: farm::native, deadline_s: (300, 120), in_short: true, on_disk: true },
    Figure { name: "wire", measure: wire::overhead, deadline_s: (900, 180), in_short: false, on_disk: true },
    Figure { name: "http", measure: legacy::over_http, deadline_s: (600, 240), in_short: true, on_disk: true },
    Figure { name: "import", measure: farm::import_many, deadline_s: (480, 120), in_short: true, on_disk: true },
    Figure { name: "status", measure: farm::status_under_load, deadline_s: (300, 120), in_short: true, on_disk: true },
    Figure { name: "idle", measure: idle::idle, deadline_s: (180, 90), in_short: true, on_disk: false },
];

/// What the command line asks for.
struct Asked {
    short: bool,
    only: Vec<String>,
}

fn asked() -> Result<Option<Asked>, String> {
    let mut asked = Asked { short: false, only: Vec::new() };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--short" => asked.short = true,
            "--only" => asked.only.push(arguments.next().ok_or("--only takes the name of a figure")?),
            "--list" => return Ok(None),
            // Given by cargo to every benchmark.
            "--bench" => {}
            other => return Err(format!("{other}: expected --short, --only NAME or --list")),
        }
    }
    match asked.only.iter().find(|name| !FIGURES.iter().any(|figure| figure.name == *name)) {
        Some(unknown) => Err(format!("no figure {unknown}; there are: {}", names())),
        None => Ok(Some(asked)),
    }
}

fn names() -> String {
    FIGURES.map(|figure| figure.name).join(", ")
}

fn main() -> ExitCode {
    if let Some(rows) = std::env::var_os(ROWS) {
        inside(&PathBuf::from(rows));
        return ExitCode::SUCCESS;
    }
    match asked() {
        Ok(Some(asked)) => outside(&asked),
        Ok(None) => {
            println!("{}", names().replace(", ", "\n"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// In the lab: measures the figure that the harness names as libtest would (`--exact NAME`).
fn inside(rows: &std::path::Path) {
    let name =
        std::env::args().skip_while(|argument| argument != "--exact").nth(1).expect("the harness names a figure");
    let figure = FIGURES.iter().find(|figure| figure.name == name).expect("a figure of this table");
    let effort = Effort { short: std::env::var_os(SHORT).is_some() };
    harness::in_lab(figure.name, |lab| {
        let measured = (figure.measure)(lab, effort);
        fs::write(rows, serde_json::to_vec(&measured).expect("rows are JSON")).expect("writes the rows");
    });
}

fn outside(asked: &Asked) -> ExitCode {
    println!("{}", row::machine());
    let scratch = tempfile::tempdir().expect("scratch directory");
    let effort = Effort { short: asked.short };
    let started = Instant::now();
    let (mut broken, mut all) = (Vec::new(), Vec::new());
    for figure in &FIGURES {
        let wanted = if asked.only.is_empty() {
            !asked.short || figure.in_short
        } else {
            asked.only.iter().any(|name| name == figure.name)
        };
        if !wanted {
            continue;
        }
        let rows = scratch.path().join(figure.name);
        match run(figure, effort, &rows) {
            Some(measured) => {
                for row in &measured {
                    println!("{row}");
                }
                all.extend(measured);
            }
            None => broken.push(figure.name.to_owned()),
        }
    }
    println!(
        "\nmeasured in {} s; load average before and after: see above and {}",
        started.elapsed().as_secs(),
        row::load()
    );
    println!("\n{}", row::table(&all));
    if asked.short {
        let regressed = all.iter().filter(|row| row.regressed(SLACK));
        broken.extend(regressed.map(|row| format!("{} missed its goal by more than {SLACK} times", row.name)));
    }
    if broken.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!("not measured, or regressed: {}", broken.join(", "));
    ExitCode::FAILURE
}

/// Runs one figure in its lab; none when that failed, which the harness has explained.
fn run(figure: &Figure, effort: Effort, rows: &std::path::Path) -> Option<Vec<Row>> {
    println!("\n{} …", figure.name);
    // The lab's process inherits these; it is started by this thread, and no other one reads the environment.
    let mut environment = vec![(ROWS, rows.as_os_str().to_owned())];
    if effort.short {
        environment.push((SHORT, "1".into()));
    }
    let deadline = Duration::from_secs(effort.pick(figure.deadline_s.0, figure.deadline_s.1));
    let name = figure.name;
    let disk = tempfile::tempdir().expect("scratch directory");
    let hosts_on = if figure.on_disk { disk.path() } else { std::path::Path::new(ON_TMPFS) };
    let lab = std::panic::catch_unwind(|| harness::in_lab_with(hosts_on, deadline, &environment, name, |_| ()));
    if lab.is_err() {
        return None;
    }
    serde_json::from_slice(&fs::read(rows).ok()?).ok()
}
