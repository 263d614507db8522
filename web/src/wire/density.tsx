// How many messages there were when: columns of the last minutes, refused ones marked; a click goes to that moment.
import { url } from '../api';
import { clock, count, plural } from '../format';
import { useResource } from '../resource';
import type { Density } from './types';

const COLUMNS = 120;
const HEIGHT = 54;

export function Histogram({ filter, node, before, onMoment }: { filter: string; node: string | null; before: string | null; onMoment: (before: string | null) => void }) {
  const answer = useResource<Density>(url('/api/v2/wire/density', { filter, node, buckets: COLUMNS }), { kinds: [], everyMs: 5_000, atMostMs: 3_000 });
  const data = answer.data;
  if (data === null) return <div class="wire-density panel" />;
  const most = Math.max(1, ...data.counts);
  const [start, end] = [Date.parse(data.start), Date.parse(data.end)];
  const each = (end - start) / data.counts.length;
  const all = data.counts.reduce((sum, one) => sum + one, 0);
  const bad = data.refused.reduce((sum, one) => sum + one, 0);
  const marked = before ? (Date.parse(before) - start) / each : null;
  return (
    <figure class="wire-density panel">
      <svg
        viewBox={`0 0 ${data.counts.length} ${HEIGHT}`}
        preserveAspectRatio="none"
        role="img"
        aria-label={`${plural(all, 'message')} between ${clock(start)} and ${clock(end)}, ${count(bad)} refused; at most ${count(most)} in ${Math.round(each / 1000)} s`}
        onClick={(event) => {
          const box = event.currentTarget.getBoundingClientRect();
          const column = Math.floor(((event.clientX - box.left) / box.width) * data.counts.length);
          onMoment(new Date(start + (column + 1) * each).toISOString());
        }}
      >
        {data.counts.map((value, at) => {
          const high = (HEIGHT - 2) * (value / most);
          const low = (HEIGHT - 2) * ((data.refused[at] ?? 0) / most);
          return (
            <g key={at}>
              <title>{`${clock(start + at * each)}: ${plural(value, 'message')}${data.refused[at] ? `, ${data.refused[at]} refused` : ''}`}</title>
              <rect class="reach" x={at} y={0} width={1} height={HEIGHT} />
              <rect class="all" x={at + 0.1} y={HEIGHT - high} width={0.8} height={high} />
              {low > 0 ? <rect class="bad" x={at + 0.1} y={HEIGHT - Math.max(low, 3)} width={0.8} height={Math.max(low, 3)} /> : null}
            </g>
          );
        })}
        {marked !== null && marked >= 0 && marked <= data.counts.length ? <line class="moment" x1={marked} x2={marked} y1={0} y2={HEIGHT} /> : null}
      </svg>
      <figcaption class="dim">
        <span>{clock(start)}</span>
        <span>{plural(all, 'message')}{bad ? <>, <b>{count(bad)} refused</b></> : ''}{before ? <> · <button type="button" class="link" onClick={() => onMoment(null)}>back to now</button></> : ''}</span>
        <span>{clock(end)}</span>
      </figcaption>
    </figure>
  );
}
