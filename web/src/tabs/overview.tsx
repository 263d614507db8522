// How the hive is, in one sentence first; then what runs, what was done, and what somebody should do.
import { useMemo } from 'preact/hooks';
import { about, clock, count, duration, plural, word } from '../format';
import { now, status } from '../live';
import { whenLive } from '../moment';
import { useResource } from '../resource';
import type { CriticalPath, Fleet, FleetBuild, FleetDrone, HiveEvent, Session, SessionLine, Status, Throughput } from '../types';
import { confirm } from '../ui/dialog';
import { Icon, type IconName } from '../ui/icon';
import { lazy } from '../ui/lazy';
import { Empty, Loaded, Panel, Progress, Section, Tile, Time } from '../ui/parts';
import { Badge, jobLook, StateBadge, type Tone } from '../ui/state';
import { mayAdmin } from '../session';
import { refresh } from '../live';
import { send } from '../api';
import type { Changed } from '../types';

const Plot = lazy(() => import('../ui/plot'));
const BUILDS_SHOWN = 10;

/** The sentence that stands first, and how bad it is. */
export function health(shown: Status, eta: Session | null): { tone: Tone; text: string } {
  const down = shown.members.filter((member) => member.state === 'down').map((member) => member.name);
  const suspect = shown.members.filter((member) => member.state === 'suspect').map((member) => member.name);
  const work = doing(shown, eta);
  if (shown.hive_id === null) return { tone: 'idle', text: `${shown.self.name} is in no hive yet: it is ${word(shown.self.state)}.` };
  if (!shown.quorum) return { tone: 'bad', text: 'No quorum: nothing new is decided until a majority of voters answers.' };
  if (shown.coordinator === null) return { tone: 'bad', text: 'The hive has no coordinator at the moment; another is being elected.' };
  if (shown.degraded.includes('halted')) return { tone: 'bad', text: `The copy of the log on ${shown.self.name} has stopped.` };
  if (down.length > 0) return { tone: 'warn', text: `${names(down)} ${down.length === 1 ? 'is' : 'are'} down. ${work}` };
  if (suspect.length > 0) return { tone: 'warn', text: `${names(suspect)} did not answer just now. ${work}` };
  if (shown.degraded.length > 0) return { tone: 'warn', text: `Something needs a look: ${shown.degraded.map(word).join(', ')}. ${work}` };
  const stuck = shown.queue.blocked + shown.queue.quarantined;
  if (stuck > 0) return { tone: 'warn', text: `The hive is well; ${plural(stuck, 'job')} ${stuck === 1 ? 'is' : 'are'} stuck. ${work}` };
  return { tone: 'good', text: `All is well. ${work}` };
}

function names(list: string[]): string {
  return list.length > 3 ? `${list.slice(0, 3).join(', ')} and ${list.length - 3} more` : list.join(', ').replace(/, ([^,]*)$/, ' and $1');
}

function doing(shown: Status, session: Session | null): string {
  const { building, delegated, needed, paused } = shown.queue;
  const waiting = needed + Math.max(0, delegated - building);
  if (paused) return `The queue is paused with ${plural(waiting, 'job')} waiting.`;
  if (building === 0 && waiting === 0) return 'Nothing to build.';
  const parts = [`${count(building)} building, ${count(waiting)} waiting`];
  const eta = session?.eta;
  if (eta) parts.push(`${session.name || 'the session'} done about ${clock(now.value + eta.p50_ms)}`);
  return `${parts.join('; ')}.`;
}

function Health({ shown, session }: { shown: Status; session: Session | null }) {
  const { tone, text } = health(shown, session);
  const icon: IconName = tone === 'good' ? 'good' : tone === 'idle' ? 'idle' : tone === 'bad' ? 'bad' : 'warn';
  const lead = shown.coordinator;
  return (
    <div class="health">
      <div class={`health-mark ${tone}`}><Icon name={icon} size={26} /></div>
      <div>
        <p class="first" data-health={tone}>{text}</p>
        <p class="dim">
          {lead ? <>Coordinator <b>{lead.name}</b>, term {lead.term}</> : 'No coordinator'} · seen from <b>{shown.self.name}</b>
          {shown.self.role ? `, ${shown.self.role}` : ''} · hive {shown.self.version}
        </p>
      </div>
    </div>
  );
}

