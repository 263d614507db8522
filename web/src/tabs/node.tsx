// One node: what it is and who made it that, what it has, what it may do and does; and what an operator can change.
import { useState } from 'preact/hooks';
import { send } from '../api';
import { ago, about, duration, plural } from '../format';
import { now, refresh, status } from '../live';
import { moment, whenLive } from '../moment';
import { useResource } from '../resource';
import { go } from '../router';
import { mayAdmin } from '../session';
import type { TabProps } from '../tabs';
import type { Advice, Changed, FleetDrone, HistoryLine, Identity, Inventory } from '../types';
import { confirm } from '../ui/dialog';
import { Icon } from '../ui/icon';
import { Empty, Facts, Failure, Loaded, Loading, Panel, Section, Tile, Time } from '../ui/parts';
import { attemptLook, Badge, memberLook, StateBadge } from '../ui/state';
import { held, useMachines, type Machine } from './fleet';
import { BuildRow } from './overview';
import { Why } from './queue';

const MINUTE_MS = 60_000;

function change(drone: FleetDrone, action: string, body: Record<string, unknown>): Promise<string> {
  return send<Changed>(`/api/v2/nodes/${encodeURIComponent(drone.name)}/${action}`, body).then(() => {
    refresh();
    return `${drone.name}: ${action} is done.`;
  });
}

/** What an operator can do to a drone. */
function Acts({ drone }: { drone: FleetDrone }) {
  if (!mayAdmin.value) return null;
  const hit = drone.builds.length;
  const builds = hit ? `${plural(hit, 'build')} ${hit === 1 ? 'is' : 'are'} on it now: ${drone.builds.slice(0, 3).map((build) => build.target).join(', ')}${hit > 3 ? ' …' : ''}.` : 'Nothing is on it now.';
  const stopped = drone.paused !== null || drone.draining !== null;
  const pause = () =>
    confirm({
      title: `Pause ${drone.name}`, verb: 'Pause', reason: true,
      body: <><p>It gets nothing new. What runs on it goes on.</p><p>{builds}</p></>,
      run: (reason) => change(drone, 'pause', { reason }),
    });
  const resume = () =>
    confirm({
      title: `Resume ${drone.name}`, verb: 'Resume',
      body: <p>It gets work again: {plural(drone.slots, 'slot')}.</p>,
      run: () => change(drone, 'resume', {}),
    });
  const drain = () => {
    let minutes = 30;
    confirm({
      title: `Drain ${drone.name}`, verb: 'Drain', reason: true,
      body: (
        <>
          <p>It gets nothing new; what is still on it after the deadline begins anew elsewhere.</p>
          <p>{builds}</p>
          <label class="stack">Deadline, minutes<input class="field" type="number" min={1} max={10080} defaultValue="30" onInput={(event) => (minutes = Number(event.currentTarget.value))} /></label>
        </>
      ),
      run: (reason) => change(drone, 'drain', { deadline_ms: Math.max(1, minutes) * MINUTE_MS, reason }),
    });
  };
  const limit = () => {
    let cores = drone.cores_limit ?? drone.cores;
    confirm({
      title: `Limit ${drone.name}`, verb: 'Limit', reason: true,
      body: (
        <>
          <p>Builds may use so many of its {plural(drone.cores, 'processor')}; all of them lifts the limit.</p>
          <label class="stack">Processors<input class="field" type="number" min={1} max={drone.cores} defaultValue={String(cores)} onInput={(event) => (cores = Number(event.currentTarget.value))} /></label>
        </>
      ),
      run: (reason) => change(drone, 'limit', cores >= drone.cores ? { reason } : { cores: Math.max(1, cores), reason }),
    });
  };
  return (
    <div class="row">
      {stopped
        ? <button type="button" class="button small primary" data-act="resume" onClick={resume} {...whenLive()}><Icon name="play" size={14} /> Resume</button>
        : <button type="button" class="button small" data-act="pause" onClick={pause} {...whenLive()}><Icon name="pause" size={14} /> Pause</button>}
      {drone.draining ? null : <button type="button" class="button small" data-act="drain" onClick={drain} {...whenLive()}>Drain</button>}
      <button type="button" class="button small" data-act="limit" onClick={limit} {...whenLive()}>Limit cores</button>
    </div>
  );
}

