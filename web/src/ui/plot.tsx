// A chart over time. uPlot is loaded with the first chart that is shown; beside each chart stands its table for readers.
import { effect } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';
import uPlot from 'uplot';
import { clock } from '../format';
import { dark } from '../theme';

export interface Line {
  label: string;
  /** A CSS variable with its colour. */
  colour: string;
  values: number[];
}

interface Props {
  /** Seconds since 1970. */
  times: number[];
  lines: Line[];
  height?: number;
  label: string;
}

function look(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function options({ lines, height = 180 }: Props, width: number): uPlot.Options {
  const ink = look('--dim');
  const grid = { stroke: look('--line'), width: 1 };
  const font = '11px system-ui, sans-serif';
  return {
    width,
    height,
    padding: [8, 8, 0, 0],
    legend: { show: false },
    cursor: { y: false, points: { size: 6 } },
    scales: { y: { range: (_, __, max) => [0, Math.max(4, max * 1.1)] } },
    axes: [
      { stroke: ink, grid: { show: false }, ticks: { show: false }, font, size: 26, values: (_, splits) => splits.map((at) => clock(at * 1000)) },
      { stroke: ink, grid, ticks: { show: false }, font, size: 36, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000, 10000, 50000] },
    ],
    series: [
      {},
      ...lines.map((line) => ({
        label: line.label,
        stroke: look(line.colour),
        fill: `${look(line.colour)}22`,
        width: 2,
        points: { show: false },
        ...(uPlot.paths.stepped ? { paths: uPlot.paths.stepped({ align: 1 }) } : {}),
      })),
    ],
  };
}

export default function Plot(props: Props) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const data = (): uPlot.AlignedData => [props.times, ...props.lines.map((line) => line.values)];
  const newest = useRef(props);
  newest.current = props;
  useEffect(() => {
    const place = box.current;
    if (!place) return;
    const draw = () => {
      plot.current?.destroy();
      plot.current = new uPlot(options(newest.current, place.clientWidth), data(), place);
    };
    const themed = effect(() => {
      void dark.value;
      draw();
    });
    const size = new ResizeObserver(() => plot.current?.setSize({ width: place.clientWidth, height: newest.current.height ?? 180 }));
    size.observe(place);
    return () => {
      themed();
      size.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [props.lines.length]);
  useEffect(() => plot.current?.setData(data()), [props.times, props.lines]);
  return (
    <figure class="plot">
      <figcaption>
        {props.lines.map((line) => (
          <span key={line.label} class={`legend ${line.colour.slice(2)}`}>{line.label}</span>
        ))}
      </figcaption>
      <div ref={box} role="img" aria-label={props.label} />
    </figure>
  );
}
