//! Takes secrets out of what is shown of a message: keys, tokens, cookies, passwords, whatever their place.
//!
//! Two ways, both needed: structures are gone through by the names of their fields, and every text is searched for `name=value` of such
//! names, bearer tokens and private keys, since secrets hide in command lines and queries too. Of headers only harmless ones are kept
//! at all. Rather too much is hidden than too little. Never done here: keeping what was hidden.

use std::borrow::Cow;
use std::sync::OnceLock;

use regex::{Captures, Regex};
use serde_json::Value;

/// Stands in place of a secret.
pub const SECRET: &str = "(secret)";

/// Where a structure comes from; a fencing token of the mesh is no secret, a token in an API request is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A message between nodes.
    Mesh,
    /// An HTTP request or answer.
    Http,
}

/// Names that are secrets wherever they stand.
const NAMES: [&str; 16] = [
    "secret",
    "password",
    "passwd",
    "passphrase",
    "authorization",
    "proxy_authorization",
    "cookie",
    "set_cookie",
    "x_admin_key",
    "x_hive_hmac",
    "credentials",
    "hmac",
    "ticket",
    "salt",
    "private",
    "hive_session",
];
/// Ends of names that are secrets.
const ENDS: [&str; 6] = ["_secret", "_password", "_token", "_passphrase", "_cookie", "_key"];
/// Names that end so and are none.
const HARMLESS: [&str; 5] = ["public_key", "node_key", "fencing_token", "verify_key", "signing_key"];
/// Headers that are kept as they are; of others only that they were there.
const HEADERS: [&str; 16] = [
    "host",
    "user-agent",
    "accept",
    "accept-encoding",
    "content-type",
    "content-length",
    "connection",
    "origin",
    "sec-fetch-site",
    "if-none-match",
    "range",
    "last-event-id",
    "x-forwarded-for",
    "transfer-encoding",
    "date",
    "server",
];

fn is_secret(name: &str, origin: Origin) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    if HARMLESS.contains(&name.as_str()) {
        return false;
    }
    NAMES.contains(&name.as_str())
        || ENDS.iter().any(|end| name.ends_with(end))
        || (origin == Origin::Http && matches!(name.as_str(), "key" | "token" | "digest"))
}

/// Hides what is secret in a structure.
pub fn value(value: &mut Value, origin: Origin) {
    within(value, origin, 0);
}

