//! The index `Packages` of a directory of Gentoo packages, as Portage writes and reads it.
//!
//! ```text
//!   ARCH: amd64          header: sorted keys
//!   PACKAGES: 1
//!   TIMESTAMP: 1763
//!                        one paragraph per package, by version; keys sorted, empty values left out
//!   BUILD_ID: 1
//!   CPV: app-misc/hello-1.0
//! ```
//!
//! A file is trusted by its size and time of change, as Portage does it; what is unknown or changed is read to its end. Never done
//! here: signing it, because packages carry their own signatures.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use md5::{Digest as _, Md5};
use sha1::Sha1;

use crate::clock;
use crate::engine::staging::number_of;
use crate::exec::format::gpkg::Gpkg;
use crate::exec::format::{Caps, gpkg};

/// Keys that stand in the index under the name that they have in a package.
const KEYS: [&str; 18] = [
    "BDEPEND",
    "BUILD_TIME",
    "CHOST",
    "DEFINED_PHASES",
    "DEPEND",
    "EAPI",
    "IDEPEND",
    "IUSE",
    "KEYWORDS",
    "LICENSE",
    "PDEPEND",
    "PROPERTIES",
    "PROVIDES",
    "RDEPEND",
    "REQUIRES",
    "RESTRICT",
    "SLOT",
    "USE",
];
/// Largest index that is read, bytes: some 100,000 packages.
const INDEX_MAX_BYTES: u64 = 512 << 20;

type Paragraph = BTreeMap<String, String>;

/// What one index says, by the path of each package below its directory.
#[derive(Debug, Default)]
pub(super) struct Index {
    directory: PathBuf,
    packages: BTreeMap<String, Paragraph>,
    timestamp: u64,
    changed: bool,
}

impl Index {
    /// Reads the index of a directory and makes it say what is there. Blocks; reads every package that it does not know.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let (known, timestamp, whole) = read(&directory.join("Packages"))?;
        let mut index = Self { directory: directory.to_owned(), timestamp, changed: !whole, ..Self::default() };
        let known_len = known.len();
        for path in packages_below(directory)? {
            let metadata = fs::symlink_metadata(directory.join(&path))?;
            let same = known.get(&path).filter(|entry| {
                entry.get("SIZE") == Some(&metadata.len().to_string())
                    && entry.get("MTIME") == Some(&metadata.mtime().to_string())
            });
            if let Some(entry) = same {
                index.packages.insert(path, entry.clone());
                continue;
            }
            index.changed = true;
            let file = directory.join(&path);
            let checked = File::open(&file).map_err(|error| error.to_string()).and_then(|mut opened| {
                let package = gpkg::verify(&mut opened, Caps::default()).map_err(|error| error.to_string())?;
                index.add(&path, &package, &mut opened).map_err(|error| error.to_string())
            });
            if let Err(error) = checked {
                tracing::warn!(file = %file.display(), error, "a staged package is left out of the index");
            }
        }
        index.changed |= index.packages.len() != known_len;
        Ok(index)
    }

    /// Adds a package that lies at `path`.
    pub(super) fn add(&mut self, path: &str, package: &Gpkg, file: &mut File) -> io::Result<()> {
        let metadata = file.metadata()?;
        let (md5, sha1) = digests(file)?;
        let name = path.rsplit('/').next().unwrap_or(path);
        let mut entry: Paragraph = KEYS
            .iter()
            .filter_map(|key| Some(((*key).to_owned(), one_line(package.metadata.get(*key)?))))
            .filter(|(_, value)| !value.is_empty())
            .collect();
        let mut say = |key: &str, value: String| {
            if !value.is_empty() {
                entry.insert(key.to_owned(), value);
            }
        };
        say("CPV", format!("{}/{}", package.category, package.pf));
        say("PATH", path.to_owned());
        say("SIZE", metadata.len().to_string());
        say("MTIME", metadata.mtime().to_string());
        say("MD5", md5);
        say("SHA1", sha1);
        // The number in the name counts: that is where Portage takes it from when it looks itself.
        say("BUILD_ID", number_of(&package.pf, name).map_or_else(String::new, |number| number.to_string()));
        say("DESC", package.metadata.get("DESCRIPTION").map_or_else(String::new, |text| one_line(text)));
        say("REPO", package.metadata.get("repository").map_or_else(String::new, |text| one_line(text)));
        self.packages.insert(path.to_owned(), entry);
        self.changed = true;
        Ok(())
    }

    /// Writes the index and its compressed form when something changed.
    pub(super) fn write(&mut self) -> io::Result<()> {
        if !self.changed {
            return Ok(());
        }
        // Clients compare the time stamp alone: two states of the index never have the same.
        self.timestamp = (clock::unix_now().0 / 1_000).max(self.timestamp + 1);
        let text = self.text();
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packed.write_all(text.as_bytes())?;
        let at = UNIX_EPOCH + Duration::from_secs(self.timestamp);
        replace(&self.directory.join("Packages.gz"), &packed.finish()?, at)?;
        replace(&self.directory.join("Packages"), text.as_bytes(), at)?;
        self.changed = false;
        Ok(())
    }

    fn text(&self) -> String {
        let arch = self.directory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let header = [
            ("ARCH", arch),
            ("PACKAGES", self.packages.len().to_string()),
            ("TIMESTAMP", self.timestamp.to_string()),
            ("VERSION", "0".to_owned()),
        ];
        let mut text: String = header.iter().map(|(key, value)| format!("{key}: {value}\n")).collect();
        let mut entries: Vec<&Paragraph> = self.packages.values().collect();
        entries.sort_by_key(|entry| (entry.get("CPV"), entry.get("PATH")));
        for entry in entries {
            text.push('\n');
            text.extend(entry.iter().map(|(key, value)| format!("{key}: {value}\n")));
        }
        text.push('\n');
        text
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn digests(file: &mut File) -> io::Result<(String, String)> {
    file.rewind()?;
    let (mut md5, mut sha1) = (Md5::new(), Sha1::new());
    let mut buffer = vec![0u8; 64 << 10];
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            return Ok((hex::encode(md5.finalize()), hex::encode(sha1.finalize())));
        }
        md5.update(&buffer[..length]);
        sha1.update(&buffer[..length]);
    }
}

