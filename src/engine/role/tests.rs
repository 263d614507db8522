use super::*;

const BUILDER: &str = r#"
name = "builder"
purpose = "Builds."
rank = 20
min = 1
requires = ["tool:git", "gpu"]
health_check = ["mvn", "--version"]

[packages]
debian = ["openjdk-17-jdk", "git"]
gentoo = ["dev-vcs/git"]

[config]
build_slots = 4
nested = { b = 1, a = ["x"] }
"#;

fn error_of(text: &str) -> DefinitionError {
    RoleDef::parse("roles/x.toml", text).expect_err("must be refused")
}

#[test]
fn a_definition_is_read_with_its_defaults() {
    let role = RoleDef::parse("roles/builder.toml", BUILDER).expect("valid");
    assert_eq!(role.packages_on("ubuntu"), ["openjdk-17-jdk", "git"]);
    assert_eq!(role.packages_on("gentoo"), ["dev-vcs/git"]);
    assert!(role.packages_on("plan9").is_empty());
    assert_eq!(role.config["build_slots"], 4);
    assert!(role.takes_builds);
    assert_eq!(role.max, None);
}

#[test]
fn errors_name_file_line_and_what_was_expected() {
    let cases: &[(&str, &str, usize, &str)] = &[
        ("name = \"builder\"", "name = \"Builder\"", 2, "expected a letter a-z"),
        ("name = \"builder\"", "name = \"\"", 2, "expected a letter a-z"),
        ("rank = 20", "rank = -1", 4, "u32"),
        ("rank = 20", "rnak = 20", 4, "unknown field `rnak`, expected one of"),
        ("rank = 20", "rank = 20\nmax = 0", 5, "at least 1"),
        ("min = 1", "min = 3\nmax = 2", 6, "at least min = 3"),
        ("\"git\"]", "\"--git\"]", 10, "expected a Debian package name"),
        ("\"git\"]", "\"git\", \"git\"]", 10, "twice"),
        ("dev-vcs/git", "git", 11, "expected category/package"),
        ("tool:git", "shell:git", 6, "tool:, language:"),
        ("build_slots = 4", "build_slots = 4.5", 13, "whole numbers"),
        ("build_slots = 4", "build_slots = 1979-05-27", 13, "whole numbers"),
        ("[config]", "[confg]", 13, "unknown field `confg`"),
        ("purpose = \"Builds.\"", "purpose = \"\"", 3, "expected a sentence"),
        ("\"--version\"", "\"\\u0007\"", 7, "without control characters"),
    ];
    for (from, to, line, expected) in cases {
        assert!(BUILDER.contains(from), "{from}");
        let error = error_of(&BUILDER.replace(from, to));
        assert_eq!(error.file, "roles/x.toml");
        assert!(error.what.contains(expected), "{to}: {error}");
        assert_eq!(error.line, *line, "{to}: {error}");
    }
    assert!(error_of("purpose = \"x\"\nrank = 1").what.contains("name"));
    assert!(error_of(&format!("{BUILDER}\n#{}", "x".repeat(DEFINITION_MAX_BYTES))).what.contains("at most"));
    assert_eq!(error_of("name = ").to_string().split(':').nth(1), Some("1"));
}

#[test]
fn two_files_must_not_define_the_same_role() {
    let error = RoleSet::parse([("a.toml", BUILDER), ("b.toml", BUILDER)]).expect_err("duplicate");
    assert_eq!((error.file.as_str(), error.line), ("b.toml", 2));
}

#[test]
fn the_digest_depends_on_meaning_and_on_nothing_else() {
    let runner = "name = \"runner\"\npurpose = \"Tests.\"\nrank = 30\n";
    let one = RoleSet::parse([("a", BUILDER), ("b", runner)]).expect("valid");
    let reordered = BUILDER.replace("b = 1, a = [\"x\"]", "a = [\"x\"], b = 1").replace("min = 1\n", "") + "\n";
    let reordered = reordered.replace("rank = 20", "min = 1 # comment\nrank = 20");
    let other = RoleSet::parse([("z", runner), ("y", reordered.as_str())]).expect("valid");
    assert_eq!(one.digest(), other.digest());
    let changed = RoleSet::parse([("a", BUILDER.replace("build_slots = 4", "build_slots = 5")), ("b", runner.into())]);
    assert_ne!(one.digest(), changed.expect("valid").digest());
}

#[test]
fn capabilities_match_what_the_machine_has() {
    let mut node = Inventory { arch: "x86_64".into(), distro: "debian".into(), ..Inventory::default() };
    node.tools.insert("git".into(), "2.39".into());
    node.languages.insert("java".into());
    node.labels.insert("fast".into());
    for has in ["git", "tool:git", "java", "language:java", "fast", "label:fast", "arch:x86_64", "distro:debian"] {
        assert!(has_capability(&node, has), "{has}");
    }
    for lacks in ["gpu", "docker", "tool:java", "label:git", "arch:arm", "virt:lxc", "nonsense:git", ""] {
        assert!(!has_capability(&node, lacks), "{lacks}");
    }
    node.has_gpu = true;
    assert!(has_capability(&node, "gpu"));
    let role = RoleDef::parse("f", BUILDER).expect("valid");
    assert_eq!(role.lacks(&node), None);
    node.tools.clear();
    assert_eq!(role.lacks(&node), Some("tool:git"));
}

#[test]
fn package_names_that_could_be_options_paths_or_versions_are_refused() {
    for good in ["git", "g++", "openjdk-17-jdk", "libstdc++6", "0ad", "python3.11"] {
        assert!(is_debian_package(good), "{good}");
    }
    for bad in ["", "a", "-y", "--help", "Git", "git=1", "git/sid", "../x", "a b", "git;rm", "gït", "git\n", "a_b"] {
        assert!(!is_debian_package(bad), "{bad:?}");
    }
    assert!(!is_debian_package(&"a".repeat(65)));
    for good in ["dev-vcs/git", "sys-devel/gcc", "x11-libs/gtk+", "virtual/jdk", "app-misc/_x"] {
        assert!(is_gentoo_package(good), "{good}");
    }
    for bad in ["git", "-x/y", "a/-y", "a/b/c", ">=dev-vcs/git-2", "a/b:0", "a/b[use]", "@world", "a/", "/b", "a/b.c d"]
    {
        assert!(!is_gentoo_package(bad), "{bad:?}");
    }
}
