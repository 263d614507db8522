//! What drones and clients of the old swarm hand in, understood: registrations, and packages to build.
//!
//! Packages that come this way are resolved by whoever builds them, in the order given. Never done here: committing anything but a
//! submission.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::Value;
use uuid::Uuid;

use crate::agent::shared::Shared;
use crate::agent::submitting;
use crate::api::legacy::{Fields, QueueRequest, Queued, Registration};
use crate::api::{ApiError, ApiResult, ErrorCode, SubmitRequest};
use crate::engine::grammar::{self, gentoo_normalised};
use crate::engine::id::{JobId, SessionId};
use crate::engine::job::{JobSpec, JobState, Work};
use crate::engine::legacy::{LegacyInfo, Vitals};
use crate::engine::member::Inventory;

/// Most packages in one request: more than any tree has.
const PACKAGES_MAX: usize = 100_000;

fn invalid(message: impl Into<String>, hint: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::Invalid, message, hint)
}

/// Who registers, and how it is. `from`: where the request came from, for drones that do not say.
pub(in crate::agent) fn understand(registration: &Registration, from: IpAddr) -> ApiResult<(LegacyInfo, Vitals)> {
    let text =
        |text: &Option<String>| text.as_deref().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
    let name = text(&registration.name).or_else(|| text(&registration.id));
    let name =
        name.ok_or_else(|| invalid("a registration without name or id", "send at least: {\"name\": \"drone-1\"}"))?;
    let id = text(&registration.id).unwrap_or_else(|| Uuid::new_v5(&Uuid::NAMESPACE_DNS, name.as_bytes()).to_string());
    let capabilities = &registration.capabilities;
    let inventory = Inventory {
        cpu_cores: number(capabilities, &["cores", "cpu_cores", "cpus"]).map_or(0, whole),
        ram_gb: number(capabilities, &["ram_gb", "memory_gb", "ram"]).map_or(0, whole),
        arch: word(capabilities, &["arch", "architecture"]).unwrap_or_else(|| "unknown".to_owned()),
        distro: "gentoo".to_owned(),
        virt: word(capabilities, &["drone_type"]).unwrap_or_else(|| "unknown".to_owned()),
        // That is what such drones are for.
        tools: BTreeMap::from([("emerge".to_owned(), String::new())]),
        labels: labels(capabilities),
        tree: word(capabilities, &["portage_timestamp", "tree"]),
        ..Inventory::default()
    };
    let info = LegacyInfo {
        sweeper: registration.kind.as_deref() == Some("sweeper"),
        address: text(&registration.ip).unwrap_or_else(|| from.to_string()),
        version: text(&registration.version).unwrap_or_default(),
        name,
        id,
        inventory,
    };
    info.check().map_err(|why| invalid(why, "name: letters, digits, '.', '_', '-'; the rest: short texts"))?;
    let metrics = &registration.metrics;
    let vitals = Vitals {
        current_task: text(&registration.current_task).map(|task| task.chars().take(255).collect()),
        cpu_percent: number(metrics, &["cpu_percent", "cpu"]).map(whole),
        ram_percent: number(metrics, &["ram_percent", "memory_percent", "ram"]).map(whole),
        load_centi: number(metrics, &["load_1m", "load"]).map(|load| whole(load * 100.0)),
    };
    Ok((info, vitals))
}

fn number(from: &Fields, names: &[&str]) -> Option<f64> {
    let value = names.iter().find_map(|name| from.get(*name))?;
    value.as_f64().or_else(|| value.as_str()?.parse().ok()).filter(|number| number.is_finite())
}

/// Rounded down, within what a count can be; what is no count becomes 0.
fn whole(number: f64) -> u32 {
    number.clamp(0.0, f64::from(u32::MAX)) as u32
}

fn word(from: &Fields, names: &[&str]) -> Option<String> {
    let text = names.iter().find_map(|name| from.get(*name))?.as_str()?.trim();
    grammar::is_plain_text(text, 128).then(|| text.to_owned())
}

fn labels(from: &Fields) -> BTreeSet<String> {
    let listed = from.get("labels").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    listed.filter(|label| grammar::is_plain_text(label, 63)).take(32).map(str::to_owned).collect()
}

