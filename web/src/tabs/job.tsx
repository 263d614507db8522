// One job: where it stands and why, its tries on one axis of time, what it waits for, its log and what it produced.
import { useMemo } from 'preact/hooks';
import { ago, bytes, count, duration, plural, shortId } from '../format';
import { LogViewer } from '../log/viewer';
import { now } from '../live';
import { whenLive } from '../moment';
import { useResource } from '../resource';
import { query, setQuery } from '../router';
import type { TabProps } from '../tabs';
import type { Attempt, Graph, Job } from '../types';
import { Icon } from '../ui/icon';
import { Empty, Facts, Failure, Loaded, Loading, Panel, Progress, Section, Time } from '../ui/parts';
import { attemptLook, jobLook, StateBadge } from '../ui/state';
import { actsFor, askFor, Why } from './queue';

const BOX = { width: 200, height: 34, gapX: 60, gapY: 12 };

function Head({ job }: { job: Job }) {
  const running = job.attempts.find((attempt) => attempt.state === 'building' || attempt.state === 'uploading');
  const elapsed = running?.started_at ? Math.max(0, now.value - Date.parse(running.started_at)) : null;
  const percent = elapsed !== null && job.estimate_ms ? Math.min(99, Math.round((100 * elapsed) / job.estimate_ms)) : null;
  const line = { ...job, node: null, attempts: job.attempts.length, session: job.session };
  return (
    <>
      <div class="title">
        <div class="grow">
          <h2 class="big" data-job-title>{job.target}</h2>
          <p class="dim">
            {job.backend} · <a href={`/queue?session=${job.session}`}>session {shortId(job.session)}</a> · queued <Time at={job.submitted_at} /> by {job.submitter} · priority {job.priority} · <span class="mono" title={job.id}>{shortId(job.id)}</span>
          </p>
        </div>
        <StateBadge look={running ? attemptLook(running.state) : jobLook(job.state)} />
        {actsFor(line).map((act) => (
          <button key={act.name} type="button" class="button small" data-act={act.name.toLowerCase()} onClick={() => askFor(act, [line])} {...whenLive()}>{act.name}</button>
        ))}
      </div>
      {running ? (
        <div class="running">
          <Progress percent={percent} label={`Progress of ${job.target}`} />
          <span class="dim num">{duration(elapsed)} on {running.node}{job.estimate_ms ? `, builds like it took ${duration(job.estimate_ms)}` : ', nothing like it was ever built'}</span>
        </div>
      ) : null}
      {job.reason && job.state !== 'blocked' ? <p class={`note ${job.state === 'failed' || job.state === 'quarantined' ? 'bad' : 'warn'}`}>{job.reason}</p> : null}
      {job.joined ? <p class="note warn">Does the same as <a href={`/jobs/${job.joined}`}>another job</a>, and ends as that one does.</p> : null}
    </>
  );
}

