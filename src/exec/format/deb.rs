//! Debian's binary packages, `.deb` and `.udeb`, after deb(5).
//!
//! An `ar` archive of `debian-binary`, `control.tar*`, `data.tar*`, and behind them only what begins with `_`. The dialect of
//! `ar` is dpkg's own and smaller than what a library reads: no long names, no symbol tables. Never done here: maintainer
//! scripts are neither run nor read.

use std::io::{Read, Seek, SeekFrom};

use super::decompress::{self, Compression};
use super::tarball::{Kind, Walker};
use super::{Caps, Contents, FormatError, changes, contents, shown};
use crate::engine::grammar;

const MAGIC: &[u8] = b"!<arch>\n";
const HEADER: usize = 60;
/// Most members: three, and some that are ignored.
const MEMBERS_MAX: usize = 16;
/// Most bytes of the control archive when unpacked.
const CONTROL_MAX_BYTES: u64 = 64 << 20;
/// Largest control file, bytes.
const FIELDS_MAX_BYTES: u64 = 1 << 20;

/// A package that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deb {
    /// `Package`.
    pub package: String,
    /// `Version`, with its epoch.
    pub version: String,
    /// `Architecture`.
    pub architecture: String,
    /// What it installs.
    pub contents: Contents,
}

impl Deb {
    /// What its file has to be called, but for the ending.
    pub fn file_stem(&self) -> String {
        let version = self.version.split_once(':').map_or(self.version.as_str(), |(_, version)| version);
        format!("{}_{version}_{}", self.package, self.architecture)
    }
}

struct Member {
    name: String,
    position: u64,
    size: u64,
}

/// Reads all of `file` and answers what it is, or why it does not count.
pub fn verify(file: &mut (impl Read + Seek), caps: Caps) -> Result<Deb, FormatError> {
    let members = members(file)?;
    let [format, control, data, rest @ ..] = members.as_slice() else {
        return Err(FormatError::damaged("it has not the three members of a Debian package"));
    };
    if format.name != "debian-binary" || rest.iter().any(|member| !member.name.starts_with('_')) {
        return Err(FormatError::damaged("its members are not those of a Debian package"));
    }
    let mut version = String::new();
    part(file, format)?.take(64).read_to_string(&mut version)?;
    if !version.starts_with("2.") || !version.ends_with('\n') {
        return Err(FormatError::damaged("debian-binary does not say version 2"));
    }
    let (control_packed, data_packed) = (packed(control, "control")?, packed(data, "data")?);
    let fields = {
        let reader = decompress::reader(control_packed, part(file, control)?, CONTROL_MAX_BYTES)?;
        control_file(reader).map_err(|error| error.within(&control.name))?
    };
    let contents = {
        let reader = decompress::reader(data_packed, part(file, data)?, caps.contents_max_bytes)?;
        contents::check(reader, None, caps).map_err(|error| error.within(&data.name))?
    };
    described(&fields, contents)
}

fn part<'a, F: Read + Seek>(file: &'a mut F, member: &Member) -> Result<impl Read + use<'a, F>, FormatError> {
    file.seek(SeekFrom::Start(member.position))?;
    Ok(file.by_ref().take(member.size))
}

fn packed(member: &Member, stem: &str) -> Result<Compression, FormatError> {
    let wrong = || FormatError::damaged(format!("{} stands where {stem}.tar should", shown(member.name.as_bytes())));
    decompress::of_tar(&member.name, stem).ok_or_else(wrong)?
}

/// The members, in order, to the last byte of the file.
fn members(file: &mut (impl Read + Seek)) -> Result<Vec<Member>, FormatError> {
    let end = file.seek(SeekFrom::End(0))?;
    file.rewind()?;
    let mut magic = [0u8; MAGIC.len()];
    file.read_exact(&mut magic)?;
    if magic != MAGIC {
        return Err(FormatError::damaged("it is no archive of ar"));
    }
    let mut members: Vec<Member> = Vec::new();
    let mut position = MAGIC.len() as u64;
    while position < end {
        let mut header = [0u8; HEADER];
        file.read_exact(&mut header)?;
        let text = std::str::from_utf8(&header).ok().filter(|text| text.ends_with("`\n") && text.is_ascii());
        let text = text.ok_or_else(|| FormatError::damaged("a header of ar is damaged"))?;
        let number = |range: std::ops::Range<usize>| text[range].trim_end().parse::<u64>().ok();
        let name = text[..16].trim_end().trim_end_matches('/').to_owned();
        let whole = number(16..28).is_some() && number(28..34).is_some() && number(34..40).is_some();
        let size = number(48..58).filter(|_| whole && !name.is_empty());
        let size = size.ok_or_else(|| FormatError::damaged("a header of ar is damaged"))?;
        position += HEADER as u64;
        let padded = size.checked_add(size % 2).and_then(|size| position.checked_add(size));
        let next = padded.filter(|&next| next <= end);
        let next = next.ok_or_else(|| FormatError::damaged(format!("{} ends too early", shown(name.as_bytes()))))?;
        if members.len() >= MEMBERS_MAX || members.iter().any(|member| member.name == name) {
            return Err(FormatError::damaged(format!("{} is there twice or is one too many", shown(name.as_bytes()))));
        }
        members.push(Member { name, position, size });
        if size % 2 == 1 {
            let mut padding = [0u8; 1];
            file.seek(SeekFrom::Start(next - 1))?;
            file.read_exact(&mut padding)?;
            if padding != *b"\n" {
                return Err(FormatError::damaged("something is hidden between two members"));
            }
        }
        file.seek(SeekFrom::Start(next))?;
        position = next;
    }
    Ok(members)
}

