//! Whether a Gentoo package is signed by somebody who is trusted here.
//!
//! ```text
//!   metadata, image + .sig ─┐
//!   clear-signed Manifest  ─┴─► gpgv --keyring KEYS ─► GOODSIG and VALIDSIG of each, or why not
//! ```
//!
//! `gpgv` of GnuPG does the cryptography: it is what Portage itself trusts, is on every machine that has signed packages, and needs
//! no agent and no trust database: the keys in the file are the trusted ones. Never done here: signing, fetching keys, reading
//! packages (see [`format::gpkg`](super::format::gpkg), which has compared every member with the Manifest before).

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::SAFE_PATH;
use super::format::gpkg::{self, Gpkg};

/// Largest file of keys, bytes.
const KEYS_MAX_BYTES: u64 = 16 << 20;

/// Who is trusted to sign packages, and whether every package has to be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signatures {
    keys: PathBuf,
    demand: bool,
}

/// Why a package is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// It is not signed, and it has to be.
    #[error("it is not signed, and only signed packages are taken here")]
    Unsigned,
    /// A signature does not fit the bytes.
    #[error("the signature of {0} does not fit it: it was damaged or changed after it was signed")]
    Damaged(String),
    /// Signed by a key that is not among the trusted ones, or is no longer good.
    #[error("the signature of {part} is of a key that is not trusted here: {why}")]
    Untrusted {
        /// What is signed.
        part: String,
        /// As `gpgv` said it.
        why: String,
    },
    /// It could not be found out.
    #[error("its signature cannot be checked: {0}")]
    Unable(String),
}

impl Signatures {
    /// Trusts the keys in the file, which `gpg --export` made. Refused in a sentence when it is no such file, or there is no `gpgv`.
    pub fn open(keys: &Path, demand: bool) -> Result<Self, String> {
        let shown = keys.display();
        let problem = |error: io::Error| format!("{shown}: {error}");
        let metadata = fs::metadata(keys).map_err(problem)?;
        if !metadata.is_file() || metadata.len() > KEYS_MAX_BYTES {
            return Err(format!("{shown} is no file of at most {KEYS_MAX_BYTES} bytes"));
        }
        let mut head = [0u8; 12];
        let length = File::open(keys).and_then(|mut file| file.read(&mut head)).map_err(problem)?;
        // RFC 9580, 4.2: a public key packet in the old or the new format. A keybox says so itself.
        let is_keys = length == head.len() && (matches!(head[0], 0x98 | 0x99 | 0xc6) || head[8..].starts_with(b"KBXf"));
        if !is_keys {
            let hint = "make it with: gpg --export KEY > FILE (without --armor)";
            return Err(format!("{shown} does not begin with a public key; {hint}"));
        }
        if program().is_none() {
            return Err(
                "there is no gpgv on this machine; install gpgv (Debian) or app-crypt/gnupg (Gentoo)".to_owned()
            );
        }
        Ok(Self::new(keys, demand))
    }

    /// Trusts the keys in the file, which was looked at before; when it cannot be read any more, nothing that is signed is taken.
    pub fn new(keys: &Path, demand: bool) -> Self {
        Self { keys: keys.to_owned(), demand }
    }

    /// Checks every signature of a package that is whole. Blocks.
    pub fn check(&self, file: &mut File, package: &Gpkg) -> Result<(), SignatureError> {
        if !package.signed {
            return if self.demand { Err(SignatureError::Unsigned) } else { Ok(()) };
        }
        let unable = |error: &dyn std::fmt::Display| SignatureError::Unable(error.to_string());
        let signed = gpkg::signed(file).map_err(|error| unable(&error))?;
        self.verify("Manifest", &signed.manifest, None)?;
        for part in signed.parts {
            file.seek(SeekFrom::Start(part.position)).map_err(|error| unable(&error))?;
            self.verify(&part.file, &part.signature, Some(&mut io::Read::by_ref(file).take(part.size)))?;
        }
        Ok(())
    }

