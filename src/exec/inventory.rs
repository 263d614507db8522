//! What this machine is: found out from its own files, without asking anybody.
//!
//! [`detect`] reads files only and takes milliseconds, because a node tells what it is before it can be told what to become.
//! Versions of tools are asked afterwards by [`with_versions`], which runs programs.
//!
//! The kind of virtualization follows the evidence that `systemd-detect-virt` uses, and works where that program is absent
//! (OpenRC) and for a user who may not read `/proc/1/environ`. When in doubt the answer is `unknown` or `bare-metal`: healing
//! reboots neither. Never done here: deciding anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt as _;

use crate::engine::member::Inventory;
use crate::exec::portage;

pub mod probe;
mod virt;

/// Longest time a tool is asked for its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(2);
/// Tools asked at the same time: enough to hide slow ones, few enough to leave a small machine usable.
const VERSIONS_AT_ONCE: usize = 4;
/// Bytes of output looked at for a version.
const VERSION_OUTPUT_MAX_BYTES: usize = 4_096;
/// Portage reads its whole configuration before it answers.
const PORTAGE_TIMEOUT: Duration = Duration::from_secs(15);
const PORTAGE_OUTPUT_MAX_BYTES: usize = 256 << 10;
/// Longest file of `/proc`, `/sys` and `/etc` that is read.
const FILE_MAX_BYTES: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Where to look.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory that stands for `/`.
    pub root: PathBuf,
    /// Directories in which programs are looked for; empty: those of `PATH`.
    pub path: Vec<PathBuf>,
    /// Its file system's free space is told.
    pub state_dir: PathBuf,
    /// Labels that the operator gave this machine.
    pub labels: BTreeSet<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { root: "/".into(), path: Vec::new(), state_dir: "/var/lib/build".into(), labels: BTreeSet::new() }
    }
}

impl Options {
    fn read(&self, path: &str) -> Option<String> {
        read_text(&self.root.join(path.trim_start_matches('/')))
    }

    fn exists(&self, path: &str) -> bool {
        self.root.join(path.trim_start_matches('/')).exists()
    }

    fn names_in(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root.join(path.trim_start_matches('/')));
        let names = entries.into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.take(4_096).collect()
    }

    fn find(&self, program: &str) -> Option<PathBuf> {
        let variable = std::env::var_os("PATH").unwrap_or_default();
        let dirs = if self.path.is_empty() { std::env::split_paths(&variable).collect() } else { self.path.clone() };
        dirs.into_iter()
            .filter(|dir| dir.is_absolute())
            .map(|dir| dir.join(program))
            .find(|file| fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0))
    }
}

/// Reads a small text file; bytes that are no UTF-8 are replaced.
fn read_text(path: &Path) -> Option<String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(FILE_MAX_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// A program that is looked for: its name, how to ask for its version (empty: never asked), the language it stands for.
struct Tool(&'static str, &'static [&'static str], Option<&'static str>);

const VERSION: &[&str] = &["--version"];
/// Starting it takes seconds or writes files, or it has no way to be asked.
const UNASKED: &[&str] = &[];

const TOOLS: &[Tool] = &[
    Tool("ansible", UNASKED, None),
    Tool("apt-get", VERSION, None),
    Tool("bwrap", VERSION, None),
    Tool("cargo", VERSION, None),
    Tool("ccache", VERSION, None),
    Tool("clang", VERSION, Some("c")),
    Tool("cmake", VERSION, None),
    Tool("curl", VERSION, None),
    Tool("debuild", UNASKED, None),
    Tool("docker", VERSION, None),
    Tool("dpkg-buildpackage", VERSION, None),
    Tool("emerge", VERSION, None),
    Tool("equivs-build", UNASKED, None),
    Tool("g++", VERSION, Some("c++")),
    Tool("gcc", VERSION, Some("c")),
    Tool("ghc", VERSION, Some("haskell")),
    Tool("git", VERSION, None),
    Tool("go", &["version"], Some("go")),
    Tool("gradle", UNASKED, None),
    Tool("java", &["-version"], None),
    Tool("javac", &["-version"], Some("java")),
    Tool("lxc", UNASKED, None),
    Tool("make", VERSION, None),
    Tool("meson", VERSION, None),
    Tool("mvn", VERSION, None),
    Tool("ninja", VERSION, None),
    Tool("node", VERSION, Some("node")),
    Tool("npm", VERSION, None),
    Tool("pct", UNASKED, None),
    Tool("perl", VERSION, Some("perl")),
    Tool("php", VERSION, Some("php")),
    Tool("podman", VERSION, None),
    Tool("python3", VERSION, Some("python")),
    Tool("qemu-system-x86_64", VERSION, None),
    Tool("qm", UNASKED, None),
    Tool("ruby", VERSION, Some("ruby")),
    Tool("rustc", VERSION, Some("rust")),
    Tool("sbuild", VERSION, None),
    Tool("ssh", &["-V"], None),
    Tool("systemd-nspawn", VERSION, None),
    Tool("virsh", VERSION, None),
];

/// Tools without a way to be asked, with the Debian package whose version is theirs.
const PACKAGED: &[(&str, &str)] = &[("equivs-build", "equivs")];

/// The programs to ask, each with the tool that is meant and the arguments.
fn questions(inventory: &Inventory, options: &Options) -> Vec<(String, PathBuf, Vec<String>)> {
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
    let present = |name: &str| inventory.tools.contains_key(name);
    let asked = TOOLS.iter().filter(|tool| !tool.1.is_empty() && present(tool.0));
    let asked =
        asked.filter_map(|Tool(name, arguments, _)| Some(((*name).to_owned(), options.find(name)?, owned(arguments))));
    let packaged = PACKAGED.iter().filter(|(tool, _)| present(tool)).filter_map(|(tool, package)| {
        let query = options.find("dpkg-query")?;
        Some(((*tool).to_owned(), query, owned(&["--show", "--showformat=${Version}", package])))
    });
    asked.chain(packaged).collect()
}

/// Finds out what can be found out by reading files. Versions of tools are empty. Blocks for milliseconds.
pub fn detect(options: &Options) -> Inventory {
    let present: Vec<&Tool> = TOOLS.iter().filter(|tool| options.find(tool.0).is_some()).collect();
    let (distro, distro_version) = os_release(options);
    let virt = virt::detect(options);
    Inventory {
        cpu_cores: std::thread::available_parallelism()
            .map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX)),
        ram_gb: to_gib(memory_bytes(options)),
        disk_free_gb: to_gib(disk_free_bytes(&options.state_dir)),
        arch: std::env::consts::ARCH.to_owned(),
        distro,
        distro_version,
        has_gpu: has_gpu(options, virt),
        virt: virt.to_owned(),
        docker_installed: present.iter().any(|tool| tool.0 == "docker"),
        languages: present.iter().filter_map(|tool| tool.2).map(str::to_owned).collect(),
        tools: present.iter().map(|tool| (tool.0.to_owned(), String::new())).collect(),
        labels: options.labels.clone(),
        features: BTreeSet::new(),
        tree: None,
    }
}

