//! Settings of what is served to everyone.

use super::{Default, Kind, PLAIN, Setting};
use crate::config::grammar;

pub(super) const ADDRESS: Setting = Setting {
    key: "http",
    kind: Kind::Text { expected: "ADDRESS:PORT, such as 0.0.0.0:8100 or [::]:8100", check: grammar::is_socket_address },
    default: Default::Text("0.0.0.0:8100"),
    placeholder: "ADDRESS:PORT",
    meaning: "Where the read-only API and the status page are served. Port 0 takes any free one.",
    advice: "",
    ..PLAIN
};
pub(super) const HOSTS: Setting = Setting {
    key: "http_hosts",
    kind: Kind::List { expected: "a host name without a port", check: grammar::is_host_name },
    default: Default::Unset("none"),
    placeholder: "HOST",
    meaning: "Names by which clients may address this node where a key or a network opens a door, besides its own name, any address and \
              `localhost`.",
    advice: "A web page must not reach this node under a name of its own.",
    ..PLAIN
};
pub(super) const CORS_ORIGINS: Setting = Setting {
    key: "cors_origins",
    kind: Kind::List { expected: "an origin such as https://dash.example.org", check: grammar::is_origin },
    default: Default::Unset("none"),
    placeholder: "ORIGIN",
    meaning: "Web pages of these origins may read what everyone may read.",
    ..PLAIN
};
pub(super) const PUBLIC_PAGE: Setting = Setting {
    key: "public_page",
    kind: Kind::Choice(&["full", "summary", "off"]),
    default: Default::Text("full"),
    placeholder: "MODE",
    meaning: "What anyone may see without a key: all there is to read, no addresses, logs and packages, or nothing.",
    advice: "A token with scope `read` sees everything. Packages of a staging directory are served in any case.",
    ..PLAIN
};
pub(super) const BASE_PATH: Setting = Setting {
    key: "base_path",
    kind: Kind::Text { expected: "a path such as /farm, without a slash at its end", check: grammar::is_base_path },
    default: Default::Unset("none"),
    placeholder: "PATH",
    meaning: "Path under which a proxy shows this node.",
    ..PLAIN
};
pub(super) const TLS: Setting = Setting {
    key: "tls",
    kind: Kind::Choice(&["on", "off"]),
    default: Default::Text("on"),
    placeholder: "on|off",
    meaning: "Both HTTP ports also speak TLS, with a certificate of the hive's authority (`hive admin ca`) or `tls_certificate`. The admin port \
              then takes plain HTTP only from this machine and from `trusted_proxies`.",
    advice: "Without it, whoever can listen between a browser and this node reads the admin key.",
    ..PLAIN
};
pub(super) const TLS_CERTIFICATE: Setting = Setting {
    key: "tls_certificate",
    default: Default::Unset("made by the hive's authority"),
    placeholder: "FILE",
    meaning: "A certificate of your own and those that it was signed with, in PEM. Read again when it changes.",
    ..PLAIN
};
pub(super) const TLS_KEY: Setting = Setting {
    key: "tls_key",
    default: Default::Unset("in the file of `tls_certificate`"),
    placeholder: "FILE",
    meaning: "The key of `tls_certificate`, in PEM.",
    advice: "Mode 0600, or 0640 with a group of the agent.",
    ..PLAIN
};
pub(super) const TRUSTED_PROXIES: Setting = Setting {
    key: "trusted_proxies",
    kind: Kind::List { expected: "a network (10.0.0.0/8) or an address", check: grammar::is_network },
    default: Default::Unset("none"),
    placeholder: "NETWORK",
    meaning: "Proxies whose X-Forwarded-For and X-Forwarded-Proto are believed.",
    ..PLAIN
};
