//! Whether a firewall of this machine drops the hive's port, as far as its rules say so plainly.
//!
//! Rules are read, not simulated: a rule that drops the port, or a chain that drops what nothing accepts and accepts the port for UDP
//! or TCP nowhere, is reported. What cannot be looked at without root, and what only a packet could tell, is said to be unknown
//! rather than fine.

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
        // With handles: a rule is deleted by its own.
        ("nft", &["-a", "list", "ruleset"][..], nft),
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

/// For which protocols something was found.
#[derive(Clone, Copy, Default)]
struct Protocols {
    udp: bool,
    tcp: bool,
}

impl Protocols {
    /// What a rule is about: what it names, both when it names neither.
    fn of(rule: &str) -> Self {
        let (udp, tcp) = (rule.contains("udp"), rule.contains("tcp"));
        if udp || tcp { Self { udp, tcp } } else { Self { udp: true, tcp: true } }
    }

    fn add(&mut self, more: Self) {
        self.udp |= more.udp;
        self.tcp |= more.tcp;
    }

    /// Those that are not among them.
    fn missing(self) -> Vec<&'static str> {
        [("udp", self.udp), ("tcp", self.tcp)].into_iter().filter(|(_, there)| !there).map(|(name, _)| name).collect()
    }
}

/// One command for each protocol that is missing; none when none is.
fn remedies(accepted: Protocols, command: impl Fn(&str) -> String) -> Option<(String, String)> {
    let missing = accepted.missing();
    let commands: Vec<String> = missing.iter().map(|protocol| command(protocol)).collect();
    (!missing.is_empty()).then(|| (missing.join(" and ").to_uppercase(), commands.join("\n")))
}

fn ufw(status: &str, port: u16) -> Option<Check> {
    if !status.lines().any(|line| line.trim() == "Status: active") {
        return None;
    }
    let mut accepted = Protocols::default();
    for line in status.lines().filter(|line| line.contains("ALLOW") && names_port(line, port)) {
        accepted.add(Protocols::of(line));
    }
    let (what, remedy) = remedies(accepted, |protocol| format!("ufw allow {port}/{protocol}"))?;
    Some(Check::fail("firewall", format!("ufw is active and does not allow {what} {port}"), remedy))
}

/// What nft's listing says about one port.
#[derive(Default)]
struct Nft {
    accepted: Protocols,
    /// Table and chain of input that drops what nothing accepts.
    dropping: Option<String>,
    /// A rule accepts by something else than a port: an address, an interface, a set of ports.
    accepts_otherwise: bool,
}

fn nft(ruleset: &str, port: u16) -> Option<Check> {
    let mut found = Nft::default();
    let (mut table, mut place) = ("", String::new());
    let mut at_input = false;
    for line in ruleset.lines().map(str::trim) {
        let (rule, handle) = line.split_once("# handle ").unwrap_or((line, ""));
        let rule = rule.trim();
        if let Some(rest) = rule.strip_prefix("table ") {
            table = before_brace(rest);
        } else if let Some(rest) = rule.strip_prefix("chain ") {
            place = format!("{table} {}", before_brace(rest));
            at_input = false;
        } else if rule.contains(" hook ") {
            at_input = rule.contains("hook input");
            if at_input && rule.contains("policy drop") {
                found.dropping = Some(place.clone());
            }
        } else if rule.contains("dport") && names_port(rule, port) {
            if rule.contains("drop") || rule.contains("reject") {
                let cause = format!("nftables drops {port} in {place}: {rule}");
                return Some(Check::fail("firewall", cause, format!("nft delete rule {place} handle {handle}")));
            }
            if rule.contains("accept") {
                found.accepted.add(Protocols::of(rule));
            }
        } else if at_input && is_drop_of_all(rule) {
            found.dropping = Some(place.clone());
        } else {
            found.accepts_otherwise |= accepts_otherwise(rule);
        }
    }
    found.judge(port)
}

