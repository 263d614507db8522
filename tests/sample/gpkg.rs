//! Gentoo packages for tests, made by hand: no Portage is needed, and damage can be put where it hurts.

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
