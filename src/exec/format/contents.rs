//! What a package would write where, looked at without writing it.
//!
//! The root of the package stands for the root of the machine that installs it, so a link may name any place below that root and
//! none above it. A file below a link of the same package, a hard link to anything but an earlier file, a device, and a name
//! that is there twice are refused: package managers differ in what they make of them. Never done here: following links.

use std::collections::BTreeMap;
use std::io::Read;

use sha2::{Digest as _, Sha256};

use super::tarball::{Entry, Kind, Walker};
use super::{Caps, Contents, FormatError, shown};

/// Deepest directory.
const DEPTH_MAX: usize = 128;

/// What is known of one name. Names themselves are not kept: a million of them need not fit into memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Only seen as the directory of something else.
    Implied,
    Directory,
    File,
    Link,
}

/// Half of a SHA-256: two names that share one are found by nobody.
type Key = [u8; 16];

struct Names {
    known: BTreeMap<Key, Known>,
    /// The directory of the entry before: neighbours are the rule.
    directory: Vec<u8>,
    entries_max: usize,
}

fn key(name: &[u8]) -> Key {
    let digest = Sha256::digest(name);
    let mut key = Key::default();
    key.copy_from_slice(&digest[..16]);
    key
}

/// The parts of a path below the root; `./` in front is what Debian writes.
fn parts(name: &[u8]) -> Result<Vec<&[u8]>, FormatError> {
    if name.starts_with(b"/") {
        return Err(FormatError::refused(format!("{} is an absolute path", shown(name))));
    }
    let parts: Vec<&[u8]> = name.split(|&byte| byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    if parts.contains(&b"..".as_slice()) {
        return Err(FormatError::refused(format!("{} leads out of the package", shown(name))));
    }
    if parts.len() > DEPTH_MAX {
        return Err(FormatError::refused(format!("{} is deeper than {DEPTH_MAX} directories", shown(name))));
    }
    if parts.iter().any(|part| part.len() > 255 || part.contains(&0)) {
        return Err(FormatError::refused(format!("{} has a part that no file can be called", shown(name))));
    }
    Ok(parts)
}

/// Whether a link of `depth` directories below the root stays below it.
fn stays_inside(depth: usize, target: &[u8]) -> bool {
    let mut depth = if target.starts_with(b"/") { 0 } else { depth };
    for part in target.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => match depth.checked_sub(1) {
                Some(up) => depth = up,
                None => return false,
            },
            _ => depth += 1,
        }
    }
    !target.is_empty() && !target.contains(&0)
}

impl Names {
    /// Every directory above; one that is a link or a file is refused.
    fn above(&mut self, parts: &[&[u8]], whole: &[u8]) -> Result<(), FormatError> {
        let directory = parts.join(&b'/');
        if directory == self.directory {
            return Ok(());
        }
        for length in 1..=parts.len() {
            let entries_max = self.entries_max;
            let full = self.known.len() >= entries_max;
            match self.known.get(&key(&parts[..length].join(&b'/'))) {
                Some(Known::Implied | Known::Directory) => {}
                Some(Known::Link) => {
                    return Err(FormatError::refused(format!(
                        "{} is below a link of the package itself",
                        shown(whole)
                    )));
                }
                Some(Known::File) => return Err(FormatError::damaged(format!("{} is below a file", shown(whole)))),
                None if full => return Err(too_many(entries_max)),
                None => {
                    self.known.insert(key(&parts[..length].join(&b'/')), Known::Implied);
                }
            }
        }
        self.directory = directory;
        Ok(())
    }

    fn add(&mut self, parts: &[&[u8]], what: Known, whole: &[u8]) -> Result<(), FormatError> {
        let key = key(&parts.join(&b'/'));
        match (self.known.get(&key), what) {
            (None, _) if self.known.len() >= self.entries_max => return Err(too_many(self.entries_max)),
            (None, _) | (Some(Known::Implied | Known::Directory), Known::Directory) => {}
            (Some(_), _) => return Err(FormatError::refused(format!("{} is there twice", shown(whole)))),
        }
        self.known.insert(key, what);
        Ok(())
    }
}

fn too_many(entries_max: usize) -> FormatError {
    FormatError::refused(format!("more than {entries_max} names"))
}