/// Queues packages that nobody has queued yet, in their order.
pub(in crate::agent) async fn queue(shared: &Shared, request: QueueRequest, submitter: String) -> ApiResult<Queued> {
    let told = |queued, session_id| Queued {
        status: "ok".to_owned(),
        queued,
        session_id,
        portage_timestamp: request.portage_timestamp.clone(),
    };
    if request.packages.is_empty() {
        return Err(invalid("no packages", "send: {\"packages\": [\"dev-libs/foo-1.2\"]}"));
    }
    if request.packages.len() > PACKAGES_MAX {
        return Err(invalid(
            format!("{} packages; at most {PACKAGES_MAX}", request.packages.len()),
            "send them in parts",
        ));
    }
    let tree = request.portage_timestamp.as_deref().map(str::trim).filter(|tree| !tree.is_empty());
    let mut atoms: Vec<String> = Vec::with_capacity(request.packages.len());
    for package in &request.packages {
        let atom = plain_atom(package);
        grammar::gentoo_atom(&atom).map_err(|error| {
            invalid(error.to_string(), "category/name, or category/name-version; nothing was queued")
        })?;
        atoms.push(atom);
    }
    let mut under_way: BTreeSet<String> = shared.read(|state| {
        let open = |state: JobState| matches!(state, JobState::Needed | JobState::Delegated);
        state.jobs().filter(|job| open(job.state)).map(|job| job.spec.target.clone()).collect()
    });
    atoms.retain(|atom| under_way.insert(atom.clone()));
    if atoms.is_empty() {
        return Ok(told(0, None));
    }
    let job = |atom: String| {
        let work = Work::Portage { atom: atom.clone(), tree: tree.map(str::to_owned) };
        JobSpec { pure: true, ..JobSpec::new(JobId(Uuid::new_v4()), atom, work) }
    };
    let session = SessionId(Uuid::new_v4());
    let jobs: Vec<JobSpec> = atoms.into_iter().map(job).collect();
    let queued = jobs.len();
    let name = request.name.clone().unwrap_or_default();
    let submitted = SubmitRequest { session, name, profile: request.profile_id.clone(), jobs };
    submitting::submit(shared, submitted, submitter).await?;
    Ok(told(queued, Some(session.to_string())))
}

/// As the old queue wrote it: without slot and repository, and with `=` before a version.
fn plain_atom(package: &str) -> String {
    let package = package.trim();
    gentoo_normalised(package.split(':').next().unwrap_or(package))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn register(json: &str) -> ApiResult<(LegacyInfo, Vitals)> {
        let registration: Registration = serde_json::from_str(json).unwrap_or_default();
        understand(&registration, IpAddr::from([10, 0, 0, 7]))
    }

    #[test]
    fn atoms_become_what_the_old_queue_made_of_them() {
        for (written, atom) in [
            ("dev-libs/foo-1.2", "=dev-libs/foo-1.2"),
            ("=dev-libs/foo-1.2-r1:0/1::gentoo", "=dev-libs/foo-1.2-r1"),
            (" dev-libs/foo:2 ", "dev-libs/foo"),
        ] {
            assert_eq!(plain_atom(written), atom);
        }
    }

    #[test]
    fn registrations_are_read_in_both_spellings() {
        let (info, vitals) = register(
            r#"{"name": "drone-1", "ip": "10.1.1.1", "type": "drone", "capabilities": {"cores": 16, "ram_gb": 31.3,
                "portage_timestamp": "T1"}, "metrics": {"cpu_percent": 97.6, "ram_percent": 40, "load_1m": 12.5},
                "current_task": "sys-devel/gcc-14", "version": "2.6.1"}"#,
        )
        .expect("understood");
        assert_eq!((info.inventory.cpu_cores, info.inventory.ram_gb), (16, 31));
        assert_eq!((info.address.as_str(), info.inventory.tree.as_deref()), ("10.1.1.1", Some("T1")));
        assert_eq!((vitals.cpu_percent, vitals.load_centi), (Some(97), Some(1_250)));
        let id = info.id;
        let (info, vitals) =
            register(r#"{"node_name": "drone-1", "metrics": null, "capabilities": {"cpu_cores": "4"}}"#)
                .expect("understood");
        assert_eq!((info.inventory.cpu_cores, info.address.as_str()), (4, "10.0.0.7"));
        assert_eq!(info.id, id, "made from the name, always the same");
        assert_eq!(vitals, Vitals::default());
        let (info, _) = register(r#"{"id": "sweeper-9", "type": "sweeper"}"#).expect("understood");
        assert!(info.sweeper && info.name == "sweeper-9");
    }

    #[test]
    fn bad_registrations_are_refused() {
        for bad in [
            r#"{}"#,
            r#"{"name": ""}"#,
            r#"{"name": "a b"}"#,
            r#"{"name": "../etc"}"#,
            "{\"name\": \"a\", \"ip\": \"\\n\\u0007x\"}",
        ] {
            assert!(register(bad).is_err(), "{bad}");
        }
        let odd = register(r#"{"name": "a", "capabilities": {"cores": -3, "ram_gb": 1e300, "arch": ["x"]}}"#)
            .expect("understood");
        assert_eq!(
            (odd.0.inventory.cpu_cores, odd.0.inventory.ram_gb, odd.0.inventory.arch.as_str()),
            (0, u32::MAX, "unknown")
        );
    }
}
