//! Maven as it really runs, offline from Debian's repository of Java libraries.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;

use hive::engine::job::{FailureClass, Limits, MavenOptions, Outcome, Source, Work};

use super::{Host, artifacts, failure, require, require_debian};

const POM: &str = r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>org.example</groupId>
  <artifactId>hive-jar</artifactId>
  <version>1.0</version>
  <packaging>jar</packaging>
  <properties>
    <maven.compiler.source>8</maven.compiler.source>
    <maven.compiler.target>8</maven.compiler.target>
    <project.build.sourceEncoding>UTF-8</project.build.sourceEncoding>
  </properties>
  <dependencies>
    <dependency>
      <groupId>junit</groupId>
      <artifactId>junit</artifactId>
      <version>4.x</version>
      <scope>test</scope>
    </dependency>
  </dependencies>
</project>
"#;

const CLASS: &str =
    "package org.example;\npublic class Adder { public static int add(int a, int b) { return a + b; } }\n";

const TEST: &str = "package org.example;
import static org.junit.Assert.assertEquals;
import org.junit.Test;
public class AdderTest {
    @Test public void adds() { assertEquals(EXPECTED, Adder.add(2, 3)); }
}
";

const CONTROL: &str = "Source: hive-jar\nSection: java\nPriority: optional\nMaintainer: T <t@example.invalid>\n\
                       Build-Depends: debhelper-compat (= 13)EXTRA\nStandards-Version: 4.6.0\n\n\
                       Package: hive-jar\nArchitecture: all\nDescription: a jar\n One class.\n";

const CHANGELOG: &str = "hive-jar (1.0) unstable; urgency=medium\n\n  * First.\n\n -- T <t@example.invalid>  Sat, 01 Jan 2022 00:00:00 +0000\n";

/// As many such trees do: the package takes what Maven has built.
const RULES: &str = "#!/usr/bin/make -f\n%:\n\tdh $@\noverride_dh_auto_clean:\noverride_dh_auto_configure:\noverride_dh_auto_build:\n\
                     \techo epoch=$$SOURCE_DATE_EPOCH\noverride_dh_auto_test:\noverride_dh_auto_install:\n";

fn require_maven() {
    require("mvn", "maven maven-debian-helper junit4 libsurefire-java");
    require("equivs-build", "equivs");
    require_debian();
}

/// A tree with one class and one test; `build_depends` goes behind debhelper, and none means no `debian` directory.
fn tree(host: &Host, expected: &str, build_depends: Option<&str>) -> Source {
    let test = TEST.replace("EXPECTED", expected);
    let control = CONTROL.replace("EXTRA", build_depends.unwrap_or_default());
    let mut files = vec![
        ("pom.xml", POM),
        ("src/main/java/org/example/Adder.java", CLASS),
        ("src/test/java/org/example/AdderTest.java", &test),
    ];
    if build_depends.is_some() {
        files.extend([
            ("debian/control", &*control),
            ("debian/changelog", CHANGELOG),
            ("debian/rules", RULES),
            ("debian/source/format", "3.0 (native)\n"),
            ("debian/install", "target/hive-jar-1.0.jar usr/share/java\n"),
        ]);
    }
    host.archive(&files)
}

fn work(source: Source, options: MavenOptions, artifacts: &[&str]) -> Work {
    let artifacts = artifacts.iter().map(|&pattern| pattern.to_owned()).collect();
    Work::Maven { source, goals: vec!["package".to_owned()], options, artifacts }
}

fn offline() -> MavenOptions {
    MavenOptions { offline: true, threads: Some("1".to_owned()), ..MavenOptions::default() }
}

#[tokio::test]
async fn a_java_tree_is_tested_built_and_packaged() {
    require_maven();
    let mut host = Host::new().await;
    let source = tree(&host, "5", Some(""));
    let build = host.start(work(source, offline(), &["target/*.jar"]), Limits::default());
    let (_, outcome) = host.end().await;
    let log = host.log(&build).await;
    assert!(matches!(outcome, Outcome::Succeeded { .. }), "{outcome:?} {log}");
    let names: BTreeSet<String> = artifacts(outcome).into_iter().map(|artifact| artifact.name).collect();
    let expected = ["hive-jar-1.0.jar", "hive-jar_1.0_all.deb"];
    assert!(expected.iter().all(|name| names.contains(*name)), "{names:?}");
    for ending in [".changes", ".buildinfo"] {
        assert!(names.iter().any(|name| name.ends_with(ending)), "{names:?}");
    }
    assert!(!names.contains("fallbacks.json"), "none was needed: {names:?}");
    assert!(log.contains("Tests run: 1, Failures: 0") && log.contains("epoch=1640995200"), "{log}");
    host.assert_nothing_is_left(&build);
}

