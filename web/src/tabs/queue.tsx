// The queue: any number of jobs, filtered on the node, each with why it waits; and acts on one, on chosen ones, or on a whole session.
import { signal } from '@preact/signals';
import { useEffect, useState } from 'preact/hooks';
import { get, send, url } from '../api';
import { about, ago, count, plural, sentence, shortId } from '../format';
import { now, refresh, status } from '../live';
import { query, setQuery } from '../router';
import { mayAdmin, mayQueue } from '../session';
import type { Changed, Explanation, JobLine, JobPage, JobState, SessionLine } from '../types';
import { moment, whenLive } from '../moment';
import { useResource } from '../resource';
import { confirm, Dialog } from '../ui/dialog';
import { Grid } from '../ui/grid';
import { Icon } from '../ui/icon';
import { useJobPages } from '../ui/pages';
import { Failure, FilterField, Loaded, Loading } from '../ui/parts';
import { jobLook, StateBadge } from '../ui/state';

const STATES: JobState[] = ['delegated', 'needed', 'blocked', 'failed', 'quarantined', 'received', 'cancelled'];
const ROW_PX = 40;
/** Jobs named in a preview. */
const NAMED = 6;
/** Most jobs that one act over chosen ones is sent for. */
const CHOSEN_MAX = 500;

const chosen = signal<Map<string, JobLine>>(new Map());
const explained = signal<JobLine | null>(null);

function choose(job: JobLine, on: boolean): void {
  const next = new Map(chosen.value);
  if (on) next.set(job.id, job);
  else next.delete(job.id);
  chosen.value = next;
}

/** Why a job waits, as the planner says it, and what would change that. */
export function Why({ what }: { what: string }) {
  const told = useResource<Explanation>(moment.value === null ? `/api/v2/explain/${encodeURIComponent(what)}` : null, { everyMs: 5_000 });
  if (moment.value !== null) return <p class="dim">What the planner said of each drone at that moment is not kept. What the job itself was waiting for stands in the list.</p>;
  return (
    <Loaded of={told}>
      {(data) => (
        <div class="why">
          <p><b>{sentence(data.summary)}</b></p>
          {data.remedy ? <p class="note good">{sentence(data.remedy)}</p> : null}
          {data.details.length ? (
            <ul class="reasons">
              {data.details.map((line) => (
                <li key={`${line.name}${line.why}`}>
                  <Icon name={line.eligible ? 'good' : 'bad'} size={14} /><span class="sr">{line.eligible ? 'fits:' : 'does not fit:'}</span> <b>{line.name}</b> <span class="dim">{line.why}</span>
                </li>
              ))}
            </ul>
          ) : null}
        </div>
      )}
    </Loaded>
  );
}

/** What an act will hit, before it is done. */
function Preview({ jobs, total }: { jobs: JobLine[]; total: number }) {
  const running = jobs.filter((job) => job.state === 'delegated').length;
  return (
    <>
      <p><b>{plural(total, 'job')}</b>{running ? <>, of which <b>{count(running)}</b> {running === 1 ? 'is' : 'are'} being built now</> : null}:</p>
      <ul class="preview">
        {jobs.slice(0, NAMED).map((job) => <li key={job.id}><span class="clip">{job.target}</span> <StateBadge look={jobLook(job.state)} /></li>)}
        {total > NAMED ? <li class="dim">and {count(total - NAMED)} more</li> : null}
      </ul>
    </>
  );
}

