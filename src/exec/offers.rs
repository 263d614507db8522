//! What a host offers to builds, in words that jobs may require, and what it lacks, in sentences for people.
//!
//! Never done here: finding it out; that is done by trying, in `launch`.

use super::Capabilities;

impl Capabilities {
    /// What a job may require of its drone with `feature:…`; nothing where nothing can be built.
    pub fn features(&self) -> Vec<&'static str> {
        let offered = [
            ("cgroup", self.cgroup),
            ("cgroup-cpu", self.cpu_limit),
            ("cgroup-memory", self.memory_limit),
            ("cgroup-pids", self.process_limit),
            ("closed-ports", self.closed_ports),
            ("netns", self.netns),
            ("sandbox", self.sandbox),
            ("user", self.own_user),
        ];
        offered.into_iter().filter(|(_, there)| *there && self.unable.is_none()).map(|(name, _)| name).collect()
    }

    /// What is missing and what follows from it.
    pub(super) fn lacks(&self, why_no_sandbox: &str, why_no_ports: &str) -> Vec<String> {
        if let Some(why) = &self.unable {
            return vec![format!("none can be started, so none is given to it: {why}; restart hive when it is mended")];
        }
        let mut notes = Vec::new();
        if !self.sandbox {
            notes.push(format!("builds run without a sandbox and can read this host's files: {why_no_sandbox}"));
        } else if !self.netns {
            notes.push("builds cannot be cut off from the network: no network namespace can be made".to_owned());
        }
        if !self.closed_ports {
            notes.push(format!("builds can connect to this node's own ports: {why_no_ports}"));
        }
        if !self.own_user {
            notes.push(format!(
                "builds run as the agent's own user {}: start hive-helper.service to separate them",
                self.build_user
            ));
        } else if self.build_user == "nobody" {
            notes.push("builds run as nobody; make a user of their own with: useradd --system --shell /usr/sbin/nologin hive-build".to_owned());
        }
        if !self.cgroup {
            notes.push(
                "no cgroup can be written: processes that leave a build are found by their environment only".to_owned(),
            );
        }
        for (limited, what) in [
            (self.memory_limit, "memory of a build is limited per process only"),
            (self.cpu_limit, "processor time of a build is not limited"),
            (self.process_limit, "processes are limited per user, not per build"),
        ] {
            if !limited {
                notes.push(format!("{what}: the cgroup controller is not available"));
            }
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offered_and_what_is_missing_are_two_sides_of_one_thing() {
        let all = Capabilities {
            build_user: "hive-build".to_owned(),
            cgroup: true,
            memory_limit: true,
            cpu_limit: true,
            process_limit: true,
            sandbox: true,
            netns: true,
            closed_ports: true,
            own_user: true,
            ..Capabilities::default()
        };
        assert!(all.lacks("", "").is_empty());
        assert_eq!(all.features().len(), 8);
        let none = Capabilities { build_user: "ada".to_owned(), ..Capabilities::default() };
        assert!(none.features().is_empty());
        let told = none.lacks("not installed", "old kernel").join("; ");
        for part in ["not installed", "old kernel", "user ada", "no cgroup", "memory"] {
            assert!(told.contains(part), "{part}: {told}");
        }
        let broken = Capabilities { unable: Some("no space".to_owned()), ..all };
        assert!(broken.features().is_empty() && broken.lacks("", "").join("").contains("no space"));
    }
}