function Notices({ list }: { list: string[] }) {
  if (list.length === 0) return null;
  return (
    <div class="notices" role="group" aria-label="What to know and do">
      {list.map((notice) => (
        <div class="note warn" key={notice}><Icon name="warn" /><p>{notice}</p></div>
      ))}
    </div>
  );
}

function Tiles({ shown }: { shown: Status }) {
  const present = shown.members.filter((member) => member.state !== 'left' && member.state !== 'legacy');
  const alive = present.filter((member) => member.state === 'alive').length;
  const { queue } = shown;
  const troubled = queue.failed + queue.blocked + queue.quarantined;
  return (
    <dl class="tiles">
      <Tile label="Nodes alive" value={alive} detail={`of ${present.length}`} {...(alive < present.length ? { tone: 'bad' as const } : {})} />
      <Tile label={queue.paused ? 'Waiting (paused)' : 'Waiting'} value={count(queue.needed)} detail={queue.needed ? 'jobs' : 'nothing'} />
      <Tile label="Building" value={count(queue.building)} detail={`of ${count(queue.delegated)} given out`} {...(queue.building ? { tone: 'busy' as const } : {})} />
      <Tile label="Done" value={count(queue.received)} detail="in all" />
      <Tile
        label="Need a look"
        value={count(troubled)}
        detail={troubled ? <a href="/queue?state=failed,blocked,quarantined">{`${queue.failed} failed, ${queue.blocked} blocked`}</a> : 'nothing failed'}
        {...(troubled ? { tone: 'bad' as const } : {})}
      />
    </dl>
  );
}

/** What decides when all is done: each waits for the one before it. */
function Chain({ path }: { path: CriticalPath }) {
  if (path.jobs.length === 0) return <Panel class="pad"><Empty>Nothing waits for anything.</Empty></Panel>;
  return (
    <Panel class="pad">
      <ol class="chain">
        {path.jobs.map((job) => (
          <li key={job.id}>
            <a href={`/jobs/${job.id}`}>{job.target}</a> <StateBadge look={jobLook(job.state)} /> <span class="dim">{about(job.left_ms)}</span>
          </li>
        ))}
        {path.more ? <li class="dim">and {count(path.more)} more</li> : null}
      </ol>
      <p class="dim">
        At least {about(path.p50_ms)}, however many drones there are{path.guessed ? `; ${path.guessed === path.jobs.length + path.more ? 'all of it is' : `${count(path.guessed)} of them are`} guessed` : ''}.
      </p>
    </Panel>
  );
}

interface Running extends FleetBuild {
  drone: FleetDrone;
}

/** A running build: name, where, how far. */
export function BuildRow({ build, drone }: { build: FleetBuild; drone?: string }) {
  const passed = build.elapsed_ms === null ? null : duration(build.elapsed_ms);
  return (
    <div class="build">
      <a class="clip" href={`/jobs/${build.job}`} title={build.target}>{build.target}</a>
      <span class="dim clip">{drone ? <a href={`/nodes/${encodeURIComponent(drone)}`}>{drone}</a> : word(build.state)}{build.attempt > 1 ? ` · try ${build.attempt}` : ''}</span>
      <Progress percent={build.percent} label={`Progress of ${build.target}`} />
      <span class="num" title={build.samples ? `rests on ${plural(build.samples, 'build')}` : 'nothing like it was ever built'}>
        {build.eta_ms !== null ? `${about(build.eta_ms)} left` : (passed ?? word(build.state))}
      </span>
    </div>
  );
}

