//! What may be queued: refused here with a sentence, before anything is sent. The hive checks again.

use crate::cli::output::Failure;
use crate::config::grammar::is_label;

/// Most arguments of a command job.
const ARGV_MAX: usize = 1_024;
/// Longest command line, bytes: far below what a kernel takes, because it is stored in every replica.
const ARGV_MAX_LEN: usize = 32 << 10;
/// Longest URL, reference or pattern, bytes.
const TEXT_MAX_LEN: usize = 1_024;

fn refuse<T>(what: &str, text: &str, expected: &str) -> Result<T, Failure> {
    let shown: String = text.chars().take(80).collect();
    Err(Failure::usage(format!("{what} {shown:?} cannot be queued: expected {expected}"), ""))
}

fn plain(text: &str, longest: usize) -> bool {
    !text.is_empty() && text.len() <= longest && !text.chars().any(char::is_control)
}

/// A label of the scheduler.
pub(crate) fn label(text: &str) -> Result<(), Failure> {
    if is_label(text) { Ok(()) } else { refuse("label", text, "1-63 characters of A-Z a-z 0-9 . _ + : = -") }
}

/// Program and arguments.
pub(crate) fn argv(argv: &[String]) -> Result<(), Failure> {
    if argv.first().is_none_or(String::is_empty) {
        return Err(Failure::usage("no program was given", "put it after `--`, for example: … -- make all"));
    }
    if argv.len() > ARGV_MAX || argv.iter().map(String::len).sum::<usize>() > ARGV_MAX_LEN {
        return Err(Failure::usage(
            format!("the command line is longer than {ARGV_MAX} arguments or {ARGV_MAX_LEN} bytes"),
            "put it into a script",
        ));
    }
    match argv.iter().find(|argument| argument.contains('\0')) {
        Some(argument) => refuse("argument", argument, "no NUL character"),
        None => Ok(()),
    }
}

/// A Git branch, tag or commit (the rules of `git check-ref-format`, and no leading dash).
pub(crate) fn git_ref(text: &str) -> Result<(), Failure> {
    let bad_character = |c: char| c.is_whitespace() || matches!(c, '~' | '^' | ':' | '?' | '*' | '[' | '\\');
    let good_part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    let good = plain(text, 255)
        && !text.starts_with('-')
        && !text.ends_with('.')
        && !text.contains("..")
        && !text.contains("@{")
        && text != "@"
        && !text.contains(bad_character)
        && text.split('/').all(good_part);
    if good { Ok(()) } else { refuse("reference", text, "a branch, tag or commit as git accepts it") }
}

/// A repository that a drone can fetch.
pub(crate) fn git_url(text: &str) -> Result<(), Failure> {
    let schemes = ["https://", "http://", "ssh://", "git://", "file://"];
    let rest =
        schemes.iter().find_map(|scheme| text.strip_prefix(scheme)).or_else(|| text.starts_with('/').then_some(text));
    let good = rest
        .is_some_and(|rest| plain(rest, TEXT_MAX_LEN) && !rest.starts_with('-') && !rest.contains(char::is_whitespace));
    if good { Ok(()) } else { refuse("repository", text, "an https, http, ssh, git or file URL, or an absolute path") }
}

/// A pattern of files inside the checkout.
pub(crate) fn artifact_pattern(text: &str) -> Result<(), Failure> {
    let inside = plain(text, TEXT_MAX_LEN) && !text.starts_with('/') && !text.split('/').any(|part| part == "..");
    if inside && globset::Glob::new(text).is_ok() {
        return Ok(());
    }
    refuse("pattern", text, "a relative pattern such as out/*.deb, without `..`")
}

/// A Debian source package and optionally its version (`name`, `name=version`, `name/suite` is a name with a suite).
pub(crate) fn debian_package(text: &str) -> Result<(String, Option<String>), Failure> {
    let (name, version) = text.split_once('=').map_or((text, None), |(name, version)| (name, Some(version)));
    let name_good = (2..=100).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.'));
    let version_good = version.is_none_or(|version| {
        (1..=100).contains(&version.len())
            && version.starts_with(|first: char| first.is_ascii_digit())
            && version.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'+' | b'-' | b'~' | b':'))
    });
    if name_good && version_good {
        return Ok((name.to_owned(), version.map(str::to_owned)));
    }
    refuse("source", text, "a source package NAME, NAME=VERSION, or a directory with debian/ in it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_taken_for_an_option_a_path_or_a_shell_word_is_refused() {
        for bad in ["--upload-pack=x", "a..b", "a b", "x~1", "a/.b", "a.lock", "/a", "a//b", "", "a\u{7}", "@{1}", "-x"]
        {
            assert!(git_ref(bad).is_err(), "{bad:?}");
        }
        for good in ["main", "v1.0", "feature/x", "0123456789abcdef0123456789abcdef01234567"] {
            assert!(git_ref(good).is_ok(), "{good:?}");
        }
        for bad in ["ext::sh -c x", "-x", "http://", "https://a b", "git@host:x", "", "relative/path"] {
            assert!(git_url(bad).is_err(), "{bad:?}");
        }
        for good in ["https://example.org/x.git", "/srv/git/x", "ssh://git@host/x", "file:///srv/x"] {
            assert!(git_url(good).is_ok(), "{good:?}");
        }
        for bad in ["/etc/*", "../x", "a/../b", "", "[", "a\nb"] {
            assert!(artifact_pattern(bad).is_err(), "{bad:?}");
        }
        assert!(artifact_pattern("out/**/*.deb").is_ok());
    }

    #[test]
    fn debian_names_follow_policy() {
        assert_eq!(debian_package("hello").expect("good"), ("hello".to_owned(), None));
        assert_eq!(debian_package("g++-12=1:2.3~rc1-1+b1").expect("good").1.as_deref(), Some("1:2.3~rc1-1+b1"));
        for bad in ["", "h", "Hello", "-x", "a;b", "hello=", "hello=-1", "hello=$(x)", "../x", "a b"] {
            assert!(debian_package(bad).is_err(), "{bad:?}");
        }
        assert!(argv(&[]).is_err() && argv(&[String::new()]).is_err() && argv(&["a\0".to_owned()]).is_err());
        assert!(argv(&["make".to_owned(), "a;b".to_owned(), String::new()]).is_ok(), "never a shell, so anything goes");
    }
}