async function each(jobs: JobLine[], act: (job: JobLine) => Promise<unknown>): Promise<string> {
  let done = 0;
  const failed: string[] = [];
  for (const job of jobs) {
    try {
      await act(job);
      done += 1;
    } catch (error) {
      failed.push(`${job.target}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  refresh();
  if (failed.length) throw new Error(`${done} done, ${failed.length} not: ${failed.slice(0, 3).join('; ')}`);
  return `${plural(done, 'job')} done.`;
}

interface Act {
  name: string;
  verb: string;
  danger?: boolean;
  admin: boolean;
  fits: (job: JobLine) => boolean;
  run: (job: JobLine, reason: string) => Promise<unknown>;
}

const over = (job: JobLine) => job.state === 'received' || job.state === 'failed' || job.state === 'cancelled' || job.state === 'quarantined';
const controls = (action: string) => (job: JobLine, reason: string) => send<Changed>('/api/v2/control', { action, job: job.id, reason });

const ACTS: Act[] = [
  { name: 'Cancel', verb: 'Cancel them', danger: true, admin: false, fits: (job) => !over(job), run: (job, reason) => send(`/api/v2/jobs/${job.id}/cancel`, { reason }) },
  { name: 'Block', verb: 'Block them', admin: true, fits: (job) => job.state === 'needed', run: controls('block') },
  { name: 'Unblock', verb: 'Unblock them', admin: true, fits: (job) => job.state === 'blocked', run: controls('unblock') },
  { name: 'Retry', verb: 'Try them again', admin: true, fits: (job) => job.state === 'failed' || job.state === 'quarantined' || job.state === 'blocked', run: controls('retry_failures') },
];

/** Asks whether an act shall be done to these jobs, and does it. */
export function askFor(act: Act, jobs: JobLine[]): void {
  const hit = jobs.filter(act.fits).slice(0, CHOSEN_MAX);
  confirm({
    title: `${act.name} ${plural(hit.length, 'job')}`,
    verb: hit.length === 1 ? `${act.name} it` : act.verb,
    danger: act.danger ?? false,
    reason: true,
    body: <Preview jobs={hit} total={hit.length} />,
    run: async (reason) => {
      const said = await each(hit, (job) => act.run(job, reason));
      chosen.value = new Map();
      return said;
    },
  });
}

export function actsFor(job: JobLine): Act[] {
  return ACTS.filter((act) => act.fits(job) && (act.admin ? mayAdmin.value : mayQueue.value));
}

function Chosen() {
  const jobs = [...chosen.value.values()];
  if (jobs.length === 0 || !mayQueue.value) return null;
  return (
    <div class="chosen panel" role="group" aria-label="Acts on the chosen jobs">
      <b>{plural(jobs.length, 'job')} chosen</b>
      {ACTS.filter((act) => (act.admin ? mayAdmin.value : true)).map((act) => {
        const hit = jobs.filter(act.fits).length;
        return <button key={act.name} type="button" class="button small" disabled={hit === 0} onClick={() => askFor(act, jobs)} {...whenLive()}>{act.name} {hit ? count(hit) : ''}</button>;
      })}
      <button type="button" class="button small" onClick={() => (chosen.value = new Map())}>Choose none</button>
    </div>
  );
}

/** Acts on all of a session, with a count of what they will hit. */
function SessionActs({ session }: { session: SessionLine }) {
  if (!mayQueue.value || session.completed_at) return null;
  const name = session.name || shortId(session.id);
  const cancel = async () => {
    const { data } = await get<JobPage>(url('/api/v2/queue', { session: session.id, state: 'needed,delegated,blocked', limit: 100 }));
    confirm({
      title: `Cancel the session ${name}`, verb: 'Cancel all of it', danger: true, reason: true,
      body: <Preview jobs={data.jobs} total={data.total} />,
      run: async (reason) => {
        const changed = await send<Changed>(`/api/v2/sessions/${session.id}/cancel`, { reason });
        refresh();
        return `${plural(changed.jobs, 'job')} cancelled.`;
      },
    });
  };
  const retry = async () => {
    const { data } = await get<JobPage>(url('/api/v2/queue', { session: session.id, state: 'failed,blocked,quarantined', limit: 100 }));
    confirm({
      title: `Try again what failed in ${name}`, verb: 'Try them again', reason: true,
      body: <Preview jobs={data.jobs} total={data.total} />,
      run: async (reason) => {
        const changed = await send<Changed>('/api/v2/control', { action: 'retry_failures', session: session.id, reason });
        refresh();
        return `${plural(changed.jobs, 'job')} will be tried again.`;
      },
    });
  };
  return (
    <>
      {mayAdmin.value ? <button type="button" class="button small" onClick={() => void retry()} {...whenLive()}>Retry failures</button> : null}
      <button type="button" class="button small" onClick={() => void cancel()} {...whenLive()}>Cancel session</button>
    </>
  );
}

function cells(job: JobLine): preact.ComponentChildren[] {
  const waits = job.waiting_for && (job.state === 'needed' || job.state === 'blocked');
  const cells = [
    (
      <input
        type="checkbox"
        aria-label={`Choose ${job.target}`}
        checked={chosen.value.has(job.id)}
        onChange={(event) => choose(job, event.currentTarget.checked)}
      />
    ),
    <a href={`/jobs/${job.id}`} title={job.target}>{job.target}</a>,
    <StateBadge look={jobLook(job.state)} />,
    waits ? (
      <button type="button" class="reason" title={job.waiting_for ?? ''} onClick={() => (explained.value = job)}>{job.waiting_for}</button>
    ) : job.node ? <a href={`/nodes/${encodeURIComponent(job.node)}`}>{job.node}</a> : <span class="dim">–</span>,
    <span class="dim">{job.backend}</span>,
    <span class="num">{job.priority}</span>,
    <span class="num">{job.estimate_ms === null ? '–' : about(job.estimate_ms)}</span>,
    <span class="dim num">{ago(job.submitted_at, now.value)}</span>,
  ];
  return mayQueue.value ? cells : cells.slice(1);
}

const HEAD = [
  <span class="sr">Chosen</span>, 'Target', 'State', 'Where, or what it waits for', 'Builder', <span class="num">Priority</span>, <span class="num">Expected</span>,
  <span class="num">Queued</span>,
];

export default function Queue() {
  const params = query.value;
  const state = params.get('state') ?? '';
  const session = params.get('session');
  const order = params.get('order') ?? 'newest';
  const typed = params.get('q') ?? '';
  const [text, setText] = useState(typed);
  useEffect(() => {
    const timer = setTimeout(() => setText(typed), 200);
    return () => clearTimeout(timer);
  }, [typed]);
  const pages = useJobPages({ state, session, order, q: text, drone: params.get('drone'), backend: params.get('backend') });
  const sessions = useResource<{ sessions: SessionLine[] }>('/api/v2/sessions?limit=50', { kinds: ['jobs', 'sessions'], atMostMs: 3_000 });
  const shown = sessions.data?.sessions.find((one) => one.id === session);
  const picked = new Set(state.split(',').filter(Boolean));
  const toggle = (one: JobState) => {
    const next = new Set(picked);
    if (!next.delete(one)) next.add(one);
    setQuery({ state: [...next].join(',') || null });
  };
  const job = explained.value;
  return (
    <>
      <div class="toolbar">
        <FilterField value={typed} label="Filter jobs" placeholder="Package or id" onInput={(q) => setQuery({ q })} />
        <select class="field" aria-label="Session" value={session ?? ''} onChange={(event) => setQuery({ session: event.currentTarget.value || null })}>
          <option value="">All sessions</option>
          {session && !shown ? <option value={session}>{shortId(session)}</option> : null}
          {sessions.data?.sessions.map((one) => <option key={one.id} value={one.id}>{one.name || shortId(one.id)} ({one.phase})</option>)}
        </select>
        <select class="field" aria-label="Order" value={order} onChange={(event) => setQuery({ order: event.currentTarget.value === 'newest' ? null : event.currentTarget.value })}>
          <option value="newest">Newest first</option>
          <option value="oldest">Oldest first</option>
          <option value="priority">Priority first</option>
        </select>
        {shown ? <SessionActs session={shown} /> : null}
        <span class="end" role="status">{pages.loaded ? plural(pages.total, 'job') : ''}{status.value?.queue.paused ? ', the queue is paused' : ''}</span>
      </div>
      <div class="chips" role="group" aria-label="States">
        <button type="button" aria-pressed={picked.size === 0} onClick={() => setQuery({ state: null })}>All</button>
        {STATES.map((one) => (
          <button key={one} type="button" aria-pressed={picked.has(one)} onClick={() => toggle(one)}>
            {jobLook(one).word} <span class="num">{count(pages.states[one] ?? 0)}</span>
          </button>
        ))}
      </div>
      <Chosen />
      {pages.error ? <Failure error={pages.error} /> : null}
      {!pages.loaded ? <Loading /> : pages.total === 0 ? (
        <p class="empty">No job fits. <code>hive queue add</code> queues work{typed || state || session ? <>, or <a href="/queue">show all</a></> : null}.</p>
      ) : (
        <Grid
          label="Jobs"
          count={pages.total}
          rowPx={ROW_PX}
          columns={mayQueue.value ? 'queue-columns choosing' : 'queue-columns'}
          head={mayQueue.value ? HEAD : HEAD.slice(1)}
          row={(at) => {
            const line = pages.row(at);
            return line ? cells(line) : null;
          }}
          onRange={pages.range}
        />
      )}
      {job ? (
        <Dialog title={`Why ${job.target} waits`} onClose={() => (explained.value = null)}>
          <Why what={job.id} />
        </Dialog>
      ) : null}
    </>
  );
}
