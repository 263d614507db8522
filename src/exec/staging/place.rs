//! Puts accepted results into the staging directory.
//!
//! ```text
//!   portage/ARCH/cat/pn/pf-N.gpkg.tar      two builds of one version: both, under different numbers
//!   debian/ARCH/pool/h/hello/…             a result of which a name is taken by other bytes: in a directory of its job
//!   maven/ARCH/JOB/…                       always
//! ```
//!
//! Each file is written beside, synced, then renamed; what is there already with the same bytes stays as it is, so doing it twice
//! changes nothing. Nothing that was put here is ever overwritten. Never done here: fetching, choosing what is put here, removing.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::path::Path;
use std::sync::PoisonError;

use sha2::{Digest as _, Sha256};

use super::index::Index;
use super::{Staging, readable_by_all};
use crate::engine::grammar;
use crate::engine::id::{JobId, Sha256Hash};
use crate::engine::staging::{arch_of_chost, build_number, debian_pool, number_of};
use crate::exec::format::{Caps, FormatError, changes, deb, gpkg};
use crate::exec::signatures::SignatureError;

/// What kind of result is put here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Packages of Gentoo.
    Portage,
    /// `.deb`, `.changes`, `.buildinfo`.
    Debian,
    /// Packages and archives of a Java tree.
    Maven,
}

/// A file of a result, whose bytes were verified.
#[derive(Debug)]
pub struct Incoming {
    /// Its name, without a directory.
    pub name: String,
    /// Its digest.
    pub sha256: Sha256Hash,
    /// Its bytes.
    pub file: File,
}

/// Why a result is not in staging.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// It never will be: it is not what it should be.
    #[error("{0}")]
    Refused(String),
    /// It may be later.
    #[error("{0}")]
    Unable(String),
}

impl From<io::Error> for PutError {
    fn from(error: io::Error) -> Self {
        Self::Unable(error.to_string())
    }
}

fn of_format(name: &str, error: FormatError) -> PutError {
    match error {
        FormatError::Damaged(_) | FormatError::Refused(_) => PutError::Refused(format!("{name}: {error}")),
        FormatError::Io(_) => PutError::Unable(format!("{name}: {error}")),
    }
}

fn of_signature(name: &str, error: &SignatureError) -> PutError {
    match error {
        SignatureError::Unable(_) => PutError::Unable(format!("{name}: {error}")),
        SignatureError::Unsigned | SignatureError::Damaged(_) | SignatureError::Untrusted { .. } => {
            PutError::Refused(format!("{name}: {error}"))
        }
    }
}

impl Staging {
    /// Puts a result where it belongs and answers where that is, below the staging directory. What `Packages` says follows with
    /// [`write_indexes`](Self::write_indexes). Blocks.
    pub fn put(&self, job: JobId, kind: Kind, mut files: Vec<Incoming>) -> Result<Vec<String>, PutError> {
        self.check_live().map_err(PutError::Unable)?;
        for file in &files {
            grammar::artifact_name(&file.name).map_err(|error| PutError::Refused(error.to_string()))?;
        }
        match kind {
            Kind::Portage => files.iter_mut().map(|file| self.put_gpkg(file)).collect(),
            Kind::Debian => self.put_debian(job, files),
            Kind::Maven => {
                let arch = deb_arch(&mut files)?;
                self.put_all(&format!("maven/{arch}/{job}"), files)
            }
        }
    }

    /// Writes every index that has changed. Blocks.
    pub fn write_indexes(&self) -> io::Result<()> {
        self.check_live().map_err(io::Error::other)?;
        let mut indexes = self.indexes.lock().unwrap_or_else(PoisonError::into_inner);
        indexes.values_mut().try_for_each(Index::write)
    }

    /// Makes every index say what lies beside it. Blocks; reads what is unknown.
    pub fn open_indexes(&self) -> io::Result<()> {
        let directory = self.root.join("portage");
        for entry in fs::read_dir(&directory).into_iter().flatten() {
            let name = entry?.file_name();
            let Some(arch) = name.to_str().filter(|name| *name == arch_of_chost(name)) else { continue };
            let index = Index::open(&directory.join(arch))?;
            self.indexes.lock().unwrap_or_else(PoisonError::into_inner).insert(arch.to_owned(), index);
        }
        self.write_indexes()
    }