function Builds({ fleet }: { fleet: Fleet }) {
  const all: Running[] = fleet.drones.flatMap((drone) => drone.builds.map((build) => ({ ...build, drone })));
  // What takes longest first: it decides when all is done.
  const running = all
    .filter((build) => build.state !== 'assigned')
    .sort((left, right) => (right.eta_ms ?? Infinity) - (left.eta_ms ?? Infinity) || left.target.localeCompare(right.target));
  if (all.length === 0) return <Panel class="pad"><Empty>Nothing is being built. <code>hive queue add --backend debian hello</code> builds a package.</Empty></Panel>;
  return (
    <Panel class="builds">
      {running.slice(0, BUILDS_SHOWN).map((build) => <BuildRow key={`${build.job}${build.attempt}`} build={build} drone={build.drone.name} />)}
      {running.length === 0 ? <p class="pad dim">{plural(all.length, 'job')} given out, none has begun.</p> : null}
      {running.length > BUILDS_SHOWN ? <p class="pad dim">and {count(running.length - BUILDS_SHOWN)} more, see <a href="/fleet">Fleet</a></p> : null}
    </Panel>
  );
}

function Done({ data }: { data: Throughput }) {
  const from = Date.parse(data.from);
  const times = useMemo(() => data.buckets.map((_, at) => (from + at * data.bucket_ms) / 1000), [from, data.buckets.length]);
  const lines = useMemo(
    () => [
      { label: 'done', colour: '--good', values: data.buckets.map((bucket) => bucket.done) },
      { label: 'failed or lost', colour: '--bad', values: data.buckets.map((bucket) => bucket.failed) },
    ],
    [data],
  );
  const done = data.buckets.reduce((sum, bucket) => sum + bucket.done, 0);
  const failed = data.buckets.reduce((sum, bucket) => sum + bucket.failed, 0);
  const text = `In the last hour ${plural(done, 'build')} succeeded and ${count(failed)} failed or were lost, by minute`;
  return (
    <Panel class="pad">
      <Plot times={times} lines={lines} label={text} />
      <p class="dim">{count(done)} done and {count(failed)} failed within the last hour</p>
    </Panel>
  );
}

function Sessions({ list }: { list: SessionLine[] }) {
  if (list.length === 0) return <Panel class="pad"><Empty>Nothing is under way.</Empty></Panel>;
  return (
    <Panel class="builds">
      {list.map((session) => {
        const percent = session.total_packages ? Math.floor((100 * session.completed_packages) / session.total_packages) : null;
        return (
          <div class="build" key={session.id}>
            <a class="clip" href={`/queue?session=${session.id}`}>{session.name || session.id.slice(0, 8)}</a>
            <span class="dim clip">{session.submitter}</span>
            <Progress percent={percent} label={`Progress of session ${session.name || session.id.slice(0, 8)}`} />
            <span class="num">{count(session.completed_packages)} of {count(session.total_packages)}{session.failed_packages ? <>, <b>{count(session.failed_packages)} failed</b></> : ''}</span>
          </div>
        );
      })}
    </Panel>
  );
}

const LOUD: Record<string, Tone> = { fail: 'bad', blocked: 'warn', grounded: 'warn', reclaim: 'warn', stale: 'idle', complete: 'good', member_left: 'warn', control: 'busy', start: 'busy' };

/** The kind of an event, coloured by how much it matters. */
export function KindBadge({ kind }: { kind: string }) {
  return <Badge tone={LOUD[kind] ?? 'idle'}>{word(kind)}</Badge>;
}

/** What an event says, with what it is about. */
export function What({ event }: { event: HiveEvent }) {
  const { package: about, job, message } = event;
  const named = about && !message.includes(about);
  return (
    <>
      {named ? <>{job ? <a href={`/jobs/${job}`}>{about}</a> : about}{message ? ': ' : ''}</> : null}
      {job && !named ? <a href={`/jobs/${job}`}>{message}</a> : message}
      {event.drone && !message.includes(event.drone) ? <span class="dim"> on {event.drone}</span> : null}
    </>
  );
}

