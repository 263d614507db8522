//! The dashboard: one page for all its addresses, and the files that it is made of, which build.rs put into the program.
//!
//! ```text
//!   /, /fleet, /jobs/ID, … ──► the same page; what stands in the address is read by its script
//!   /app/app.js, /app/style.css ──► fixed names, asked for again each time, 304 while unchanged
//!   /app/chunks/NAME-HASH.js    ──► the name changes with the content, so they are kept for ever
//! ```
//!
//! Where scripts do not run, the page shows the status all the same. Never done here: building the files (see `web/`).

use std::io::Read as _;
use std::sync::LazyLock;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use flate2::read::GzDecoder;

use super::Context;
use super::answer::{Handled, no_such_path};
use super::open::PublicPage;
use super::page;
use crate::keyring::sha256;

/// Addresses of the application. A tab that has one of its own adds it here.
pub(super) const PATHS: &[&str] = &[
    "/",
    "/overview",
    "/fleet",
    "/nodes",
    "/nodes/{name}",
    "/nodes/{name}/logs",
    "/queue",
    "/history",
    "/jobs/{id}",
    "/topology",
    "/wire",
    "/data",
    "/events",
    "/terminal",
    "/terminal/{name}",
];

/// What the page may do: run and show what comes from here, and nothing that stands inside it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
/// The page itself.
const SHELL: &str = "index.html";
/// Stands in the page where the status for browsers without scripts goes.
const PLAIN: &str = "<!--plain-->";
/// Stands in the page where the path goes below which a proxy shows this node.
const BASE: &str = "data-base=\"\"";
/// Names below this carry a hash of their content.
const HASHED: &str = "chunks/";

/// A file as it lies in the program.
struct Packed {
    name: &'static str,
    gzip: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/assets.rs"));

struct Asset {
    packed: &'static Packed,
    etag: String,
}

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    let etag = |packed: &Packed| format!("\"{}\"", hex::encode(&sha256(packed.gzip)[..12]));
    FILES.iter().map(|packed| Asset { packed, etag: etag(packed) }).collect()
});

fn asset(name: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.packed.name == name)
}

/// The bytes as they were before they were packed.
fn unpacked(gzip: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Err(error) = GzDecoder::new(gzip).read_to_end(&mut bytes) {
        tracing::error!(%error, "a file of the dashboard is damaged");
    }
    bytes
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

/// The page.
pub(super) async fn shell(State(context): State<Context>) -> Handled {
    let Some(asset) = asset(SHELL) else { return Err(no_such_path().await) };
    // The page itself tells nothing of the hive; what it shows it asks for, as whoever looks.
    let open = context.public_page == PublicPage::Full;
    let plain = if open { page::without_scripts(&context).await } else { String::new() };
    let page = String::from_utf8_lossy(&unpacked(asset.packed.gzip)).replacen(PLAIN, &plain, 1);
    // The scripts read it there; the addresses that stand in the page are changed here.
    let page = page.replacen(BASE, &format!("data-base=\"{}\"", context.base_path), 1);
    let page = page::below(&context.base_path, page);
    let headers = [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, POLICY)];
    Ok((headers, page).into_response())
}

/// One of its files.
pub(super) async fn file(Path(name): Path<String>, headers: HeaderMap) -> Handled {
    let found = asset(&name).filter(|asset| asset.packed.name != SHELL);
    let Some(asset) = found else { return Err(no_such_path().await) };
    Ok(answer(asset, &headers))
}

fn answer(asset: &'static Asset, asked: &HeaderMap) -> Response {
    let keep = if asset.packed.name.starts_with(HASHED) { "public, max-age=31536000, immutable" } else { "no-cache" };
    let known = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let unchanged = known.flat_map(|list| list.split(',')).any(|tag| tag.trim().trim_start_matches("W/") == asset.etag);
    let mut response = if unchanged {
        StatusCode::NOT_MODIFIED.into_response()
    } else if takes_gzip(asked) {
        let headers = [(header::CONTENT_TYPE, content_type(asset.packed.name)), (header::CONTENT_ENCODING, "gzip")];
        (headers, Bytes::from_static(asset.packed.gzip)).into_response()
    } else {
        ([(header::CONTENT_TYPE, content_type(asset.packed.name))], unpacked(asset.packed.gzip)).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(keep));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if let Ok(etag) = HeaderValue::from_str(&asset.etag) {
        headers.insert(header::ETAG, etag);
    }
    response
}

