//! The roles and policies of the repository, inside the binary: a node with nothing configured knows them all the same.
//!
//! Files of the same name in the configuration directories take their place. `tests/shipped_policies.rs` checks that nothing is
//! missing here and that everything loads.

/// `roles/*.toml`: (path, text), by path.
pub const ROLES: &[(&str, &str)] = &[
    ("roles/binhost.toml", include_str!("../../../roles/binhost.toml")),
    ("roles/builder.toml", include_str!("../../../roles/builder.toml")),
    ("roles/cloudstack-builder.toml", include_str!("../../../roles/cloudstack-builder.toml")),
    ("roles/controller.toml", include_str!("../../../roles/controller.toml")),
    ("roles/drone.toml", include_str!("../../../roles/drone.toml")),
    ("roles/founder.toml", include_str!("../../../roles/founder.toml")),
    ("roles/kvm-hypervisor.toml", include_str!("../../../roles/kvm-hypervisor.toml")),
    ("roles/ml-trainer.toml", include_str!("../../../roles/ml-trainer.toml")),
    ("roles/runner.toml", include_str!("../../../roles/runner.toml")),
    ("roles/sweeper.toml", include_str!("../../../roles/sweeper.toml")),
    ("roles/test-runner.toml", include_str!("../../../roles/test-runner.toml")),
];

/// `advisor-policies/*.toml`: (path, text), by path.
pub const POLICIES: &[(&str, &str)] = &[
    ("advisor-policies/cloudstack.toml", include_str!("../../../advisor-policies/cloudstack.toml")),
    ("advisor-policies/default.toml", include_str!("../../../advisor-policies/default.toml")),
    ("advisor-policies/gentoo.toml", include_str!("../../../advisor-policies/gentoo.toml")),
];
