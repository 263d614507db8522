//! The roles and policies that are part of the binary, so that a machine with nothing but the binary has them.
//!
//! They are the files of `roles/` and `advisor-policies/`; a test fails when a file there is not listed here.

/// Names and texts of files of one directory of this repository.
macro_rules! embedded {
    ($directory:literal: $($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/", $directory, "/", $name, ".toml")))),*]
    };
}

static ROLES: &[(&str, &str)] = embedded!("roles":);
static POLICIES: &[(&str, &str)] = embedded!("advisor-policies":);

/// Built-in role definitions: name and TOML text, sorted by name.
pub fn embedded_roles() -> &'static [(&'static str, &'static str)] {
    ROLES
}

/// Built-in advisor policies: name and TOML text, sorted by name.
pub fn embedded_policies() -> &'static [(&'static str, &'static str)] {
    POLICIES
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn files(directory: &str) -> Vec<String> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
        let mut names: Vec<String> = std::fs::read_dir(directory)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.expect("readable").file_name().to_str()?.strip_suffix(".toml").map(str::to_owned))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn every_shipped_definition_is_in_the_binary() {
        let names = |list: &[(&str, &str)]| list.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(names(embedded_roles()), files("roles"));
        assert_eq!(names(embedded_policies()), files("advisor-policies"));
    }
}
