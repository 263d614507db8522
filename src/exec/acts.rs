//! What only root can do, as a closed list: install named packages, claim an address. Root's own process does it directly,
//! the helper does it for an agent that is not root; both come through here and are checked here.
//!
//! The command lines are fixed but for the checked operands behind `--`. Never done here: removing packages, changing
//! routes, anything with a shell.

use std::io;
use std::net::IpAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Stdio;

use bytes::Bytes;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::sync::{Mutex, mpsc};

use super::launch::{CHUNK_BYTES, Exit};
use super::packages::{self, LocalRunner, Mode, PackagesState};
use super::{ExecError, Options, SAFE_PATH};
use crate::engine::grammar;
use crate::engine::role::Family;

/// Output that waits for a slow reader, bytes; fits into one frame. What is beyond is counted and dropped, because a package
/// manager is not held up by whoever watches it.
const OUTPUT_WAITING_BYTES: usize = 32 << 10;

/// Package managers hold a lock of their own; waiting for it here keeps the second from failing.
static INSTALLING: Mutex<()> = Mutex::const_new(());

/// Waits until no installation is under way. For a helper that ends and takes no more requests.
pub(super) async fn finish_installing() {
    if INSTALLING.try_lock().is_err() {
        tracing::info!("an installation is under way and is waited for");
        drop(INSTALLING.lock().await);
    }
}

/// Lines on their way to whoever watches.
struct Watched {
    output: mpsc::Sender<Bytes>,
    waiting: Vec<u8>,
    dropped: usize,
}

impl Watched {
    fn line(&mut self, line: &str) {
        if self.waiting.len() + line.len() < OUTPUT_WAITING_BYTES {
            self.waiting.extend_from_slice(line.as_bytes());
            self.waiting.push(b'\n');
        } else {
            self.dropped += 1;
        }
        if let Ok(permit) = self.output.try_reserve() {
            permit.send(Bytes::from(std::mem::take(&mut self.waiting)));
        }
    }

    async fn finish(self) {
        if self.dropped > 0 {
            tracing::warn!(lines = self.dropped, "output of the package manager was not read in time");
        }
        self.output.send(Bytes::from(self.waiting)).await.ok();
    }
}

/// Installs what is missing of these packages; output goes to `output` as it comes, and is dropped when nobody reads it. An
/// installation that has begun is brought to its end even when the caller goes away: a package manager that was killed leaves a
/// broken machine.
pub(super) async fn install(
    family: Family,
    names: Vec<String>,
    output: mpsc::Sender<Bytes>,
) -> Result<PackagesState, ExecError> {
    packages::check_names(family, &names).map_err(ExecError::Refused)?;
    let work = async move {
        let _guard = INSTALLING.lock().await;
        let mut watched = Watched { output, waiting: Vec::new(), dropped: 0 };
        let mut log = |line: &str| watched.line(line);
        let state = packages::apply(Mode::On, Some(family), &names, &LocalRunner, &mut log).await;
        watched.finish().await;
        state
    };
    let done = crate::tasks::spawn("install", work).await;
    done.map_err(io::Error::other).map_err(ExecError::io("install packages"))
}

async fn stream(argv: &[String], output: &mpsc::Sender<Bytes>) -> io::Result<Exit> {
    let (program, arguments) = argv.split_first().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let (reader, writer) = io::pipe()?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs([("PATH", SAFE_PATH), ("LANG", "C.UTF-8"), ("HOME", "/root")])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0);
    let mut child = command.spawn().map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
    drop(command);
    let mut pipe = pipe::Receiver::from_owned_fd(reader.into())?;
    let mut buffer = vec![0u8; CHUNK_BYTES];
    let status = loop {
        tokio::select! {
            biased;
            read = pipe.read(&mut buffer) => match read {
                Ok(length) if length > 0 => {
                    output.send(Bytes::copy_from_slice(&buffer[..length])).await.ok();
                }
                Ok(_) | Err(_) => break child.wait().await?,
            },
            // A service that the package started may hold the pipe open for ever.
            status = child.wait() => break status?,
        }
    };
    Ok(Exit { code: status.code(), signal: status.signal(), ..Exit::default() })
}

