//! The authority, its certificates, and those of operators.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use tokio_rustls::rustls;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::ServerCertVerifier as _;
use tokio_rustls::rustls::pki_types::{ServerName, UnixTime};

use super::*;

const NOW: UnixMillis = UnixMillis(1_795_000_000_000);

/// A certificate of its own for one name, with its key, in PEM; and its DER.
pub(crate) fn config_of(host: &str) -> (String, Vec<u8>) {
    let made = rcgen::generate_simple_self_signed([host.to_owned()]).expect("a certificate");
    (format!("{}{}", made.cert.pem(), made.signing_key.serialize_pem()), made.cert.der().to_vec())
}

fn secret(text: &str) -> Secret {
    Secret::from_bytes(text.as_bytes())
}

fn names(host: &str) -> Names {
    Names { hosts: vec![host.to_owned()], addresses: vec!["10.1.2.3".parse().expect("an address")] }
}

/// Whether a client that knows only `authority` takes the certificate for `host` at a time.
fn takes(authority: &Authority, issued: &Issued, host: &str, at: UnixMillis) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("PEM")).expect("an authority");
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()));
    let verifier = verifier.build().expect("a verifier");
    let (leaf, rest) = issued.certified.cert.split_first().expect("a chain");
    let name = ServerName::try_from(host.to_owned()).expect("a name");
    let at = UnixTime::since_unix_epoch(Duration::from_millis(at.0));
    verifier.verify_server_cert(leaf, rest, &name, &[], at).is_ok()
}

#[test]
fn all_who_share_a_secret_have_the_very_same_authority() {
    let (one, other) = (Authority::of(&secret("a secret of ours")), Authority::of(&secret("a secret of ours")));
    let (one, other) = (one.expect("an authority"), other.expect("an authority"));
    assert_eq!(one.pem(), other.pem());
    assert_eq!(one.fingerprint(), other.fingerprint());
    assert_eq!(one.fingerprint().len(), 32 * 3 - 1);
    let foreign = Authority::of(&secret("a secret of theirs")).expect("an authority");
    assert_ne!(one.pem(), foreign.pem());
    let issued = other.issue(&names("build1"), NOW).expect("a certificate");
    assert!(takes(&one, &issued, "build1", NOW), "signed by the same authority");
    assert!(!takes(&foreign, &issued, "build1", NOW));
}

#[test]
fn a_certificate_is_good_for_its_names_and_its_time() {
    let authority = Authority::of(&secret("a secret of ours")).expect("an authority");
    let issued = authority.issue(&names("build1"), NOW).expect("a certificate");
    let day = 24 * 3_600_000;
    for (host, at, good) in [
        ("build1", NOW.0, true),
        ("10.1.2.3", NOW.0, true),
        ("build2", NOW.0, false),
        ("10.1.2.4", NOW.0, false),
        ("build1", NOW.0 - day / 2, true),
        ("build1", NOW.0 - 2 * day, false),
        ("build1", NOW.0 + 179 * day, true),
        ("build1", NOW.0 + 181 * day, false),
    ] {
        assert_eq!(takes(&authority, &issued, host, UnixMillis(at)), good, "{host} at {at}");
    }
    assert!(!issued.is_due(&names("build1"), NOW));
    assert!(issued.is_due(&names("build2"), NOW), "it is reached under another name");
    assert!(issued.is_due(&names("build1"), UnixMillis(NOW.0 + 121 * day)), "well before it ends");
}

#[test]
fn names_that_no_certificate_can_hold_are_left_out() {
    let authority = Authority::of(&secret("a secret of ours")).expect("an authority");
    let strange = Names { hosts: vec!["büro".to_owned(), "build1".to_owned()], addresses: Vec::new() };
    let issued = authority.issue(&strange, NOW).expect("a certificate");
    assert!(takes(&authority, &issued, "build1", NOW), "the other name is there");
}

#[test]
fn what_the_operator_gives_is_read_or_refused_precisely() {
    let directory = tempfile::tempdir().expect("directory");
    let path = |name: &str| directory.path().join(name);
    let write = |name: &str, text: &str, mode: u32| {
        fs::write(path(name), text).expect("written");
        fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).expect("mode");
    };
    let refused = |certificate: &str, key: &str| {
        from_files(&path(certificate), &path(key)).map(|_| ()).expect_err("refused").to_string()
    };
    let ((one, _), (other, _)) = (config_of("a.example"), config_of("b.example"));
    write("both.pem", &one, 0o600);
    from_files(&path("both.pem"), &path("both.pem")).expect("certificate and key in one file");
    write("other.pem", &other, 0o640);
    write("empty.pem", "", 0o600);
    write("open.pem", &one, 0o644);
    assert!(refused("absent.pem", "both.pem").starts_with("cannot read "), "absent");
    assert!(refused("empty.pem", "both.pem").ends_with("there is no PEM certificate in it"));
    assert!(refused("both.pem", "empty.pem").starts_with("cannot read "), "no key");
    assert!(refused("both.pem", "other.pem").contains("cannot be used: "), "they do not belong together");
    assert!(refused("both.pem", "open.pem").contains("mode 0644); mend it with: chmod 0600 "));
}
