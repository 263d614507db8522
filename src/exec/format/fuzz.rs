//! Packages and lists as builds and uploads may hand them in.

use std::io::{Cursor, Read as _};

use super::decompress::{self, Compression};
use super::{Caps, FormatError, changes, contents, deb, gpkg};
use crate::exec::staging::sample;
use crate::fuzzing::{SMALL, attack};

/// What one package may take from memory here: decoders have windows of their own.
const MEMORY: u64 = 96 << 20;
const CAPS: Caps = Caps { contents_max_bytes: 4 << 20, entries_max: 1_000 };

fn told(error: &FormatError) {
    let said = error.to_string();
    assert!(!said.is_empty() && said.len() < 5_000, "{} bytes of reason", said.len());
    assert!(!said.contains(|c: char| c.is_control() && c != '\n' && c != '\t'), "{said:?}");
}

fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = b"!<arch>\n".to_vec();
    for (name, content) in members {
        bytes.extend(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, content.len()).bytes());
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(2), b'\n');
    }
    bytes
}

fn a_deb() -> Vec<u8> {
    let fields = b"Package: hello\nVersion: 1.0-1\nArchitecture: amd64\nMaintainer: x\nDescription: x\n";
    let control = zstd::stream::encode_all(&*sample::tar(&[("./control", fields)]), 3).expect("packs");
    let data = sample::tar(&[("./usr/share/x", b"content")]);
    ar(&[("debian-binary", b"2.0\n"), ("control.tar.zst", &control), ("data.tar", &data)])
}

#[test]
fn deb_package() {
    attack("deb_package", vec![a_deb()], MEMORY, |bytes| match deb::verify(&mut Cursor::new(bytes), CAPS) {
        Ok(package) => {
            let stem = package.file_stem();
            crate::engine::grammar::artifact_name(&stem).unwrap_or_else(|error| panic!("{stem:?}: {error}"));
            assert!(package.contents.entries <= CAPS.entries_max && package.contents.bytes <= CAPS.contents_max_bytes);
            true
        }
        Err(error) => {
            told(&error);
            false
        }
    });
}

#[test]
fn gentoo_package() {
    let all = vec![
        sample::package("app-misc", "hello-1.0", None, b"content"),
        sample::package("app-misc", "hello-1.0-r1", Some(3), b"content"),
    ];
    attack("gentoo_package", all, MEMORY, |bytes| {
        let mut file = Cursor::new(bytes);
        if let Err(error) = gpkg::signed(&mut file) {
            told(&error);
        }
        match gpkg::verify(&mut file, CAPS) {
            Ok(package) => {
                let atom = format!("={}/{}", package.category, package.pf);
                crate::engine::grammar::gentoo_atom(&atom).unwrap_or_else(|error| panic!("{atom:?}: {error}"));
                assert!(package.contents.entries <= CAPS.entries_max);
                true
            }
            Err(error) => {
                told(&error);
                false
            }
        }
    });
}

/// The tar inside: what is taken, the `tar` crate reads with the same names and sizes, and nothing leads out.
#[test]
fn package_contents() {
    let mut long = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o644);
    long.append_data(&mut header, format!("image/{}/x", "d".repeat(150)), &b"abc"[..]).expect("appends");
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    long.append_link(&mut link, "image/usr/lib/x.so", "x.so.1").expect("appends");
    let all = vec![
        sample::tar(&[("image/usr/share/x", b"content"), ("image/etc/y", b"")]),
        sample::tar(&[("./usr/bin/x", b"content")]),
        long.into_inner().expect("ends"),
    ];
    attack("package_contents", all, 4 * SMALL, |bytes| {
        let mut taken = false;
        for prefix in [None, Some("image")] {
            match contents::check(bytes, prefix, CAPS) {
                Ok(found) => {
                    taken = true;
                    let mut archive = tar::Archive::new(bytes);
                    let (mut entries, mut sizes) = (0, 0);
                    for entry in archive.entries().expect("the other reader takes it, too") {
                        let entry = entry.expect("the other reader takes it, too");
                        let name = entry.path_bytes().into_owned();
                        assert!(!name.split(|byte| *byte == b'/').any(|part| part == b".."), "{name:?}");
                        let kind = entry.header().entry_type();
                        assert!(!kind.is_block_special() && !kind.is_character_special(), "{kind:?}");
                        entries += 1;
                        sizes += if kind.is_file() { entry.size() } else { 0 };
                    }
                    assert_eq!((found.entries, found.bytes), (entries, sizes), "two readers disagree");
                }
                Err(error) => told(&error),
            }
        }
        taken
    });
}

/// However little stands for however much: the cap holds, in memory and in what comes out.
#[test]
fn compressed() {
    let text = vec![b'x'; 200_000];
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut encoder, &text).expect("packs");
        encoder.finish().expect("packs")
    };
    let all = vec![zstd::stream::encode_all(&text[..], 3).expect("packs"), gzip, b"plain".to_vec()];
    attack("compressed", all, MEMORY, |bytes| {
        let mut taken = false;
        for compression in [Compression::Zstd, Compression::Gzip, Compression::Xz, Compression::Bzip2] {
            let most = 300_000;
            let Ok(mut reader) = decompress::reader(compression, bytes, most) else { continue };
            let mut buffer = vec![0u8; 32 << 10];
            let mut total = 0u64;
            let ended = loop {
                match reader.read(&mut buffer) {
                    Ok(0) => break true,
                    Ok(length) => total += length as u64,
                    Err(error) => {
                        told(&FormatError::from(error));
                        break false;
                    }
                }
                assert!(total <= most, "{total} bytes came out");
            };
            taken |= ended && total > 0;
        }
        taken
    });
}

#[test]
fn control_files() {
    let hash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let text = format!(
        "Format: 1.8\nSource: hello (1.0)\nArchitecture: amd64\nVersion: 2:1.0-1+b1\nDistribution: unstable\n\
         Checksums-Sha256:\n {hash} 5 hello_1.0-1_amd64.deb\n {hash} 7 hello_1.0-1_amd64.buildinfo\n"
    );
    attack("control_files", vec![text.into_bytes()], 8 * SMALL, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        match changes::read(text) {
            Ok(description) => {
                for listed in &description.files {
                    crate::engine::grammar::artifact_name(&listed.name).expect("names that cannot lead out");
                }
                let mut names: Vec<&str> = description.files.iter().map(|listed| listed.name.as_str()).collect();
                names.sort_unstable();
                names.dedup();
                assert_eq!(names.len(), description.files.len(), "each file once");
                true
            }
            Err(error) => {
                told(&error);
                false
            }
        }
    });
}
