//! One cgroup per attempt: version 2 where it has the controllers, version 1 for those it lacks, nothing where neither can be
//! written, and a plain account of which of these it is.
//!
//! The directory of all attempts is named after this work directory, so that a later life of the agent finds and ends what an
//! earlier one left. Never done here: moving a process that this agent did not start (the agent itself excepted, where its
//! service manager delegated it a cgroup of its own).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::sweep;

const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// The limits of one attempt.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    pub(super) memory_bytes: u64,
    pub(super) processes: u64,
}

/// Where attempts get their cgroups on this host.
#[derive(Clone, Debug, Default)]
pub(super) struct Cgroups {
    /// Parent directory in version 2, with the controllers its children have.
    v2: Option<(PathBuf, Vec<&'static str>)>,
    /// Parent directories in version 1 by controller.
    v1: BTreeMap<&'static str, PathBuf>,
}

struct Mount {
    point: PathBuf,
    /// None: version 2.
    controllers: Option<Vec<String>>,
}

fn mounts(mountinfo: &str) -> Vec<Mount> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let point = PathBuf::from(left.split(' ').nth(4)?);
            let mut right = right.split(' ');
            match right.next()? {
                "cgroup2" => Some(Mount { point, controllers: None }),
                "cgroup" => {
                    let controllers = right.nth(1)?.split(',').map(str::to_owned).collect();
                    Some(Mount { point, controllers: Some(controllers) })
                }
                _ => None,
            }
        })
        .collect()
}

/// Path of this process in version 2 (`controller` none) or in a version 1 hierarchy, without the leading slash.
fn own_path(cgroup: &str, controller: Option<&str>) -> Option<String> {
    cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let matches = match controller {
            None => id == "0",
            Some(name) => controllers.split(',').any(|other| other == name),
        };
        matches.then(|| path.trim_start_matches('/').to_owned())
    })
}

impl Cgroups {
    /// Finds out, by making the directories, what this host allows.
    pub(super) fn detect(name: &str) -> Self {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let cgroup = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut found = Self::default();
        for mount in mounts(&mountinfo) {
            match &mount.controllers {
                None if found.v2.is_none() => found.v2 = detect_v2(&mount.point, &cgroup, name),
                None => {}
                Some(controllers) => {
                    for controller in CONTROLLERS {
                        if controllers.iter().any(|other| other == controller) && !found.v1.contains_key(controller) {
                            let own = own_path(&cgroup, Some(controller)).unwrap_or_default();
                            let tried = [mount.point.join(name), mount.point.join(own).join(name)];
                            if let Some(parent) = tried.into_iter().find(|path| make(path).is_ok()) {
                                found.v1.insert(controller, parent);
                            }
                        }
                    }
                }
            }
        }
        found
    }

    /// Members of an attempt can be found.
    pub(super) fn any(&self) -> bool {
        self.v2.is_some() || !self.v1.is_empty()
    }

    /// This resource can be limited.
    pub(super) fn limits(&self, controller: &str) -> bool {
        self.v2.as_ref().is_some_and(|(_, controllers)| controllers.contains(&controller))
            || self.v1.contains_key(controller)
    }

    /// Limits the processor time of all attempts together, in percent of one core; 0: not.
    pub(super) fn limit_cpu(&self, percent: u32) -> io::Result<()> {
        let quota_us = u64::from(percent) * 1_000;
        let (file, text) = match (&self.v2, self.v1.get("cpu")) {
            (Some((parent, has)), _) if has.contains(&"cpu") => {
                let quota = if percent == 0 { "max".to_owned() } else { quota_us.to_string() };
                (parent.join("cpu.max"), format!("{quota} 100000"))
            }
            (_, Some(parent)) => {
                let quota = if percent == 0 { "-1".to_owned() } else { quota_us.to_string() };
                (parent.join("cpu.cfs_quota_us"), quota)
            }
            (_, None) => return Ok(()),
        };
        match fs::write(&file, text) {
            // Where nothing is to be limited, a kernel without bandwidth control is as good.
            Err(error) if percent > 0 => Err(io::Error::new(error.kind(), format!("{}: {error}", file.display()))),
            _ => Ok(()),
        }
    }

