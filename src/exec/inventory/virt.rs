//! Which kind of machine this is, by the evidence that `systemd-detect-virt` uses.

use super::Options;

/// `bare-metal`, `lxc`, `qemu`, `container`, `vm` or `unknown`. A container in a virtual machine is a container.
pub(super) fn detect(options: &Options) -> &'static str {
    container(options).or_else(|| hypervisor(options)).unwrap_or_else(|| metal(options))
}

fn container(options: &Options) -> Option<&'static str> {
    // The manager says it to PID 1, which says it to everybody in /run; only root may ask PID 1 itself.
    let told =
        options.read("/run/systemd/container").or_else(|| options.read("/run/host/container-manager")).or_else(|| {
            let environment = options.read("/proc/1/environ")?;
            environment.split('\0').find_map(|entry| entry.strip_prefix("container=")).map(str::to_owned)
        });
    if let Some(manager) = told.as_deref().map(str::trim).filter(|manager| !manager.is_empty()) {
        return Some(if manager.starts_with("lxc") { "lxc" } else { "container" });
    }
    if options.exists("/.dockerenv") || options.exists("/run/.containerenv") {
        return Some("container");
    }
    if options.exists("/proc/vz") && !options.exists("/proc/bc") {
        return Some("container");
    }
    // Without systemd and without root: LXC puts its own file system over parts of /proc.
    let lxcfs = |line: &str| line.split(' ').skip_while(|word| *word != "-").nth(1) == Some("fuse.lxcfs");
    if options.read("/proc/self/mountinfo").is_some_and(|mounts| mounts.lines().any(lxcfs)) {
        return Some("lxc");
    }
    let release = options.read("/proc/sys/kernel/osrelease").unwrap_or_default();
    (release.contains("Microsoft") || release.contains("WSL")).then_some("container")
}

/// What the firmware calls the machine, and which kind that is. The first match counts.
const FIRMWARE: [(&str, &str); 15] = [
    ("KVM", "qemu"),
    ("QEMU", "qemu"),
    ("Standard PC", "qemu"),
    ("OpenStack", "qemu"),
    ("KubeVirt", "qemu"),
    ("VMware", "vm"),
    ("VMW", "vm"),
    ("innotek GmbH", "vm"),
    ("VirtualBox", "vm"),
    ("Oracle Corporation", "vm"),
    ("Xen", "vm"),
    ("Bochs", "vm"),
    ("Parallels", "vm"),
    ("BHYVE", "vm"),
    ("Hyper-V", "vm"),
];

fn hypervisor(options: &Options) -> Option<&'static str> {
    // The first domain of Xen is the machine itself.
    if options.read("/proc/xen/capabilities").is_some_and(|text| text.contains("control_d")) {
        return Some("bare-metal");
    }
    let cpuinfo = options.read("/proc/cpuinfo").unwrap_or_default();
    if cpuinfo.contains("User Mode Linux") {
        return Some("vm");
    }
    let flagged = has_flag(&cpuinfo);
    for file in ["product_name", "sys_vendor", "board_vendor", "bios_vendor", "product_version"] {
        let text = options.read(&format!("/sys/class/dmi/id/{file}")).unwrap_or_default();
        let text = text.trim();
        // Oracle and others sell real machines too: there the processor must agree.
        let known = FIRMWARE.iter().find(|(name, _)| text.starts_with(name));
        if let Some((_, kind)) = known.filter(|_| flagged != Some(false)) {
            return Some(kind);
        }
    }
    let tree = options.read("/proc/device-tree/hypervisor/compatible").unwrap_or_default();
    if tree.contains("linux,kvm") || options.names_in("/proc/device-tree").iter().any(|name| name.starts_with("fw-cfg"))
    {
        return Some("qemu");
    }
    let xen = options.read("/sys/hypervisor/type").is_some_and(|kind| kind.trim() == "xen");
    (xen || tree.contains("xen") || tree.contains("vmware") || flagged == Some(true)).then_some("vm")
}

/// The processor's `hypervisor` flag; none where processors have no such flag (not x86).
fn has_flag(cpuinfo: &str) -> Option<bool> {
    let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags")?.split_once(':'))?.1;
    Some(flags.split_whitespace().any(|flag| flag == "hypervisor"))
}

fn metal(options: &Options) -> &'static str {
    let cpuinfo = options.read("/proc/cpuinfo").unwrap_or_default();
    let described = options.exists("/sys/class/dmi/id/product_name") || options.exists("/proc/device-tree/model");
    if has_flag(&cpuinfo) == Some(false) || described { "bare-metal" } else { "unknown" }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Options) {
        let dir = tempfile::tempdir().expect("temp dir");
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("has a parent")).expect("creates");
            fs::write(path, text).expect("writes");
        }
        let options = Options { root: dir.path().to_owned(), ..Options::default() };
        (dir, options)
    }

    #[test]
    fn each_kind_of_machine_is_recognised() {
        let real = ("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu vme sse2\n");
        let guest = ("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu hypervisor sse2\n");
        let arm = ("proc/cpuinfo", "processor\t: 0\nFeatures\t: fp asimd\n");
        let product = "sys/class/dmi/id/product_name";
        let vendor = "sys/class/dmi/id/sys_vendor";
        let lxcfs = "36 35 0:30 / /proc/cpuinfo rw,nosuid - fuse.lxcfs lxcfs rw,user_id=0\n";
        let cases: &[(&str, &[(&str, &str)])] = &[
            ("unknown", &[]),
            ("bare-metal", &[real, (vendor, "Dell Inc.\n"), (product, "PowerEdge R730\n")]),
            ("bare-metal", &[real, (vendor, "Oracle Corporation\n"), (product, "SUN FIRE X4170\n")]),
            ("bare-metal", &[guest, ("proc/xen/capabilities", "control_d\n")]),
            ("bare-metal", &[arm, ("proc/device-tree/model", "Raspberry Pi 4 Model B\0")]),
            ("unknown", &[arm]),
            ("qemu", &[guest, (vendor, "QEMU\n"), (product, "Standard PC (Q35 + ICH9, 2009)\n")]),
            ("qemu", &[guest, (product, "KVM\n")]),
            ("qemu", &[arm, ("proc/device-tree/fw-cfg@9020000/compatible", "x")]),
            ("vm", &[guest, (vendor, "VMware, Inc.\n")]),
            ("vm", &[guest, (vendor, "innotek GmbH\n")]),
            ("vm", &[guest]),
            ("vm", &[guest, (vendor, "Amazon EC2\n")]),
            ("vm", &[arm, ("sys/hypervisor/type", "xen\n")]),
            ("lxc", &[real, ("run/systemd/container", "lxc\n"), (vendor, "Dell Inc.\n")]),
            ("lxc", &[guest, ("proc/1/environ", "TERM=linux\0container=lxc\0")]),
            ("lxc", &[real, ("proc/self/mountinfo", lxcfs)]),
            ("container", &[real, ("run/systemd/container", "systemd-nspawn\n")]),
            ("container", &[guest, ("run/host/container-manager", "systemd-nspawn\n")]),
            ("container", &[guest, (".dockerenv", ""), (product, "KVM\n")]),
            ("container", &[real, ("proc/1/environ", "container=podman\0")]),
            ("container", &[guest, ("proc/sys/kernel/osrelease", "5.15.90.1-microsoft-standard-WSL2\n")]),
        ];
        for (kind, files) in cases {
            let (_dir, options) = machine(files);
            assert_eq!(detect(&options), *kind, "{files:?}");
        }
    }
}