fn before_brace(line: &str) -> &str {
    line.split('{').next().unwrap_or_default().trim()
}

/// A rule without any condition.
fn is_drop_of_all(rule: &str) -> bool {
    let mut words = rule.split_whitespace().peekable();
    if words.next_if_eq(&"counter").is_some() {
        while words.next_if(|word| *word == "packets" || *word == "bytes" || word.parse::<u64>().is_ok()).is_some() {}
    }
    words.next().is_some_and(|word| word == "drop" || word == "reject")
}

/// Everybody accepts what belongs to a connection, the loopback and ICMP; that says nothing about a port.
fn accepts_otherwise(rule: &str) -> bool {
    let usual = ["ct state", "\"lo\"", "icmp", "dport "].iter().any(|word| rule.contains(word));
    rule.contains("accept") && (!usual || rule.contains("dport @"))
}

impl Nft {
    fn judge(self, port: u16) -> Option<Check> {
        let place = self.dropping?;
        let rule = |protocol: &str| format!("nft insert rule {place} {protocol} dport {port} accept");
        let (what, remedy) = remedies(self.accepted, rule)?;
        let cause = format!("nftables drops in {place} what no rule accepts, and none names {what} {port}");
        Some(if self.accepts_otherwise {
            Check::warn("firewall", format!("{cause}; another rule may accept it"), remedy)
        } else {
            Check::fail("firewall", cause, remedy)
        })
    }
}

