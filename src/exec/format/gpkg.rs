//! Gentoo's binary packages, `.gpkg.tar`, after GLEP 78 and as Portage 3.0.8x writes and demands them.
//!
//! ```text
//!   NAME/gpkg-1                     marker
//!   NAME/metadata.tar[.zst …] [.sig]   one small file per key
//!   NAME/image.tar[.zst …]    [.sig]   what is installed
//!   NAME/Manifest                   size and digests of all of the above, clear-signed when the package is signed
//! ```
//!
//! First the container is walked to its last byte and every member is compared with the Manifest; only then something is
//! decompressed. Never done here: verifying signatures, which needs the keys of who is trusted (`exec::signatures`).

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};

use blake2::Blake2b512;
use sha2::{Digest as _, Sha512};

use super::decompress::{self, Compression};
use super::tarball::{Kind, Walker};
use super::{Caps, Contents, FormatError, contents, shown};
use crate::engine::grammar;

/// Largest Manifest and signature, bytes.
const TEXT_MAX_BYTES: u64 = 64 << 10;
/// Most bytes of all metadata when unpacked. The environment of a phase is the largest part and takes some 100 KiB.
const METADATA_MAX_BYTES: u64 = 64 << 20;
/// Most keys of metadata.
const KEYS_MAX: usize = 512;
/// Longest value that is answered, bytes; longer ones are read past.
const VALUE_MAX_BYTES: u64 = 64 << 10;
/// What the values of a package are answered of. The rest is for Portage alone.
const KEYS: [&str; 23] = [
    "BDEPEND",
    "BUILD_ID",
    "BUILD_TIME",
    "CATEGORY",
    "CHOST",
    "DEFINED_PHASES",
    "DEPEND",
    "DESCRIPTION",
    "EAPI",
    "IDEPEND",
    "IUSE",
    "KEYWORDS",
    "LICENSE",
    "PDEPEND",
    "PF",
    "PROPERTIES",
    "PROVIDES",
    "RDEPEND",
    "REQUIRES",
    "RESTRICT",
    "SLOT",
    "USE",
    "repository",
];

/// A package that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpkg {
    /// The directory in it: `hello-1.0`, or `hello-1.0-1` with a build number.
    pub name: String,
    /// `app-misc`.
    pub category: String,
    /// Name and version: `hello-1.0-r1`.
    pub pf: String,
    /// Slot, with sub-slot if it has one.
    pub slot: String,
    /// Number of the build, when the package directory keeps several of one version.
    pub build_id: Option<u32>,
    /// Metadata and image carry signatures and the Manifest is signed. Whether they are good is not said.
    pub signed: bool,
    /// Known keys of its metadata, without the newline at their end.
    pub metadata: BTreeMap<String, String>,
    /// What it installs.
    pub contents: Contents,
}

struct Member {
    file: String,
    position: u64,
    size: u64,
    blake2b: String,
    sha512: String,
}

/// Reads all of `file` and answers what it is, or why it does not count.
pub fn verify(file: &mut (impl Read + Seek), caps: Caps) -> Result<Gpkg, FormatError> {
    file.rewind()?;
    let (name, members, manifest) = container(file)?;
    let (metadata, image) = shape(&members)?;
    let signed = members.iter().any(|member| member.file.ends_with(".sig"));
    check_manifest(&members, &manifest, signed)?;
    let keys = {
        let (member, compression) = metadata;
        let part = part(file, member)?;
        let reader = decompress::reader(compression, part, METADATA_MAX_BYTES)?;
        read_metadata(reader).map_err(|error| error.within(&member.file))?
    };
    let contents = {
        let (member, compression) = image;
        let part = part(file, member)?;
        let reader = decompress::reader(compression, part, caps.contents_max_bytes)?;
        contents::check(reader, Some("image"), caps).map_err(|error| error.within(&member.file))?
    };
    described(name, keys, signed, contents)
}

/// What is signed in a package, for whoever knows whom to trust.
#[derive(Debug)]
pub struct Signed {
    /// The clear-signed Manifest.
    pub manifest: Vec<u8>,
    /// Metadata and image.
    pub parts: Vec<SignedPart>,
}

/// A member with a detached signature.
#[derive(Debug)]
pub struct SignedPart {
    /// Its name.
    pub file: String,
    /// Where it begins in the package.
    pub position: u64,
    /// Its length.
    pub size: u64,
    /// The armoured signature.
    pub signature: Vec<u8>,
}