/// Gives a network interface of this host one more address.
pub(super) async fn claim_address(options: &Options, interface: &str, cidr: &str) -> Result<(), ExecError> {
    check_address(options, interface, cidr)?;
    let argv = ["ip", "address", "add", cidr, "dev", interface].map(str::to_owned);
    let (sender, mut receiver) = mpsc::channel::<Bytes>(16);
    let mut text = Vec::new();
    let collect = async {
        while let Some(chunk) = receiver.recv().await {
            text.extend_from_slice(&chunk);
        }
    };
    let run = async {
        let exit = stream(&argv, &sender).await;
        drop(sender);
        exit
    };
    let (exit, ()) = tokio::join!(run, collect);
    match exit.map_err(ExecError::io("run ip"))?.code {
        Some(0) => Ok(()),
        _ => Err(ExecError::Refused(String::from_utf8_lossy(&text).trim().chars().take(300).collect())),
    }
}

pub(super) fn check_address(options: &Options, interface: &str, cidr: &str) -> Result<(), ExecError> {
    let refused = |problem: String| Err(ExecError::Refused(problem));
    grammar::interface(interface).map_err(|error| ExecError::Refused(error.to_string()))?;
    if interface == "lo" || !Path::new("/sys/class/net").join(interface).exists() {
        return refused(format!("{interface} is not a network interface of this host"));
    }
    if !options.interfaces.is_empty() && !options.interfaces.iter().any(|known| known == interface) {
        return refused(format!("addresses are claimed on {} only", options.interfaces.join(", ")));
    }
    let parsed = cidr.split_once('/').and_then(|(address, prefix)| {
        let all_digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        Some((address.parse::<IpAddr>().ok()?, prefix.parse::<u8>().ok().filter(|_| all_digits)?))
    });
    let Some((address, prefix)) = parsed else {
        return refused(format!("{cidr:?} is not an address with a prefix length, like 10.0.0.7/24"));
    };
    let longest = if address.is_ipv4() { 32 } else { 128 };
    if !(8..=longest).contains(&prefix) {
        return refused(format!("prefix length {prefix} is out of range"));
    }
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    if address.is_loopback() || address.is_multicast() || address.is_unspecified() || broadcast {
        return refused(format!("{address} is not the address of a host"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_named_packages_are_installed() {
        let (output, mut lines) = mpsc::channel(4);
        for bad in ["--purge", "make=1", "make/", "./evil.deb", "/tmp/evil.deb", "make-", "a b", "make;id", "task^"] {
            let names = vec!["make".to_owned(), bad.to_owned()];
            let result = install(Family::Debian, names, output.clone()).await;
            assert!(matches!(result, Err(ExecError::Refused(_))), "{bad}");
        }
        assert!(install(Family::Gentoo, vec!["@world".to_owned()], output).await.is_err());
        assert!(lines.recv().await.is_none(), "nothing was run");
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_holds_nothing_up() {
        let (output, mut lines) = mpsc::channel(1);
        let mut watched = Watched { output, waiting: Vec::new(), dropped: 0 };
        (0..10_000).for_each(|number| watched.line(&format!("line {number}")));
        assert!(watched.waiting.len() <= OUTPUT_WAITING_BYTES && watched.dropped > 0);
        let reader = async {
            let mut text = Vec::new();
            while let Some(chunk) = lines.recv().await {
                text.extend_from_slice(&chunk);
            }
            String::from_utf8(text).expect("UTF-8")
        };
        let (text, ()) = tokio::join!(reader, watched.finish());
        assert!(text.starts_with("line 0\nline 1\n") && text.ends_with('\n'));
    }

    #[test]
    fn only_addresses_of_hosts_are_claimed_on_known_interfaces() {
        let options = Options::default();
        for (interface, cidr) in
            [("lo", "10.0.0.1/24"), ("none0", "10.0.0.1/24"), ("../lo", "10.0.0.1/24"), ("-x", "10.0.0.1/24")]
        {
            assert!(check_address(&options, interface, cidr).is_err(), "{interface}");
        }
        let Some(real) = std::fs::read_dir("/sys/class/net")
            .expect("sysfs")
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .find(|name| name != "lo" && grammar::interface(name).is_ok())
        else {
            panic!("this test needs a network interface besides lo; run it where there is one");
        };
        assert!(check_address(&options, &real, "10.99.0.1/24").is_ok());
        for cidr in [
            "",
            "10.0.0.1",
            "10.0.0.1/0",
            "10.0.0.1/33",
            "127.0.0.1/8",
            "224.0.0.1/24",
            "0.0.0.0/8",
            "255.255.255.255/32",
            "10.0.0.1/+8",
            "x/24",
        ] {
            assert!(check_address(&options, &real, cidr).is_err(), "{cidr}");
        }
        let restricted = Options { interfaces: vec!["other0".to_owned()], ..options };
        assert!(check_address(&restricted, &real, "10.99.0.1/24").is_err());
    }
}
