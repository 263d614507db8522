//! One agent of the demonstration: a child process with a directory, ports and a socket of its own.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::cli::client::{Client, Target};
use crate::cli::output::Failure;
use crate::cli::text::clean_lines;
use crate::config::table::KEY_VARIABLES;

/// Time for an agent to end when asked; it hands leadership over first.
pub(super) const END_MS: u64 = 4_000;
/// How much of a log is shown when something went wrong, bytes.
const LOG_END_LEN: u64 = 3_000;
/// How often a free port is looked for: each try asks the kernel for a random one.
const PORT_TRIES: usize = 100;

/// An agent.
pub(super) struct Node {
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) http: u16,
    pub(super) socket: PathBuf,
    directory: PathBuf,
    root: PathBuf,
    child: Option<Child>,
    /// It was killed on purpose.
    dead: bool,
}

fn failed(what: &str, error: &std::io::Error) -> Failure {
    Failure::internal(format!("cannot {what}: {error}"), "")
}

/// A port that is free for UDP and TCP at this moment.
fn free_port() -> Result<u16, Failure> {
    let mut last = std::io::Error::other("no port was tried");
    for _ in 0..PORT_TRIES {
        let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|tcp| {
            let port = tcp.local_addr()?.port();
            UdpSocket::bind((Ipv4Addr::LOCALHOST, port))?;
            Ok(port)
        });
        match bound {
            Ok(port) => return Ok(port),
            Err(error) => last = error,
        }
    }
    Err(failed("find a free port", &last))
}

impl Node {
    /// Makes the directory and chooses ports.
    pub(super) fn prepare(root: &Path, name: &str) -> Result<Self, Failure> {
        let directory = root.join(name);
        fs::create_dir_all(&directory).map_err(|error| failed("make a directory", &error))?;
        // An own file, so that the configuration of a hive that this machine belongs to plays no part.
        fs::write(directory.join("hive.toml"), "# the demonstration sets everything by flags\n")
            .map_err(|error| failed("write a configuration", &error))?;
        Ok(Self {
            name: name.to_owned(),
            port: free_port()?,
            http: free_port()?,
            socket: directory.join("sock"),
            directory,
            root: root.to_owned(),
            child: None,
            dead: false,
        })
    }

    /// Starts it; it greets these ports of this machine.
    pub(super) fn start(&mut self, join: &[u16]) -> Result<(), Failure> {
        let program = std::env::current_exe().map_err(|error| failed("find this program", &error))?;
        let log = File::create(self.log_path()).map_err(|error| failed("make a log", &error))?;
        let log_too = log.try_clone().map_err(|error| failed("make a log", &error))?;
        let mut command = Command::new(program);
        command.arg("agent").args(["--config".as_ref(), self.directory.join("hive.toml").as_os_str()]);
        command.args(["--state-dir".as_ref(), self.directory.join("state").as_os_str()]);
        command.args(["--secret-file".as_ref(), self.root.join("shared_secret").as_os_str()]);
        command.args(["--socket".as_ref(), self.socket.as_os_str()]);
        command.args(["--name", &self.name, "--label", &self.name, "--helper", "none", "--interface", "lo"]);
        command.args([
            "--admin",
            "none",
            "--listen-address",
            "127.0.0.1",
            "--http",
            &format!("127.0.0.1:{}", self.http),
        ]);
        command.args(["--port", &self.port.to_string(), "--discovery-mdns", "off", "--discovery-legacy-v1", "off"]);
        for port in join.iter().filter(|port| **port != self.port) {
            command.args(["--join", &format!("127.0.0.1:{port}")]);
        }
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            if name_text.starts_with("HIVE_") || KEY_VARIABLES.contains(&&*name_text) {
                command.env_remove(name);
            }
        }
        // A group of its own: Ctrl-C ends the demonstration, which ends its agents in order.
        command.stdin(Stdio::null()).stdout(log_too).stderr(log).process_group(0);
        self.child = Some(command.spawn().map_err(|error| failed("start an agent", &error))?);
        Ok(())
    }

    /// The commands' way to it.
    pub(super) fn client(&self) -> Client {
        Client::new(Target::Socket(self.socket.clone()))
    }

    /// Fails when it has ended by itself.
    pub(super) fn check_alive(&mut self) -> Result<(), Failure> {
        let Some(child) = self.child.as_mut().filter(|_| !self.dead) else { return Ok(()) };
        match child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                let message = format!("the agent {} has ended ({status})", self.name);
                Err(Failure::internal(message, "the end of its log above says why"))
            }
            Err(error) => Err(failed("look after an agent", &error)),
        }
    }

    /// Whether it runs.
    pub(super) fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// SIGTERM.
    pub(super) fn ask_to_end(&mut self) {
        if self.is_running()
            && let Some(pid) =
                self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok()).and_then(Pid::from_raw)
        {
            // Failing means that it has ended in this moment, which is what was wanted.
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// SIGKILL, and waits for it.
    pub(super) fn kill(&mut self) -> Result<(), Failure> {
        self.dead = true;
        let Some(child) = self.child.as_mut() else { return Ok(()) };
        child.kill().and_then(|()| child.wait()).map_err(|error| failed("end an agent", &error))?;
        Ok(())
    }

    fn log_path(&self) -> PathBuf {
        self.root.join(format!("{}.log", self.name))
    }

    /// The end of its log.
    pub(super) fn log_end(&self) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(self.log_path())?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LOG_END_LEN)))?;
            let mut end = Vec::new();
            file.take(LOG_END_LEN).read_to_end(&mut end)?;
            Ok(clean_lines(&String::from_utf8_lossy(&end)))
        };
        let end = read().unwrap_or_else(|error| format!("cannot be read: {error}"));
        format!("--- end of {} ---\n{}", self.log_path().display(), end.trim_end())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Interrupted: the children must not outlive the demonstration. Nothing can be done about an error.
        let _ = self.kill();
    }
}