/// The signed parts of a package that [`verify`] found whole and signed, from the same file.
pub fn signed(file: &mut (impl Read + Seek)) -> Result<Signed, FormatError> {
    file.rewind()?;
    let (_, members, manifest) = container(file)?;
    shape(&members)?;
    check_manifest(&members, &manifest, true)?;
    let mut parts = Vec::new();
    for pair in members.windows(2) {
        let [member, beside] = pair else { continue };
        if beside.file.strip_suffix(".sig") == Some(member.file.as_str()) {
            let mut signature = Vec::new();
            part(file, beside)?.read_to_end(&mut signature)?;
            parts.push(SignedPart {
                file: member.file.clone(),
                position: member.position,
                size: member.size,
                signature,
            });
        }
    }
    if parts.len() != 2 {
        return Err(FormatError::damaged("only a part of it is signed"));
    }
    Ok(Signed { manifest: manifest.into_bytes(), parts })
}

fn part<'a, F: Read + Seek>(file: &'a mut F, member: &Member) -> Result<impl Read + use<'a, F>, FormatError> {
    file.seek(SeekFrom::Start(member.position))?;
    Ok(file.by_ref().take(member.size))
}

/// Walks the outer archive: its directory, its members in order with their digests, and the Manifest's text.
fn container(file: &mut impl Read) -> Result<(String, Vec<Member>, String), FormatError> {
    let mut walker = Walker::new(file);
    let mut name: Option<String> = None;
    let mut members: Vec<Member> = Vec::new();
    let mut manifest: Option<String> = None;
    while let Some(entry) = walker.entry()? {
        let shown = shown(&entry.name);
        if manifest.is_some() {
            return Err(FormatError::damaged(format!("{shown} stands behind the Manifest")));
        }
        let path = String::from_utf8(entry.name).map_err(|_| FormatError::damaged(format!("{shown} is no name")))?;
        let split = path.split_once('/').filter(|(directory, file)| {
            !directory.is_empty() && !matches!(*directory, "." | "..") && !file.is_empty() && !file.contains('/')
        });
        let Some((directory, file)) = split.filter(|_| entry.kind == Kind::File) else {
            return Err(FormatError::damaged(format!("{shown} is not a file in the one directory of a package")));
        };
        if name.get_or_insert_with(|| directory.to_owned()) != directory {
            return Err(FormatError::damaged(format!("{shown} is in a second directory")));
        }
        let position = walker.position();
        if file == "Manifest" {
            manifest = Some(text(&mut walker, entry.size)?);
            continue;
        }
        // Seven at most are known, so none is read twice for its digests before it is refused.
        if members.len() >= 5 || members.iter().any(|member| member.file == file) {
            return Err(FormatError::damaged(format!("{shown} is there twice or is one too many")));
        }
        let (blake2b, sha512) = digests(&mut walker)?;
        members.push(Member { file: file.to_owned(), position, size: entry.size, blake2b, sha512 });
    }
    match (name, manifest) {
        (Some(name), Some(manifest)) => Ok((name, members, manifest)),
        _ => Err(FormatError::damaged("there is no Manifest")),
    }
}

fn text(reader: &mut impl Read, size: u64) -> Result<String, FormatError> {
    if size > TEXT_MAX_BYTES {
        return Err(FormatError::refused(format!("a Manifest of {size} bytes")));
    }
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes)?;
    String::from_utf8(bytes).map_err(|_| FormatError::damaged("the Manifest is no text"))
}

fn digests(reader: &mut impl Read) -> Result<(String, String), FormatError> {
    let (mut blake2b, mut sha512) = (Blake2b512::new(), Sha512::new());
    let mut buffer = vec![0u8; 64 << 10];
    loop {
        let length = reader.read(&mut buffer)?;
        if length == 0 {
            return Ok((hex::encode(blake2b.finalize()), hex::encode(sha512.finalize())));
        }
        blake2b.update(&buffer[..length]);
        sha512.update(&buffer[..length]);
    }
}

type Packed<'a> = (&'a Member, Compression);