/** All tries on one axis of time, from queueing to the end. */
function Tries({ job, shown }: { job: Job; shown: number }) {
  if (job.attempts.length === 0) return <Panel class="pad"><Empty>It was not given to a drone yet.</Empty></Panel>;
  const begin = Date.parse(job.submitted_at);
  const end = Math.max(...job.attempts.map((attempt) => (attempt.ended_at ? Date.parse(attempt.ended_at) : now.value)), begin + 1_000);
  const part = (at: number) => Math.min(100, Math.max(0, (100 * (at - begin)) / (end - begin)));
  return (
    <Panel class="scroll-x">
      <table class="list cards">
        <thead><tr><th class="num">Try</th><th>State</th><th>Drone</th><th class="axis-head">Time, from queueing to the end</th><th class="num">Took</th><th>Why</th></tr></thead>
        <tbody>
          {job.attempts.map((attempt) => {
            const from = attempt.started_at ? Date.parse(attempt.started_at) : null;
            const to = attempt.ended_at ? Date.parse(attempt.ended_at) : now.value;
            return (
              <tr key={attempt.attempt}>
                <td data-label="Try" class="num"><button type="button" class="link" aria-pressed={attempt.attempt === shown} onClick={() => setQuery({ attempt: String(attempt.attempt) })}>{attempt.attempt}</button></td>
                <td data-label="State"><StateBadge look={attemptLook(attempt.state)} />{attempt.class ? <span class="dim"> {attempt.class}</span> : null}</td>
                <td data-label="Drone"><a href={`/nodes/${encodeURIComponent(attempt.node)}`}>{attempt.node}</a></td>
                <td data-label="Time" class="axis">
                  {from === null ? <span class="dim">has not begun</span> : (
                    <div class="bar-place" title={`${attempt.started_at} to ${attempt.ended_at ?? 'now'}`}>
                      <div class={`bar ${attemptLook(attempt.state).tone}`} style={{ left: `${part(from)}%`, width: `${Math.max(1, part(to) - part(from))}%` }} />
                    </div>
                  )}
                </td>
                <td data-label="Took" class="num">{from === null ? '–' : duration(to - from)}</td>
                <td data-label="Why" class="wrap">{attempt.reason}{attempt.exit_code ? <span class="dim"> exit {attempt.exit_code}</span> : null}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </Panel>
  );
}

/** What a job waits for on its left, what waits for it on its right. */
function Dependencies({ graph }: { graph: Graph }) {
  const { places, width, height } = useMemo(() => layout(graph), [graph]);
  const waits = graph.jobs.filter((job) => job.level < 0).length;
  const behind = graph.jobs.filter((job) => job.level > 0).length;
  return (
    <Panel class="graph-panel">
      <p class="pad dim">
        Needs {plural(waits, 'job')} before it; {plural(behind, 'job')} {behind === 1 ? 'waits' : 'wait'} for it.{graph.truncated ? ' There are more than are drawn.' : ''}
      </p>
      <div class="graph-scroll" tabIndex={0} role="group" aria-label="Dependencies">
        <svg width={width} height={height} viewBox={`0 0 ${width} ${height}`}>
          {graph.edges.map(([after, before]) => {
            const from = places.get(before);
            const to = places.get(after);
            if (!from || !to) return null;
            const [x1, y1, x2, y2] = [from.x + BOX.width, from.y + BOX.height / 2, to.x, to.y + BOX.height / 2];
            const bend = Math.max(20, (x2 - x1) / 2);
            return <path key={`${before}${after}`} class="edge" d={`M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`} />;
          })}
          {graph.jobs.map((job) => {
            const place = places.get(job.id);
            if (!place) return null;
            const look = jobLook(job.state);
            const text = job.target.length > 25 ? `${job.target.slice(0, 24)}…` : job.target;
            return (
              <a key={job.id} href={`/jobs/${job.id}`} aria-label={`${job.target}, ${look.word}`}>
                <title>{`${job.target}: ${look.word}${job.estimate_ms ? `, about ${duration(job.estimate_ms)}` : ''}`}</title>
                <rect class={`vertex ${look.tone} ${job.level === 0 ? 'middle' : ''}`} x={place.x} y={place.y} width={BOX.width} height={BOX.height} rx={8} />
                <rect class={`vertex-mark ${look.tone}`} x={place.x} y={place.y + 7} width={4} height={BOX.height - 14} rx={2} />
                <text x={place.x + 14} y={place.y + 22}>{text}</text>
              </a>
            );
          })}
        </svg>
      </div>
    </Panel>
  );
}

function layout(graph: Graph) {
  const levels = new Map<number, string[]>();
  for (const job of graph.jobs) levels.set(job.level, [...(levels.get(job.level) ?? []), job.id]);
  const order = [...levels.keys()].sort((left, right) => left - right);
  const most = Math.max(...[...levels.values()].map((ids) => ids.length));
  const height = most * (BOX.height + BOX.gapY) + BOX.gapY;
  const places = new Map<string, { x: number; y: number }>();
  order.forEach((level, column) => {
    const ids = levels.get(level) ?? [];
    const first = (height - ids.length * (BOX.height + BOX.gapY) + BOX.gapY) / 2;
    ids.forEach((id, row) => places.set(id, { x: 16 + column * (BOX.width + BOX.gapX), y: first + row * (BOX.height + BOX.gapY) }));
  });
  return { places, height, width: order.length * (BOX.width + BOX.gapX) - BOX.gapX + 32 };
}

function Artifacts({ job }: { job: Job }) {
  if (job.artifacts.length === 0) return null;
  return (
    <Section title="Artifacts">
      <Panel class="scroll-x">
        <table class="list cards">
          <thead><tr><th>File</th><th class="num">Size</th><th>SHA-256</th></tr></thead>
          <tbody>
            {job.artifacts.map((artifact) => (
              <tr key={artifact.sha256 + artifact.name}>
                <td data-label="File" class="wrap"><a href={`/api/v2/blobs/${artifact.sha256}`} download={artifact.name}><Icon name="download" size={14} /> {artifact.name}</a></td>
                <td data-label="Size" class="num">{bytes(artifact.size)}</td>
                <td data-label="SHA-256" class="mono wrap" title={artifact.sha256}>{artifact.sha256.slice(0, 16)}…</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Panel>
    </Section>
  );
}

const begun = (attempt: Attempt) => attempt.started_at !== null || attempt.ended_at !== null;

export default function JobPage({ argument }: TabProps) {
  const id = argument ?? '';
  const job = useResource<Job>(`/api/v2/jobs/${encodeURIComponent(id)}`, { kinds: ['jobs'], atMostMs: 700 });
  const linked = (job.data?.depends_on.length ?? 0) > 0;
  const graph = useResource<Graph>(`/api/v2/jobs/${encodeURIComponent(id)}/graph`, { kinds: ['jobs'], atMostMs: 3_000 });
  if (job.data === null) return job.error ? <Failure error={job.error} /> : <Loading />;
  const data = job.data;
  const wanted = Number(query.value.get('attempt'));
  const last = [...data.attempts].reverse().find(begun) ?? data.attempts[data.attempts.length - 1];
  const attempt = data.attempts.find((one) => one.attempt === wanted) ?? last;
  const waits = data.state === 'needed' || data.state === 'blocked';
  return (
    <>
      {job.error ? <Failure error={job.error} /> : null}
      <Head job={data} />
      {waits ? <Section title="Why it waits"><Panel class="pad"><Why what={data.id} /></Panel></Section> : null}
      <Section title="Tries"><Tries job={data} shown={attempt?.attempt ?? 0} /></Section>
      <Artifacts job={data} />
      {linked || (graph.data?.jobs.length ?? 0) > 1 ? (
        <Section title="Dependencies"><Loaded of={graph}>{(found) => <Dependencies graph={found} />}</Loaded></Section>
      ) : null}
      {attempt && begun(attempt) ? (
        <Section title={`Log of try ${attempt.attempt}`} id="log" aside={<span class="dim">on {attempt.node}{attempt.ended_at ? `, ended ${ago(attempt.ended_at, now.value)}` : ''}</span>}>
          <LogViewer key={`${data.id}-${attempt.attempt}`} job={data.id} attempt={attempt.attempt} target={data.target} growing={!attempt.ended_at} />
        </Section>
      ) : null}
      <Section title="About this job" id="about">
        <Panel class="pad">
          <Facts rows={[
            ['Id', <span class="mono">{data.id}</span>],
            ['Session', <a class="mono" href={`/queue?session=${data.session}`}>{data.session}</a>],
            ['Labels', data.labels.length ? <span class="tags">{data.labels.map((label) => <span key={label} class="tag">{label}</span>)}</span> : 'none'],
            ['Outside effects', data.pure ? 'none: it may be repeated' : 'it may have some'],
            ['Depends on', plural(data.depends_on.length, 'job')],
            ['Expected', data.estimate_ms ? duration(data.estimate_ms) : 'nothing like it was ever built'],
            ['Tries', count(data.attempts.length)],
          ]} />
        </Panel>
      </Section>
    </>
  );
}
