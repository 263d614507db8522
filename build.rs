//! Puts the dashboard into the program: built from `web/` with npm when it changed, or taken from `HIVE_WEB_DIST`.
//!
//! ```text
//!   HIVE_WEB_DIST set ──────────────► that directory ─┐
//!   else web/dist, built anew when the sources changed ┴─► gzip ─► OUT_DIR/assets.rs, included by `web::app`
//! ```
//!
//! Files are kept compressed, as nearly every browser takes them. Never done here: anything without the feature `node`, so that the
//! engine builds and tests without npm.

#![allow(clippy::print_stdout, reason = "that is how a build script speaks to cargo")]

fn main() {
    #[cfg(feature = "node")]
    if let Err(why) = dashboard::embed() {
        println!("cargo::error={}", why.replace('\n', " "));
    }
}

#[cfg(feature = "node")]
mod dashboard {
    use std::fmt::Write as _;
    use std::io::Write as _;
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::{env, fs, io};

    use flate2::{Compression, GzBuilder};

    /// What the dashboard is built from.
    const SOURCES: [&str; 4] = ["src", "package.json", "package-lock.json", "build.mjs"];
    /// Says in `dist` from what it was built.
    const STAMP: &str = ".stamp";

    pub(super) fn embed() -> Result<(), String> {
        println!("cargo::rerun-if-env-changed=HIVE_WEB_DIST");
        let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo sets CARGO_MANIFEST_DIR")?);
        let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
        let dist = match env::var_os("HIVE_WEB_DIST") {
            Some(dist) => {
                let dist = PathBuf::from(dist);
                println!("cargo::rerun-if-changed={}", dist.display());
                dist
            }
            None => built(&root.join("web"))?,
        };
        if !dist.join("index.html").is_file() {
            return Err(format!("{} holds no dashboard: there is no index.html in it", dist.display()));
        }
        write_assets(&dist, &out).map_err(|error| format!("the dashboard cannot be embedded: {error}"))
    }

    /// `web/dist`, made anew when it is not what its sources give.
    fn built(web: &Path) -> Result<PathBuf, String> {
        let reading = |error: io::Error| format!("the sources of the dashboard cannot be read: {error}");
        let mut sources = Vec::new();
        for name in SOURCES {
            let path = web.join(name);
            println!("cargo::rerun-if-changed={}", path.display());
            walk(&path, &mut sources).map_err(reading)?;
        }
        sources.sort();
        let wanted = digest(web, &sources).map_err(reading)?;
        let dist = web.join("dist");
        let stamp = dist.join(STAMP);
        if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
            return Ok(dist);
        }
        install(web)?;
        npm(web, &["run", "--silent", "build"])?;
        fs::write(&stamp, wanted).map_err(|error| format!("{}: {error}", stamp.display()))?;
        Ok(dist)
    }

    /// Fetches what the dashboard is made of, when it is not there yet in the version that is asked for.
    fn install(web: &Path) -> Result<(), String> {
        let lock = fs::read_to_string(web.join("package-lock.json")).map_err(|error| error.to_string())?;
        let stamp = web.join("node_modules").join(STAMP);
        if fs::read_to_string(&stamp).is_ok_and(|found| found == lock) {
            return Ok(());
        }
        npm(web, &["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"])?;
        fs::write(&stamp, lock).map_err(|error| format!("{}: {error}", stamp.display()))
    }

    fn npm(web: &Path, arguments: &[&str]) -> Result<(), String> {
        let line = format!("npm {}", arguments.join(" "));
        let ended = Command::new("npm").args(arguments).current_dir(web).output();
        match ended {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(format!(
                "the dashboard does not build: `{line}` in {} ended with {}: {}{}",
                web.display(),
                output.status,
                String::from_utf8_lossy(&output.stderr),
                String::from_utf8_lossy(&output.stdout)
            )),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(
                "the dashboard is built with npm, and there is none here: run `tests/deps.sh build`, or install nodejs (18 or newer) and \
                 npm, or set HIVE_WEB_DIST to a web/dist that was built elsewhere"
                    .to_owned(),
            ),
            Err(error) => Err(format!("`{line}`: {error}")),
        }
    }

    /// All files below a path, or the file itself.
    fn walk(path: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
        if path.is_dir() {
            for entry in fs::read_dir(path)? {
                walk(&entry?.path(), found)?;
            }
        } else {
            found.push(path.to_owned());
        }
        Ok(())
    }

    /// A short word for names and contents (FNV-1a): it only has to notice changes.
    fn digest(root: &Path, files: &[PathBuf]) -> io::Result<String> {
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for path in files {
            let name = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
            for byte in name.bytes().chain([0]).chain(fs::read(path)?).chain([0]) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
        Ok(format!("{hash:016x}"))
    }

    fn write_assets(dist: &Path, out: &Path) -> io::Result<()> {
        let mut files = Vec::new();
        walk(dist, &mut files)?;
        files.sort();
        let mut table = String::from("static FILES: &[Packed] = &[\n");
        for (number, path) in files.iter().filter(|path| !path.ends_with(STAMP)).enumerate() {
            let name = path.strip_prefix(dist).unwrap_or(path).to_string_lossy().replace('\\', "/");
            let packed = out.join(format!("asset-{number}.gz"));
            // No time and no name inside, so that equal sources give equal programs.
            let mut writer = GzBuilder::new().mtime(0).write(fs::File::create(&packed)?, Compression::best());
            writer.write_all(&fs::read(path)?)?;
            writer.finish()?;
            let _ = writeln!(
                table,
                "    Packed {{ name: {name:?}, gzip: include_bytes!({:?}) }},",
                packed.display().to_string()
            );
        }
        table.push_str("];\n");
        fs::write(out.join("assets.rs"), table)
    }
}