#[tokio::test]
async fn a_failing_test_is_the_trees_fault_and_keeps_its_exit_code() {
    require_maven();
    let mut host = Host::new().await;
    let source = tree(&host, "6", Some(""));
    let build = host.start(work(source, offline(), &[]), Limits::default());
    let (class, reason, code) = failure(host.end().await.1);
    let log = host.log(&build).await;
    assert_eq!((class, code), (FailureClass::Build, Some(1)), "{reason} {log}");
    assert!(reason.starts_with("tests failed: Tests run: 1, Failures: 1"), "{reason}");
    assert!(!log.contains("dpkg-buildpackage: info"), "what failed is not packaged: {log}");
}

#[tokio::test]
async fn packages_are_left_out_on_request_and_a_library_that_is_not_there_is_no_fault_of_the_tree() {
    require_maven();
    let mut host = Host::new().await;
    let source = tree(&host, "5", Some(", hive-no-such-package"));
    let no_packages = MavenOptions { no_packages: true, ..offline() };
    host.start(work(source, no_packages, &["target/*.jar"]), Limits::default());
    let names: Vec<String> = artifacts(host.end().await.1).into_iter().map(|artifact| artifact.name).collect();
    assert_eq!(names, ["hive-jar-1.0.jar"]);
    let pom = POM.replace("<version>4.x</version>", "<version>99.9</version>");
    let source = host.archive(&[("pom.xml", &pom), ("src/main/java/org/example/Adder.java", CLASS)]);
    let build = host.start(work(source, offline(), &[]), Limits::default());
    let (class, reason, _) = failure(host.end().await.1);
    assert_eq!(class, FailureClass::Policy, "{reason} {}", host.log(&build).await);
    assert!(reason.contains("offline") && reason.contains("junit"), "{reason}");
}

#[tokio::test]
async fn fall_backs_are_used_only_when_declared_and_needed_and_are_kept_with_the_result() {
    require_maven();
    let mut host = Host::new().await;
    let missing = ", hive-no-such-package (>= 2), hive-not-there-either";
    let declared = |dummies: &[&str], unchecked_dependencies| MavenOptions {
        dummies: dummies.iter().map(|&name| name.to_owned()).collect(),
        unchecked_dependencies,
        ..offline()
    };
    // Nothing declared, or not enough.
    for dummies in [&[][..], &["hive-no-such-package", "make"][..]] {
        let source = tree(&host, "5", Some(missing));
        host.start(work(source, declared(dummies, false), &[]), Limits::default());
        let (class, reason, _) = failure(host.end().await.1);
        assert_eq!((class, reason.contains("hive-not-there-either")), (FailureClass::Policy, true), "{reason}");
    }
    // One by a dummy, the other unchecked; `make` is there and needs no dummy.
    let source = tree(&host, "5", Some(missing));
    let build = host.start(work(source, declared(&["hive-no-such-package", "make"], true), &[]), Limits::default());
    let (_, outcome) = host.end().await;
    let log = host.log(&build).await;
    assert!(matches!(outcome, Outcome::Succeeded { .. }), "{outcome:?} {log}");
    let artifacts = artifacts(outcome);
    let record = artifacts.iter().find(|artifact| artifact.name == "fallbacks.json").expect("recorded");
    let mut text = String::new();
    host.store.open_verified(record.sha256).expect("stored").0.read_to_string(&mut text).expect("reads");
    let record: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(record["dummies"].as_array().expect("list").len(), 1, "{record}");
    assert_eq!(record["dummies"][0]["name"], "hive-no-such-package", "{record}");
    assert_eq!(record["dummies"][0]["version"], "2", "{record}");
    assert_eq!(record["unchecked_dependencies"], "hive-not-there-either", "{record}");
    assert!(log.contains("fall-back declared by the job"), "{log}");
    let status = fs::read_to_string("/var/lib/dpkg/status").expect("reads");
    assert!(!status.contains("hive-no-such-package"), "this host stays as it was");
}
