//! The package that the demonstration builds: a C program with a test that takes a few seconds, as a Debian source tree that
//! needs nothing but dpkg-dev, make and a C compiler; the same program as a plain command where dpkg-buildpackage is missing.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// How it is built without dpkg-buildpackage.
pub(super) const COMMAND: [&str; 2] = ["/bin/sh", "build.sh"];
/// What comes out then.
pub(super) const COMMAND_ARTIFACT: &str = "out/hive-hello";

/// Seconds that the test of the program takes: long enough to kill a coordinator meanwhile.
pub(super) const TEST_SECONDS: u32 = 8;

const PROGRAM: &str = r#"#include <stdio.h>

int main(void)
{
	puts("Hello from a package that outlived its coordinator.");
	return 0;
}
"#;

const CONTROL: &str = "Source: hive-hello
Section: misc
Priority: optional
Maintainer: The hive on this machine <hive@localhost>
Standards-Version: 4.6.2
Rules-Requires-Root: no

Package: hive-hello
Architecture: any
Depends: ${shlibs:Depends}
Description: program that the demonstration of hive builds
 It prints one line.
";

const CHANGELOG: &str = "hive-hello (1.0) unstable; urgency=low

  * First build.

 -- The hive on this machine <hive@localhost>  Sat, 08 Nov 2025 12:34:56 +0000
";

/// Writes the tree, with a test of so many seconds. Whether it can be built as a Debian package here.
pub(super) fn write(directory: &Path, test_seconds: u32) -> io::Result<bool> {
    fs::create_dir_all(directory.join("debian/source"))?;
    fs::write(directory.join("hello.c"), PROGRAM)?;
    let test = format!(
        "i=1; while [ $i -le {test_seconds} ]; do ./hive-hello && echo \"test $i of {test_seconds}\"; sleep 1; i=$((i+1)); done"
    );
    let script = format!("set -eu\ncc -O2 -Wall -o hive-hello hello.c\n{test}\nmkdir -p out\ncp hive-hello out/\n");
    fs::write(directory.join("build.sh"), script)?;
    fs::write(directory.join("debian/control"), CONTROL)?;
    fs::write(directory.join("debian/changelog"), CHANGELOG)?;
    fs::write(directory.join("debian/source/format"), "3.0 (native)\n")?;
    fs::write(directory.join("debian/copyright"), "Public domain.\n")?;
    let test = test.replace('$', "$$");
    let rules = format!(
        "#!/usr/bin/make -f
ROOT = debian/hive-hello

clean:
\trm -rf hive-hello $(ROOT) debian/files debian/substvars

build build-arch build-indep:
\tcc -O2 -Wall -o hive-hello hello.c
\t{test}

binary binary-arch: build
\tinstall -D -m 0755 hive-hello $(ROOT)/usr/bin/hive-hello
\tinstall -d -m 0755 $(ROOT)/DEBIAN
\tdpkg-shlibdeps -Tdebian/substvars $(ROOT)/usr/bin/hive-hello
\tdpkg-gencontrol -Tdebian/substvars -P$(ROOT)
\tdpkg-deb --root-owner-group --build $(ROOT) ..

binary-indep:

.PHONY: clean build build-arch build-indep binary binary-arch binary-indep
"
    );
    let path = directory.join("debian/rules");
    fs::write(&path, rules)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(on_path("dpkg-buildpackage"))
}

fn on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|directory| directory.join(program).is_file()))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_package_builds_on_this_machine() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let tree = directory.path().join("hive-hello");
        let debian = write(&tree, 1).expect("writes");
        let (program, arguments) =
            if debian { ("dpkg-buildpackage", &["-us", "-uc", "-b", "-d"][..]) } else { (COMMAND[0], &COMMAND[1..]) };
        let output = Command::new(program).args(arguments).current_dir(&tree).output().expect("runs");
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        if debian {
            let names: Vec<String> = fs::read_dir(directory.path())
                .expect("readable")
                .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
                .collect();
            for suffix in [".deb", ".changes", ".buildinfo"] {
                assert!(names.iter().any(|name| name.ends_with(suffix)), "{suffix} in {names:?}");
            }
        } else {
            assert!(tree.join(COMMAND_ARTIFACT).is_file());
        }
    }
}