/// Whether whoever asks can unpack gzip: it is named, and not with a weight of nothing.
fn takes_gzip(asked: &HeaderMap) -> bool {
    let lists = asked.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|entry| {
        let mut parts = entry.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(Ok(1.0), str::parse::<f32>);
        named && weight.is_ok_and(|weight| weight > 0.0)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// What a browser must load before anything is seen, and what it loads right behind that, compressed.
    const FIRST_VIEW_MAX: usize = 150 << 10;

    fn asked(name: header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    fn file_name(name: &str) -> &str {
        name.rsplit('/').next().unwrap_or(name)
    }

    /// The files that a script cannot run without; not those that it loads when they are wanted.
    fn imports(script: &str) -> impl Iterator<Item = &str> {
        let named = ["from\"", "import\""].into_iter().flat_map(|word| script.split(word).skip(1));
        named.filter_map(|rest| rest.split('"').next()).map(file_name)
    }

    #[test]
    fn the_first_view_is_small() {
        // The shell and what it names, the overview and its chart, and whatever these import before they run.
        let first = |name: &str| name == SHELL || name.ends_with("app.js") || name == "style.css";
        let lazy = |name: &str| ["overview-", "plot-"].iter().any(|lazy| file_name(name).starts_with(lazy));
        let mut open: Vec<&str> = FILES.iter().map(|file| file.name).filter(|name| first(name) || lazy(name)).collect();
        let mut needed = BTreeMap::new();
        while let Some(name) = open.pop() {
            let file = FILES.iter().find(|file| file.name == name).expect("is there");
            if needed.insert(name, file.gzip.len()).is_none() {
                let script = String::from_utf8(unpacked(file.gzip)).expect("text");
                let imported: Vec<&str> = imports(&script).collect();
                open.extend(FILES.iter().map(|file| file.name).filter(|name| imported.contains(&file_name(name))));
            }
        }
        assert!(needed.len() > 5, "{needed:?}");
        let all: usize = needed.values().sum();
        assert!((8 << 10..FIRST_VIEW_MAX).contains(&all), "{all} bytes: {needed:?}");
    }

    #[test]
    fn files_are_packed_for_who_can_unpack_them_and_plain_for_others() {
        let script = asset("app.js").expect("is there");
        let packed = answer(script, &asked(header::ACCEPT_ENCODING, "br, GZIP;q=0.5"));
        assert_eq!(packed.headers()[header::CONTENT_ENCODING], "gzip");
        for refused in ["br", "gzip;q=0", "gzip;q=x", ""] {
            let plain = answer(script, &asked(header::ACCEPT_ENCODING, refused));
            assert!(!plain.headers().contains_key(header::CONTENT_ENCODING), "{refused}");
        }
        assert!(unpacked(script.packed.gzip).len() > script.packed.gzip.len());
    }

    #[test]
    fn what_is_unchanged_is_not_sent_again() {
        for asset in ASSETS.iter() {
            let mut asked = HeaderMap::new();
            let tag = format!("\"other\", W/{}", asset.etag);
            asked.insert(header::IF_NONE_MATCH, tag.parse().expect("header"));
            let answer = answer(asset, &asked);
            assert_eq!(answer.status(), StatusCode::NOT_MODIFIED);
            let immutable =
                answer.headers()[header::CACHE_CONTROL].to_str().is_ok_and(|text| text.contains("immutable"));
            assert_eq!(immutable, asset.packed.name.starts_with(HASHED), "{}", asset.packed.name);
        }
    }

    #[test]
    fn nothing_in_the_page_needs_more_than_its_policy_allows() {
        let page = String::from_utf8(unpacked(asset(SHELL).expect("is there").packed.gzip)).expect("text");
        assert_eq!(page.matches(PLAIN).count(), 1);
        assert_eq!(page.matches("<script").count(), page.matches("<script type=\"module\" src=\"/app/").count());
        for banned in ["<style", "style=", "http:", "https:", "//", " on"] {
            assert!(!page.to_lowercase().contains(banned), "{banned}");
        }
        for file in FILES {
            let text = String::from_utf8_lossy(&unpacked(file.gzip)).into_owned();
            assert!(!text.contains("dangerouslySetInnerHTML:{"), "{}", file.name);
        }
    }
}