/// Reads an index: packages by path, its time stamp, and whether it is there and its end says that it is whole.
fn read(path: &Path) -> io::Result<(BTreeMap<String, Paragraph>, u64, bool)> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((BTreeMap::new(), 0, false)),
        Err(error) => return Err(error),
    };
    let mut paragraphs: Vec<Paragraph> = vec![Paragraph::new()];
    for line in BufReader::new(file.take(INDEX_MAX_BYTES)).lines() {
        let Ok(line) = line else { break };
        match line.split_once(':') {
            Some((key, value)) => {
                let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
                paragraphs.last_mut().map(|paragraph| paragraph.insert(key.to_owned(), value));
            }
            None if line.is_empty() => paragraphs.push(Paragraph::new()),
            None => {}
        }
    }
    let mut paragraphs = paragraphs.into_iter();
    let header = paragraphs.next().unwrap_or_default();
    let timestamp = header.get("TIMESTAMP").and_then(|text| text.parse().ok()).unwrap_or(0);
    let packages: BTreeMap<String, Paragraph> =
        paragraphs.filter_map(|entry| Some((entry.get("PATH")?.clone(), entry))).collect();
    let whole = header.get("PACKAGES") == Some(&packages.len().to_string());
    Ok((packages, timestamp, whole))
}

/// `cat/pn/pf-N.gpkg.tar` of every package, sorted.
fn packages_below(directory: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for category in names(directory)? {
        for package in names(&directory.join(&category))? {
            for file in names(&directory.join(&category).join(&package))? {
                let is_file = || fs::symlink_metadata(directory.join(&category).join(&package).join(&file));
                if file.ends_with(".gpkg.tar") && is_file().is_ok_and(|metadata| metadata.is_file()) {
                    found.push(format!("{category}/{package}/{file}"));
                }
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Names in a directory; none when it is no directory.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(directory) {
        Ok(entries) => {
            entries.filter_map(|entry| entry.map(|entry| entry.file_name().into_string().ok()).transpose()).collect()
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Writes a file so that readers see the old one or the new one.
pub(super) fn replace(path: &Path, bytes: &[u8], at: std::time::SystemTime) -> io::Result<()> {
    let directory = path.parent().ok_or_else(|| io::Error::other("no directory above"))?;
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(directory)?;
    file.write_all(bytes)?;
    super::readable_by_all(file.as_file())?;
    file.as_file().set_modified(at)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(directory)?.sync_all()
}
