// A result as a chart: one column along, one or more numbers up. Loaded when it is first wanted.
import { effect } from '@preact/signals';
import { useEffect, useMemo, useRef } from 'preact/hooks';
import uPlot from 'uplot';
import { dark } from '../theme';
import { isTime, type SqlAnswer } from './types';

const TONES = ['--busy', '--good', '--warn', '--bad', '--honey'];
const POINTS_MAX = 5_000;
const HEIGHT = 260;

function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** Values along the axis: times, numbers that rise, or names one after the other. */
function along(answer: SqlAnswer, at: number): { kind: 'time' | 'number' | 'names'; values: number[]; names: string[]; order: number[] } {
  const rows = answer.rows.slice(0, POINTS_MAX);
  const name = answer.columns[at]?.name ?? '';
  const cells = rows.map((row) => row[at] ?? null);
  const order = rows.map((_, row) => row);
  const dates = cells.map((cell) => (typeof cell === 'number' && isTime(name, cell) ? cell : typeof cell === 'string' && /^\d{4}-\d\d-\d\d/.test(cell) ? Date.parse(cell) / 1_000 : NaN));
  const all = (list: number[]) => list.length > 0 && list.every((one) => Number.isFinite(one));
  const sorted = (list: number[]) => order.sort((left, right) => (list[left] ?? 0) - (list[right] ?? 0));
  if (all(dates)) return { kind: 'time', values: sorted(dates).map((row) => dates[row] ?? 0), names: [], order };
  const numbers = cells.map((cell) => (typeof cell === 'number' ? cell : NaN));
  if (all(numbers)) return { kind: 'number', values: sorted(numbers).map((row) => numbers[row] ?? 0), names: [], order };
  return { kind: 'names', values: order, names: cells.map((cell) => (cell === null ? 'none' : String(cell))), order };
}

export default function Chart({ answer, x, ys, label }: { answer: SqlAnswer; x: number; ys: number[]; label: string }) {
  const box = useRef<HTMLDivElement>(null);
  const data = useMemo(() => {
    const { kind, values, names, order } = along(answer, x);
    const lines = ys.map((y) => order.map((row) => { const value = answer.rows[row]?.[y]; return typeof value === 'number' ? value : null; }));
    return { kind, names, plot: [values, ...lines] as uPlot.AlignedData };
  }, [answer, x, ys.join()]);
  useEffect(() => {
    const place = box.current;
    if (!place) return;
    let plot: uPlot | null = null;
    const draw = () => {
      plot?.destroy();
      const font = '11px system-ui, sans-serif';
      const axis = { stroke: colour('--dim'), grid: { stroke: colour('--line'), width: 1 }, ticks: { show: false }, font };
      const bars = data.kind === 'names' && uPlot.paths.bars ? { paths: uPlot.paths.bars({ size: [ys.length > 1 ? 0.4 : 0.7, 60] }) } : {};
      plot = new uPlot({
        width: place.clientWidth, height: HEIGHT, padding: [10, 12, 0, 0],
        scales: { x: { time: data.kind === 'time', ...(data.kind === 'names' ? { range: (_, low, high) => [low - 0.6, high + 0.6] as [number, number] } : {}) } },
        axes: [
          { ...axis, grid: { show: false }, ...(data.kind === 'names' ? { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000], values: (_, splits) => splits.map((at) => (Number.isInteger(at) ? (data.names[at] ?? '').slice(0, 16) : '')), rotate: -30, size: 70 } : {}) },
          { ...axis, size: 62 },
        ],
        series: [
          data.kind === 'names' ? { label: answer.columns[x]?.name ?? '', value: (_, at) => data.names[at] ?? '' } : { label: answer.columns[x]?.name ?? '' },
          ...ys.map((y, at) => ({ label: answer.columns[y]?.name ?? '', stroke: colour(TONES[at % TONES.length] ?? '--busy'), fill: `${colour(TONES[at % TONES.length] ?? '--busy')}${data.kind === 'names' ? 'bb' : '1e'}`, width: 2, spanGaps: false, ...bars })),
        ],
      }, data.plot, place);
    };
    const themed = effect(() => {
      void dark.value;
      draw();
    });
    const size = new ResizeObserver(() => plot?.setSize({ width: place.clientWidth, height: HEIGHT }));
    size.observe(place);
    return () => {
      themed();
      size.disconnect();
      plot?.destroy();
    };
  }, [data]);
  return <div ref={box} class="data-chart" role="img" aria-label={label} />;
}