function Feed({ events }: { events: HiveEvent[] }) {
  if (events.length === 0) return <Panel class="pad"><Empty>Nothing has happened yet.</Empty></Panel>;
  return (
    <Panel>
      <ul class="feed">
        {[...events].reverse().map((event) => (
          <li key={event.id}>
            <Time at={event.at} />
            <KindBadge kind={event.type} />
            <span class="what"><What event={event} /></span>
          </li>
        ))}
      </ul>
    </Panel>
  );
}

/** Pauses or resumes the whole queue. */
function PauseAll({ paused, waiting }: { paused: boolean; waiting: number }) {
  if (!mayAdmin.value) return null;
  const verb = paused ? 'Resume' : 'Pause';
  const ask = () =>
    confirm({
      title: `${verb} the queue`,
      verb,
      reason: !paused,
      body: paused
        ? <p>{plural(waiting, 'waiting job')} may begin again on every drone.</p>
        : <p>Nothing new begins on any drone; {plural(waiting, 'job')} will wait. What runs goes on.</p>,
      run: async (reason) => {
        await send<Changed>('/api/v2/control', { action: verb.toLowerCase(), reason });
        refresh();
        return paused ? 'The queue goes on.' : 'The queue is paused.';
      },
    });
  return <button type="button" class="button small" data-act="pause-all" onClick={ask} {...whenLive()}><Icon name={paused ? 'play' : 'pause'} size={14} /> {verb} the queue</button>;
}

export default function Overview() {
  const shown = status.value;
  const fleet = useResource<Fleet>('/api/v2/fleet', { kinds: ['jobs', 'fleet', 'nodes', 'control'], everyMs: 3_000 });
  const busy = shown !== null && shown.queue.needed + shown.queue.delegated > 0;
  const chain = useResource<CriticalPath>(busy ? '/api/v2/critical-path' : null, { kinds: ['jobs'], everyMs: 5_000, atMostMs: 2_000 });
  const done = useResource<Throughput>('/api/v2/throughput', { kinds: ['jobs'], everyMs: 15_000, atMostMs: 5_000 });
  const sessions = useResource<{ sessions: SessionLine[] }>('/api/v2/sessions?open=true&limit=6', { kinds: ['jobs', 'sessions'], atMostMs: 2_000 });
  const events = useResource<{ events: HiveEvent[] }>('/api/v2/events?limit=12', { atMostMs: 1_500 });
  const first = sessions.data?.sessions[0]?.id ?? null;
  const session = useResource<Session>(first ? `/api/v2/sessions/${first}` : null, { kinds: ['jobs', 'sessions'], everyMs: 10_000, atMostMs: 5_000 });
  return (
    <>
      {shown ? (
        <>
          <Health shown={shown} session={first ? session.data : null} />
          <Notices list={shown.notices} />
          <Tiles shown={shown} />
        </>
      ) : null}
      <Section title="Building now" aside={shown ? <PauseAll paused={shown.queue.paused} waiting={shown.queue.needed} /> : null}>
        <Loaded of={fleet}>{(data) => <Builds fleet={data} />}</Loaded>
      </Section>
      {busy ? (
        <Section title="What everything else waits for"><Loaded of={chain}>{(data) => <Chain path={data} />}</Loaded></Section>
      ) : null}
      <div class="columns">
        <Section title="Done in the last hour"><Loaded of={done}>{(data) => <Done data={data} />}</Loaded></Section>
        <Section title="Sessions under way"><Loaded of={sessions}>{(data) => <Sessions list={data.sessions} />}</Loaded></Section>
      </div>
      <Section title="What happened last" aside={<a href="/events">All events</a>}>
        <Loaded of={events}>{(data) => <Feed events={data.events} />}</Loaded>
      </Section>
    </>
  );
}
