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

pub mod probe;
mod virt;

/// Longest time a tool is asked for its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(2);
/// Tools asked at the same time: enough to hide slow ones, few enough to leave a small machine usable.
const VERSIONS_AT_ONCE: usize = 4;
/// Bytes of output looked at for a version.
const VERSION_OUTPUT_MAX_BYTES: usize = 4_096;
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
    }
}

/// Asks every tool of the inventory for its version. One that does not answer in 2 s keeps what is there.
pub async fn with_versions(mut inventory: Inventory, options: &Options) -> Inventory {
    let asked = TOOLS.iter().filter(|tool| !tool.1.is_empty() && inventory.tools.contains_key(tool.0));
    let questions = asked.filter_map(|Tool(name, arguments, _)| Some((*name, options.find(name)?, *arguments)));
    let answers: BTreeMap<String, String> = futures::stream::iter(questions.collect::<Vec<_>>())
        .map(|(name, program, arguments)| async move {
            let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
            let limits = probe::Limits { timeout: VERSION_TIMEOUT, output_max_bytes: VERSION_OUTPUT_MAX_BYTES };
            match probe::ask(&program, &arguments, limits).await {
                Ok(answer) => {
                    version_in(&answer.stdout).or_else(|| version_in(&answer.stderr)).map(|v| (name.to_owned(), v))
                }
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
    inventory
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
mod tests;