/** The ballot: who advised what and why, and who thought otherwise. */
function Ballot({ identity }: { identity: Identity }) {
  const dissent = new Set(identity.dissent.map((advice) => advice.advisor));
  const row = (advice: Advice) => {
    const first = advice.ranking[0];
    return (
      <tr key={advice.advisor}>
        <td data-label="Advisor"><b>{advice.advisor}</b><br /><span class="dim">{advice.policy}</span></td>
        <td data-label="Advised">
          {first ? first.role : 'nothing'} {dissent.has(advice.advisor) ? <Badge tone="warn" icon="warn">dissent</Badge> : <Badge tone="good" icon="good">agrees</Badge>}
        </td>
        <td data-label="Because" class="wrap">{first ? <>{first.reason} <span class="dim">rule {first.rule}{first.cap !== null ? `, at most ${first.cap}` : ''}</span></> : '–'}</td>
        <td data-label="Else" class="wrap dim">{advice.ranking.slice(1).map((ranked) => ranked.role).join(', ') || '–'}{advice.skipped.length ? ` · skipped: ${advice.skipped.join('; ')}` : ''}</td>
      </tr>
    );
  };
  return (
    <>
      <p>
        <b>{identity.role}</b>, {identity.founder && identity.advice.length === 0 ? 'because it founded the hive' : identity.reason || 'as the ballot said'}{identity.provisional ? ' (not committed yet: the hive has no quorum)' : ''}
      </p>
      <p class="dim">
        {identity.assigned_by.length ? `Put first by ${identity.assigned_by.join(', ')} · ` : ''}given <Time at={identity.assigned_at} />{identity.ballot ? <> · ballot <span class="mono">{identity.ballot}</span></> : ''} · packages {identity.packages_state}{identity.packages.length ? `: ${identity.packages.join(', ')}` : ''}
      </p>
      {identity.advice.length ? (
        <div class="scroll-x ballot">
          <table class="list cards">
            <thead><tr><th>Advisor</th><th>Advised</th><th>Because</th><th>Else</th></tr></thead>
            <tbody>{identity.advice.map(row)}</tbody>
          </table>
        </div>
      ) : <p class="dim">Nobody was asked.</p>}
    </>
  );
}

function Tags({ list, none = 'none' }: { list: string[]; none?: string }) {
  return list.length ? <span class="tags">{list.map((one) => <span key={one} class="tag">{one}</span>)}</span> : <span class="dim">{none}</span>;
}

function Machinery({ inventory }: { inventory: Inventory }) {
  const tools = Object.entries(inventory.tools).map(([name, version]) => (version ? `${name} ${version}` : name));
  return (
    <Facts rows={[
      ['System', `${inventory.distro} ${inventory.distro_version}`.trim()],
      ['Kind', inventory.virt],
      ['Architecture', inventory.arch],
      ['Processors', String(inventory.cpu_cores)],
      ['Memory', `${inventory.ram_gb} GiB`],
      ['Free disk', `${inventory.disk_free_gb} GiB`],
      ['Package tree', inventory.tree ?? 'none'],
      ['Labels', <Tags list={inventory.labels} />],
      ['Builds can be given', <Tags list={inventory.features} none="nothing special" />],
      ['Languages', <Tags list={inventory.languages} />],
      ['Tools', <Tags list={tools} />],
    ]} />
  );
}

/** Ways into the machine itself. */
function Inside({ name }: { name: string }) {
  return (
    <div class="row">
      <a class="button small" href={`/nodes/${encodeURIComponent(name)}/logs`}><Icon name="queue" size={14} /> Logs</a>
      <a class="button small" href={`/terminal/${encodeURIComponent(name)}`}><Icon name="terminal" size={14} /> Terminal</a>
    </div>
  );
}

