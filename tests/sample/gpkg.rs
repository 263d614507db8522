//! Gentoo packages for tests, made by hand: no Portage is needed, and damage can be put where it hurts.

#![allow(dead_code, reason = "compiled into several test programs, each uses a part")]

use blake2::Blake2b512;
use sha2::{Digest as _, Sha512};

pub(crate) fn tar(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_path(name).expect("path");
        header.set_cksum();
        // As Python and GNU tar end the field; the crate writes one digit more.
        let sum = format!("{:06o}\0 ", header.cksum().expect("sum"));
        header.as_mut_bytes()[148..156].copy_from_slice(sum.as_bytes());
        builder.append(&header, *content).expect("appends");
    }
    builder.into_inner().expect("ends")
}

pub(crate) fn line(file: &str, content: &[u8]) -> String {
    let (blake2b, sha512) = (hex::encode(Blake2b512::digest(content)), hex::encode(Sha512::digest(content)));
    format!("DATA {file} {} BLAKE2B {blake2b} SHA512 {sha512}\n", content.len())
}

/// Members with the Manifest that they deserve, in the directory `name`.
pub(crate) fn packed(name: &str, members: &[(String, Vec<u8>)], manifest: &str) -> Vec<u8> {
    let names: Vec<String> = members.iter().map(|(file, _)| format!("{name}/{file}")).collect();
    let mut entries: Vec<(&str, &[u8])> =
        names.iter().zip(members).map(|(name, (_, content))| (name.as_str(), content.as_slice())).collect();
    let last = format!("{name}/Manifest");
    entries.push((&last, manifest.as_bytes()));
    tar(&entries)
}

/// The members of an unsigned package, in their order.
pub(crate) fn members(category: &str, pf: &str, build_id: Option<u32>, content: &[u8]) -> Vec<(String, Vec<u8>)> {
    let number = build_id.map_or_else(String::new, |number| number.to_string());
    let keys = [
        ("metadata/CATEGORY", category),
        ("metadata/PF", pf),
        ("metadata/SLOT", "0"),
        ("metadata/EAPI", "8"),
        ("metadata/CHOST", "x86_64-pc-linux-gnu"),
        ("metadata/KEYWORDS", "amd64"),
        ("metadata/BUILD_ID", &number),
        ("metadata/DESCRIPTION", "made by hand"),
    ];
    let keys: Vec<(&str, String)> = keys.map(|(key, value)| (key, format!("{value}\n"))).into();
    let keys: Vec<(&str, &[u8])> = keys.iter().map(|(key, value)| (*key, value.as_bytes())).collect();
    let metadata = zstd::stream::encode_all(&*tar(&keys), 3).expect("packs");
    let image = zstd::stream::encode_all(&*tar(&[("image/usr/share/x", content)]), 3).expect("packs");
    vec![
        ("gpkg-1".to_owned(), Vec::new()),
        ("metadata.tar.zst".to_owned(), metadata),
        ("image.tar.zst".to_owned(), image),
    ]
}

/// A whole package that is not signed.
pub(crate) fn package(category: &str, pf: &str, build_id: Option<u32>, content: &[u8]) -> Vec<u8> {
    let name = build_id.map_or_else(|| pf.to_owned(), |number| format!("{pf}-{number}"));
    let members = members(category, pf, build_id, content);
    let manifest: String = members.iter().map(|(file, content)| line(file, content)).collect();
    packed(&name, &members, &manifest)
}

/// Members with their detached signatures behind them, and the Manifest of all of it as `clear_signed` signs it.
pub(crate) fn assembled(
    name: &str,
    members: &[(String, Vec<u8>)],
    signatures: &[(String, Vec<u8>)],
    clear_signed: impl Fn(&str) -> String,
) -> Vec<u8> {
    let mut all: Vec<(String, Vec<u8>)> = Vec::new();
    for (file, content) in members {
        all.push((file.clone(), content.clone()));
        all.extend(signatures.iter().filter(|(of, _)| *of == format!("{file}.sig")).cloned());
    }
    let manifest: String = all.iter().map(|(file, content)| line(file, content)).collect();
    packed(name, &all, &clear_signed(&manifest))
}

/// The signatures of everything that is signed.
pub(crate) fn detached(members: &[(String, Vec<u8>)], signer: &Signer) -> Vec<(String, Vec<u8>)> {
    let signed = members.iter().filter(|(file, _)| file != "gpkg-1");
    signed.map(|(file, content)| (format!("{file}.sig"), signer.detached(content))).collect()
}

/// A signed package, as Portage makes it; the Manifest may be another signer's.
pub(crate) fn signed(name: &str, members: &[(String, Vec<u8>)], parts: &Signer, manifest: &Signer) -> Vec<u8> {
    assembled(name, members, &detached(members, parts), |text| manifest.clear_signed(text))
}

/// A key of GnuPG in a home of its own, with the agent that belongs to it.
pub(crate) struct Signer {
    pub(crate) home: tempfile::TempDir,
    user: String,
}

impl Signer {
    pub(crate) fn new(name: &str) -> Self {
        // Short, because the agent's socket is in it.
        let home = tempfile::Builder::new().prefix("hive-gpg-").tempdir_in("/tmp").expect("temporary directory");
        let signer = Self { home, user: format!("{name} <{name}@example.invalid>") };
        signer.gpg(&["--passphrase", "", "--quick-gen-key", &signer.user, "ed25519", "sign", "never"], b"");
        let exported = signer.gpg(&["--export", &signer.user], b"");
        std::fs::write(signer.keys(), exported).expect("writes");
        signer
    }

    /// The public key, as a setting names it.
    pub(crate) fn keys(&self) -> std::path::PathBuf {
        self.home.path().join("trusted.gpg")
    }

    pub(crate) fn detached(&self, data: &[u8]) -> Vec<u8> {
        self.gpg(&["--armor", "--detach-sign"], data)
    }

    pub(crate) fn clear_signed(&self, text: &str) -> String {
        String::from_utf8(self.gpg(&["--clear-sign"], text.as_bytes())).expect("text")
    }

    fn command(&self, program: &str) -> std::process::Command {
        let mut command = std::process::Command::new(program);
        command.env("GNUPGHOME", self.home.path());
        command
    }

    fn gpg(&self, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        use std::io::Write as _;
        use std::process::Stdio;
        let mut command = self.command("gpg");
        command.args(["--batch", "--quiet", "--pinentry-mode", "loopback"]).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("gpg runs (apt-get install -y gnupg)");
        child.stdin.take().expect("piped").write_all(input).expect("gpg reads");
        let output = child.wait_with_output().expect("ends");
        assert!(output.status.success(), "gpg {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        let ended = self.command("gpgconf").args(["--kill", "all"]).status();
        assert!(ended.is_ok_and(|status| status.success()), "the agent of gpg goes on");
    }
}