fn within(value: &mut Value, origin: Origin, depth: usize) {
    // Readers bound the depth far below; what is deeper is not shown rather than not looked at.
    if depth > 128 {
        *value = Value::from(SECRET);
        return;
    }
    match value {
        Value::Object(entries) => {
            for (name, inner) in entries.iter_mut() {
                // What changes who may control the hive is about keys in all its fields.
                let origin = if name == "Access" { Origin::Http } else { origin };
                if is_secret(name, origin) && !inner.is_null() && !inner.is_boolean() {
                    *inner = Value::from(SECRET);
                } else {
                    within(inner, origin, depth + 1);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| within(item, origin, depth + 1)),
        Value::String(shown) => {
            if let Cow::Owned(cleaned) = text(shown) {
                *shown = cleaned;
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A header as it may be kept.
pub fn header(name: &str, value: &str) -> String {
    if HEADERS.iter().any(|known| name.eq_ignore_ascii_case(known)) {
        text(value).chars().take(200).collect()
    } else {
        SECRET.to_owned()
    }
}

struct Patterns {
    named: Regex,
    bearer: Regex,
    private: Regex,
}

fn patterns() -> Option<&'static Patterns> {
    static PATTERNS: OnceLock<Option<Patterns>> = OnceLock::new();
    let made = PATTERNS.get_or_init(|| {
        Some(Patterns {
            named: Regex::new(
                r#"(?i)((?:\b|_|-)(?:key|[a-z0-9_\-]*(?:pass(?:word|wd|phrase)|secret|token|cookie|authorization|credentials|hmac|salt|ticket|(?:admin|api|private|access|shared|x)[_\-]?key|hive_session))(?:\\?["'])?\s*[:=]\s*)(\\?"(?:[^"\\]|\\.)*(?:"|$)|'[^']*(?:'|$)|[^\s&,;}"'\]]+)"#,
            )
            .ok()?,
            bearer: Regex::new(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=\-]+").ok()?,
            private: Regex::new(r"(?s)-----BEGIN [A-Z0-9 ]*(?:PRIVATE|SECRET)[A-Z0-9 ]*-----.*?(?:-----END [A-Z0-9 ]*-----|$)")
                .ok()?,
        })
    });
    made.as_ref()
}

/// Hides what is secret in a text, also in one that was cut: what begins a secret is hidden to the end.
pub fn text(text: &str) -> Cow<'_, str> {
    let Some(patterns) = patterns() else { return Cow::Borrowed(SECRET) };
    let mut shown = Cow::Borrowed(text);
    if patterns.private.is_match(&shown) {
        shown = Cow::Owned(patterns.private.replace_all(&shown, SECRET).into_owned());
    }
    if patterns.bearer.is_match(&shown) {
        shown = Cow::Owned(patterns.bearer.replace_all(&shown, "$1 (secret)").into_owned());
    }
    if patterns.named.is_match(&shown) {
        let hide = |found: &Captures<'_>| {
            let quote = found.get(2).map_or("", |value| if value.as_str().starts_with('"') { "\"" } else { "" });
            format!("{}{quote}{SECRET}{quote}", found.get(1).map_or("", |name| name.as_str()))
        };
        shown = Cow::Owned(patterns.named.replace_all(&shown, hide).into_owned());
    }
    shown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const KEY: &str = "hive-7f3c9a1d5e";

    #[test]
    fn every_place_of_a_key_in_a_text_is_hidden() {
        for shown in [
            format!("GET /admin/api/config?key={KEY}&x=1"),
            format!("x-admin-key: {KEY}"),
            format!("X-Admin-Key={KEY}"),
            format!("Authorization: Bearer {KEY}"),
            format!("Cookie: hive_session={KEY}; theme=dark"),
            format!(r#"{{"key":"{KEY}","name":"x"}}"#),
            format!(r#"{{"admin_key" : "{KEY}"#),
            format!("deploy --token={KEY} --fast"),
            format!("SHARED_SECRET={KEY} make"),
            format!("password: '{KEY}'"),
            format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{KEY}\n-----END OPENSSH PRIVATE KEY-----"),
            format!("-----BEGIN PRIVATE KEY-----\n{KEY}"),
            format!(r#"{{"nested":"{{\"token\":\"{KEY}\"}}"}}"#),
        ] {
            let cleaned = text(&shown);
            assert!(!cleaned.contains(KEY) && cleaned.contains(SECRET), "{shown}: {cleaned}");
        }
        for harmless in ["monkey: banana", "GET /api/v2/jobs?limit=3", "key_id 7", "turkey=1", "tokens spent: none"] {
            let cleaned = text(harmless);
            assert_eq!(cleaned, harmless);
        }
    }

    #[test]
    fn every_named_field_of_a_structure_is_hidden_and_others_are_not() {
        let mut shown = json!({
            "key": KEY, "admin_key": KEY, "token": KEY, "password": KEY, "Set-Cookie": KEY, "shared_secret": KEY,
            "x-admin-key": KEY, "list": [{ "api_key": [KEY] }], "command": format!("run --password {KEY}x=1 --secret={KEY}"),
            "name": "build1", "secrets": ["npm"], "key_id": 5, "public_key": "ok",
        });
        value(&mut shown, Origin::Http);
        let text = shown.to_string().replace(&format!("--password {KEY}x=1"), "");
        assert!(!text.contains(KEY), "{text}");
        assert_eq!(
            (&shown["name"], &shown["secrets"], &shown["key_id"]),
            (&json!("build1"), &json!(["npm"]), &json!(5))
        );
        assert_eq!(shown["public_key"], "ok");
    }

    #[test]
    fn fencing_tokens_are_shown_and_digests_of_keys_are_not() {
        let mut shown = json!({
            "Report": { "job": "x", "token": "7" },
            "Access": { "change": { "SetAdminKey": { "digest": "aa", "salt": "bb" } }, "by": "root" },
            "Seek": { "digest": "cc" },
        });
        value(&mut shown, Origin::Mesh);
        assert_eq!((&shown["Report"]["token"], &shown["Seek"]["digest"]), (&json!("7"), &json!("cc")));
        assert_eq!(shown["Access"]["change"]["SetAdminKey"], json!({ "digest": SECRET, "salt": SECRET }));
    }

    #[test]
    fn of_headers_only_known_ones_are_kept() {
        assert_eq!(header("User-Agent", "curl"), "curl");
        for name in ["X-Admin-Key", "authorization", "Cookie", "x-unheard-of", "proxy-authorization"] {
            assert_eq!(header(name, KEY), SECRET);
        }
        assert!(!header("Host", &format!("key={KEY}")).contains(KEY));
    }

    proptest! {
        #[test]
        fn a_key_never_survives(before in "[ -~]{0,30}", key in "[A-Za-z0-9]{12,40}", name in "(admin_key|token|x-admin-key|password|secret)") {
            prop_assume!(!before.contains(&key) && !name.contains(&key));
            // A quote or a name before it may make it part of another value; hidden it is in any case.
            let shown = format!("{before} {name}={key}");
            prop_assert!(!text(&shown).contains(&key), "{}", shown);
        }

        #[test]
        fn no_text_makes_it_panic(shown in "\\PC{0,100}") {
            text(&shown);
        }
    }
}