    /// One run of `gpgv`: a clear-signed text, or a detached signature and its data.
    fn verify(&self, part: &str, signature: &[u8], data: Option<&mut dyn io::Read>) -> Result<(), SignatureError> {
        let unable = |error: io::Error| SignatureError::Unable(format!("gpgv: {error}"));
        let program = program().ok_or_else(|| SignatureError::Unable("there is no gpgv any more".to_owned()))?;
        let mut file = tempfile::NamedTempFile::new().map_err(unable)?;
        file.write_all(signature).map_err(unable)?;
        let mut command = Command::new(program);
        command.env_clear().env("PATH", SAFE_PATH).env("LC_ALL", "C").env("GNUPGHOME", "/nonexistent");
        command.args(["--status-fd", "1", "--keyring"]).arg(&self.keys).arg(file.path());
        if data.is_some() {
            command.arg("-");
        }
        let stdin = if data.is_some() { Stdio::piped() } else { Stdio::null() };
        let mut child = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(unable)?;
        if let (Some(data), Some(mut to)) = (data, child.stdin.take()) {
            // Who refuses a signature early does not read on; the verdict says it.
            if let Err(error) = io::copy(data, &mut to)
                && error.kind() != io::ErrorKind::BrokenPipe
            {
                tracing::debug!(%error, "not all of the data reached gpgv");
            }
        }
        let output = child.wait_with_output().map_err(unable)?;
        let status = String::from_utf8_lossy(&output.stdout);
        verdict(part, &status, output.status.success())
    }
}

fn program() -> Option<PathBuf> {
    SAFE_PATH.split(':').map(|directory| Path::new(directory).join("gpgv")).find(|program| program.is_file())
}

