// Every node: what it is and why, how it is, what it does. As cards or as a table; the filter stands in the address.
import { about, duration, plural, word } from '../format';
import { status } from '../live';
import { useResource } from '../resource';
import { query, setQuery } from '../router';
import type { Fleet, FleetDrone, NodeView } from '../types';
import { Icon } from '../ui/icon';
import { Choice, Empty, Failure, FilterField, Loading, Panel, Progress } from '../ui/parts';
import { Badge, memberLook, StateBadge } from '../ui/state';

/** A node of the hive, a drone of the old swarm, or both views of one. */
export interface Machine {
  name: string;
  node: NodeView | null;
  drone: FleetDrone | null;
}

/** What two answers say of the same machines, by name. */
export function machines(nodes: NodeView[], fleet: Fleet | null): Machine[] {
  const found = new Map<string, Machine>();
  for (const node of nodes) if (node.state !== 'left') found.set(node.name, { name: node.name, node, drone: null });
  for (const drone of fleet?.drones ?? []) {
    const known = found.get(drone.name);
    found.set(drone.name, { name: drone.name, node: known?.node ?? null, drone });
  }
  return [...found.values()].sort((left, right) => left.name.localeCompare(right.name));
}

/** Why a drone gets no work, in words; empty when it does. */
export function held(drone: FleetDrone | null): string[] {
  if (!drone) return [];
  const why: string[] = [];
  if (drone.draining) why.push(`draining${drone.drain_left_ms !== null ? `, ${about(drone.drain_left_ms)} left` : ''}`);
  else if (drone.paused) why.push('paused');
  if (drone.grounded_left_ms !== null) why.push(`grounded for ${about(drone.grounded_left_ms)}`);
  if (drone.uploads_paused_left_ms !== null) why.push(`uploads rest for ${about(drone.uploads_paused_left_ms)}`);
  return why;
}

function facts(machine: Machine): string {
  const { node, drone } = machine;
  const system = node?.inventory ? `${node.inventory.distro} ${node.inventory.distro_version}`.trim() : '';
  const arch = drone?.arch ?? node?.inventory?.arch ?? '';
  const ram = drone?.ram_gb ?? node?.inventory?.ram_gb;
  return [arch, system, ram ? `${ram} GiB` : '', node?.version ? `hive ${node.version}` : ''].filter(Boolean).join(' · ');
}

export function Meter({ label, part, text }: { label: string; part: number | null; text: string }) {
  const level = part === null ? '' : part > 1.25 ? 'full' : part > 0.9 ? 'high' : '';
  return (
    <div class={`meter ${level}`}>
      <span class="dim">{label}</span>
      <Progress percent={part === null ? 0 : Math.min(100, Math.round(part * 100))} label={label} />
      <span>{text}</span>
    </div>
  );
}

function load(machine: Machine): { part: number | null; text: string } {
  const value = machine.drone?.load ?? machine.node?.load ?? null;
  const cores = machine.drone?.cores ?? machine.node?.cores ?? 0;
  return { part: value === null || !cores ? null : value / cores, text: value === null ? '–' : `${value.toFixed(1)} / ${cores}` };
}

function Marks({ machine }: { machine: Machine }) {
  const { node, drone } = machine;
  const leads = status.value?.coordinator?.name === machine.name;
  return (
    <span class="tags">
      {leads ? <span class="tag honey">coordinator</span> : null}
      {node && node.raft !== 'none' && !leads ? <span class="tag">{node.raft}</span> : null}
      {node?.founder ? <span class="tag">founder</span> : null}
      {node?.staging ? <span class="tag">staging</span> : null}
      {drone?.legacy ? <span class="tag">old swarm</span> : null}
    </span>
  );
}

function Card({ machine }: { machine: Machine }) {
  const { node, drone } = machine;
  const state = drone?.state ?? node?.state;
  const busy = drone ? `${drone.used} / ${drone.slots}` : '–';
  const { part, text } = load(machine);
  return (
    <Panel class="drone">
      <div class="drone-head">
        <a href={`/nodes/${encodeURIComponent(machine.name)}`}>{machine.name}</a>
        <span class="grow" />
        <StateBadge look={state ? memberLook(state) : undefined} />
      </div>
      <div class="row"><span>{drone?.role ?? node?.role ?? 'no role yet'}</span><Marks machine={machine} /></div>
      <p class="dim">{facts(machine)}</p>
      <Meter label="Load" part={part} text={text} />
      <Meter label="Slots" part={drone && drone.slots ? drone.used / drone.slots / 1.2 : null} text={busy} />
      {held(drone).map((why) => <Badge key={why} tone="warn" icon="pause">{why}</Badge>)}
      {drone && drone.builds.length > 0 ? (
        <div class="work">
          {drone.builds.slice(0, 3).map((build) => (
            <div key={build.job}>
              <div class="row">
                <a class="clip grow" href={`/jobs/${build.job}`}>{build.target}</a>
                <span class="dim">{build.eta_ms !== null ? `${about(build.eta_ms)} left` : build.elapsed_ms !== null ? duration(build.elapsed_ms) : word(build.state)}</span>
              </div>
              <Progress percent={build.state === 'assigned' ? 0 : build.percent} label={`Progress of ${build.target}`} />
            </div>
          ))}
          {drone.builds.length > 3 ? <span class="dim">and {drone.builds.length - 3} more</span> : null}
        </div>
      ) : null}
    </Panel>
  );
}