/// The members have to be these, in this order; either all that can be signed are, or none.
fn shape(members: &[Member]) -> Result<(Packed<'_>, Packed<'_>), FormatError> {
    let mut rest = members.iter().peekable();
    if rest.next().is_none_or(|member| member.file != "gpkg-1") {
        return Err(FormatError::damaged("its first file is not gpkg-1"));
    }
    let mut packed = |stem: &'static str| {
        let member = rest.next().ok_or_else(|| FormatError::damaged(format!("there is no {stem}")))?;
        let compression = decompress::of_tar(&member.file, stem);
        let compression = compression.ok_or_else(|| {
            FormatError::damaged(format!("{} stands where {stem} should", shown(member.file.as_bytes())))
        })??;
        let signature = rest.next_if(|next| next.file.strip_suffix(".sig") == Some(member.file.as_str()));
        if signature.is_some_and(|signature| signature.size > TEXT_MAX_BYTES) {
            return Err(FormatError::refused(format!("the signature of {stem} is too long")));
        }
        Ok(((member, compression), signature.is_some()))
    };
    let (metadata, metadata_signed) = packed("metadata")?;
    let (image, image_signed) = packed("image")?;
    if let Some(member) = rest.next() {
        return Err(FormatError::damaged(format!("{} is unknown", shown(member.file.as_bytes()))));
    }
    if metadata_signed != image_signed {
        return Err(FormatError::damaged("only a part of it is signed"));
    }
    Ok((metadata, image))
}

/// The signed text of a clear-signed message (RFC 9580, 7), or the text itself when it is none.
fn signed_text(manifest: &str) -> Result<(String, bool), FormatError> {
    let Some(rest) = manifest.strip_prefix("-----BEGIN PGP SIGNED MESSAGE-----\n") else {
        return if manifest.contains("-----BEGIN PGP") {
            Err(FormatError::damaged("the signature of the Manifest does not cover all of it"))
        } else {
            Ok((manifest.to_owned(), false))
        };
    };
    let parts = rest.split_once("\n\n").and_then(|(headers, rest)| {
        let headers_only = headers.lines().all(|line| line.starts_with("Hash: "));
        let (text, signature) = rest.split_once("-----BEGIN PGP SIGNATURE-----\n")?;
        let whole = signature.trim_end().ends_with("-----END PGP SIGNATURE-----");
        (headers_only && whole && signature.matches("-----").count() == 2 && !text.contains("-----")).then_some(text)
    });
    let text = parts.ok_or_else(|| FormatError::damaged("the signature of the Manifest is not whole"))?;
    let lines = text.lines().map(|line| line.strip_prefix("- ").unwrap_or(line));
    Ok((lines.map(|line| format!("{line}\n")).collect(), true))
}

fn check_manifest(members: &[Member], manifest: &str, signed: bool) -> Result<(), FormatError> {
    let (text, clear_signed) = signed_text(manifest)?;
    if clear_signed != signed {
        return Err(FormatError::damaged("only a part of it is signed"));
    }
    let mut unseen: BTreeMap<&str, &Member> = members.iter().map(|member| (member.file.as_str(), member)).collect();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split(' ').collect();
        let ["DATA", file, size, digests @ ..] = words.as_slice() else {
            return Err(FormatError::damaged("a line of the Manifest is no DATA"));
        };
        let member = unseen
            .remove(file)
            .ok_or_else(|| FormatError::damaged(format!("{} of the Manifest is missing", shown(file.as_bytes()))))?;
        if *size != member.size.to_string() {
            return Err(FormatError::damaged(format!("{file} has not the size that the Manifest says")));
        }
        check_digests(member, digests)?;
    }
    match unseen.keys().next() {
        Some(file) => Err(FormatError::damaged(format!("{file} is not in the Manifest"))),
        None => Ok(()),
    }
}

/// Every digest of a known kind has to be right, and one of them has to be there.
fn check_digests(member: &Member, words: &[&str]) -> Result<(), FormatError> {
    let (pairs, rest) = words.as_chunks::<2>();
    let mut known: Vec<&str> = Vec::new();
    for [kind, digest] in pairs {
        let right = match *kind {
            "BLAKE2B" => &member.blake2b,
            "SHA512" => &member.sha512,
            _ => continue,
        };
        if known.contains(kind) || digest != right {
            return Err(FormatError::damaged(format!("{} does not match its {kind} in the Manifest", member.file)));
        }
        known.push(kind);
    }
    if known.is_empty() || !rest.is_empty() {
        return Err(FormatError::damaged(format!("the Manifest has no digest of {} that is known here", member.file)));
    }
    Ok(())
}

