//! The settings of the web: doors, names, proxies, and what anyone may see.
//!
//! Never done here: checking them (`config` did).

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::{Config, LegacyDrones as ConfiguredDrones, PublicPage as ConfiguredPage};
use crate::web;
use crate::wire::Wire;

/// What the web needs to know of the settings.
pub(super) fn options(config: &Config, wire: &Wire) -> web::Options {
    web::Options {
        http: config.http,
        admin: config.admin,
        rules: rules(config),
        socket: config.socket.clone(),
        wire: wire.clone(),
        base_path: config.base_path.clone(),
        trusted_proxies: config.trusted_proxies.iter().filter_map(|text| network(text)).collect(),
        public_page: match config.public_page {
            ConfiguredPage::Full => web::PublicPage::Full,
            ConfiguredPage::Summary => web::PublicPage::Summary,
            ConfiguredPage::Off => web::PublicPage::Off,
        },
        host_names: std::iter::once(&config.name).chain(&config.http_hosts).cloned().collect(),
        ..web::Options::default()
    }
}

/// The configuration was checked: each is a network, or one address.
fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn rules(config: &Config) -> web::guard::Rules {
    web::guard::Rules {
        legacy_drones: match config.legacy_drones {
            ConfiguredDrones::Key => web::guard::LegacyDrones::Key,
            ConfiguredDrones::Open => web::guard::LegacyDrones::Open,
            ConfiguredDrones::Off => web::guard::LegacyDrones::Off,
        },
        legacy_networks: config.legacy_networks.iter().filter_map(|text| network(text)).collect(),
        cors_origins: config.cors_origins.clone(),
    }
}
