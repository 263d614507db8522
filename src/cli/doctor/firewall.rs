//! Whether a firewall of this machine drops the hive's port, as far as its rules say so plainly.
//!
//! Rules are read, not simulated: a chain that drops by policy and names the port nowhere, or a rule that drops the port, is
//! reported. What cannot be looked at without root is said to be unknown rather than fine.

use std::process::Stdio;
use std::time::Duration;

use super::Check;

/// Asks every firewall tool that is installed.
pub(super) async fn check(port: u16, timeout: Duration) -> Check {
    if !rustix::process::geteuid().is_root() {
        let remedy = "look again as root: sudo hive doctor";
        return Check::warn("firewall", "only root may read its rules", remedy);
    }
    let mut looked = Vec::new();
    for (tool, arguments, judge) in [
        ("ufw", &["status"][..], ufw as fn(&str, u16) -> Option<Check>),
        ("nft", &["list", "ruleset"][..], nft),
        ("iptables", &["-S"][..], iptables),
    ] {
        let Some(rules) = output(tool, arguments, timeout).await else { continue };
        looked.push(tool);
        if let Some(problem) = judge(&rules, port) {
            return problem;
        }
    }
    match looked.as_slice() {
        [] => Check::ok("firewall", "no firewall tool is installed"),
        tools => Check::ok("firewall", format!("no rule drops {port} ({})", tools.join(", "))),
    }
}

async fn output(tool: &str, arguments: &[&str], timeout: Duration) -> Option<String> {
    let run = tokio::process::Command::new(tool)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(timeout, run).await.ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn names_port(line: &str, port: u16) -> bool {
    line.split(|c: char| !c.is_ascii_digit() && c != '-' && c != ':').any(|word| {
        let range = word.split_once(['-', ':']);
        match range.map(|(low, high)| (low.parse::<u16>(), high.parse::<u16>())) {
            Some((Ok(low), Ok(high))) => (low..=high).contains(&port),
            _ => word.parse::<u16>() == Ok(port),
        }
    })
}

fn ufw(status: &str, port: u16) -> Option<Check> {
    if !status.lines().any(|line| line.trim() == "Status: active") {
        return None;
    }
    let allowed = status.lines().any(|line| line.contains("ALLOW") && names_port(line, port));
    let remedy = format!("ufw allow {port}");
    (!allowed).then(|| Check::fail("firewall", format!("ufw is active and does not allow {port}"), remedy))
}

fn nft(ruleset: &str, port: u16) -> Option<Check> {
    let mut table = "";
    let mut chain = "";
    let mut dropping: Option<(String, String)> = None;
    let mut accepted = false;
    for line in ruleset.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("table ") {
            table = rest.trim_end_matches('{').trim();
        } else if let Some(rest) = line.strip_prefix("chain ") {
            chain = rest.trim_end_matches('{').trim();
        } else if line.contains("hook input") && line.contains("policy drop") {
            dropping = Some((table.to_owned(), chain.to_owned()));
        } else if line.contains("dport") && names_port(line, port) {
            if line.contains("drop") || line.contains("reject") {
                let remedy = format!("find its handle and delete it: nft -a list chain {table} {chain}");
                return Some(Check::fail(
                    "firewall",
                    format!("nftables drops {port} in {table} {chain}: {line}"),
                    remedy,
                ));
            }
            accepted |= line.contains("accept");
        }
    }
    let (table, chain) = dropping.filter(|_| !accepted)?;
    let cause = format!("nftables drops by policy in {table} {chain}, and no rule accepts {port}");
    let remedy = format!(
        "nft insert rule {table} {chain} udp dport {port} accept\nnft insert rule {table} {chain} tcp dport {port} accept"
    );
    Some(Check::fail("firewall", cause, remedy))
}

fn iptables(rules: &str, port: u16) -> Option<Check> {
    let about_port = |line: &&str| line.contains("--dport") && names_port(line, port);
    let ends_in = |line: &str, targets: &[&str]| targets.iter().any(|target| line.contains(&format!("-j {target}")));
    if let Some(line) = rules.lines().filter(about_port).find(|line| ends_in(line, &["DROP", "REJECT"])) {
        let remedy = format!("iptables {}", line.replacen("-A ", "-D ", 1));
        return Some(Check::fail("firewall", format!("iptables drops {port}: {line}"), remedy));
    }
    let dropping = rules.lines().any(|line| line.trim() == "-P INPUT DROP");
    let accepted = rules.lines().filter(about_port).any(|line| ends_in(line, &["ACCEPT"]));
    (dropping && !accepted).then(|| {
        let remedy = format!(
            "iptables -I INPUT -p udp --dport {port} -j ACCEPT\niptables -I INPUT -p tcp --dport {port} -j ACCEPT"
        );
        Check::fail("firewall", format!("iptables drops by policy, and no rule accepts {port}"), remedy)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remedy(check: Option<Check>) -> String {
        check.expect("a problem").remedy
    }

    #[test]
    fn ufw_must_allow_the_port() {
        assert_eq!(ufw("Status: inactive\n", 50_555), None);
        let open = "Status: active\n\nTo   Action  From\n50555/udp   ALLOW   Anywhere\n";
        assert_eq!(ufw(open, 50_555), None);
        assert_eq!(ufw(&open.replace("50555", "50000:51000"), 50_555), None);
        assert_eq!(remedy(ufw("Status: active\n22/tcp ALLOW Anywhere\n", 50_555)), "ufw allow 50555");
    }

    #[test]
    fn nftables_must_not_drop_the_port_by_rule_or_by_policy() {
        let rules = |policy: &str, rule: &str| {
            format!(
                "table inet filter {{\n\tchain input {{\n\t\ttype filter hook input priority filter; policy {policy};\n\t\t{rule}\n\t}}\n}}\n"
            )
        };
        assert_eq!(nft(&rules("accept", "tcp dport 22 drop"), 50_555), None);
        assert_eq!(nft(&rules("drop", "udp dport { 53, 50555 } accept"), 50_555), None);
        assert!(
            remedy(nft(&rules("accept", "udp dport 50555 drop"), 50_555))
                .contains("nft -a list chain inet filter input")
        );
        assert!(
            remedy(nft(&rules("drop", "tcp dport 22 accept"), 50_555))
                .starts_with("nft insert rule inet filter input udp dport 50555 accept")
        );
    }

    #[test]
    fn iptables_must_not_drop_the_port_by_rule_or_by_policy() {
        assert_eq!(iptables("-P INPUT ACCEPT\n-A INPUT -p tcp --dport 22 -j DROP\n", 50_555), None);
        assert_eq!(iptables("-P INPUT DROP\n-A INPUT -p udp -m udp --dport 50555 -j ACCEPT\n", 50_555), None);
        let dropped = iptables("-P INPUT ACCEPT\n-A INPUT -p udp -m udp --dport 50555 -j DROP\n", 50_555);
        assert_eq!(remedy(dropped), "iptables -D INPUT -p udp -m udp --dport 50555 -j DROP");
        assert!(remedy(iptables("-P INPUT DROP\n", 50_555)).contains("-I INPUT -p udp --dport 50555 -j ACCEPT"));
    }
}