fn iptables(rules: &str, port: u16) -> Option<Check> {
    let about_port = |line: &&str| line.contains("--dport") && names_port(line, port);
    let ends_in = |line: &str, targets: &[&str]| targets.iter().any(|target| line.contains(&format!("-j {target}")));
    if let Some(line) = rules.lines().filter(about_port).find(|line| ends_in(line, &["DROP", "REJECT"])) {
        let remedy = format!("iptables {}", line.replacen("-A ", "-D ", 1));
        return Some(Check::fail("firewall", format!("iptables drops {port}: {line}"), remedy));
    }
    let drops_all =
        |line: &str| line == "-P INPUT DROP" || line == "-A INPUT -j DROP" || line.starts_with("-A INPUT -j REJECT");
    if !rules.lines().any(|line| drops_all(line.trim())) {
        return None;
    }
    let mut accepted = Protocols::default();
    for line in rules.lines().filter(about_port).filter(|line| ends_in(line, &["ACCEPT"])) {
        accepted.add(Protocols::of(line));
    }
    let (what, remedy) =
        remedies(accepted, |protocol| format!("iptables -I INPUT -p {protocol} --dport {port} -j ACCEPT"))?;
    let cause = format!("iptables drops what no rule accepts, and none names {what} {port}");
    Some(Check::fail("firewall", cause, remedy))
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    fn remedy(check: Option<Check>) -> String {
        check.expect("a problem").remedy
    }

    #[test]
    fn ufw_must_allow_the_port_for_both_protocols() {
        assert_eq!(ufw("Status: inactive\n", 50_555), None);
        let open = "Status: active\n\nTo   Action  From\n50555/udp   ALLOW   Anywhere\n50555/tcp   ALLOW   Anywhere\n";
        assert_eq!(ufw(open, 50_555), None);
        assert_eq!(ufw(&open.replace("50555", "50000:51000"), 50_555), None);
        assert_eq!(ufw("Status: active\n50555 ALLOW Anywhere\n", 50_555), None);
        assert_eq!(remedy(ufw("Status: active\n50555/udp ALLOW Anywhere\n", 50_555)), "ufw allow 50555/tcp");
        let closed = remedy(ufw("Status: active\n22/tcp ALLOW Anywhere\n", 50_555));
        assert_eq!(closed, "ufw allow 50555/udp\nufw allow 50555/tcp");
    }

    /// As `nft -a list ruleset` prints it.
    fn nft_with(policy: &str, rules: &[&str]) -> String {
        let mut text = "table inet filter { # handle 4\n\tchain input { # handle 1\n".to_owned();
        text.push_str(&format!("\t\ttype filter hook input priority filter; policy {policy};\n"));
        for (number, rule) in rules.iter().enumerate() {
            text.push_str(&format!("\t\t{rule} # handle {}\n", number + 2));
        }
        text + "\t}\n}\n"
    }

    #[test]
    fn a_rule_of_nftables_that_drops_the_port_is_deleted_by_its_handle() {
        assert_eq!(nft(&nft_with("accept", &["tcp dport 22 drop"]), 50_555), None);
        let rules = nft_with("accept", &["tcp dport 22 accept", "udp dport { 5353, 50555 } drop"]);
        assert_eq!(remedy(nft(&rules, 50_555)), "nft delete rule inet filter input handle 3");
    }

    #[test]
    fn a_chain_of_nftables_that_drops_the_rest_must_accept_the_port_for_both_protocols() {
        let both = "nft insert rule inet filter input udp dport 50555 accept\n\
                    nft insert rule inet filter input tcp dport 50555 accept";
        let established = "ct state established,related accept";
        for (policy, rules, expected) in [
            ("drop", &["udp dport { 53, 50555 } accept", "tcp dport 50000-51000 accept"][..], None),
            ("drop", &["meta l4proto { tcp, udp } th dport 50555 accept"], None),
            ("drop", &[established, "iifname \"lo\" accept", "tcp dport 22 accept"], Some(both)),
            ("drop", &["udp dport 50555 accept"], Some("nft insert rule inet filter input tcp dport 50555 accept")),
            ("accept", &[established, "counter packets 5 bytes 300 drop"], Some(both)),
            ("accept", &[established, "reject with icmpx type port-unreachable"], Some(both)),
            ("accept", &[established, "ip saddr 10.0.0.9 drop"], None),
        ] {
            let check = nft(&nft_with(policy, rules), 50_555);
            assert_eq!(check.as_ref().map(|check| check.remedy.as_str()), expected, "{policy} {rules:?}");
            assert!(check.is_none_or(|check| check.state == Severity::Fail), "{policy} {rules:?}");
        }
        for unknown in ["ip saddr 10.0.0.0/8 accept", "udp dport @hive accept"] {
            let check = nft(&nft_with("drop", &[established, unknown]), 50_555).expect("not known to be fine");
            assert!(check.state == Severity::Warn && check.remedy == both, "{unknown}: {check:?}");
        }
    }

    #[test]
    fn iptables_must_not_drop_the_port_by_rule_or_by_policy() {
        assert_eq!(iptables("-P INPUT ACCEPT\n-A INPUT -p tcp --dport 22 -j DROP\n", 50_555), None);
        let udp = "-A INPUT -p udp -m udp --dport 50555 -j ACCEPT\n";
        let tcp = "-A INPUT -p tcp -m tcp --dport 50555 -j ACCEPT\n";
        for policy in ["-P INPUT DROP\n", "-P INPUT ACCEPT\n-A INPUT -j REJECT --reject-with icmp-port-unreachable\n"] {
            assert_eq!(iptables(&format!("{policy}{udp}{tcp}"), 50_555), None);
            let half = remedy(iptables(&format!("{policy}{udp}"), 50_555));
            assert_eq!(half, "iptables -I INPUT -p tcp --dport 50555 -j ACCEPT");
            assert!(remedy(iptables(policy, 50_555)).starts_with("iptables -I INPUT -p udp --dport 50555 -j ACCEPT\n"));
        }
        let dropped = iptables("-P INPUT ACCEPT\n-A INPUT -p udp -m udp --dport 50555 -j DROP\n", 50_555);
        assert_eq!(remedy(dropped), "iptables -D INPUT -p udp -m udp --dport 50555 -j DROP");
    }
}