/// Asks every tool of the inventory for its version. One that does not answer in 2 s keeps what is there.
pub async fn with_versions(mut inventory: Inventory, options: &Options) -> Inventory {
    let answers: BTreeMap<String, String> = futures::stream::iter(questions(&inventory, options))
        .map(|(name, program, arguments): (String, PathBuf, Vec<String>)| async move {
            let limits = probe::Limits { timeout: VERSION_TIMEOUT, output_max_bytes: VERSION_OUTPUT_MAX_BYTES };
            match probe::ask(&program, &arguments, limits).await {
                Ok(answer) => version_in(&answer.stdout).or_else(|| version_in(&answer.stderr)).map(|v| (name, v)),
                Err(error) => {
                    tracing::debug!(tool = name, %error, "version not told");
                    None
                }
            }
        })
        .buffer_unordered(VERSIONS_AT_ONCE)
        .filter_map(std::future::ready)
        .collect()
        .await;
    inventory.tools.extend(answers);
    inventory.tree = package_tree(options).await;
    inventory
}

/// Which state of Portage's main tree this machine has; none without Portage or tree.
pub async fn package_tree(options: &Options) -> Option<String> {
    let program = options.find("portageq")?;
    let limits = probe::Limits { timeout: PORTAGE_TIMEOUT, output_max_bytes: PORTAGE_OUTPUT_MAX_BYTES };
    let arguments = ["repositories_configuration", "/"].map(str::to_owned);
    match probe::ask(&program, &arguments, limits).await {
        Ok(answer) => portage::tree_identity(&main_tree(&String::from_utf8_lossy(&answer.stdout))?),
        Err(error) => {
            tracing::debug!(%error, "Portage does not tell of its trees");
            None
        }
    }
}

/// Where the main tree is, from Portage's configuration of repositories: `main-repo` of `[DEFAULT]` names the section.
fn main_tree(configuration: &str) -> Option<PathBuf> {
    let (mut section, mut main, mut places) = ("", None, BTreeMap::new());
    for line in configuration.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name;
        } else if let Some((key, value)) = line.split_once('=') {
            match (section, key.trim()) {
                ("DEFAULT", "main-repo") => main = Some(value.trim()),
                (_, "location") => drop(places.insert(section, value.trim())),
                _ => {}
            }
        }
    }
    places.get(main?).map(PathBuf::from)
}

/// The first word that looks like a version: digits, a dot, digits, with a prefix such as `v`, `go` or a quote before it.
fn version_in(output: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(output);
    text.split(|c: char| c.is_whitespace() || matches!(c, '(' | ')' | ',' | '"')).find_map(|word| {
        let start = word.find(|c: char| c.is_ascii_digit())?;
        let (prefix, version) = word.split_at(start);
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '~' | '-' | '_');
        let version: String = version.chars().take_while(|c| plain(*c)).take(32).collect();
        let dotted =
            version.split('.').take(2).filter(|part| part.starts_with(|c: char| c.is_ascii_digit())).count() == 2;
        let named = prefix.is_empty() || prefix.ends_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '-' | '_'));
        (dotted && named && prefix.len() <= 12).then(|| version.trim_end_matches('.').to_owned())
    })
}