fn read_metadata(reader: impl Read) -> Result<BTreeMap<String, String>, FormatError> {
    let mut walker = Walker::new(reader);
    let mut seen: std::collections::BTreeSet<String> = std::collections::BTreeSet::new();
    let mut keys = BTreeMap::new();
    while let Some(entry) = walker.entry()? {
        let shown = shown(&entry.name);
        if matches!(entry.name.as_slice(), b"metadata" | b"metadata/") && entry.kind == Kind::Directory {
            continue;
        }
        let key = std::str::from_utf8(&entry.name).ok().and_then(|name| name.strip_prefix("metadata/"));
        let Some(key) = key.filter(|key| grammar::artifact_name(key).is_ok() && entry.kind == Kind::File) else {
            return Err(FormatError::damaged(format!("{shown} is no key")));
        };
        if seen.len() >= KEYS_MAX || !seen.insert(key.to_owned()) {
            return Err(FormatError::damaged(format!("{shown} is there twice or is one too many")));
        }
        if !KEYS.contains(&key) || entry.size > VALUE_MAX_BYTES {
            continue;
        }
        let mut bytes = Vec::new();
        walker.read_to_end(&mut bytes)?;
        let value = String::from_utf8(bytes).map_err(|_| FormatError::damaged(format!("{shown} is no text")))?;
        keys.insert(key.to_owned(), value.trim_end_matches('\n').to_owned());
    }
    Ok(keys)
}

