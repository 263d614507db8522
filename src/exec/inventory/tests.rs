use std::os::unix::fs::symlink;

use super::*;

fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Options) {
    let dir = tempfile::tempdir().expect("temp dir");
    for (path, text) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().expect("has a parent")).expect("creates");
        fs::write(&path, text).expect("writes");
        if path.components().any(|part| part.as_os_str() == "bin") {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("sets");
        }
    }
    let root = dir.path().to_owned();
    let options =
        Options { path: vec![root.join("bin")], state_dir: root.join("var/lib/build"), root, ..Options::default() };
    (dir, options)
}

#[test]
fn a_machine_is_described_from_its_files() {
    let (_dir, mut options) = machine(&[
        ("proc/meminfo", "MemTotal:       32841234 kB\nMemFree: 1 kB\n"),
        ("etc/os-release", "NAME=\"Ubuntu\"\nVERSION_ID=\"24.04\"\nID=ubuntu\nID_LIKE=debian\n"),
        ("bin/git", "#!/bin/sh\n"),
        ("bin/gcc", "#!/bin/sh\n"),
        ("bin/python3", "#!/bin/sh\n"),
        ("bin/docker", "#!/bin/sh\n"),
    ]);
    fs::write(options.root.join("bin/go"), "not executable").expect("writes");
    options.labels.insert("fast".into());
    let found = detect(&options);
    assert_eq!((found.ram_gb, found.distro.as_str(), found.distro_version.as_str()), (31, "ubuntu", "24.04"));
    assert_eq!(found.tools.keys().collect::<Vec<_>>(), ["docker", "gcc", "git", "python3"]);
    assert_eq!(found.languages, BTreeSet::from(["c".to_owned(), "python".to_owned()]));
    assert!(found.docker_installed && found.cpu_cores >= 1 && !found.has_gpu);
    assert_eq!(found.labels, options.labels);
    assert_eq!(found.disk_free_gb, to_gib(disk_free_bytes(Path::new("/tmp"))), "nearest existing parent");
}

#[test]
fn a_machine_that_tells_nothing_is_unknown_and_nothing_fails() {
    let (_dir, options) = machine(&[]);
    let found = detect(&options);
    assert_eq!((found.distro.as_str(), found.virt.as_str(), found.ram_gb), ("unknown", "unknown", 0));
    assert!(found.tools.is_empty());
    let (_dir, options) = machine(&[("etc/os-release", "ID=$(reboot)\nVERSION_ID=\"a b\"\n")]);
    assert_eq!(os_release(&options), ("unknown".to_owned(), String::new()));
}

#[test]
fn a_container_has_the_memory_that_it_may_use() {
    let meminfo = ("proc/meminfo", "MemTotal: 33554432 kB\n");
    for (files, gib) in [
        (vec![meminfo, ("sys/fs/cgroup/memory.max", "4294967296\n")], 4),
        (vec![meminfo, ("sys/fs/cgroup/memory.max", "max\n")], 32),
        (vec![meminfo, ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")], 32),
    ] {
        let (_dir, options) = machine(&files);
        assert_eq!(to_gib(memory_bytes(&options)), gib, "{files:?}");
    }
}

#[test]
fn accelerators_are_told_from_display_controllers() {
    let card = |class: &'static str, vendor: &'static str| {
        vec![("sys/bus/pci/devices/0000:01:00.0/class", class), ("sys/bus/pci/devices/0000:01:00.0/vendor", vendor)]
    };
    for (files, virt, expected) in [
        (card("0x030000\n", "0x10de\n"), "bare-metal", true),
        (card("0x030200\n", "0x1234\n"), "qemu", true),
        (card("0x120000\n", "0x1da3\n"), "bare-metal", true),
        (card("0x030000\n", "0x1a03\n"), "bare-metal", false),
        (card("0x030000\n", "0x1234\n"), "qemu", false),
        (card("0x020000\n", "0x8086\n"), "bare-metal", false),
        (card("0x030000\n", "0x10de\n"), "lxc", false),
        ([card("0x030000\n", "0x10de\n"), vec![("dev/nvidia0", "")]].concat(), "lxc", true),
        (vec![], "bare-metal", false),
    ] {
        let (_dir, options) = machine(&files);
        assert_eq!(has_gpu(&options, virt), expected, "{virt} {files:?}");
    }
    for (driver, expected) in [("panfrost", true), ("virtio-gpu", false)] {
        let (_dir, options) = machine(&[("sys/class/drm/renderD128/device/uevent", "")]);
        symlink(
            format!("../../../bus/platform/drivers/{driver}"),
            options.root.join("sys/class/drm/renderD128/device/driver"),
        )
        .expect("links");
        assert_eq!(has_gpu(&options, "bare-metal"), expected, "{driver}");
    }
}

#[test]
fn versions_are_found_in_what_tools_print() {
    for (output, version) in [
        ("git version 2.39.5\n", Some("2.39.5")),
        ("go version go1.22.1 linux/amd64", Some("1.22.1")),
        ("openjdk version \"17.0.9\" 2023-10-17", Some("17.0.9")),
        ("v18.19.0\n", Some("18.19.0")),
        ("gcc (Debian 12.2.0-14) 12.2.0\nCopyright (C) 2022", Some("12.2.0-14")),
        ("Docker version 24.0.7, build afdd53b", Some("24.0.7")),
        ("OpenSSH_9.2p1 Debian-2+deb12u3, OpenSSL 3.0.11", Some("9.2p1")),
        ("systemd 252 (252.22-1~deb12u1)", Some("252.22-1~deb12u1")),
        ("usage: x [2024]", None),
        ("", None),
    ] {
        assert_eq!(version_in(output.as_bytes()).as_deref(), version, "{output}");
    }
}

#[tokio::test]
async fn tools_are_asked_in_parallel_and_one_that_hangs_costs_two_seconds_at_most() {
    let (_dir, options) = machine(&[
        ("bin/git", "#!/bin/sh\necho git version 2.39.5\n"),
        ("bin/make", "#!/bin/sh\nsleep 60\n"),
        ("bin/node", "#!/bin/sh\nsleep 60\n"),
        ("bin/javac", "#!/bin/sh\necho javac 17.0.9 >&2\n"),
        ("bin/gradle", "#!/bin/sh\necho must not be asked 1.2.3; touch asked\n"),
    ]);
    let started_ms = crate::clock::now_ms();
    let found = with_versions(detect(&options), &options).await;
    let elapsed_ms = crate::clock::now_ms() - started_ms;
    assert!(elapsed_ms < 3_900, "{elapsed_ms} ms for two that hang at the same time");
    let versions: Vec<_> = found.tools.iter().map(|(name, version)| (name.as_str(), version.as_str())).collect();
    assert_eq!(versions, [("git", "2.39.5"), ("gradle", ""), ("javac", "17.0.9"), ("make", ""), ("node", "")]);
}

#[test]
fn this_machine_is_described_too() {
    let found = detect(&Options::default());
    assert!(found.cpu_cores >= 1 && found.tools.contains_key("cargo") || found.tools.contains_key("perl"), "{found:?}");
    assert!(["bare-metal", "lxc", "qemu", "container", "vm", "unknown"].contains(&found.virt.as_str()));
    assert!(!found.arch.is_empty() && found.ram_gb < 1 << 20);
}