    fn group(&self, token: &str) -> Group {
        let v1 = self.v1.iter().map(|(&controller, parent)| (controller, parent.join(token))).collect();
        Group { v2: self.v2.as_ref().map(|(parent, controllers)| (parent.join(token), controllers.clone())), v1 }
    }

    /// Makes the cgroup of an attempt and sets its limits.
    pub(super) fn create(&self, token: &str, limits: Limits) -> io::Result<Group> {
        let group = self.group(token);
        for directory in group.directories() {
            make(directory)?;
        }
        group.limit(limits)?;
        Ok(group)
    }

    /// Removes the empty directories of all attempts. Not empty: a later life will find what is in them.
    pub(super) fn retire(&self) {
        for parent in self.v2.iter().map(|(parent, _)| parent).chain(self.v1.values()) {
            fs::remove_dir(parent).ok();
        }
    }

    /// Cgroups of attempts that are there, whoever made them.
    pub(super) fn existing(&self) -> Vec<(String, Group)> {
        let parents = self.v2.iter().map(|(parent, _)| parent).chain(self.v1.values());
        let mut tokens: Vec<String> = parents
            .filter_map(|parent| fs::read_dir(parent).ok())
            .flat_map(|entries| entries.flatten())
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        tokens.sort_unstable();
        tokens.dedup();
        tokens.into_iter().map(|token| (token.clone(), self.group(&token))).collect()
    }
}

