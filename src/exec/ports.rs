//! Closes TCP ports of this host to a program and all it starts: it can neither connect to them nor listen on them.
//!
//! Landlock names what is allowed, so every other port is listed. It works for any user, is inherited, and cannot be undone. Datagrams
//! are not covered: the kernel has no such rule, and a datagram without the hive's secret has no effect. Never done here: choosing ports.

use landlock::{
    Access as _, AccessNet, BitFlags, CompatLevel, Compatible as _, NetPort, RestrictionStatus, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus,
};

/// Closes these ports for this thread and its children. An error when this kernel cannot.
pub(super) fn close(closed: &[u16]) -> Result<(), String> {
    let told = |error: RulesetError| error.to_string();
    let access: BitFlags<AccessNet> = AccessNet::from_all(landlock::ABI::V4);
    let ruleset =
        Ruleset::default().set_compatibility(CompatLevel::HardRequirement).handle_access(access).map_err(told)?;
    let open = (0..=u16::MAX)
        .filter(|port| !closed.contains(port))
        .map(|port| Ok::<_, RulesetError>(NetPort::new(port, access)));
    let created = ruleset.create().map_err(told)?.add_rules(open).map_err(told)?;
    let RestrictionStatus { ruleset, .. } = created.restrict_self().map_err(told)?;
    match ruleset {
        RulesetStatus::FullyEnforced => Ok(()),
        RulesetStatus::PartiallyEnforced | RulesetStatus::NotEnforced => {
            Err("the kernel has no Landlock for TCP (it came with 6.7)".to_owned())
        }
    }
}