fn to_gib(bytes: u64) -> u32 {
    u32::try_from(bytes / GIB).unwrap_or(u32::MAX)
}

/// Memory of the machine, or of the container where that is less.
fn memory_bytes(options: &Options) -> u64 {
    let total = options.read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    });
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit = limits.iter().find_map(|path| options.read(path)?.trim().parse::<u64>().ok());
    total.map_or(0, |kib| kib.saturating_mul(1_024)).min(limit.unwrap_or(u64::MAX))
}

/// Free space for unprivileged users on the file system of the nearest existing parent of a directory.
fn disk_free_bytes(dir: &Path) -> u64 {
    let existing = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    rustix::fs::statvfs(existing).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn os_release(options: &Options) -> (String, String) {
    let text =
        ["/etc/os-release", "/usr/lib/os-release"].iter().find_map(|path| options.read(path)).unwrap_or_default();
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))?;
        let value = line.trim().trim_matches(|c| c == '"' || c == '\'');
        let plain = value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        (plain && value.len() <= 64).then(|| value.to_owned())
    };
    let distro = value("ID").filter(|id| !id.is_empty()).unwrap_or_else(|| "unknown".to_owned());
    (distro, value("VERSION_ID").unwrap_or_default())
}

/// Makers of graphics and compute cards: NVIDIA, AMD, Intel. Management controllers of servers and emulated cards are of others.
const GPU_VENDORS: [&str; 3] = ["0x10de", "0x1002", "0x8086"];
/// Drivers of render nodes without a card behind them.
const EMULATED_DRIVERS: [&str; 6] = ["virtio-gpu", "virtio_gpu", "bochs-drm", "vmwgfx", "vgem", "vkms"];

/// A card on the PCI bus, or a render node with a real driver. In a container `/sys` shows what the host has, so there a device
/// node must have been passed in as well.
fn has_gpu(options: &Options, virt: &str) -> bool {
    let passed_in = || {
        let render = options.names_in("/dev/dri").iter().any(|name| name.starts_with("renderD"));
        render || ["/dev/nvidia0", "/dev/kfd", "/dev/accel"].iter().any(|path| options.exists(path))
    };
    if matches!(virt, "lxc" | "container") && !passed_in() {
        return false;
    }
    let on_bus = options.names_in("/sys/bus/pci/devices").iter().any(|device| {
        let read = |file: &str| options.read(&format!("/sys/bus/pci/devices/{device}/{file}")).unwrap_or_default();
        let (class, vendor) = (read("class"), read("vendor"));
        match class.get(..6) {
            Some("0x0300") => GPU_VENDORS.contains(&vendor.trim()),
            Some("0x0302" | "0x1200") => true,
            _ => false,
        }
    });
    let renders = || {
        options.names_in("/sys/class/drm").iter().filter(|name| name.starts_with("renderD")).any(|name| {
            let link = options.root.join("sys/class/drm").join(name).join("device/driver");
            let driver = fs::read_link(link).ok().and_then(|to| Some(to.file_name()?.to_str()?.to_owned()));
            driver.is_some_and(|driver| !EMULATED_DRIVERS.contains(&driver.as_str()))
        })
    };
    on_bus || renders()
}

#[cfg(test)]
mod tests {
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
            ("bin/equivs-build", "#!/bin/sh\nexit 1\n"),
            ("bin/dpkg-query", "#!/bin/sh\n[ \"$3\" = equivs ] && printf 2.3.1\n"),
        ]);
        let started_ms = crate::clock::now_ms();
        let found = with_versions(detect(&options), &options).await;
        let elapsed_ms = crate::clock::now_ms() - started_ms;
        assert!(elapsed_ms < 3_900, "{elapsed_ms} ms for two that hang at the same time");
        let versions: Vec<_> = found.tools.iter().map(|(name, version)| (name.as_str(), version.as_str())).collect();
        assert_eq!(
            versions,
            [
                ("equivs-build", "2.3.1"),
                ("git", "2.39.5"),
                ("gradle", ""),
                ("javac", "17.0.9"),
                ("make", ""),
                ("node", "")
            ]
        );
    }

    #[test]
    fn this_machine_is_described_too() {
        let found = detect(&Options::default());
        assert!(
            found.cpu_cores >= 1 && found.tools.contains_key("cargo") || found.tools.contains_key("perl"),
            "{found:?}"
        );
        assert!(["bare-metal", "lxc", "qemu", "container", "vm", "unknown"].contains(&found.virt.as_str()));
        assert!(!found.arch.is_empty() && found.ram_gb < 1 << 20);
    }
}