fn make(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Prefers the cgroup that a service manager delegated to this process alone, else the top of the hierarchy.
fn detect_v2(point: &Path, cgroup: &str, name: &str) -> Option<(PathBuf, Vec<&'static str>)> {
    let own = own_path(cgroup, None).unwrap_or_default();
    let base = point.join(&own);
    let members = fs::read_to_string(base.join("cgroup.procs")).unwrap_or_default();
    let alone = !own.is_empty() && members.split_whitespace().all(|pid| pid == std::process::id().to_string());
    let mut bases = Vec::new();
    if alone {
        bases.push(base.clone());
    }
    bases.push(point.to_owned());
    bases.push(base.clone());
    for parent in bases {
        let place = parent.join(name);
        if make(&place).is_err() || fs::metadata(place.join("cgroup.procs")).is_err() {
            continue;
        }
        if alone && parent == base && !own.is_empty() {
            // Controllers go only to children of a cgroup without processes, so the agent steps aside into one of its own.
            let aside = parent.join("agent");
            if make(&aside).is_ok() {
                fs::write(aside.join("cgroup.procs"), "0").ok();
            }
        }
        let enabled = CONTROLLERS.into_iter().filter(|controller| enable(&parent, &place, controller)).collect();
        return Some((place, enabled));
    }
    None
}

fn enable(parent: &Path, place: &Path, controller: &str) -> bool {
    let word = format!("+{controller}");
    for directory in [parent, place] {
        // It may be on already, and then the attempt to switch it on may be refused.
        fs::write(directory.join("cgroup.subtree_control"), &word).ok();
    }
    let active = fs::read_to_string(place.join("cgroup.subtree_control")).unwrap_or_default();
    active.split_whitespace().any(|other| other == controller)
}

/// The cgroup of one attempt, in every hierarchy that is used.
#[derive(Clone, Debug)]
pub(super) struct Group {
    v2: Option<(PathBuf, Vec<&'static str>)>,
    v1: BTreeMap<&'static str, PathBuf>,
}

impl Group {
    fn directories(&self) -> impl Iterator<Item = &PathBuf> {
        self.v2.iter().map(|(directory, _)| directory).chain(self.v1.values())
    }

    /// Files into which a process writes `0` to become a member.
    pub(super) fn procs_files(&self) -> Vec<PathBuf> {
        self.directories().map(|directory| directory.join("cgroup.procs")).collect()
    }

    fn limit(&self, limits: Limits) -> io::Result<()> {
        let set = |path: PathBuf, value: String| {
            fs::write(&path, value)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
        };
        let empty = Vec::new();
        let (v2, has) = self.v2.as_ref().map_or((Path::new(""), &empty), |(path, has)| (path.as_path(), has));
        if limits.memory_bytes > 0 {
            if has.contains(&"memory") {
                set(v2.join("memory.max"), limits.memory_bytes.to_string())?;
                set(v2.join("memory.swap.max"), "0".to_owned()).ok();
                set(v2.join("memory.oom.group"), "1".to_owned()).ok();
            } else if let Some(path) = self.v1.get("memory") {
                set(path.join("memory.limit_in_bytes"), limits.memory_bytes.to_string())?;
                set(path.join("memory.memsw.limit_in_bytes"), limits.memory_bytes.to_string()).ok();
            }
        }
        if limits.processes > 0 {
            if has.contains(&"pids") {
                set(v2.join("pids.max"), limits.processes.to_string())?;
            } else if let Some(path) = self.v1.get("pids") {
                set(path.join("pids.max"), limits.processes.to_string())?;
            }
        }
        // A quarter of the default weight: the agent and interactive work come first.
        if has.contains(&"cpu") {
            set(v2.join("cpu.weight"), "25".to_owned()).ok();
        } else if let Some(path) = self.v1.get("cpu") {
            set(path.join("cpu.shares"), "256".to_owned()).ok();
        }
        Ok(())
    }

    /// Members that still run.
    pub(super) fn members(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = self
            .procs_files()
            .iter()
            .flat_map(|path| {
                let text = fs::read_to_string(path).unwrap_or_default();
                text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>()
            })
            // 0 stands for a member that another PID namespace hides.
            .filter(|&pid| pid > 0)
            .collect();
        pids.sort_unstable();
        pids.dedup();
        sweep::running(pids)
    }

    /// SIGKILL to all members, at once where the kernel can.
    pub(super) fn kill(&self) {
        if let Some((directory, _)) = &self.v2 {
            fs::write(directory.join("cgroup.kill"), "1").ok();
        }
        sweep::kill(&self.members());
    }

    /// How often the kernel killed a member for want of memory.
    pub(super) fn oom_kills(&self) -> u64 {
        let v2 = self.v2.as_ref().map(|(directory, _)| directory.join("memory.events"));
        let v1 = self.v1.get("memory").map(|directory| directory.join("memory.oom_control"));
        let counts = v2.into_iter().chain(v1).filter_map(|path| fs::read_to_string(path).ok()).map(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
            line.and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or(0)
        });
        counts.sum()
    }

    /// Removes the empty cgroup. False when something is still in it.
    pub(super) fn remove(&self) -> bool {
        let mut clean = true;
        for directory in self.directories() {
            remove_below(directory, 0);
            clean &= match fs::remove_dir(directory) {
                Ok(()) => true,
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            };
        }
        clean
    }
}

/// A build may have made cgroups of its own below; children go first.
fn remove_below(directory: &Path, depth: u32) {
    if depth > 8 {
        return;
    }
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_below(&entry.path(), depth + 1);
            fs::remove_dir(entry.path()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_and_own_paths_are_told_apart_by_version() {
        let info = "\
24 1 0:21 / /sys/fs/cgroup/memory rw,relatime shared:5 - cgroup cgroup rw,memory\n\
25 1 0:22 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
26 1 0:23 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
27 1 0:24 / /proc rw - proc proc rw\n";
        let found = mounts(info);
        assert_eq!(found.len(), 3);
        assert_eq!(found[1].controllers.as_deref(), Some(&["rw", "cpu", "cpuacct"].map(str::to_owned)[..]));
        assert!(found[2].controllers.is_none());
        let own = "4:memory:/user\n3:cpu,cpuacct:/a/b\n0::/system.slice/hive.service\n";
        assert_eq!(own_path(own, None).as_deref(), Some("system.slice/hive.service"));
        assert_eq!(own_path(own, Some("cpu")).as_deref(), Some("a/b"));
        assert_eq!(own_path(own, Some("pids")), None);
    }
}
