// Where each node stands: the coordinator in the middle, voters around it, then the others in rings. Pure, and stable: a node keeps its
// place while the nodes stay the same, whatever they do.

/** What decides a node's place and shape. */
export interface Standing {
  name: string;
  part: Part;
}

export type Part = 'coordinator' | 'voter' | 'staging' | 'drone' | 'legacy';

export interface Spot {
  x: number;
  y: number;
  /** From the middle outwards, radians. */
  angle: number;
  ring: number;
}

export interface Layout {
  width: number;
  height: number;
  spots: Map<string, Spot>;
  /** Half axes of each ring. */
  rings: { rx: number; ry: number }[];
  /** Where whoever is no node stands. */
  outside: Spot;
}

/** Room that a node with its label takes along a ring. */
const ALONG = 84;
const BETWEEN = 78;
const FIRST_RY = 100;
const MARGIN_X = 70;
const MARGIN_Y = 56;

const ORDER: Record<Part, number> = { coordinator: 0, voter: 1, staging: 2, drone: 3, legacy: 4 };

/** Length of an ellipse, close enough. */
function around(rx: number, ry: number): number {
  return Math.PI * (3 * (rx + ry) - Math.sqrt((3 * rx + ry) * (rx + 3 * ry)));
}

/** Angles at which `count` points stand equally far apart on an ellipse, from the top. */
function spread(rx: number, ry: number, count: number): number[] {
  const STEPS = 720;
  const sums = [0];
  for (let step = 1; step <= STEPS; step += 1) {
    const [from, to] = [step - 1, step].map((one) => (one / STEPS) * 2 * Math.PI - Math.PI / 2) as [number, number];
    const length = Math.hypot(rx * (Math.cos(to) - Math.cos(from)), ry * (Math.sin(to) - Math.sin(from)));
    sums.push((sums[step - 1] ?? 0) + length);
  }
  const whole = sums[STEPS] ?? 1;
  const angles: number[] = [];
  let step = 0;
  for (let at = 0; at < count; at += 1) {
    const wanted = (at / count) * whole;
    while (step < STEPS && (sums[step + 1] ?? whole) < wanted) step += 1;
    angles.push((step / STEPS) * 2 * Math.PI - Math.PI / 2);
  }
  return angles;
}

/** Places for all nodes. `wide`: how much wider than high a ring is. */
export function layout(nodes: Standing[], wide = 1.5): Layout {
  const order = [...nodes].sort((left, right) => ORDER[left.part] - ORDER[right.part] || left.name.localeCompare(right.name));
  const middle = order[0]?.part === 'coordinator' ? order.shift() : undefined;
  const rings: { rx: number; ry: number; names: string[] }[] = [];
  let rest = order.map((node) => node.name);
  const voters = order.filter((node) => node.part === 'voter').map((node) => node.name);
  // Voters stand together around the coordinator, unless everybody fits there.
  const few = rest.length <= 8;
  const all = rest.length;
  for (let ring = 0; rest.length > 0; ring += 1) {
    const ry = FIRST_RY + ring * BETWEEN;
    const rx = ry * wide;
    const room = Math.max(3, Math.floor(around(rx, ry) / ALONG));
    const inner = ring === 0 && !few && voters.length > 0 && all > room;
    const taken = Math.min(rest.length, inner ? Math.min(room, voters.length) : room);
    rings.push({ rx, ry, names: rest.slice(0, taken) });
    rest = rest.slice(taken);
  }
  // What is left over does not crowd the last ring's beginning: the last two share.
  const [before, last] = [rings[rings.length - 2], rings[rings.length - 1]];
  if (before && last && rings.length > 2 && last.names.length < before.names.length / 2) {
    const both = [...before.names, ...last.names];
    const share = Math.ceil((both.length * before.ry) / (before.ry + last.ry));
    before.names = both.slice(0, share);
    last.names = both.slice(share);
  }
  const outer = rings[rings.length - 1] ?? { rx: FIRST_RY * wide, ry: FIRST_RY };
  const width = 2 * (outer.rx + MARGIN_X);
  const height = 2 * (outer.ry + MARGIN_Y);
  const [cx, cy] = [width / 2, height / 2];
  const spots = new Map<string, Spot>();
  if (middle) spots.set(middle.name, { x: cx, y: cy, angle: -Math.PI / 2, ring: 0 });
  rings.forEach(({ rx, ry, names }, ring) => {
    spread(rx, ry, names.length).forEach((base, at) => {
      const name = names[at];
      // Two at the sides are easier to read than one above the other.
      const angle = names.length === 2 ? base - Math.PI / 2 : base;
      if (name) spots.set(name, { x: cx + rx * Math.cos(angle), y: cy + ry * Math.sin(angle), angle, ring: ring + 1 });
    });
  });
  const outside = { x: 30, y: height - 26, angle: 0.75 * Math.PI, ring: rings.length + 1 };
  return { width, height, spots, rings: rings.map(({ rx, ry }) => ({ rx, ry })), outside };
}