function One({ machine }: { machine: Machine }) {
  const { node, drone, name } = machine;
  const state = drone?.state ?? node?.state;
  const identity = useResource<Identity>(node && state === 'alive' && moment.value === null ? `/api/v2/nodes/${encodeURIComponent(name)}/identity` : null, { kinds: ['nodes'], everyMs: 30_000 });
  const past = useResource<{ history: HistoryLine[] }>(drone ? `/api/v2/history?drone=${encodeURIComponent(name)}&limit=15` : null, { kinds: ['jobs'], atMostMs: 3_000 });
  const [why, setWhy] = useState(false);
  const leads = status.value?.coordinator?.name === name;
  return (
    <>
      <div class="title">
        <div class="grow">
          <h2 class="big">{name}</h2>
          <p class="dim">{drone?.role ?? node?.role ?? 'no role yet'}{leads ? ' · coordinator' : ''}{node && node.raft !== 'none' ? ` · ${node.raft}` : ''}{node?.founder ? ' · founder' : ''}{node?.version ? ` · hive ${node.version}` : ''}</p>
        </div>
        <StateBadge look={state ? memberLook(state) : undefined} />
        {node && mayAdmin.value ? <Inside name={name} /> : null}
        {drone ? <Acts drone={drone} /> : null}
      </div>
      {drone && held(drone).length ? (
        <p class="note warn">
          Gets nothing new: {held(drone).join(', ')}.{' '}
          {drone.draining ?? drone.paused ? <span class="dim">By {(drone.draining ?? drone.paused)?.by} <Time at={(drone.draining ?? drone.paused)?.at} />{(drone.draining ?? drone.paused)?.why ? `: ${(drone.draining ?? drone.paused)?.why}` : ''}</span> : null}
        </p>
      ) : null}
      <dl class="tiles">
        <Tile label="Load" value={(drone?.load ?? node?.load ?? null) === null ? '–' : (drone?.load ?? node?.load ?? 0).toFixed(2)} detail={`${drone?.cores ?? node?.cores ?? 0} processors`} />
        <Tile label="Slots taken" value={drone ? `${drone.used} / ${drone.slots}` : '–'} detail={drone?.cores_limit ? `limited to ${plural(drone.cores_limit, 'processor')}` : 'no limit set'} />
        <Tile label="Heard" value={node?.last_seen_ms === null || !node ? '–' : node.last_seen_ms < 1500 ? 'now' : about(node.last_seen_ms)} detail={moment.value !== null ? 'not kept' : node?.last_seen_ms === null || !node ? 'not since this agent started' : node.last_seen_ms < 1500 ? 'by the node that answers' : 'ago'} />
        <Tile label="Reached at" value={<span class="mono address">{node?.addresses[0] ?? '–'}</span>} detail={node && node.addresses.length > 1 ? `and ${node.addresses.length - 1} more` : 'the mesh'} />
      </dl>
      {drone ? (
        <Section title="Its work" aside={<button type="button" class="button small" aria-expanded={why} onClick={() => setWhy(!why)}>Why {drone.builds.length ? 'no more' : 'nothing'}?</button>}>
          {why ? <Panel class="pad"><Why what={name} /></Panel> : null}
          <Panel class="builds">
            {drone.builds.length === 0 ? <p class="pad dim">Nothing at the moment.</p> : drone.builds.map((build) => <BuildRow key={`${build.job}${build.attempt}`} build={build} />)}
          </Panel>
        </Section>
      ) : null}
      {node ? (
        <Section title="Who decided its role, and why" id="ballot">
          <Panel class="pad">
            {moment.value !== null ? <p class="dim">What advisors said is asked of the node itself and not kept: only the role of then is known, and stands above.</p> : state === 'alive' ? <Loaded of={identity}>{(data) => <Ballot identity={data} />}</Loaded> : <p class="dim">It is asked for that itself, and does not answer.</p>}
          </Panel>
        </Section>
      ) : null}
      {node?.inventory ? <Section title="What it has"><Panel class="pad"><Machinery inventory={node.inventory} /></Panel></Section> : null}
      {drone ? (
        <Section title="What it built last" aside={<a href={`/history?drone=${encodeURIComponent(name)}`}>All</a>}>
          <Loaded of={past}>
            {(data) => data.history.length === 0 ? <Panel class="pad"><Empty>Nothing yet.</Empty></Panel> : (
              <Panel class="scroll-x">
                <table class="list cards">
                  <thead><tr><th>Target</th><th>Result</th><th class="num">Took</th><th>Ended</th></tr></thead>
                  <tbody>
                    {data.history.map((line) => (
                      <tr key={`${line.job}${line.attempt}`}>
                        <td data-label="Target" class="wrap"><a href={`/jobs/${line.job}?attempt=${line.attempt}`}>{line.target}</a></td>
                        <td data-label="Result"><StateBadge look={attemptLook(line.state)} /></td>
                        <td data-label="Took" class="num">{duration(line.duration_ms)}</td>
                        <td data-label="Ended">{ago(line.ended_at, now.value)}</td>
                      </tr>
                    ))}
                  </tbody>
                </table>
              </Panel>
            )}
          </Loaded>
        </Section>
      ) : null}
      <Section title="About this node" id="about">
        <Panel class="pad">
          <Facts rows={[['Public identity', <span class="mono">{node?.peer_id ?? drone?.peer_id ?? '–'}</span>], ['Addresses', node?.addresses.join(', ') || '–'], ['Events', <a href={`/events?drone=${encodeURIComponent(name)}`}>what happened on it</a>]]} />
        </Panel>
      </Section>
    </>
  );
}

export default function NodeTab({ argument }: TabProps) {
  const { nodes, list } = useMachines();
  if (list === null) return nodes.error ? <Failure error={nodes.error} /> : <Loading />;
  const name = argument ?? status.value?.self.name ?? list[0]?.name ?? null;
  const machine = list.find((one) => one.name === name);
  return (
    <>
      <div class="toolbar">
        <label class="row">
          <span class="dim">Node</span>
          <select class="field" data-filter value={machine?.name ?? ''} onChange={(event) => go(`/nodes/${encodeURIComponent(event.currentTarget.value)}`)}>
            {machine ? null : <option value="">choose one</option>}
            {list.map((one) => <option key={one.name} value={one.name}>{one.name}{one.drone?.role ?? one.node?.role ? `, ${one.drone?.role ?? one.node?.role}` : ''}</option>)}
          </select>
        </label>
      </div>
      {machine ? <One key={machine.name} machine={machine} /> : <Empty>{name ? `No node is called ${name}.` : 'There is no node yet.'} <a href="/fleet">Fleet</a></Empty>}
    </>
  );
}