function Row({ machine }: { machine: Machine }) {
  const { node, drone } = machine;
  const state = drone?.state ?? node?.state;
  const work = drone?.builds[0];
  return (
    <tr>
      <td data-label="Node"><a href={`/nodes/${encodeURIComponent(machine.name)}`}><b>{machine.name}</b></a></td>
      <td data-label="State"><StateBadge look={state ? memberLook(state) : undefined} /></td>
      <td data-label="Role">{drone?.role ?? node?.role ?? '–'}</td>
      <td data-label="Part"><Marks machine={machine} /></td>
      <td data-label="Load" class="num">{load(machine).text}</td>
      <td data-label="Slots" class="num">{drone ? `${drone.used} / ${drone.slots}` : '–'}</td>
      <td data-label="Work" class="wrap">
        {held(drone).join(', ')}
        {work ? <a href={`/jobs/${work.job}`}>{work.target}</a> : held(drone).length ? null : <span class="dim">idle</span>}
        {drone && drone.builds.length > 1 ? <span class="dim"> +{drone.builds.length - 1}</span> : null}
      </td>
      <td data-label="Version">{node?.version ?? '–'}</td>
      <td data-label="Heard" class="num">{node?.last_seen_ms === null || node === null ? '–' : `${about(node.last_seen_ms)} ago`}</td>
    </tr>
  );
}

const FILTERS: Record<string, (machine: Machine) => boolean> = {
  all: () => true,
  busy: (machine) => (machine.drone?.builds.length ?? 0) > 0,
  free: (machine) => machine.drone !== null && machine.drone.used < machine.drone.slots && held(machine.drone).length === 0,
  trouble: (machine) => (machine.drone?.state ?? machine.node?.state) !== 'alive' || held(machine.drone).length > 0,
};

/** Nodes and drones, kept fresh. */
export function useMachines() {
  const nodes = useResource<NodeView[]>('/api/v2/nodes', { kinds: ['nodes', 'fleet'], everyMs: 4_000 });
  const fleet = useResource<Fleet>('/api/v2/fleet', { kinds: ['jobs', 'fleet', 'nodes', 'control'], everyMs: 3_000 });
  return { nodes, fleet, list: nodes.data ? machines(nodes.data, fleet.data) : null };
}

export default function FleetTab() {
  const { nodes, fleet, list } = useMachines();
  const view = query.value.get('view') ?? (list && list.length > 24 ? 'table' : 'cards');
  const text = query.value.get('q') ?? '';
  const only = query.value.get('only') ?? 'all';
  if (list === null) return nodes.error ? <Failure error={nodes.error} /> : <Loading />;
  const says = (machine: Machine) =>
    `${machine.name} ${machine.drone?.role ?? machine.node?.role ?? ''} ${facts(machine)} ${machine.node?.inventory?.labels.join(' ') ?? ''} ${machine.drone?.builds.map((build) => build.target).join(' ') ?? ''}`.toLowerCase();
  const shown = list.filter((machine) => (FILTERS[only] ?? FILTERS['all'])?.(machine) && says(machine).includes(text.toLowerCase()));
  const cores = list.reduce((sum, machine) => sum + (machine.drone?.cores ?? machine.node?.cores ?? 0), 0);
  const slots = list.reduce((sum, machine) => sum + (machine.drone?.slots ?? 0), 0);
  const used = list.reduce((sum, machine) => sum + (machine.drone?.used ?? 0), 0);
  return (
    <>
      <div class="toolbar">
        <FilterField value={text} label="Filter nodes" placeholder="Name, role, label, package" onInput={(q) => setQuery({ q })} />
        <Choice
          label="Which nodes"
          value={only}
          options={[{ value: 'all', text: 'All' }, { value: 'busy', text: 'Busy' }, { value: 'free', text: 'Free' }, { value: 'trouble', text: 'Trouble' }]}
          onChange={(value) => setQuery({ only: value === 'all' ? null : value })}
        />
        <Choice
          label="As"
          value={view}
          options={[{ value: 'cards', text: <><Icon name="cards" size={15} /> Cards</> }, { value: 'table', text: <><Icon name="table" size={15} /> Table</> }]}
          onChange={(value) => setQuery({ view: value })}
        />
        <span class="end" role="status">{shown.length === list.length ? plural(list.length, 'node') : `${shown.length} of ${plural(list.length, 'node')}`} · {plural(cores, 'core')} · {used} of {plural(slots, 'slot')} taken</span>
      </div>
      {fleet.error ? <Failure error={fleet.error} /> : null}
      {fleet.data?.paused ? <div class="note warn">The whole queue is paused by {fleet.data.paused.by}{fleet.data.paused.why ? `: ${fleet.data.paused.why}` : ''}.</div> : null}
      {shown.length === 0 ? <Empty>No node fits.</Empty> : null}
      {view === 'table' ? (
        <Panel class="scroll-x">
          <table class="list cards">
            <thead><tr><th>Node</th><th>State</th><th>Role</th><th>Part</th><th class="num">Load / cores</th><th class="num">Slots</th><th>Work</th><th>Version</th><th class="num">Heard</th></tr></thead>
            <tbody>{shown.map((machine) => <Row key={machine.name} machine={machine} />)}</tbody>
          </table>
        </Panel>
      ) : (
        <div class="fleet-cards">{shown.map((machine) => <Card key={machine.name} machine={machine} />)}</div>
      )}
    </>
  );
}

