//! Logs of this machine: the agent's from its memory, the system's from the journal or from files.
//!
//! Never done here: remembering them.

use std::collections::VecDeque;
use std::io::{self, SeekFrom};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::mpsc;

use super::{
    ALIVE_EVERY, Console, Ended, Input, LINES_MAX, Line, LogSource, LogsAsked, PIECE, Reply, Stop, busy, failed, gone,
};
use crate::api::{ApiError, ErrorCode};
use crate::exec::SAFE_PATH;

/// Bytes from the end of a file in which its last lines are looked for.
const TAIL_MAX: u64 = 4 << 20;
/// Bytes of one answer that does not follow.
const ANSWER_MAX: usize = 16 << 20;
/// A file that is followed is looked at so often.
const LOOK_EVERY: Duration = Duration::from_millis(500);

impl Console {
    pub(super) async fn logs(
        &self,
        asked: LogsAsked,
        mut inputs: mpsc::Receiver<Input>,
        line: &mut Line,
    ) -> Result<Ended, Stop> {
        let _place = self.inner.readers.try_acquire().map_err(|_| busy("readers"))?;
        let asked = LogsAsked { lines: asked.lines.clamp(1, LINES_MAX), ..asked };
        let reading = async {
            match asked.source {
                LogSource::Agent => self.agent_log(&asked, line).await,
                LogSource::System | LogSource::Kernel | LogSource::Emerge => self.system_log(&asked, line).await,
            }
        };
        tokio::select! {
            result = reading => result,
            () = gone(&mut inputs) => Err(Stop::Gone(io::ErrorKind::BrokenPipe.into())),
        }
    }

    async fn agent_log(&self, asked: &LogsAsked, line: &mut Line) -> Result<Ended, Stop> {
        let log = &self.inner.agent_log;
        let mut news = log.watch();
        line.send(&Reply::Begun).await?;
        let (mut lines, mut last) = log.tail(asked.lines as usize, asked.since_unix_s);
        loop {
            if !lines.is_empty() {
                let mut text = lines.join("\n");
                text.push('\n');
                line.output(false, text.as_bytes()).await?;
            }
            if !asked.follow {
                return Ok(Ended::default());
            }
            tokio::select! {
                changed = news.changed() => changed.map_err(|_| failed("the log ended", &"the agent stops"))?,
                () = tokio::time::sleep(ALIVE_EVERY) => line.send(&Reply::Alive).await?,
            }
            (lines, last) = log.after(last);
        }
    }

    async fn system_log(&self, asked: &LogsAsked, line: &mut Line) -> Result<Ended, Stop> {
        let root = &self.inner.options.root;
        if let Some(argv) = command(root, asked) {
            return by_command(&argv, asked, line).await;
        }
        let names: &[&str] = match asked.source {
            LogSource::Emerge => &["var/log/emerge.log"],
            LogSource::Kernel => &["var/log/kern.log"],
            LogSource::Agent | LogSource::System => &["var/log/messages", "var/log/syslog"],
        };
        let Some(path) = names.iter().map(|name| root.join(name)).find(|path| path.exists()) else {
            let message = format!("this machine has no journal and no /{}", names.join(" or /"));
            return Err(Stop::Refused(ApiError::new(ErrorCode::NotFound, message, "ask for another source")));
        };
        by_file(&path, asked, line).await
    }
}

/// The command that prints the log, where there is one.
fn command(root: &Path, asked: &LogsAsked) -> Option<Vec<String>> {
    let program = |name: &str| {
        let found = SAFE_PATH.split(':').map(|directory| root.join(directory.trim_start_matches('/')).join(name));
        found.into_iter().find(|path| path.is_file())
    };
    let has_journal = ["run/log/journal", "var/log/journal"].iter().any(|directory| root.join(directory).is_dir());
    let journal = program("journalctl").filter(|_| has_journal && asked.source != LogSource::Emerge);
    if let Some(journal) = journal {
        let mut argv = vec![journal.to_string_lossy().into_owned()];
        argv.extend(["--no-pager", "--quiet", "--output=short-iso"].map(str::to_owned));
        argv.push(format!("--lines={}", asked.lines));
        if asked.source == LogSource::Kernel {
            argv.push("--dmesg".to_owned());
        }
        if let Some(since) = asked.since_unix_s {
            argv.push(format!("--since=@{since}"));
        }
        if asked.follow {
            argv.push("--follow".to_owned());
        }
        return Some(argv);
    }
    let dmesg = program("dmesg").filter(|_| asked.source == LogSource::Kernel)?;
    let follow = asked.follow.then(|| "--follow".to_owned());
    Some(std::iter::once(dmesg.to_string_lossy().into_owned()).chain(follow).collect())
}