/// Reads what `gpgv` said on its status channel.
fn verdict(part: &str, status: &str, succeeded: bool) -> Result<(), SignatureError> {
    let lines: Vec<&str> = status.lines().filter_map(|line| line.strip_prefix("[GNUPG:] ")).collect();
    let said = |word: &str| lines.iter().copied().find(|line| line.split(' ').next() == Some(word));
    if said("BADSIG").is_some() {
        return Err(SignatureError::Damaged(part.to_owned()));
    }
    let untrusted = |why: String| Err(SignatureError::Untrusted { part: part.to_owned(), why });
    for (word, what) in
        [("EXPKEYSIG", "it has expired"), ("REVKEYSIG", "it was revoked"), ("EXPSIG", "the signature has expired")]
    {
        if let Some(line) = said(word) {
            return untrusted(format!("{} ({what})", line.split(' ').nth(1).unwrap_or("?")));
        }
    }
    if let Some(line) = said("NO_PUBKEY") {
        return untrusted(line.split(' ').nth(1).unwrap_or("?").to_owned());
    }
    let signatures = lines.iter().filter(|line| line.starts_with("NEWSIG")).count();
    let alone = signatures <= 1 && said("ERRSIG").is_none();
    if succeeded && alone && said("GOODSIG").is_some() && said("VALIDSIG").is_some() {
        return Ok(());
    }
    let words: Vec<&str> = lines.iter().filter_map(|line| line.split(' ').next()).collect();
    if words.iter().any(|word| matches!(*word, "NODATA" | "ERRSIG" | "UNEXPECTED")) {
        return Err(SignatureError::Damaged(part.to_owned()));
    }
    Err(SignatureError::Unable(format!(
        "gpgv said {}",
        if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
    )))
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::format::Caps;
    use crate::exec::staging::sample::{self, Signer};

    fn opened(bytes: &[u8]) -> (File, Gpkg) {
        let mut file = tempfile::tempfile().expect("temporary file");
        file.write_all(bytes).expect("writes");
        let package = gpkg::verify(&mut file, Caps::default()).expect("whole");
        (file, package)
    }

    fn check(signatures: &Signatures, bytes: &[u8]) -> Result<(), SignatureError> {
        let (mut file, package) = opened(bytes);
        signatures.check(&mut file, &package)
    }

    #[test]
    fn signed_packages_count_when_all_of_their_signatures_are_good_and_trusted() {
        let (ours, others) = (Signer::new("ours"), Signer::new("others"));
        let open = |signer: &Signer, demand| Signatures::open(&signer.keys(), demand).expect("keys");
        let members = sample::members("app-misc", "hello-1.0", Some(1), b"content");
        let good = sample::signed("hello-1.0-1", &members, &ours, &ours);
        assert_eq!(check(&open(&ours, true), &good), Ok(()));
        let error = check(&open(&others, false), &good).expect_err("another key");
        assert!(matches!(error, SignatureError::Untrusted { .. }), "{error}");

        let plain = sample::package("app-misc", "hello-1.0", Some(1), b"content");
        assert_eq!(check(&open(&ours, false), &plain), Ok(()));
        assert_eq!(check(&open(&ours, true), &plain), Err(SignatureError::Unsigned));

        let mixed = sample::signed("hello-1.0-1", &members, &ours, &others);
        let error = check(&open(&ours, false), &mixed).expect_err("a part of it by somebody else");
        assert!(matches!(error, SignatureError::Untrusted { .. }), "{error}");
    }

    #[test]
    fn a_package_that_was_changed_after_it_was_signed_is_told_from_one_of_a_stranger() {
        let ours = Signer::new("ours");
        let trusted = Signatures::open(&ours.keys(), false).expect("keys");
        let name = "hello-1.0-1";
        let (members, evil) = (
            sample::members("app-misc", "hello-1.0", Some(1), b"content"),
            sample::members("app-misc", "hello-1.0", Some(1), b"evil"),
        );
        // The image is exchanged, and the Manifest is honestly signed anew: only the image's own signature tells.
        let signatures = sample::detached(&members, &ours);
        let bytes = sample::assembled(name, &evil, &signatures, |text| ours.clear_signed(text));
        let error = check(&trusted, &bytes).expect_err("exchanged");
        assert_eq!(error, SignatureError::Damaged("image.tar.zst".to_owned()));
        // Everything fits but the signature of the Manifest, which is of another text.
        let old = ours.clear_signed("DATA x 0 SHA512 0\n");
        let bytes = sample::assembled(name, &evil, &sample::detached(&evil, &ours), |text| {
            let (_, signature) = old.split_once("-----BEGIN PGP SIGNATURE-----").expect("signature");
            format!(
                "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{text}-----BEGIN PGP SIGNATURE-----{signature}"
            )
        });
        assert_eq!(check(&trusted, &bytes), Err(SignatureError::Damaged("Manifest".to_owned())));
    }

    #[test]
    fn keys_that_are_none_are_refused_with_what_to_do() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("keys");
        assert!(Signatures::open(&path, false).expect_err("missing").contains("No such file"));
        for content in ["", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDM=\n", "hello, hello, hello"] {
            fs::write(&path, content).expect("writes");
            let why = Signatures::open(&path, false).expect_err(content);
            assert!(why.contains("gpg --export"), "{why}");
        }
        assert!(Signatures::open(directory.path(), false).is_err());
    }

    #[test]
    fn what_gpgv_says_is_read_strictly() {
        let line = |words: &[&str]| words.iter().map(|word| format!("[GNUPG:] {word}\n")).collect::<String>();
        let good = line(&["NEWSIG", "KEY_CONSIDERED F 0", "GOODSIG K me", "VALIDSIG F"]);
        assert_eq!(verdict("x", &good, true), Ok(()));
        assert!(verdict("x", &good, false).is_err(), "and it says so at its end");
        assert!(verdict("x", "GOODSIG K me\nVALIDSIG F\n", true).is_err(), "not on its own channel");
        assert!(verdict("x", &format!("{good}{good}"), true).is_err(), "two signatures");
        let expired = verdict("x", &line(&["NEWSIG", "EXPKEYSIG K me", "VALIDSIG F"]), true).expect_err("expired");
        assert!(expired.to_string().contains("expired"), "{expired}");
        assert!(matches!(verdict("x", &line(&["NODATA 4"]), false), Err(SignatureError::Damaged(_))));
        assert!(matches!(verdict("x", "", false), Err(SignatureError::Unable(_))));
    }
}
