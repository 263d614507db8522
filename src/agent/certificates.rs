//! What the HTTP ports speak TLS with: a certificate of the hive's authority, made anew in time and when this node's names change, or
//! the operator's, read again when its file changes.
//!
//! Never done here: shaking hands (`web` does), and falling back to plain HTTP: a certificate that cannot be used stops the start.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;

use crate::api;
use crate::certificates::{Authority, Issued, Names, from_files};
use crate::clock::unix_now;
use crate::config::{Config, TlsMode};
use crate::keyring::Secret;
use crate::tasks;
use crate::web::Tls;

/// Between two looks at names, files and the calendar.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Where the certificate comes from.
enum Source {
    Hive { authority: Box<Authority>, issued: Issued, config: Box<Config> },
    Own { certificate: PathBuf, key: PathBuf, read: Marks },
}

/// When certificate and key were written.
type Marks = [Option<SystemTime>; 2];

/// Keeps the certificate good.
pub(super) struct Keeper {
    tls: Tls,
    source: Source,
}

/// None when this node is to speak plain HTTP only.
pub(super) fn open(config: &Config, secret: &Secret) -> anyhow::Result<Option<Keeper>> {
    if config.tls == TlsMode::Off {
        return Ok(None);
    }
    if let Some(certificate) = config.tls_certificate.clone() {
        let key = config.tls_key.clone().unwrap_or_else(|| certificate.clone());
        let read = marks(&certificate, &key);
        let certified = from_files(&certificate, &key).context("tls_certificate")?;
        let tls = Tls::new(certified, None)?;
        return Ok(Some(Keeper { tls, source: Source::Own { certificate, key, read } }));
    }
    anyhow::ensure!(config.tls_key.is_none(), "tls_key is set, but no tls_certificate that it would belong to");
    let authority = Authority::of(secret)?;
    let issued = authority.issue(&names(config), unix_now())?;
    let shown = api::Authority { sha256: authority.fingerprint(), pem: authority.pem() };
    let tls = Tls::new(issued.certified.clone(), Some(shown))?;
    Ok(Some(Keeper {
        tls,
        source: Source::Hive { authority: Box::new(authority), issued, config: Box::new(config.clone()) },
    }))
}

fn marks(certificate: &Path, key: &Path) -> Marks {
    [certificate, key].map(|path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok())
}

/// Under which browsers may address this node.
fn names(config: &Config) -> Names {
    let system = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut hosts = vec![config.name.clone(), format!("{}.local", config.name), system, "localhost".to_owned()];
    hosts.extend(config.http_hosts.iter().cloned());
    let mut known = std::collections::BTreeSet::new();
    hosts.retain(|host| known.insert(host.clone()));
    let mut addresses: Vec<IpAddr> =
        if_addrs::get_if_addrs().unwrap_or_default().iter().map(if_addrs::Interface::ip).collect();
    addresses.sort_unstable();
    addresses.dedup();
    Names { hosts, addresses }
}

impl Keeper {
    /// What to speak TLS with; its certificate is looked after for as long as the agent runs.
    pub(super) fn begin(self) -> Tls {
        let tls = self.tls.clone();
        tasks::spawn("certificates", self.keep());
        tls
    }

    async fn keep(mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.look();
        }
    }

    fn look(&mut self) {
        match &mut self.source {
            Source::Hive { authority, issued, config } => {
                let names = names(config);
                if !issued.is_due(&names, unix_now()) {
                    return;
                }
                match authority.issue(&names, unix_now()) {
                    Ok(new) => {
                        tracing::info!(names = ?names.hosts, "this node has a new certificate");
                        self.tls.replace(new.certified.clone());
                        *issued = new;
                    }
                    Err(error) => tracing::warn!(%error, "the certificate was not renewed"),
                }
            }
            Source::Own { certificate, key, read } => {
                let now = marks(certificate, key);
                if now == *read {
                    return;
                }
                *read = now;
                match from_files(certificate, key) {
                    Ok(certified) => {
                        tracing::info!(file = %certificate.display(), "the certificate was read again");
                        self.tls.replace(certified);
                    }
                    Err(error) => tracing::warn!(%error, "the new certificate cannot be used; the former one stays"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::tests::config_of;

    #[test]
    fn a_certificate_that_was_exchanged_is_used_and_a_damaged_one_is_not() {
        let directory = tempfile::tempdir().expect("directory");
        let file = directory.path().join("own.pem");
        let write = |text: &str| {
            fs::write(&file, text).expect("written");
            fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("mode");
        };
        let (first, second) = (config_of("first.example"), config_of("second.example"));
        write(&first.0);
        let certified = from_files(&file, &file).expect("a certificate with its key");
        let tls = Tls::new(certified, None).expect("tls");
        let source = Source::Own { certificate: file.clone(), key: file.clone(), read: [None, None] };
        let mut keeper = Keeper { tls, source };
        let again = |keeper: &mut Keeper| {
            // Within a tick of the file system's clock.
            if let Source::Own { read, .. } = &mut keeper.source {
                *read = [None, None];
            }
            keeper.look();
            keeper.tls.leaf().expect("a certificate")
        };
        assert_eq!(again(&mut keeper), first.1);
        write(&second.0);
        assert_eq!(again(&mut keeper), second.1);
        write("nothing");
        assert_eq!(again(&mut keeper), second.1, "the former one stays");
    }
}