async fn by_command(argv: &[String], asked: &LogsAsked, line: &mut Line) -> Result<Ended, Stop> {
    let Some((program, arguments)) = argv.split_first() else { return Ok(Ended::default()) };
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", SAFE_PATH)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(program, &error))?;
    line.send(&Reply::Begun).await?;
    if let Some(output) = child.stdout.take() {
        if asked.follow {
            pass_on(output, line).await?;
        } else {
            let text = last_lines(output, asked.lines as usize).await?;
            line.output(false, &text).await?;
        }
    }
    if let Some(complaints) = child.stderr.take() {
        let text = last_lines(complaints, 20).await?;
        line.output(true, &text).await?;
    }
    let status = child.wait().await?;
    Ok(Ended { exit_code: status.code(), ..Ended::default() })
}

/// Passes on what comes, with signs of life while nothing does.
async fn pass_on(mut from: impl AsyncRead + Unpin, line: &mut Line) -> Result<(), Stop> {
    let mut piece = vec![0; PIECE];
    loop {
        tokio::select! {
            read = from.read(&mut piece) => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                line.output(false, &piece[..read]).await?;
            }
            () = tokio::time::sleep(ALIVE_EVERY) => line.send(&Reply::Alive).await?,
        }
    }
}

/// The last lines of what ends by itself, in bounded memory.
async fn last_lines(mut from: impl AsyncRead + Unpin, lines: usize) -> io::Result<Vec<u8>> {
    let (mut kept, mut bytes): (VecDeque<Vec<u8>>, usize) = (VecDeque::from([Vec::new()]), 0);
    let mut piece = vec![0; PIECE];
    loop {
        let read = from.read(&mut piece).await?;
        if read == 0 {
            break;
        }
        for part in piece[..read].split_inclusive(|byte| *byte == b'\n') {
            if let Some(last) = kept.back_mut() {
                last.extend_from_slice(part);
            }
            bytes += part.len();
            if part.ends_with(b"\n") {
                kept.push_back(Vec::new());
            }
        }
        // One more than wanted: the last one may be empty yet.
        while kept.len() > lines + 1 || (bytes > ANSWER_MAX && kept.len() > 1) {
            bytes -= kept.pop_front().map_or(0, |gone| gone.len());
        }
    }
    Ok(kept.into_iter().flatten().collect())
}

async fn by_file(path: &Path, asked: &LogsAsked, line: &mut Line) -> Result<Ended, Stop> {
    let mut file = open(path).await?;
    let length = file.metadata().await?.len();
    line.send(&Reply::Begun).await?;
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_MAX))).await?;
    let text = last_lines((&mut file).take(TAIL_MAX), asked.lines as usize).await?;
    line.output(false, &text).await?;
    let mut silent = Duration::ZERO;
    let mut piece = vec![0; PIECE];
    if !asked.follow {
        return Ok(Ended::default());
    }
    loop {
        let read = file.read(&mut piece).await?;
        if read > 0 {
            line.output(false, &piece[..read]).await?;
            silent = Duration::ZERO;
            continue;
        }
        tokio::time::sleep(LOOK_EVERY).await;
        silent += LOOK_EVERY;
        if silent >= ALIVE_EVERY {
            line.send(&Reply::Alive).await?;
            silent = Duration::ZERO;
        }
        if is_rotated(path, &mut file).await {
            file = open(path).await?;
        }
    }
}

async fn open(path: &Path) -> Result<File, Stop> {
    File::open(path).await.map_err(|error| {
        if error.kind() == io::ErrorKind::PermissionDenied {
            let message = format!("the agent's user may not read {}", path.display());
            let hint = "there: make it a member of the group that may (adm, systemd-journal), and restart hive";
            return Stop::Refused(ApiError::new(ErrorCode::Forbidden, message, hint));
        }
        failed(&path.display().to_string(), &error)
    })
}

/// Another file has the name now, or it was cut.
async fn is_rotated(path: &Path, file: &mut File) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let (Ok(there), Ok(here)) = (tokio::fs::metadata(path).await, file.metadata().await) else { return false };
    let position = file.stream_position().await.unwrap_or(0);
    there.ino() != here.ino() || there.len() < position
}