fn described(
    name: String,
    metadata: BTreeMap<String, String>,
    signed: bool,
    contents: Contents,
) -> Result<Gpkg, FormatError> {
    let value = |key: &str| {
        let value = metadata.get(key).filter(|value| !value.is_empty());
        value.cloned().ok_or_else(|| FormatError::damaged(format!("its metadata has no {key}")))
    };
    let (category, pf, slot) = (value("CATEGORY")?, value("PF")?, value("SLOT")?);
    let atom = format!("={category}/{pf}:{slot}");
    grammar::gentoo_atom(&atom).map_err(|error| FormatError::damaged(error.to_string()))?;
    let build_id = match metadata.get("BUILD_ID").filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => Some(text.parse::<u32>().map_err(|_| FormatError::damaged("BUILD_ID is no number"))?),
    };
    let numbered = build_id.map(|number| format!("{pf}-{number}"));
    if name != pf && Some(&name) != numbered.as_ref() {
        return Err(FormatError::damaged(format!("the directory {} is not called after {pf}", shown(name.as_bytes()))));
    }
    Ok(Gpkg { name, category, pf, slot, build_id, signed, metadata, contents })
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write as _};

    use super::*;
    use crate::exec::staging::sample::{line, tar};

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::stream::encode_all(bytes, 3).expect("packs")
    }

    fn metadata() -> Vec<u8> {
        tar(&[
            ("metadata/CATEGORY", b"app-misc\n"),
            ("metadata/PF", b"hello-1.0-r1\n"),
            ("metadata/SLOT", b"0\n"),
            ("metadata/BUILD_ID", b"3"),
            ("metadata/environment.bz2", &[0; 70_000]),
        ])
    }

    fn image() -> Vec<u8> {
        tar(&[("image/usr/bin/hello", b"program"), ("image/usr/share/doc/x", b"")])
    }

    /// Members in the given order, with the Manifest that they deserve.
    fn package(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let manifest: String = members.iter().map(|(file, content)| line(file, content)).collect();
        with_manifest(members, &manifest)
    }

    fn with_manifest(members: &[(&str, Vec<u8>)], manifest: &str) -> Vec<u8> {
        let names: Vec<String> = members.iter().map(|(file, _)| format!("hello-1.0-r1-3/{file}")).collect();
        let mut entries: Vec<(&str, &[u8])> =
            names.iter().zip(members).map(|(name, (_, content))| (name.as_str(), content.as_slice())).collect();
        entries.push(("hello-1.0-r1-3/Manifest", manifest.as_bytes()));
        tar(&entries)
    }

    fn members() -> Vec<(&'static str, Vec<u8>)> {
        vec![("gpkg-1", Vec::new()), ("metadata.tar.zst", zstd(&metadata())), ("image.tar.zst", zstd(&image()))]
    }

    fn check(bytes: &[u8]) -> Result<Gpkg, FormatError> {
        verify(&mut Cursor::new(bytes), Caps::default())
    }

    #[test]
    fn a_whole_package_is_described() {
        let found = check(&package(&members())).expect("whole");
        assert_eq!(
            (found.category.as_str(), found.pf.as_str(), found.slot.as_str()),
            ("app-misc", "hello-1.0-r1", "0")
        );
        assert_eq!((found.build_id, found.signed), (Some(3), false));
        assert_eq!(found.contents, Contents { entries: 2, bytes: 7 });
        assert!(!found.metadata.contains_key("environment.bz2"), "only known keys are kept");
    }

    #[test]
    fn every_compression_that_portage_offers_is_read_or_named() {
        let pack = |program: &str, bytes: &[u8]| {
            let mut command = std::process::Command::new(program);
            command.arg("-c").stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
            let mut child = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}: tests/deps.sh test"));
            let mut input = child.stdin.take().expect("piped");
            input.write_all(bytes).expect("takes it");
            drop(input);
            child.wait_with_output().expect("ends").stdout
        };
        for (program, ending) in [("xz", "xz"), ("gzip", "gz"), ("bzip2", "bz2"), ("lzip", "lz"), ("zstd", "zst")] {
            let (metadata_name, image_name) = (format!("metadata.tar.{ending}"), format!("image.tar.{ending}"));
            let members = [
                ("gpkg-1", Vec::new()),
                (metadata_name.as_str(), pack(program, &metadata())),
                (image_name.as_str(), pack(program, &image())),
            ];
            check(&package(&members)).unwrap_or_else(|error| panic!("{program}: {error}"));
        }
        check(&package(&[("gpkg-1", vec![]), ("metadata.tar", metadata()), ("image.tar", image())])).expect("unpacked");
        let lz4 = package(&[("gpkg-1", vec![]), ("metadata.tar.lz4", vec![]), ("image.tar", image())]);
        assert!(check(&lz4).expect_err("not read").to_string().contains("use zstd"));
    }

    #[test]
    fn a_bit_that_is_changed_anywhere_is_noticed() {
        let whole = package(&members());
        // The name of a digest may be one that is unknown here, as long as the other one is right.
        let named = |position: usize| {
            ["BLAKE2B", "SHA512"].iter().any(|name| {
                let from = position.saturating_sub(name.len() - 1);
                whole[from..].windows(name.len()).take(name.len()).any(|window| window == name.as_bytes())
            })
        };
        for position in (0..whole.len()).filter(|&position| !named(position)) {
            let mut changed = whole.clone();
            changed[position] ^= 0x20;
            assert!(check(&changed).is_err(), "byte {position} of {}", whole.len());
        }
        for length in (0..whole.len()).step_by(97) {
            assert!(check(&whole[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn missing_unknown_doubled_nested_and_misplaced_members_are_refused() {
        let good = members();
        let order = |indices: &[usize]| indices.iter().map(|&index| good[index].clone()).collect::<Vec<_>>();
        for indices in [vec![], vec![1, 2], vec![0, 2], vec![0, 1], vec![0, 2, 1], vec![1, 0, 2], vec![0, 1, 2, 2]] {
            assert!(check(&package(&order(&indices))).is_err(), "{indices:?}");
        }
        for extra in ["unknown", "sub/file", "image.tar.gz", "metadata.tar.zst.sig"] {
            let mut more = members();
            more.push((extra, b"x".to_vec()));
            assert!(check(&package(&more)).is_err(), "{extra}");
        }
        let manifest: String = good.iter().map(|(file, content)| line(file, content)).collect();
        for wrong in [
            manifest.replace("BLAKE2B", "MD5").replace("SHA512", "SHA1"),
            manifest.replacen("DATA", "EBUILD", 1),
            format!("{manifest}{}", line("ghost", b"")),
            format!("{manifest}{}", manifest.lines().next().expect("line")),
            manifest.lines().take(2).map(|line| format!("{line}\n")).collect(),
            String::new(),
        ] {
            assert!(check(&with_manifest(&good, &wrong)).is_err(), "{wrong}");
        }
        check(&with_manifest(&good, &manifest.replace("SHA512", "SHA3_512"))).expect("one known digest is enough");
    }

    #[test]
    fn signatures_are_recognised_and_all_or_none() {
        let signature = b"-----BEGIN PGP SIGNATURE-----\n\nx\n-----END PGP SIGNATURE-----\n".to_vec();
        let [marker, metadata, image]: [_; 3] = members().try_into().expect("three");
        let all = vec![
            marker.clone(),
            metadata.clone(),
            ("metadata.tar.zst.sig", signature.clone()),
            image.clone(),
            ("image.tar.zst.sig", signature.clone()),
        ];
        let text: String = all.iter().map(|(file, content)| line(file, content)).collect();
        let armoured = String::from_utf8(signature.clone()).expect("text");
        let clear = format!("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{text}{armoured}");
        assert!(check(&with_manifest(&all, &clear)).expect("signed").signed);
        assert!(check(&with_manifest(&all, &text)).is_err(), "the Manifest is not signed");
        assert!(check(&with_manifest(&all, &format!("DATA x\n{clear}"))).is_err(), "text before the signed one");
        assert!(check(&with_manifest(&all, &format!("{clear}DATA x\n"))).is_err(), "text behind it");
        let half = vec![marker, metadata, image, ("image.tar.zst.sig", signature)];
        assert!(check(&package(&half)).is_err());
    }

    #[test]
    fn odd_metadata_is_refused() {
        let with = |entries: &[(&str, &[u8])]| {
            check(&package(&[("gpkg-1", vec![]), ("metadata.tar", tar(entries)), ("image.tar", image())]))
        };
        let good: [(&str, &[u8]); 3] =
            [("metadata/CATEGORY", b"app-misc"), ("metadata/PF", b"hello-1.0-r1-3"), ("metadata/SLOT", b"0")];
        with(&good).expect_err("PF is not the package's directory without a build number of its own");
        for (key, value) in
            [("PF", "../x-1"), ("PF", "other-1.0"), ("CATEGORY", "a/b"), ("SLOT", "; rm"), ("BUILD_ID", "x")]
        {
            let name = format!("metadata/{key}");
            let entries: Vec<(&str, &[u8])> = [
                ("metadata/CATEGORY", "app-misc"),
                ("metadata/PF", "hello-1.0-r1"),
                ("metadata/SLOT", "0"),
                ("metadata/BUILD_ID", "3"),
            ]
            .iter()
            .map(|(known, old)| if *known == name { (*known, value.as_bytes()) } else { (*known, old.as_bytes()) })
            .collect();
            assert!(with(&entries).is_err(), "{key}={value}");
        }
        assert!(with(&[("metadata/a/b", b"")]).is_err());
        assert!(with(&[("other/PF", b"")]).is_err());
    }

    #[test]
    fn bombs_and_escapes_are_refused_and_not_damaged() {
        let bomb = zstd(&vec![0u8; 8 << 20]);
        assert!(bomb.len() < 4_096);
        let caps = Caps { contents_max_bytes: 1 << 20, ..Caps::default() };
        let bytes = package(&[("gpkg-1", vec![]), ("metadata.tar", metadata()), ("image.tar.zst", bomb)]);
        let error = verify(&mut Cursor::new(&bytes), caps).expect_err("bomb");
        assert!(matches!(error, FormatError::Refused(_)), "{error}");
        let many = tar(&[("image/a", b""), ("image/b", b""), ("image/c", b"")]);
        let bytes = package(&[("gpkg-1", vec![]), ("metadata.tar", metadata()), ("image.tar", many)]);
        let error = verify(&mut Cursor::new(&bytes), Caps { entries_max: 2, ..Caps::default() }).expect_err("many");
        assert!(matches!(error, FormatError::Refused(_)), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn junk_never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..4000), manifest in "[A-Z0-9 \n.-]{0,200}") {
            let _ = check(&bytes);
            let _ = check(&with_manifest(&members(), &manifest));
            let _ = check(&package(&[("gpkg-1", vec![]), ("metadata.tar.zst", bytes.clone()), ("image.tar.xz", bytes.clone())]));
            let _ = check(&package(&[("gpkg-1", vec![]), ("metadata.tar.lz", bytes.clone()), ("image.tar.bz2", bytes)]));
        }
    }
}