/// The text of `control` in the control archive, whose other files are plain files beside it.
fn control_file(reader: impl Read) -> Result<String, FormatError> {
    let mut walker = Walker::new(reader);
    let mut fields: Option<String> = None;
    while let Some(entry) = walker.entry()? {
        let name = entry.name.strip_prefix(b"./").unwrap_or(&entry.name);
        let is_root = matches!(name, b"" | b".") && entry.kind == Kind::Directory;
        if is_root {
            continue;
        }
        if name.contains(&b'/') || entry.kind != Kind::File {
            return Err(FormatError::refused(format!("{} is not a plain file", shown(&entry.name))));
        }
        if name != b"control" {
            continue;
        }
        if entry.size > FIELDS_MAX_BYTES || fields.is_some() {
            return Err(FormatError::refused("control is there twice, or far too long"));
        }
        let mut bytes = Vec::new();
        walker.read_to_end(&mut bytes)?;
        fields = Some(String::from_utf8(bytes).map_err(|_| FormatError::damaged("control is no text"))?);
    }
    fields.ok_or_else(|| FormatError::damaged("there is no control file"))
}

fn described(fields: &str, contents: Contents) -> Result<Deb, FormatError> {
    let fields = changes::paragraph(fields)?;
    let value = |name: &str| {
        let value = fields.get(name).map(str::trim).filter(|value| !value.is_empty());
        value.map(str::to_owned).ok_or_else(|| FormatError::damaged(format!("its control file has no {name}")))
    };
    let deb =
        Deb { package: value("Package")?, version: value("Version")?, architecture: value("Architecture")?, contents };
    let valid = grammar::debian_package(&deb.package)
        .and_then(|()| grammar::debian_version(&deb.version))
        .and_then(|()| grammar::label(&deb.architecture));
    valid.map_err(|error| FormatError::damaged(error.to_string()))?;
    Ok(deb)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Cursor;
    use std::path::Path;
    use std::process::Command;

    use super::*;

    /// A package by the real dpkg-deb.
    fn real(compression: &str, change: impl Fn(&Path)) -> Vec<u8> {
        let directory = tempfile::tempdir().expect("temporary directory");
        let tree = directory.path().join("tree");
        fs::create_dir_all(tree.join("DEBIAN")).expect("mkdir");
        fs::create_dir_all(tree.join("usr/share/doc/hive-test")).expect("mkdir");
        let control = "Package: hive-test\nVersion: 1:2.0-1\nArchitecture: all\nMaintainer: hive <hive@localhost>\n\
            Description: a test\n of many lines\n .\n and a paragraph\n";
        fs::write(tree.join("DEBIAN/control"), control).expect("writes");
        fs::write(tree.join("usr/share/doc/hive-test/readme"), "content").expect("writes");
        change(&tree);
        let file = directory.path().join("x.deb");
        let output = Command::new("dpkg-deb")
            .args(["--root-owner-group", "--nocheck", "-b", &format!("-Z{compression}")])
            .args([&tree, &file])
            .output()
            .expect("dpkg-deb runs: apt-get install -y dpkg");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::read(file).expect("reads")
    }

    fn check(bytes: &[u8]) -> Result<Deb, FormatError> {
        verify(&mut Cursor::new(bytes), Caps::default())
    }

    #[test]
    fn what_dpkg_deb_builds_is_described() {
        for compression in ["xz", "gzip", "zstd", "none"] {
            let deb = check(&real(compression, |_| ())).unwrap_or_else(|error| panic!("{compression}: {error}"));
            assert_eq!((deb.package.as_str(), deb.version.as_str()), ("hive-test", "1:2.0-1"));
            assert_eq!(deb.file_stem(), "hive-test_2.0-1_all");
            assert_eq!((deb.contents.entries, deb.contents.bytes), (6, 7));
        }
    }

    #[test]
    fn long_names_and_links_of_real_packages_are_taken_and_escapes_are_not() {
        let long = real("xz", |tree| {
            fs::write(tree.join("n".repeat(200)), "x").expect("writes");
            std::os::unix::fs::symlink("/usr/bin/true", tree.join("usr/link")).expect("links");
            std::os::unix::fs::symlink("../etc/hosts", tree.join("usr/other")).expect("links");
        });
        check(&long).expect("taken");
        let escape = real("xz", |tree| {
            std::os::unix::fs::symlink("../../../etc/passwd", tree.join("usr/out")).expect("links");
        });
        assert!(matches!(check(&escape), Err(FormatError::Refused(_))), "{:?}", check(&escape));
        let caps = Caps { contents_max_bytes: 10_000, ..Caps::default() };
        let large = real("xz", |tree| fs::write(tree.join("zeros"), vec![0u8; 4 << 20]).expect("writes"));
        assert!(matches!(verify(&mut Cursor::new(&large), caps), Err(FormatError::Refused(_))));
    }

    #[test]
    fn damage_in_any_region_is_noticed() {
        let whole = real("xz", |_| ());
        check(&whole).expect("whole");
        for length in 0..whole.len() {
            assert!(check(&whole[..length]).is_err(), "cut at {length} of {}", whole.len());
        }
        // Times, owners and modes of ar, which dpkg ignores, and the second half of the version are free.
        let free = |position: usize| {
            let headers = [8, 72, 72 + 60 + usize::from(whole[72 + 48] - b'0') * 100];
            headers[..2].iter().any(|start| (start + 16..start + 48).contains(&position))
                || (68..72).contains(&position)
        };
        let second = members(&mut Cursor::new(&whole)).expect("members")[2].position as usize - HEADER;
        for position in
            (0..whole.len()).filter(|&position| !free(position) && !(second + 16..second + 48).contains(&position))
        {
            let mut changed = whole.clone();
            changed[position] ^= 0x40;
            assert!(check(&changed).is_err(), "byte {position} of {}", whole.len());
        }
    }

    fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for (name, content) in members {
            bytes.extend_from_slice(
                format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, content.len()).as_bytes(),
            );
            bytes.extend_from_slice(content);
            if content.len() % 2 == 1 {
                bytes.push(b'\n');
            }
        }
        bytes
    }

    #[test]
    fn members_are_three_in_order() {
        let whole = real("none", |_| ());
        let found = members(&mut Cursor::new(&whole)).expect("members");
        let content = |index: usize| {
            let start = usize::try_from(found[index].position).expect("fits");
            &whole[start..start + usize::try_from(found[index].size).expect("fits")]
        };
        let (format, control, data) = (content(0), content(1), content(2));
        let build = |members: &[(&str, &[u8])]| check(&ar(members));
        build(&[("debian-binary", format), ("control.tar", control), ("data.tar", data)]).expect("whole");
        build(&[("debian-binary/", b"2.1\n"), ("control.tar/", control), ("data.tar/", data), ("_gpg", b"x")])
            .expect("as others write it");
        for wrong in [
            vec![],
            vec![("debian-binary", format)],
            vec![("debian-binary", format), ("data.tar", data), ("control.tar", control)],
            vec![("debian-binary", b"3.0\n".as_slice()), ("control.tar", control), ("data.tar", data)],
            vec![("debian-binary", format), ("control.tar", control), ("data.tar", data), ("extra", b"x")],
            vec![("debian-binary", format), ("control.tar", control), ("data.tar", data), ("data.tar", data)],
            vec![("debian-binary", format), ("control.tar", data), ("data.tar", data)],
            vec![("debian-binary", format), ("control.tar.gz", control), ("data.tar", data)],
            vec![("debian-binary", format), ("control.tar", control), ("data.cpio", data)],
        ] {
            let names: Vec<&str> = wrong.iter().map(|(name, _)| *name).collect();
            assert!(build(&wrong).is_err(), "{names:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn junk_never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..3000), size in "[0-9 x]{1,10}") {
            let _ = check(&bytes);
            let _ = check(&[MAGIC, bytes.as_slice()].concat());
            let _ = check(&ar(&[("debian-binary", b"2.0\n"), ("control.tar.xz", &bytes), ("data.tar.zst", &bytes)]));
            let mut sized = ar(&[("debian-binary", b"2.0\n")]);
            sized[56..56 + size.len()].copy_from_slice(size.as_bytes());
            let _ = check(&sized);
        }
    }
}
