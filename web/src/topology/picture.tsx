// The nodes and the lines between them, drawn once and again only when something about them changes. What moves lies above it (dots.ts).
import type { Machine } from '../tabs/fleet';
import type { Layout, Part, Spot } from './layout';
import { OUTSIDE } from './sample';
import type { Level } from './dots';

/** A node as it is drawn. */
export interface Drawn {
  machine: Machine;
  name: string;
  part: Part;
  level: Level;
  /** What its level means, in words. */
  health: string;
}

const RADIUS: Record<Part, number> = { coordinator: 26, voter: 21, staging: 18, drone: 17, legacy: 15 };
const LABEL_MAX = 12;
const BAR_WIDTH = 56;
const BARS_MAX = 3;

export const radiusOf = (part: Part): number => RADIUS[part];

function hexagon(radius: number): string {
  return [0, 1, 2, 3, 4, 5].map((corner) => {
    const angle = (Math.PI / 3) * corner + Math.PI / 6;
    return `${(radius * Math.cos(angle)).toFixed(1)},${(radius * Math.sin(angle)).toFixed(1)}`;
  }).join(' ');
}

function Shape({ part }: { part: Part }) {
  const radius = RADIUS[part];
  if (part === 'coordinator' || part === 'voter') return <polygon class="shape" points={hexagon(radius)} />;
  if (part === 'staging') return <rect class="shape" x={-radius * 0.9} y={-radius * 0.9} width={radius * 1.8} height={radius * 1.8} rx={5} />;
  return <circle class="shape" r={radius} />;
}

function Bars({ drawn, top }: { drawn: Drawn; top: number }) {
  const builds = (drawn.machine.drone?.builds ?? []).filter((build) => build.state !== 'assigned').slice(0, BARS_MAX);
  return (
    <>
      {builds.map((build, at) => (
        <g key={`${build.job}${build.attempt}`} transform={`translate(${-BAR_WIDTH / 2} ${top + at * 7})`}>
          <title>{`${build.target}: ${build.percent === null ? 'runs' : `${build.percent} %`}`}</title>
          <rect class="bar-ground" width={BAR_WIDTH} height={4.5} rx={2.2} />
          <rect class={build.percent === null ? 'bar-part unknown' : 'bar-part'} width={(BAR_WIDTH * (build.percent ?? 100)) / 100} height={4.5} rx={2.2} />
        </g>
      ))}
    </>
  );
}

function Node({ drawn, spot, dimmed, onMark }: { drawn: Drawn; spot: Spot; dimmed: boolean; onMark: (name: string | null) => void }) {
  const { name, part, machine, level, health } = drawn;
  const radius = RADIUS[part];
  const label = name.length > LABEL_MAX ? `${name.slice(0, LABEL_MAX - 1)}…` : name;
  const work = machine.drone ? `${machine.drone.used}/${machine.drone.slots}` : '';
  const role = machine.drone?.role ?? machine.node?.role ?? '';
  const said = [name, part, role, health, work ? `${machine.drone?.used} of ${machine.drone?.slots} slots taken` : ''].filter(Boolean).join(', ');
  return (
    <a
      href={`/nodes/${encodeURIComponent(name)}`}
      data-name={name}
      class={`topo-node ${part} level-${level} ${dimmed ? 'dimmed' : ''}`}
      onPointerEnter={() => onMark(name)}
      onPointerLeave={() => onMark(null)}
      onFocus={() => onMark(name)}
      onBlur={() => onMark(null)}
    >
      <title>{said}</title>
      <g transform={`translate(${spot.x.toFixed(1)} ${spot.y.toFixed(1)})`}>
        <circle class="reach" r={radius + 10} />
        <Shape part={part} />
        <text class="inside" y={4}>{part === 'coordinator' && !work ? '★' : work}</text>
        <text class="label" y={radius + 15}>{label}</text>
        {level > 0 ? <text class="mark" x={radius * 0.8} y={-radius * 0.65}>{level >= 3 ? '✕' : level === 2 ? '!' : '‖'}</text> : null}
        <Bars drawn={drawn} top={radius + 21} />
      </g>
    </a>
  );
}

/** Lines that always are: members hang on the coordinator, voters on each other. */
function Links({ nodes, at, marked }: { nodes: Drawn[]; at: Layout; marked: string | null }) {
  const middle = nodes.find((node) => node.part === 'coordinator');
  const voters = nodes.filter((node) => node.part === 'voter' || node.part === 'coordinator' || node.machine.node?.raft === 'voter');
  const lines: { key: string; from: Spot; to: Spot; kind: string }[] = [];
  const add = (left: Drawn, right: Drawn, kind: string) => {
    const [from, to] = [at.spots.get(left.name), at.spots.get(right.name)];
    if (!from || !to) return;
    const broken = left.level >= 3 || right.level >= 3 ? ' broken' : '';
    const lit = marked === left.name || marked === right.name ? ' lit' : '';
    lines.push({ key: `${left.name} ${right.name}`, from, to, kind: kind + broken + lit });
  };
  voters.forEach((one, place) => voters.slice(place + 1).forEach((other) => add(one, other, 'raft')));
  if (middle) for (const node of nodes) if (!voters.includes(node)) add(middle, node, node.part === 'legacy' ? 'work old' : 'work');
  return (
    <g class="links" aria-hidden="true">
      {lines.map(({ key, from, to, kind }) => <line key={key} class={kind} x1={from.x} y1={from.y} x2={to.x} y2={to.y} />)}
    </g>
  );
}

export function Picture({ nodes, at, marked, dimmed, outside, onMark }: {
  nodes: Drawn[];
  at: Layout;
  marked: string | null;
  dimmed: ReadonlySet<string>;
  /** Somebody who is no node speaks with one. */
  outside: boolean;
  onMark: (name: string | null) => void;
}) {
  const [cx, cy] = [at.width / 2, at.height / 2];
  return (
    <svg class="topo" viewBox={`0 0 ${at.width.toFixed(0)} ${at.height.toFixed(0)}`} role="group" aria-label="Nodes of the hive; the table says the same">
      <g aria-hidden="true">
        {at.rings.map(({ rx, ry }) => <ellipse key={rx} class="orbit" cx={cx} cy={cy} rx={rx} ry={ry} />)}
      </g>
      <Links nodes={nodes} at={at} marked={marked} />
      {nodes.map((drawn) => {
        const spot = at.spots.get(drawn.name);
        return spot ? <Node key={drawn.name} drawn={drawn} spot={spot} dimmed={dimmed.has(drawn.name)} onMark={onMark} /> : null;
      })}
      {outside ? (
        <g class="outside" transform={`translate(${at.outside.x} ${at.outside.y})`}>
          <title>{`Browsers, programs and strangers ${OUTSIDE}`}</title>
          <circle class="shape" r={7} />
          <text class="label" x={13} y={4}>outside</text>
        </g>
      ) : null}
    </svg>
  );
}
