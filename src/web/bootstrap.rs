//! A node hands out its own program, so that a fresh machine needs the secret and one address and nothing else.
//!
//! `/bootstrap/hive-<arch>` is the running binary, `.sha256` its digest, `.hmac` an HMAC by the secret over name and digest.
//! `/bootstrap.sh` carries unit files and installer and is vouched for in the same way. Whoever has the secret can check both before
//! running anything, with `sha256sum` and a shell alone. Never done here: handing out anything secret.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::LazyLock;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest as _, Sha256};
use tokio::sync::OnceCell;
use tokio_util::io::ReaderStream;

use super::Context;
use super::answer::{Handled, Problem};
use crate::api::{ApiError, ErrorCode};
use crate::engine::id::Sha256Hash;
use crate::keyring::{Key, Purpose, sha256};

/// Chunks in which the program is read.
const CHUNK_BYTES: usize = 64 << 10;
/// Name of the script, as the HMAC covers it.
const SCRIPT_NAME: &str = "bootstrap.sh";
/// Where the files go into the script.
const FILES_MARK: &str = "#@FILES@\n";
/// Ends each file in the script; a line that none of them has.
const FILE_END: &str = "@END-OF-FILE@";

/// What the installer needs beside the program.
const FILES: [(&str, &str); 5] = [
    ("install.sh", include_str!("../../install.sh")),
    ("systemd/hive.service", include_str!("../../systemd/hive.service")),
    ("systemd/hive-helper.service", include_str!("../../systemd/hive-helper.service")),
    ("openrc/hive", include_str!("../../openrc/hive")),
    ("openrc/hive-helper", include_str!("../../openrc/hive-helper")),
];

static SCRIPT: LazyLock<String> = LazyLock::new(|| {
    let mut files = String::new();
    for (path, content) in FILES {
        files.push_str(&format!("cat > \"$dir/{path}\" <<'{FILE_END}'\n{content}{FILE_END}\n"));
    }
    include_str!("bootstrap.sh").replace(FILES_MARK, &files)
});

/// The program that is handed out.
#[derive(Debug)]
pub(super) struct Bootstrap {
    executable: PathBuf,
    digest: OnceCell<(Sha256Hash, u64)>,
}

impl Bootstrap {
    pub(super) fn new(executable: PathBuf) -> Self {
        Self { executable, digest: OnceCell::new() }
    }

    /// Digest and length; read once, since a running program's file cannot be written to.
    async fn digest(&self) -> io::Result<(Sha256Hash, u64)> {
        let compute = || async {
            let path = self.executable.clone();
            tokio::task::spawn_blocking(move || digest_of(&path)).await.map_err(io::Error::other)?
        };
        self.digest.get_or_try_init(compute).await.copied()
    }
}

fn digest_of(path: &PathBuf) -> io::Result<(Sha256Hash, u64)> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0u8; CHUNK_BYTES];
    let mut length = 0u64;
    loop {
        let count = file.read(&mut chunk)?;
        if count == 0 {
            return Ok((Sha256Hash(hasher.finalize().into()), length));
        }
        hasher.update(&chunk[..count]);
        length += count as u64;
    }
}

/// The script that `/bootstrap.sh` answers with.
pub fn script_text() -> &'static str {
    SCRIPT.as_str()
}

/// HMAC by which a machine with the secret recognises a file: over a label, the file's name and its digest.
pub fn vouch(key: &Key, name: &str, digest: &Sha256Hash) -> [u8; 32] {
    key.mac(Purpose::Export, &[format!("hive bootstrap v1\n{name}\n{digest}\n").as_bytes()])
}

fn text(line: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], line).into_response()
}

fn vouched(context: &Context, name: &str, digest: &Sha256Hash) -> Handled {
    let Some(keyring) = context.node.keyring() else {
        let message = "this node has no secret yet and cannot vouch for anything";
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::Degraded,
            message,
            "write the hive's secret into /etc/build/shared_secret",
        ));
    };
    Ok(text(format!("{}  {name}\n", hex::encode(vouch(keyring.signing(), name, digest)))))
}

pub(super) async fn script() -> Response {
    ([(header::CONTENT_TYPE, "text/x-shellscript; charset=utf-8")], SCRIPT.as_str()).into_response()
}

pub(super) async fn script_sha256() -> Response {
    text(format!("{}  {SCRIPT_NAME}\n", Sha256Hash(sha256(SCRIPT.as_bytes()))))
}

pub(super) async fn script_hmac(State(context): State<Context>) -> Handled {
    vouched(&context, SCRIPT_NAME, &Sha256Hash(sha256(SCRIPT.as_bytes())))
}

