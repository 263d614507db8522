//! Whether a drone answers, and what the old swarm's administration asks about machines.
//!
//! A member is asked over the mesh, on the way on which its work goes. A drone of the old swarm asks the hive and is never asked: of it is
//! told when it was heard last. Asking changes nothing: a drone that does not answer stays as it was. Never done here: acting.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use serde_json::{Map, Value, json};

use super::{Machine, machines, metrics_of, node, seconds, seen_at, status, uptime_ms, versions};
use crate::agent::control::{self, Request, Response};
use crate::agent::shared::Shared;
use crate::api::{ApiError, ApiResult, ErrorCode};
use crate::clock::{now_ms, unix_now};
use crate::engine::id::PeerId;
use crate::transport;
use crate::web::node::LegacyProbe;

/// A member that has not answered after so long does not.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Members asked at once.
const AT_ONCE: usize = 16;
/// What was found is told again for so long, milliseconds: anyone may ask.
const SHOWN_MS: u64 = 1_000;

/// What the last look found, by machine. Locked while one looks.
#[derive(Debug, Default)]
pub(in crate::agent) struct Pings(tokio::sync::Mutex<std::collections::BTreeMap<PeerId, (u64, Value)>>);

/// Answers.
pub(super) async fn answer(shared: &Arc<Shared>, what: LegacyProbe) -> ApiResult<Value> {
    Ok(match what {
        LegacyProbe::Ping { who: Some(who) } => {
            let machines = machines(shared).await;
            let found = machines.into_iter().find(|machine| machine.name == who || machine.id == who);
            let machine = found.ok_or_else(|| {
                let shown: String = who.chars().take(80).collect();
                ApiError::new(ErrorCode::NotFound, format!("no drone is called {shown:?}"), "see /api/v1/nodes?all=1")
            })?;
            let mut found = look(shared, vec![machine]).await;
            found.pop().map(|(_, told)| told).unwrap_or_default()
        }
        LegacyProbe::Ping { who: None } => {
            let machines = machines(shared).await;
            let drones: Map<String, Value> = look(shared, machines).await.into_iter().collect();
            json!({ "drones": drones })
        }
        LegacyProbe::SystemInfo => system(shared),
        LegacyProbe::DroneVersions => versions(shared).await,
        LegacyProbe::Nodes => {
            let machines = machines(shared).await;
            json!({ "nodes": machines.iter().map(|machine| node(shared, machine)).collect::<Vec<_>>() })
        }
        LegacyProbe::Status => status(shared).await,
    })
}

async fn look(shared: &Arc<Shared>, machines: Vec<Machine>) -> Vec<(String, Value)> {
    // One at a time looks; who comes meanwhile is told what that one found.
    let mut known = shared.legacy.pings.0.lock().await;
    let now_ms = now_ms();
    known.retain(|_, (at_ms, _)| now_ms.saturating_sub(*at_ms) < SHOWN_MS);
    let fresh = machines.iter().filter(|machine| !known.contains_key(&machine.peer));
    let asks: Vec<BoxFuture<'_, (PeerId, Value)>> = fresh.map(|machine| ping(shared, machine).boxed()).collect();
    let told: Vec<(PeerId, Value)> = futures::stream::iter(asks).buffer_unordered(AT_ONCE).collect().await;
    known.extend(told.into_iter().map(|(peer, told)| (peer, (now_ms, told))));
    let told = |machine: &Machine| Some((machine.name.clone(), known.get(&machine.peer)?.1.clone()));
    machines.iter().filter_map(told).collect()
}

async fn ping(shared: &Arc<Shared>, machine: &Machine) -> (PeerId, Value) {
    let began_ms = now_ms();
    let answers = if machine.legacy {
        machine.online
    } else if machine.peer == shared.me.peer_id {
        true
    } else {
        let asked: std::io::Result<Response> =
            transport::call(&shared.mesh, &machine.peer, control::PROTOCOL, &Request::LogEnd, TIMEOUT).await;
        asked.is_ok()
    };
    let took_ms = now_ms().saturating_sub(began_ms);
    let running = shared.read(|state| state.live_attempts_len(&machine.peer));
    let told = json!({
        "id": machine.id,
        "name": machine.name,
        "status": if answers { "ok" } else { "timeout" },
        "latency_ms": (answers && !machine.legacy).then_some(took_ms),
        "load": metrics_of(machine)["load_1m"],
        "emerge_running": running > 0,
        "last_seen": seen_at(machine),
        "timestamp": seconds(unix_now()),
    });
    (machine.peer.clone(), told)
}

fn system(shared: &Arc<Shared>) -> Value {
    let inventory = shared.inventory();
    json!({
        "hostname": shared.me.name,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": uptime_ms(shared) / 1_000,
        "platform": format!("{} {}", inventory.distro, inventory.distro_version).trim_end(),
        "arch": inventory.arch,
        "cpu_count": inventory.cpu_cores,
        "memory_gb": inventory.ram_gb,
        "disk_free_gb": inventory.disk_free_gb,
        "cpu_percent": crate::agent::vitals::cpu_percent(),
        "ram_percent": crate::agent::vitals::ram_percent(),
        "timestamp": seconds(unix_now()),
    })
}
