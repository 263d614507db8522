//! Status and nodes as they were at a moment, in the shapes of the old swarm.
//!
//! What nobody wrote down then is null. Never done here: finding the moment (`agent::history` does).

use serde_json::{Map, Value, json};

use super::{average_ms, named_packages, percent_of, seconds, session};
use crate::agent::sessions;
use crate::api::{FleetBuild, FleetDrone, FleetView, MemberState, Status};
use crate::engine::job::AttemptState;
use crate::engine::state::State;
use crate::web::node::SessionQuery;

/// `protocol/snapshot` of a state of before, with what this node saw then.
pub(in crate::agent) fn snapshot(state: &State, status: &Status, fleet: &FleetView) -> Value {
    let nodes: Vec<Value> = fleet.drones.iter().map(|drone| node(state, drone)).collect();
    let online = fleet.drones.iter().filter(|drone| drone.state == MemberState::Alive);
    let queue = &status.queue;
    let open = sessions::list(state, SessionQuery { open: true, limit: 1 }).sessions.pop();
    let total = queue.needed
        + queue.delegated
        + queue.received
        + queue.blocked
        + queue.failed
        + queue.cancelled
        + queue.quarantined;
    let mut packages = named_packages(state);
    let live = fleet.drones.iter().flat_map(|drone| drone.builds.iter().map(move |build| (drone, build)));
    let delegated: Map<String, Value> =
        live.map(|(drone, build)| (build.target.clone(), json!({ "drone": drone.name }))).collect();
    packages.insert("delegated".to_owned(), Value::Object(delegated));
    let drones: Map<String, Value> =
        fleet.drones.iter().zip(&nodes).map(|(drone, node)| (drone.name.clone(), node.clone())).collect();
    let status = json!({
        "needed": queue.needed,
        "delegated": queue.delegated,
        "received": queue.received,
        "blocked": queue.blocked,
        "failed": queue.failed + queue.quarantined,
        "total": total,
        "queue_depth": queue.needed,
        "queue_received": queue.received,
        "queue_blocked": queue.blocked,
        "nodes": fleet.drones.len(),
        "nodes_online": online.clone().count(),
        "total_cores": online.map(|drone| u64::from(drone.cores)).sum::<u64>(),
        "paused": queue.paused,
        "session": open.as_ref().map(session),
        "packages": packages,
        "drones": drones,
        "drone_health": null,
        "timing": {
            "average_build_s": average_ms(state).map(|average_ms| average_ms / 1_000),
            "uptime_s": status.this.uptime_ms / 1_000,
        },
        "version": status.this.version,
        "as_of": { "index": status.log.applied, "age_ms": 0 },
    });
    json!({ "status": status, "nodes": nodes })
}

fn progress(build: &FleetBuild) -> Value {
    let whole_ms = build.elapsed_ms.zip(build.eta_ms).map(|(elapsed_ms, left_ms)| elapsed_ms.saturating_add(left_ms));
    json!({
        "package": build.target,
        "elapsed_s": build.elapsed_ms.map(|elapsed_ms| elapsed_ms / 1_000),
        "estimated_s": whole_ms.map(|whole_ms| whole_ms / 1_000),
        "progress_pct": whole_ms.zip(build.elapsed_ms).map(|(whole_ms, elapsed_ms)| percent_of(elapsed_ms, whole_ms)),
        "remaining_s": build.eta_ms.map(|left_ms| left_ms / 1_000),
    })
}

fn node(state: &State, drone: &FleetDrone) -> Value {
    let member = state.member(&drone.peer_id);
    let address = member.and_then(|member| member.info.addresses.first()).and_then(|address| address.rsplit_once(':'));
    let running: Vec<&FleetBuild> = drone.builds.iter().filter(|build| build.state != AttemptState::Assigned).collect();
    json!({
        "id": drone.peer_id,
        "name": drone.name,
        "ip": address.map(|(ip, _)| ip),
        "tailscale_ip": null,
        "type": if state.sweeps(&drone.peer_id) { "sweeper" } else { "drone" },
        "drone_type": member.map(|member| &member.info.inventory.virt),
        "cores": drone.cores,
        "ram_gb": drone.ram_gb,
        "status": if drone.state == MemberState::Alive { "online" } else { "offline" },
        "paused": drone.paused.is_some(),
        "last_seen": null,
        "capabilities": { "cores": drone.cores, "ram_gb": drone.ram_gb, "legacy": drone.legacy },
        "metrics": { "cpu_percent": null, "ram_percent": null, "load_1m": drone.load },
        "current_task": running.first().map(|build| &build.target),
        "version": member.map(|member| &member.info.version),
        "created_at": member.map(|member| seconds(member.joined_at)),
        "assigned_packages": drone.builds.iter().map(|build| &build.target).collect::<Vec<_>>(),
        "build_progress": running.iter().map(|build| progress(build)).collect::<Vec<_>>(),
    })
}
