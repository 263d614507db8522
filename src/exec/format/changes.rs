//! `.changes` and `.buildinfo`: which files belong together, and what they have to be (deb-changes(5), deb-buildinfo(5)).
//!
//! Never done here: believing a name; it is one file beside the one that names it. Signatures of these files are not read:
//! what is built here is unsigned.

use deb822_fast::{Deb822, Paragraph};

use super::FormatError;
use crate::engine::grammar;
use crate::engine::harmless;
use crate::engine::id::Sha256Hash;

/// Largest file that is read, bytes.
pub const MAX_BYTES: u64 = 1 << 20;

/// One file that is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name, without a directory.
    pub name: String,
    /// Its digest.
    pub sha256: Sha256Hash,
    /// Its length, bytes.
    pub size: u64,
}

/// What both kinds of file say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The source package, without a version in parentheses.
    pub source: String,
    /// Version of the source, with its epoch.
    pub version: String,
    /// Architectures, `source` among them when there is one.
    pub architectures: Vec<String>,
    /// `Distribution` of a `.changes`.
    pub distribution: Option<String>,
    /// Every file but itself.
    pub files: Vec<Listed>,
}

/// The one paragraph of a control file, in which no field stands twice.
pub(super) fn paragraph(text: &str) -> Result<Paragraph, FormatError> {
    if text.len() as u64 > MAX_BYTES {
        return Err(FormatError::refused("a control file that is far too long"));
    }
    let parsed: Deb822 = text.parse().map_err(|error: deb822_fast::Error| {
        FormatError::damaged(format!("no control file: {}", harmless::line(&error.to_string(), 200)))
    })?;
    let mut paragraphs = parsed.into_iter().filter(|paragraph| !paragraph.is_empty());
    let (Some(paragraph), None) = (paragraphs.next(), paragraphs.next()) else {
        return Err(FormatError::damaged("expected one paragraph"));
    };
    let mut names: Vec<String> = paragraph.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(FormatError::damaged(format!("the field {} stands twice", super::shown(pair[0].as_bytes())))),
        None => Ok(paragraph),
    }
}

/// Reads a `.changes` or `.buildinfo`.
pub fn read(text: &str) -> Result<Description, FormatError> {
    let fields = paragraph(text)?;
    let value = |name: &str| {
        let value = fields.get(name).map(str::trim).filter(|value| !value.is_empty());
        value.ok_or_else(|| FormatError::damaged(format!("there is no field {name}")))
    };
    let invalid = |error: grammar::GrammarError| FormatError::damaged(error.to_string());
    let source = value("Source")?.split(' ').next().unwrap_or_default().to_owned();
    grammar::debian_package(&source).map_err(invalid)?;
    let version = value("Version")?.to_owned();
    grammar::debian_version(&version).map_err(invalid)?;
    let architectures: Vec<String> = value("Architecture")?.split_whitespace().map(str::to_owned).collect();
    architectures.iter().try_for_each(|name| grammar::label(name)).map_err(invalid)?;
    let distribution = fields.get("Distribution").map(|text| text.trim().to_owned());
    let mut files: Vec<Listed> = Vec::new();
    for line in value("Checksums-Sha256")?.lines().filter(|line| !line.trim().is_empty()) {
        let listed = listed(line)?;
        if files.iter().any(|other| other.name == listed.name) || files.len() >= grammar::ARTIFACTS_MAX {
            return Err(FormatError::damaged(format!("{} is listed twice or is one too many", listed.name)));
        }
        files.push(listed);
    }
    Ok(Description { source, version, architectures, distribution, files })
}

fn listed(line: &str) -> Result<Listed, FormatError> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [hash, size, name] = words[..] else {
        return Err(FormatError::damaged(format!("no checksum: {}", super::shown(line.as_bytes()))));
    };
    grammar::artifact_name(name).map_err(|error| FormatError::damaged(error.to_string()))?;
    let sha256 = hash.parse::<Sha256Hash>().map_err(|error| FormatError::damaged(error.to_string()))?;
    let size = size.parse::<u64>().map_err(|_| FormatError::damaged(format!("no size: {size:?}")))?;
    Ok(Listed { name: name.to_owned(), sha256, size })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    fn changes(files: &str) -> String {
        format!(
            "Format: 1.8\nDate: Thu, 01 Jan 1970 00:00:00 +0000\nSource: hello (1.0)\nBinary: hello\nArchitecture: amd64\n\
             Version: 2:1.0-1+b1\nDistribution: unstable\nDescription:\n hello - greets\nChecksums-Sha1:\n x 1 a\n\
             Checksums-Sha256:\n{files}Files:\n y 5 misc optional a\n"
        )
    }

    #[test]
    fn changes_say_what_belongs_together() {
        let found =
            read(&changes(&format!(" {HASH} 5 hello_1.0-1_amd64.deb\n {HASH} 7 hello_1.0-1_amd64.buildinfo\n")));
        let found = found.expect("reads");
        assert_eq!((found.source.as_str(), found.version.as_str()), ("hello", "2:1.0-1+b1"));
        assert_eq!((found.distribution.as_deref(), found.architectures.len()), (Some("unstable"), 1));
        let names: Vec<&str> = found.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["hello_1.0-1_amd64.deb", "hello_1.0-1_amd64.buildinfo"]);
        assert_eq!(found.files[1].size, 7);
    }

    #[test]
    fn odd_ones_are_refused() {
        for files in [
            format!(" {HASH} 5 ../../etc/passwd\n"),
            format!(" {HASH} 5 /etc/passwd\n"),
            format!(" {HASH} five a.deb\n"),
            format!(" {HASH} -5 a.deb\n"),
            format!(" {HASH} 5\n"),
            " zz 5 a.deb\n".to_owned(),
            format!(" {HASH} 5 a.deb\n {HASH} 5 a.deb\n"),
            String::new(),
        ] {
            assert!(read(&changes(&files)).is_err(), "{files:?}");
        }
        let good = changes(&format!(" {HASH} 5 a.deb\n"));
        read(&good).expect("reads");
        for (what, with) in [
            ("Source: hello (1.0)", "Source: ../x"),
            ("Version: 2:1.0-1+b1", "Version: -x"),
            ("Version: 2:1.0-1+b1", "Version: 1\nVersion: 2"),
            ("Format: 1.8", "Format: 1.8\n\nSource: two"),
            ("Source: hello (1.0)\n", ""),
            ("Architecture: amd64", "Architecture: a/b"),
        ] {
            assert!(read(&good.replace(what, with)).is_err(), "{with}");
        }
        assert!(read("").is_err());
        assert!(read(&format!("Source: x\n{}", "a".repeat(2 << 20))).is_err());
    }

    proptest::proptest! {
        #[test]
        fn junk_never_panics(text in "\\PC{0,300}|([A-Z][a-z]{1,9}: ?[a-z0-9 \n]{0,20}\n){0,9}") {
            let _ = read(&text);
        }
    }
}