    fn put_gpkg(&self, incoming: &mut Incoming) -> Result<String, PutError> {
        let name = incoming.name.clone();
        let package = gpkg::verify(&mut incoming.file, Caps::default()).map_err(|error| of_format(&name, error))?;
        if let Some(signatures) = &self.signatures {
            signatures.check(&mut incoming.file, &package).map_err(|error| of_signature(&name, &error))?;
        }
        let (_, pn) = grammar::split_version(&format!("{}/{}", package.category, package.pf))
            .and_then(|(package, _)| package.split_once('/'))
            .map(|(category, name)| (category.to_owned(), name.to_owned()))
            .ok_or_else(|| PutError::Refused(format!("{name}: {} is no version", package.pf)))?;
        let arch = arch_of_chost(package.metadata.get("CHOST").map_or("", String::as_str));
        let below = format!("{}/{pn}", package.category);
        let root = self.root.join("portage").join(&arch);
        let directory = self.directory(&format!("portage/{arch}/{below}"))?;
        let mut taken = BTreeSet::new();
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let Some(number) = entry.file_name().to_str().and_then(|file| number_of(&package.pf, file)) else {
                continue;
            };
            if holds(&entry.path(), incoming)? {
                let path = format!("{below}/{}-{number}.gpkg.tar", package.pf);
                return Ok(format!("portage/{arch}/{path}"));
            }
            taken.insert(number);
        }
        let path = format!("{below}/{}-{}.gpkg.tar", package.pf, build_number(package.build_id, &taken));
        let mut placed = self.place(&root.join(&path), incoming)?;
        let mut indexes = self.indexes.lock().unwrap_or_else(PoisonError::into_inner);
        let index = match indexes.entry(arch.clone()) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) => new.insert(Index::open(&root)?),
        };
        index.add(&path, &package, &mut placed)?;
        Ok(format!("portage/{arch}/{path}"))
    }

    fn put_debian(&self, job: JobId, mut files: Vec<Incoming>) -> Result<Vec<String>, PutError> {
        let mut described: Option<changes::Description> = None;
        for incoming in files.iter_mut().filter(|incoming| incoming.name.ends_with(".changes")) {
            let mut text = String::new();
            incoming.file.rewind()?;
            incoming.file.by_ref().take(changes::MAX_BYTES + 1).read_to_string(&mut text)?;
            described = Some(changes::read(&text).map_err(|error| of_format(&incoming.name, error))?);
        }
        let described =
            described.ok_or_else(|| PutError::Refused("there is no .changes among the files".to_owned()))?;
        let real = described.architectures.iter().find(|arch| !matches!(arch.as_str(), "all" | "source"));
        let arch = real.cloned().unwrap_or_else(|| "all".to_owned());
        deb_arch(&mut files)?;
        let pool = format!("debian/{arch}/{}", debian_pool(&described.source));
        let mut taken = false;
        for incoming in &mut files {
            let path = self.root.join(&pool).join(&incoming.name);
            taken |= path.exists() && !holds(&path, incoming)?;
        }
        // Whoever reads the .changes finds what it names.
        files.sort_by_key(|incoming| incoming.name.ends_with(".changes"));
        self.put_all(&if taken { format!("{pool}/{job}") } else { pool }, files)
    }

    fn put_all(&self, below: &str, files: Vec<Incoming>) -> Result<Vec<String>, PutError> {
        let directory = self.directory(below)?;
        let mut paths = Vec::new();
        for mut incoming in files {
            let path = directory.join(&incoming.name);
            if !holds(&path, &mut incoming)? {
                self.place(&path, &mut incoming)?;
            }
            paths.push(format!("{below}/{}", incoming.name));
        }
        Ok(paths)
    }

    /// Writes the file beside, syncs it, and gives it its name. Shares its blocks with the blob where the file system can do that.
    fn place(&self, path: &Path, incoming: &mut Incoming) -> Result<File, PutError> {
        let part = tempfile::Builder::new().prefix("part-").tempfile_in(self.own_directory()?)?;
        if rustix::fs::ioctl_ficlone(part.as_file(), &incoming.file).is_err() {
            incoming.file.rewind()?;
            let mut hasher = Sha256::new();
            let mut buffer = vec![0u8; 256 << 10];
            loop {
                let length = incoming.file.read(&mut buffer)?;
                if length == 0 {
                    break;
                }
                hasher.update(&buffer[..length]);
                io::Write::write_all(&mut part.as_file(), &buffer[..length])?;
            }
            if Sha256Hash(hasher.finalize().into()) != incoming.sha256 {
                return Err(PutError::Unable(format!("{} changed while it was copied", incoming.name)));
            }
        }
        readable_by_all(part.as_file())?;
        part.as_file().sync_all()?;
        let file = part.persist_noclobber(path).map_err(|error| error.error)?;
        if let Some(directory) = path.parent() {
            File::open(directory)?.sync_all()?;
        }
        // The handle of the part was for writing and reading; its position is anywhere.
        Ok(file)
    }
}

/// Whether these very bytes lie at `path`.
fn holds(path: &Path, incoming: &mut Incoming) -> Result<bool, PutError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    if !metadata.is_file() || metadata.len() != incoming.file.metadata()?.len() {
        return Ok(false);
    }
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(path)?, &mut Hashing(&mut hasher))?;
    Ok(Sha256Hash(hasher.finalize().into()) == incoming.sha256)
}