/// Walks `archive`, whose names all begin with `prefix` when there is one, and answers what it holds.
pub(super) fn check(archive: impl Read, prefix: Option<&str>, caps: Caps) -> Result<Contents, FormatError> {
    let mut walker = Walker::new(archive);
    let mut names = Names { known: BTreeMap::new(), directory: Vec::new(), entries_max: caps.entries_max };
    let mut contents = Contents::default();
    while let Some(entry) = walker.entry()? {
        let parts = parts(&entry.name)?;
        let parts = match (prefix, parts.split_first()) {
            (None, _) => parts.as_slice(),
            (Some(prefix), Some((first, rest))) if *first == prefix.as_bytes() => rest,
            (Some(prefix), _) => {
                return Err(FormatError::damaged(format!("{} is not below {prefix}/", shown(&entry.name))));
            }
        };
        look_at(&mut names, &entry, parts, prefix)?;
        contents.entries += 1;
        contents.bytes = contents.bytes.saturating_add(entry.size);
    }
    Ok(contents)
}

fn look_at(names: &mut Names, entry: &Entry, parts: &[&[u8]], prefix: Option<&str>) -> Result<(), FormatError> {
    let Some((_, above)) = parts.split_last() else {
        let whole = entry.kind == Kind::Directory;
        return if whole { Ok(()) } else { Err(FormatError::refused("its root is not a directory")) };
    };
    let what = match entry.kind {
        Kind::File | Kind::Fifo => Known::File,
        Kind::Directory => Known::Directory,
        Kind::Symlink if stays_inside(above.len(), &entry.link) => Known::Link,
        Kind::Symlink => {
            let problem = format!("{} is a link to {}, out of the package", shown(&entry.name), shown(&entry.link));
            return Err(FormatError::refused(problem));
        }
        Kind::HardLink => {
            let target = self::parts(&entry.link)?;
            let target = target.get(usize::from(prefix.is_some())..).unwrap_or_default();
            if names.known.get(&key(&target.join(&b'/'))) != Some(&Known::File) {
                let problem = format!("{} is a hard link to no file of the package", shown(&entry.name));
                return Err(FormatError::refused(problem));
            }
            Known::File
        }
        Kind::Other(flag) => {
            let problem = format!("{} is a device or of an odd kind ({})", shown(&entry.name), shown(&[flag]));
            return Err(FormatError::refused(problem));
        }
    };
    names.above(above, &entry.name)?;
    names.add(parts, what, &entry.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(out: &mut Vec<u8>, kind: u8, name: &[u8], link: &[u8], content: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().expect("gnu").name[..name.len()].copy_from_slice(name);
        header.as_gnu_mut().expect("gnu").linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(512), 0);
    }

    /// Type flag, name and target of a link.
    type Entries<'a> = &'a [(u8, &'a [u8], &'a [u8])];

    fn archive(entries: Entries) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, name, link) in entries {
            entry(&mut bytes, *kind, name, link, b"");
        }
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    fn verdict(entries: Entries) -> Result<Contents, FormatError> {
        check(archive(entries).as_slice(), Some("image"), Caps::default())
    }

    #[test]
    fn what_packages_really_hold_is_taken() {
        let entries: Entries = &[
            (b'5', b"image", b""),
            (b'5', b"image/usr/", b""),
            (b'0', b"image/usr/bin/tool", b""),
            (b'1', b"image/usr/bin/alias", b"image/usr/bin/tool"),
            (b'2', b"image/usr/lib64/libx.so", b"libx.so.1"),
            (b'2', b"image/usr/lib64/other", b"../../etc/x"),
            (b'2', b"image/etc/alternatives/x", b"/usr/bin/tool"),
            (b'6', b"image/var/fifo", b""),
            (b'0', b"image/usr/share/..hidden", b""),
        ];
        assert_eq!(verdict(entries).expect("taken").entries, entries.len());
    }

    #[test]
    fn paths_and_links_out_of_it_are_refused() {
        let corpus: &[Entries] = &[
            &[(b'0', b"/etc/passwd", b"")],
            &[(b'0', b"image/../etc/passwd", b"")],
            &[(b'0', b"image/a/../../../x", b"")],
            &[(b'2', b"image/usr/x", b"../../etc/passwd")],
            &[(b'2', b"image/x", b"/../etc")],
            &[(b'2', b"image/x", b"a/../../y")],
            &[(b'2', b"image/x", b"")],
            &[(b'1', b"image/x", b"/etc/passwd")],
            &[(b'1', b"image/x", b"image/later")],
            &[(b'2', b"image/l", b"/etc"), (b'1', b"image/x", b"image/l")],
            &[(b'2', b"image/l", b"/etc"), (b'0', b"image/l/passwd", b"")],
            &[(b'0', b"image/l/passwd", b""), (b'2', b"image/l", b"/etc")],
            &[(b'0', b"image/x", b""), (b'0', b"image/./x", b"")],
            &[(b'0', b"image/x", b""), (b'5', b"image/x", b"")],
            &[(b'3', b"image/dev/sda", b"")],
            &[(b'4', b"image/dev/tty", b"")],
            &[(b'S', b"image/sparse", b"")],
            &[(b'g', b"image/pax", b"")],
            &[(b'0', b"image", b"")],
        ];
        for entries in corpus {
            assert!(matches!(verdict(entries), Err(FormatError::Refused(_))), "{:?}: {:?}", entries, verdict(entries));
        }
        assert!(matches!(verdict(&[(b'0', b"other/x", b"")]), Err(FormatError::Damaged(_))));
        assert!(matches!(verdict(&[(b'0', b"image/x", b""), (b'0', b"image/x/y", b"")]), Err(FormatError::Damaged(_))));
    }

    #[test]
    fn names_are_counted_and_long_ones_are_not_kept() {
        let many: Vec<Vec<u8>> = (0..50).map(|number| format!("image/d{number}/f").into_bytes()).collect();
        let entries: Vec<(u8, &[u8], &[u8])> =
            many.iter().map(|name| (b'0', name.as_slice(), b"".as_slice())).collect();
        let caps = Caps { entries_max: 60, ..Caps::default() };
        assert!(matches!(check(archive(&entries).as_slice(), Some("image"), caps), Err(FormatError::Refused(_))));
        let caps = Caps { entries_max: 100, ..Caps::default() };
        check(archive(&entries).as_slice(), Some("image"), caps).expect("taken");

        // A long name that claims 4 GiB, of which nothing follows.
        for kind in [b'L', b'K', b'x'] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::new(kind));
            header.set_size(4 << 30);
            header.set_cksum();
            let bytes = [header.as_bytes().as_slice(), &[b'a'; 4096]].concat();
            assert!(matches!(check(bytes.as_slice(), None, Caps::default()), Err(FormatError::Refused(_))));
        }
    }

    #[test]
    fn long_names_are_read_in_both_spellings() {
        let deep = format!("image/{}/{}", "d".repeat(200), "../../../etc/passwd");
        for (kind, content) in [
            (b'L', [deep.as_bytes(), b"\0"].concat()),
            (b'x', {
                let record = format!(" path={deep}\n");
                let length = record.len() + 3;
                format!("{length}{record}").into_bytes()
            }),
        ] {
            let mut bytes = Vec::new();
            entry(&mut bytes, kind, b"long", b"", &content);
            entry(&mut bytes, b'0', b"image/harmless", b"", b"x");
            bytes.resize(bytes.len() + 1024, 0);
            let error = check(bytes.as_slice(), Some("image"), Caps::default()).expect_err("out of it");
            assert!(error.to_string().contains("leads out of the package"), "{kind}: {error}");
        }
    }

    #[test]
    fn nothing_hides_in_padding_or_behind_the_end() {
        let mut bytes = Vec::new();
        entry(&mut bytes, b'0', b"image/x", b"", b"content");
        bytes.resize(bytes.len() + 1024, 0);
        check(bytes.as_slice(), Some("image"), Caps::default()).expect("as it should be");
        for position in [600, 1023, 1024 + 600, bytes.len() - 1] {
            let mut changed = bytes.clone();
            changed[position] = b'!';
            assert!(check(changed.as_slice(), Some("image"), Caps::default()).is_err(), "byte {position}");
        }
        for length in [0, 100, 511, 512, 600, 1023, 1024, 1500] {
            assert!(check(&bytes[..length], Some("image"), Caps::default()).is_err(), "cut at {length}");
        }
    }

    proptest::proptest! {
        #[test]
        fn junk_never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..3000), flags in "[0-9LKxgS]{0,6}") {
            let _ = check(bytes.as_slice(), None, Caps::default());
            // Headers with good sums and odd everything else.
            let mut archive = Vec::new();
            for (index, flag) in flags.bytes().enumerate() {
                let slice = bytes.get(index * 100..index * 100 + 90).unwrap_or_default();
                entry(&mut archive, flag, slice, slice, slice);
            }
            let _ = check(archive.as_slice(), None, Caps::default());
        }
    }
}
