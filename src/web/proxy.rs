//! Behind a proxy: for whom it asks, whether that came over TLS, and under which path it shows this node.
//!
//! What a proxy says counts only when it is listed; from everyone else such headers are ignored. Never done here: refusing anybody.

use std::net::IpAddr;

use axum::body::Body;
use axum::http::header::HeaderName;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, Request, Uri};
use ipnet::IpNet;

use super::answer::{Remote, Secured};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What is known of the way that requests take.
#[derive(Clone, Debug, Default)]
pub(super) struct Front {
    /// Without a slash at its end; may be empty.
    pub(super) base_path: String,
    pub(super) trusted: Vec<IpNet>,
}

impl Front {
    pub(super) fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address.to_canonical()))
    }

    /// Marks a request that came from `from` with whom it is for, and takes the base path off.
    pub(super) fn arrive(&self, from: IpAddr, request: &mut Request<Body>) {
        if self.trusts(from) {
            let asks = self.asks(from, request.headers());
            request.extensions_mut().insert(Remote(asks));
            if is_secured(request.headers()) {
                request.extensions_mut().insert(Secured);
            }
        }
        if let Some(uri) = self.without_base(request.uri()) {
            *request.uri_mut() = uri;
        }
    }

    /// Each proxy appends whom it speaks to: the last one that is no proxy of ours is whoever asks. What stands before it may be made up.
    fn asks(&self, from: IpAddr, headers: &HeaderMap) -> IpAddr {
        let texts: Vec<&str> = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()).collect();
        let mut asks = from;
        for text in texts.iter().flat_map(|text| text.split(',')).rev() {
            let Ok(address) = text.trim().parse::<IpAddr>() else { break };
            asks = address.to_canonical();
            if !self.trusts(asks) {
                break;
            }
        }
        asks
    }

    fn without_base(&self, uri: &Uri) -> Option<Uri> {
        if self.base_path.is_empty() {
            return None;
        }
        let text = uri.path_and_query()?.as_str();
        let rest = text.strip_prefix(&self.base_path)?;
        let rest = match rest.chars().next() {
            Some('/') => rest.to_owned(),
            None | Some('?') => format!("/{rest}"),
            Some(_) => return None,
        };
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(rest.parse::<PathAndQuery>().ok()?);
        Uri::from_parts(parts).ok()
    }
}

fn is_secured(headers: &HeaderMap) -> bool {
    let last = headers.get_all(FORWARDED_PROTO).iter().next_back();
    let text = last.and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.rsplit(',').next().unwrap_or_default().trim().eq_ignore_ascii_case("https")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn front() -> Front {
        let trusted = vec!["10.0.0.0/24".parse().expect("a network"), "127.0.0.1/32".parse().expect("a network")];
        Front { base_path: "/farm".to_owned(), trusted }
    }

    fn arrived(from: &str, headers: &[(&'static str, &str)], path: &str) -> (Option<IpAddr>, bool, String) {
        let mut request = Request::builder().uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::empty()).expect("a request");
        front().arrive(from.parse().expect("an address"), &mut request);
        let remote = request.extensions().get::<Remote>().map(|remote| remote.0);
        (remote, request.extensions().get::<Secured>().is_some(), request.uri().to_string())
    }

    #[test]
    fn only_listed_proxies_are_believed() {
        let forged = [("x-forwarded-for", "192.0.2.7"), ("x-forwarded-proto", "https")];
        assert_eq!(arrived("192.0.2.1", &forged, "/"), (None, false, "/".to_owned()));
        let told = |text: &str| arrived("10.0.0.9", &[("x-forwarded-for", text)], "/").0.map(|ip| ip.to_string());
        assert_eq!(told("192.0.2.7").as_deref(), Some("192.0.2.7"));
        assert_eq!(
            told("1.1.1.1, 192.0.2.7, 10.0.0.8").as_deref(),
            Some("192.0.2.7"),
            "what he says himself counts not"
        );
        assert_eq!(told("192.0.2.7, nonsense").as_deref(), Some("10.0.0.9"));
        assert_eq!(told("::ffff:192.0.2.7").as_deref(), Some("192.0.2.7"));
        assert!(arrived("::ffff:10.0.0.9", &forged, "/").1);
        assert!(!arrived("10.0.0.9", &[("x-forwarded-proto", "https, http")], "/").1);
    }

    #[test]
    fn the_base_path_is_taken_off_where_it_is() {
        let path = |path: &str| arrived("192.0.2.1", &[], path).2;
        assert_eq!(path("/farm/api/v2/status?a=b"), "/api/v2/status?a=b");
        assert_eq!(
            (path("/farm"), path("/farm?x"), path("/farm/")),
            ("/".to_owned(), "/?x".to_owned(), "/".to_owned())
        );
        assert_eq!((path("/farmer"), path("/api")), ("/farmer".to_owned(), "/api".to_owned()));
    }
}