struct Hashing<'a>(&'a mut Sha256);

impl io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Checks the Debian packages among the files and answers their architecture: `all` when none has another.
fn deb_arch(files: &mut [Incoming]) -> Result<String, PutError> {
    let mut arch = "all".to_owned();
    for incoming in files.iter_mut().filter(|incoming| incoming.name.ends_with(".deb")) {
        let package =
            deb::verify(&mut incoming.file, Caps::default()).map_err(|error| of_format(&incoming.name, error))?;
        if package.architecture != "all" {
            arch = package.architecture;
        }
    }
    grammar::label(&arch).map_err(|error| PutError::Refused(error.to_string()))?;
    Ok(arch)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::exec::staging::sample;

    const JOB: JobId = JobId(uuid::Uuid::from_u128(7));

    fn staging() -> (tempfile::TempDir, Staging) {
        let root = tempfile::tempdir().expect("temporary directory");
        let staging = Staging::open(&root.path().join("staging"), None, None).expect("opens");
        (root, staging)
    }

    fn incoming(name: &str, bytes: &[u8]) -> Incoming {
        let mut file = tempfile::tempfile().expect("temporary file");
        io::Write::write_all(&mut file, bytes).expect("writes");
        Incoming { name: name.to_owned(), sha256: Sha256Hash(Sha256::digest(bytes).into()), file }
    }

    fn packages(staging: &Staging) -> String {
        fs::read_to_string(staging.root().join("portage/amd64/Packages")).expect("index")
    }

    #[test]
    fn two_builds_of_one_version_are_both_kept_and_one_is_never_put_twice() {
        let (_root, staging) = staging();
        let put = |bytes: &[u8]| {
            let put = staging.put(JOB, Kind::Portage, vec![incoming("hello-1.0-1.gpkg.tar", bytes)]).expect("puts");
            staging.write_indexes().expect("writes");
            put.join(" ")
        };
        let (first, second) = (
            sample::package("app-misc", "hello-1.0", Some(1), b"one"),
            sample::package("app-misc", "hello-1.0", Some(1), b"two"),
        );
        assert_eq!(put(&first), "portage/amd64/app-misc/hello/hello-1.0-1.gpkg.tar");
        let (text, inode) = (packages(&staging), fs::metadata(staging.root().join(put(&first))).expect("there").ino());
        assert_eq!(put(&first), "portage/amd64/app-misc/hello/hello-1.0-1.gpkg.tar");
        assert_eq!(fs::metadata(staging.root().join(put(&first))).expect("there").ino(), inode, "not written again");
        assert_eq!(packages(&staging), text, "nor is the index");
        assert_eq!(put(&second), "portage/amd64/app-misc/hello/hello-1.0-2.gpkg.tar");
        let kept = fs::read(staging.root().join("portage/amd64/app-misc/hello/hello-1.0-1.gpkg.tar")).expect("there");
        assert_eq!(kept, first);
        let text = packages(&staging);
        for line in [
            "ARCH: amd64",
            "PACKAGES: 2",
            "VERSION: 0",
            "CPV: app-misc/hello-1.0",
            "BUILD_ID: 2",
            "PATH: app-misc/hello/hello-1.0-2.gpkg.tar",
            "DESC: made by hand",
            "SLOT: 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in:\n{text}");
        }
        let md5 = hex::encode(<md5::Md5 as md5::Digest>::digest(&second));
        assert!(text.contains(&format!("MD5: {md5}\n")), "{text}");
    }

    #[test]
    fn the_index_says_what_is_there_after_a_crash_an_edit_and_a_removal() {
        let (root, staging) = staging();
        let bytes = |pf: &str| sample::package("app-misc", pf, Some(1), b"x");
        for pf in ["hello-1.0", "hello-1.1"] {
            let name = format!("{pf}-1.gpkg.tar");
            staging.put(JOB, Kind::Portage, vec![incoming(&name, &bytes(pf))]).expect("puts");
        }
        // The end came before the index was written.
        let again = || {
            let staging = Staging::open(&root.path().join("staging"), None, None).expect("opens");
            staging.open_indexes().expect("indexes");
            packages(&staging)
        };
        let text = again();
        assert!(text.contains("PACKAGES: 2\n") && text.contains("CPV: app-misc/hello-1.1\n"), "{text}");
        assert_eq!(again(), text, "what is right is left alone");
        let at = |name: &str| root.path().join("staging/portage/amd64").join(name);
        fs::remove_file(at("app-misc/hello/hello-1.0-1.gpkg.tar")).expect("removes");
        fs::write(at("app-misc/hello/hello-1.2-1.gpkg.tar"), bytes("hello-1.2")).expect("writes");
        fs::write(at("app-misc/hello/hello-1.3-1.gpkg.tar"), b"junk").expect("writes");
        let next = again();
        assert!(next.contains("CPV: app-misc/hello-1.2\n") && next.contains("PACKAGES: 2\n"), "{next}");
        assert!(!next.contains("hello-1.0") && !next.contains("hello-1.3"), "{next}");
        let stamp = |text: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix("TIMESTAMP: ")).expect("has one");
            line.parse::<i64>().expect("number")
        };
        assert!(stamp(&next) > stamp(&text), "clients compare nothing else");
        assert_eq!(fs::metadata(at("Packages")).expect("there").mtime(), stamp(&next));
        let half = &next[..next.len() / 2];
        fs::write(at("Packages"), half).expect("writes");
        assert!(again().contains("PACKAGES: 2\n"), "a torn index is made anew");
        let unpacked = {
            let mut text = String::new();
            let packed = File::open(at("Packages.gz")).expect("there");
            flate2::read::GzDecoder::new(packed).read_to_string(&mut text).expect("unpacks");
            text
        };
        assert_eq!(unpacked, packages(&staging));
    }

    #[test]
    fn what_is_no_package_is_refused_for_good_and_leaves_nothing() {
        let (_root, staging) = staging();
        let good = sample::package("app-misc", "hello-1.0", Some(1), b"x");
        for (name, bytes, kind) in [
            ("hello-1.0-1.gpkg.tar", &good[..good.len() / 2], Kind::Portage),
            ("../x", good.as_slice(), Kind::Portage),
            ("x.changes", b"Source: ../x\n".as_slice(), Kind::Debian),
            ("x.deb", b"junk".as_slice(), Kind::Maven),
            ("x.deb", b"junk".as_slice(), Kind::Debian),
        ] {
            let error = staging.put(JOB, kind, vec![incoming(name, bytes)]).expect_err(name);
            assert!(matches!(error, PutError::Refused(_)), "{name}: {error}");
        }
        let left: Vec<_> =
            fs::read_dir(staging.root()).expect("lists").flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left, [".hive"]);
    }

    #[test]
    fn a_link_that_makes_staging_the_live_directory_stops_it() {
        let root = tempfile::tempdir().expect("temporary directory");
        let at = |name: &str| root.path().join(name);
        let staging = Staging::open(&at("staging"), Some(&at("live")), None).expect("opens");
        let package =
            || vec![incoming("hello-1.0-1.gpkg.tar", &sample::package("app-misc", "hello-1.0", Some(1), b"x"))];
        staging.put(JOB, Kind::Portage, package()).expect("puts");
        std::os::unix::fs::symlink("staging", at("live")).expect("links");
        let error = staging.put(JOB, Kind::Portage, package()).expect_err("now it is live");
        assert!(matches!(&error, PutError::Unable(why) if why.contains("clients are served from")), "{error}");
        assert!(staging.write_indexes().is_err() && Staging::open(&at("staging"), Some(&at("live")), None).is_err());
    }

    fn changes(source: &str, deb: &[u8]) -> Vec<u8> {
        let (sha256, size) = (hex::encode(Sha256::digest(deb)), deb.len());
        format!(
            "Format: 1.8\nSource: {source}\nVersion: 1.0-1\nArchitecture: amd64\nDistribution: unstable\nChecksums-Sha256:\n {sha256} \
             {size} {source}_1.0-1_amd64.buildinfo\n"
        )
        .into_bytes()
    }

    #[test]
    fn results_of_debian_and_maven_lie_in_a_pool_and_by_job_and_a_second_build_beside_the_first() {
        let (_root, staging) = staging();
        let put = |job: u128, info: &[u8]| {
            let files = vec![
                incoming("libhello_1.0-1_amd64.changes", &changes("libhello", info)),
                incoming("libhello_1.0-1_amd64.buildinfo", info),
            ];
            staging.put(JobId(uuid::Uuid::from_u128(job)), Kind::Debian, files).expect("puts")
        };
        let pool = "debian/amd64/pool/libh/libhello";
        let name = "libhello_1.0-1_amd64";
        let first = [format!("{pool}/{name}.buildinfo"), format!("{pool}/{name}.changes")];
        assert_eq!(put(1, b"one"), first);
        assert_eq!(put(1, b"one"), first, "once");
        let beside = put(2, b"two");
        assert_eq!(beside[0], format!("{pool}/{}/{name}.buildinfo", JobId(uuid::Uuid::from_u128(2))));
        assert_eq!(fs::read(staging.root().join(&first[0])).expect("there"), b"one");
        let jar = staging.put(JOB, Kind::Maven, vec![incoming("app.jar", b"jar")]).expect("puts");
        assert_eq!(jar, [format!("maven/all/{JOB}/app.jar")]);
    }
}