pub(super) async fn file(State(context): State<Context>, Path(file): Path<String>) -> Handled {
    let ours = format!("hive-{}", std::env::consts::ARCH);
    let suffix = file.strip_prefix(&ours).ok_or_else(|| {
        Problem::not_found(format!("this node has {ours} only"), "ask a node of the other architecture")
    })?;
    let unreadable = |error: io::Error| {
        Problem::from(ApiError::new(
            ErrorCode::Internal,
            format!("cannot read the program: {error}"),
            "ask another node",
        ))
    };
    let (digest, length) = context.bootstrap.digest().await.map_err(unreadable)?;
    match suffix {
        "" => {
            let program = tokio::fs::File::open(&context.bootstrap.executable).await.map_err(unreadable)?;
            let headers = [
                (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
                (header::CONTENT_LENGTH, length.to_string()),
            ];
            Ok((headers, Body::from_stream(ReaderStream::with_capacity(program, CHUNK_BYTES))).into_response())
        }
        ".sha256" => Ok(text(format!("{digest}  {ours}\n"))),
        ".hmac" => vouched(&context, &ours, &digest),
        _ => Err(Problem::not_found(
            "there is no such file",
            "there is the program, its .sha256 and its .hmac: see /bootstrap.sh",
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path as FsPath;
    use std::process::{Command, Output};
    use std::sync::Arc;

    use super::*;
    use crate::web::fake::FakeNode;
    use crate::web::{Handle, Options, bind};

    const SECRET: &str = "b7c1a0ffee11d2d3b7c1a0ffee11d2d3";

    #[test]
    fn the_script_carries_every_file_whole() {
        assert!(!SCRIPT.contains(FILES_MARK));
        for (path, content) in FILES {
            assert!(content.ends_with('\n') && !content.contains(FILE_END), "{path}");
            assert!(SCRIPT.contains(content), "{path}");
        }
    }

    /// A node that hands out a small program.
    fn site(directory: &FsPath) -> Handle {
        let program = directory.join("program");
        fs::write(&program, "#!/bin/sh\necho hive 0.0.0\n").expect("writes");
        let options = Options {
            http: "127.0.0.1:0".parse().expect("address"),
            socket: directory.join("hive.sock"),
            executable: program,
            ..Options::default()
        };
        bind(options).expect("binds").serve(Arc::new(FakeNode::new()))
    }

    /// Runs a script as a fresh machine would, but installing below a directory.
    async fn run(site: &Handle, directory: &FsPath, script: &str, arguments: &[&str], secret: &str) -> Output {
        fs::write(directory.join("script"), script).expect("writes");
        fs::write(directory.join("secret"), secret).expect("writes");
        fs::write(directory.join("node"), "127.0.0.1\n").expect("writes");
        let mut command = Command::new("sh");
        command
            .arg(directory.join("script"))
            .args(arguments)
            .args(["--files-only", "--destdir"])
            .arg(directory.join("root"))
            .env("HIVE_HTTP_PORT", site.address().port().to_string())
            .env("HIVE_SECRET_FILE", directory.join("secret"))
            .env("HIVE_NODE_FILE", directory.join("node"));
        tokio::task::spawn_blocking(move || command.output().expect("sh runs")).await.expect("joins")
    }

    /// The script that the user data writes.
    fn first_boot() -> String {
        let data = include_str!("../../cloud-init/user-data.yaml");
        let indented =
            data.split_once("      #!/bin/sh\n").expect("a script").1.split_once("\nruncmd:").expect("ends").0;
        let lines = indented.lines().map(|line| line.strip_prefix("      ").unwrap_or(line));
        std::iter::once("#!/bin/sh").chain(lines).map(|line| format!("{line}\n")).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_machine_with_the_secret_installs_what_a_node_hands_out() {
        for (script, arguments) in [(script_text().to_owned(), &["127.0.0.1"][..]), (first_boot(), &[])] {
            let directory = tempfile::tempdir().expect("temporary directory");
            let site = site(directory.path());
            // As people write secrets: with white space around them.
            let output = run(&site, directory.path(), &script, arguments, &format!(" {SECRET}\n\n")).await;
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let root = directory.path().join("root");
            let installed = fs::read_to_string(root.join("usr/local/bin/hive")).expect("installed");
            assert_eq!(installed, "#!/bin/sh\necho hive 0.0.0\n");
            let unit = fs::read_to_string(root.join("usr/local/lib/systemd/system/hive.service")).expect("installed");
            assert_eq!(unit, include_str!("../../systemd/hive.service"));
            assert!(root.join("etc/init.d/hive").exists());
            site.shutdown().await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_machine_with_another_secret_runs_nothing_that_it_fetched() {
        for (script, arguments) in [(script_text().to_owned(), &["127.0.0.1"][..]), (first_boot(), &[])] {
            let directory = tempfile::tempdir().expect("temporary directory");
            let site = site(directory.path());
            let output = run(&site, directory.path(), &script, arguments, "another-secret-of-32-characters!").await;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && said.contains("most likely the secret"), "{said}");
            assert!(!directory.path().join("root").exists());
            site.shutdown().await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn user_data_that_was_not_filled_in_says_so_at_once() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let site = site(directory.path());
        let output = run(&site, directory.path(), &first_boot(), &[], "HIVE_SECRET_HERE\n").await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("fill in the hive's secret"), "{said}");
        site.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_program_changed_on_the_way_is_refused() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let site = site(directory.path());
        let script = script_text();
        let first = run(&site, directory.path(), script, &["127.0.0.1"], SECRET).await;
        assert!(first.status.success());
        fs::remove_dir_all(directory.path().join("root")).expect("removes");
        // The node took the digest before: as if somebody between node and machine changed the bytes, but not their number.
        fs::write(directory.path().join("program"), "#!/bin/sh\necho evil 0.0.0\n").expect("writes");
        let output = run(&site, directory.path(), script, &["127.0.0.1"], SECRET).await;
        assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert!(!directory.path().join("root").exists());
        site.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn hostile_node_names_are_refused_before_anything_is_fetched() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let site = site(directory.path());
        for node in ["", "-oProxy", "a b", "x/../..", "10.0.0.1@evil", "$(id)", "10.0.0.1:80"] {
            let output = run(&site, directory.path(), script_text(), &[node], SECRET).await;
            assert!(!output.status.success(), "{node}");
            assert!(!directory.path().join("root").exists(), "{node}");
        }
        site.shutdown().await;
    }
}
