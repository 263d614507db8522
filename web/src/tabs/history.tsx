// Attempts that are over, and what is known of packages: how often, how long, where it failed.
import { ago, bytes, count, duration, plural } from '../format';
import { now } from '../live';
import { useResource } from '../resource';
import { query, setQuery } from '../router';
import { url } from '../api';
import type { HistoryLine } from '../types';
import { Choice, Empty, FilterField, Loaded, Panel, Time } from '../ui/parts';
import { attemptLook, StateBadge } from '../ui/state';

interface PackageLine {
  package: string;
  attempts: number;
  successes: number;
  tried_on: string[];
  last_attempt: string;
  p50_ms: number | null;
  p90_ms: number | null;
  samples: number;
}

function Attempts({ list, text }: { list: HistoryLine[]; text: string }) {
  const shown = list.filter((line) => `${line.target} ${line.drone} ${line.reason ?? ''} ${line.class ?? ''}`.toLowerCase().includes(text.toLowerCase()));
  if (shown.length === 0) return <Empty>Nothing fits.</Empty>;
  return (
    <Panel class="scroll-x">
      <table class="list cards">
        <thead><tr><th>Target</th><th>Result</th><th>Drone</th><th class="num">Took</th><th class="num">Size</th><th>Ended</th><th>Why</th></tr></thead>
        <tbody>
          {shown.map((line) => (
            <tr key={`${line.job}-${line.attempt}`}>
              <td data-label="Target" class="wrap"><a href={`/jobs/${line.job}?attempt=${line.attempt}`}>{line.target}</a>{line.attempt > 1 ? <span class="dim"> try {line.attempt}</span> : null}</td>
              <td data-label="Result"><StateBadge look={attemptLook(line.state)} />{line.class ? <span class="dim"> {line.class}</span> : null}</td>
              <td data-label="Drone"><a href={`/nodes/${encodeURIComponent(line.drone)}`}>{line.drone}</a></td>
              <td data-label="Took" class="num">{duration(line.duration_ms)}</td>
              <td data-label="Size" class="num">{line.artifact_bytes === null ? null : bytes(line.artifact_bytes)}</td>
              <td data-label="Ended"><Time at={line.ended_at} /></td>
              <td data-label="Why" class="wrap">{line.reason}{line.exit_code !== null && line.exit_code !== 0 ? <span class="dim"> exit {line.exit_code}</span> : null}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Panel>
  );
}

function Packages({ list, text }: { list: PackageLine[]; text: string }) {
  const shown = list.filter((line) => line.package.toLowerCase().includes(text.toLowerCase()));
  if (shown.length === 0) return <Empty>Nothing fits.</Empty>;
  return (
    <Panel class="scroll-x">
      <table class="list cards">
        <thead><tr><th>Package</th><th class="num">Tries</th><th class="num">Succeeded</th><th class="num">Half took at most</th><th class="num">Nine of ten</th><th>Tried on</th><th>Last</th></tr></thead>
        <tbody>
          {shown.map((line) => (
            <tr key={line.package}>
              <td data-label="Package" class="wrap"><a href={url('/queue', { q: line.package })}>{line.package}</a></td>
              <td data-label="Tries" class="num">{count(line.attempts)}</td>
              <td data-label="Succeeded" class="num">{line.attempts ? `${Math.round((100 * line.successes) / line.attempts)} %` : '–'}</td>
              <td data-label="Half" class="num">{duration(line.p50_ms)}</td>
              <td data-label="Nine of ten" class="num">{duration(line.p90_ms)}</td>
              <td data-label="Tried on" class="wrap">{line.tried_on.join(', ')}</td>
              <td data-label="Last">{ago(line.last_attempt, now.value)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Panel>
  );
}

export default function History() {
  const params = query.value;
  const show = params.get('show') ?? 'all';
  const text = params.get('q') ?? '';
  const packages = show === 'packages';
  const path = url('/api/v2/history', { failed: show === 'failed' ? 'true' : null, drone: params.get('drone'), package: params.get('package'), limit: 300 });
  const attempts = useResource<{ history: HistoryLine[]; truncated: boolean }>(packages ? null : path, { kinds: ['jobs'], atMostMs: 2_000 });
  const known = useResource<{ packages: PackageLine[] }>(packages ? '/api/v2/build-stats/by-package?limit=300' : null, { kinds: ['jobs'], atMostMs: 5_000 });
  return (
    <>
      <div class="toolbar">
        <FilterField value={text} label="Filter history" placeholder="Package, drone, reason" onInput={(q) => setQuery({ q })} />
        <Choice
          label="What"
          value={show}
          options={[{ value: 'all', text: 'Attempts' }, { value: 'failed', text: 'Failures only' }, { value: 'packages', text: 'Packages' }]}
          onChange={(value) => setQuery({ show: value === 'all' ? null : value })}
        />
        {params.get('drone') ? <button type="button" class="button small" onClick={() => setQuery({ drone: null })}>on {params.get('drone')} ✕</button> : null}
        <span class="end" role="status">
          {packages ? (known.data ? plural(known.data.packages.length, 'package') : '') : attempts.data ? `${plural(attempts.data.history.length, 'attempt')}${attempts.data.truncated ? ', older ones are not shown' : ''}` : ''}
        </span>
      </div>
      {packages
        ? <Loaded of={known}>{(data) => <Packages list={data.packages} text={text} />}</Loaded>
        : <Loaded of={attempts}>{(data) => <Attempts list={data.history} text={text} />}</Loaded>}
    </>
  );
}
