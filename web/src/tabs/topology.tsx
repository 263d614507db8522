// The hive as a picture: who stands where, what each does, and what passes between them. Every moving dot is a message that was seen, and
// leads to its record. The table beside it says the same.
import { effect } from '@preact/signals';
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import { duration, plural, time } from '../format';
import { now, status } from '../live';
import { get, url } from '../api';
import { moment } from '../moment';
import { go, query, setQuery } from '../router';
import { dark } from '../theme';
import { Dots, PULSE_MS, type Level } from '../topology/dots';
import { layout, type Layout, type Part, type Spot } from '../topology/layout';
import { Picture, radiusOf, type Drawn } from '../topology/picture';
import { isDrawn, OUTSIDE, placeOf, Sampler } from '../topology/sample';
import { Icon } from '../ui/icon';
import { Choice, Empty, Failure, FilterField, Loading, Panel, Progress, Section } from '../ui/parts';
import { Badge, memberLook, StateBadge } from '../ui/state';
import { follow, type Feed, type FeedState } from '../wire/feed';
import { refused, type WireList, type WireRecord } from '../wire/types';
import { held, useMachines, type Machine } from './fleet';

/** Hives of so many nodes are asked as a whole; of larger ones only this node. */
const ALL_MAX = 16;
/** From here on the table stands below, so that names stay readable. */
const BESIDE_MAX = 24;
/** A small hive is not drawn larger than so many pixels per unit. */
const LARGEST = 1.3;
const RECENT = 12;
const RECENT_MS = 1_000;
/** Of a moment of the past, messages of so long before it are shown, and at most so many. */
const BEFORE_MS = 10_000;
const BEFORE_MAX = 200;
const MOMENT_MS = 200;

const LEVELS: { tone: string; text: string }[] = [
  { tone: 'level-0', text: 'well' },
  { tone: 'level-1', text: 'gets nothing new' },
  { tone: 'level-2', text: 'suspect or grounded' },
  { tone: 'level-3', text: 'down' },
];

function partOf(machine: Machine, coordinator: string | null): Part {
  if (machine.name === coordinator) return 'coordinator';
  if (machine.drone?.legacy || machine.node === null) return 'legacy';
  if (machine.node.raft === 'voter') return 'voter';
  return machine.node.staging ? 'staging' : 'drone';
}

function levelOf(machine: Machine): { level: Level; health: string } {
  const state = machine.drone?.state ?? machine.node?.state ?? 'legacy';
  if (state === 'down') return { level: 3, health: 'down' };
  if (state === 'suspect') return { level: 2, health: 'suspect' };
  if (machine.drone?.grounded_left_ms != null) return { level: 2, health: 'grounded' };
  const why = held(machine.drone);
  return why.length ? { level: 1, health: why.join(', ') } : { level: 0, health: state === 'legacy' ? 'well, old swarm' : 'well' };
}

function drawnOf(list: Machine[], coordinator: string | null): Drawn[] {
  return list.map((machine) => ({ machine, name: machine.name, part: partOf(machine, coordinator), ...levelOf(machine) }));
}

/** The way from the edge of one node to the edge of another, so that dots cover neither. */
function between(from: Spot, to: Spot, near: number, far: number): { from: Spot; to: Spot } {
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  const long = Math.hypot(dx, dy);
  if (long <= near + far) return { from, to };
  return {
    from: { ...from, x: from.x + (dx * near) / long, y: from.y + (dy * near) / long },
    to: { ...to, x: to.x - (dx * far) / long, y: to.y - (dy * far) / long },
  };
}

const still = matchMedia('(prefers-reduced-motion: reduce)');

/** Whether things may move. */
function useMotion(): boolean {
  const [moves, setMoves] = useState(!still.matches);
  useEffect(() => {
    const look = () => setMoves(!still.matches);
    still.addEventListener('change', look);
    return () => still.removeEventListener('change', look);
  }, []);
  return moves;
}

/** Names and addresses of nodes, for records. */
function useParties(nodes: Drawn[]) {
  return useMemo(() => {
    const byAddress = new Map<string, string>();
    for (const { machine, name } of nodes) {
      for (const address of machine.node?.addresses ?? []) {
        byAddress.set(address, name);
        byAddress.set(address.replace(/:\d+$/, ''), name);
      }
    }
    return { byName: new Set(nodes.map((node) => node.name)), byAddress };
  }, [nodes.map((node) => `${node.name}${node.machine.node?.addresses.join()}`).join()]);
}

/** Where messages come from: as they pass, or of a moment of the past. */
type Told = FeedState | 'past' | 'past-none';

/** What passes, as dots on the canvas and as a list of the last. */
function useMessages(canvas: { current: HTMLCanvasElement | null }, stage: { current: HTMLDivElement | null }, nodes: Drawn[], at: Layout, all: boolean, moves: boolean) {
  const dots = useRef<Dots | null>(null);
  const [recent, setRecent] = useState<WireRecord[]>([]);
  const [state, setState] = useState<Told>('connecting');
  const past = moment.value;
  const [rate, setRate] = useState<{ seen: number; drawn: number } | null>(null);
  const [outside, setOutside] = useState(false);
  const parties = useParties(nodes);
  const world = useRef({ at, nodes, parties });
  world.current = { at, nodes, parties };

  useEffect(() => {
    const place = stage.current;
    if (!canvas.current || !place || !moves) return;
    const own = new Dots(canvas.current);
    dots.current = own;
    // For whoever measures how smoothly it runs.
    place.dataset['moves'] = '1';
    const fit = () => own.fit(place.clientWidth, place.clientHeight, world.current.at.width);
    const size = new ResizeObserver(fit);
    size.observe(place);
    const themed = effect(() => {
      void dark.value;
      fit();
    });
    const shown = () => (document.visibilityState === 'visible' ? own.start() : own.stop());
    document.addEventListener('visibilitychange', shown);
    shown();
    return () => {
      own.stop();
      size.disconnect();
      themed();
      document.removeEventListener('visibilitychange', shown);
      dots.current = null;
      delete place.dataset['moves'];
    };
  }, [moves, at.width]);

  useEffect(() => {
    const beats = nodes.flatMap((node) => {
      const spot = at.spots.get(node.name);
      return spot ? [{ spot, radius: radiusOf(node.part), level: node.level }] : [];
    });
    if (dots.current) dots.current.beats = beats;
  });

  useEffect(() => {
    const sampler = new Sampler();
    let last: WireRecord[] = [];
    let [seen, drawn] = [0, 0];
    let told = performance.now();
    let feed: Feed | null = null;
    let asked: ReadonlySet<string> = new Set();
    const heard = (records: WireRecord[], from: 'here' | 'all') => {
      const { at, nodes, parties } = world.current;
      const self = status.value?.self.name;
      const reporting = all ? (feed?.nodes.value ?? asked) : new Set(self ? [self] : []);
      const fresh = records.filter((record) => (from === 'here' || record.node !== self) && isDrawn(record, reporting));
      seen += fresh.length;
      const levels = new Map(nodes.map((node) => [node.name, node.level]));
      const sizes = new Map(nodes.map((node) => [node.name, radiusOf(node.part)]));
      let strangers = false;
      const batch = sampler.take(fresh, performance.now()).flatMap((record) => {
        const [left, right] = [placeOf(record.from, parties.byName, parties.byAddress), placeOf(record.to, parties.byName, parties.byAddress)];
        const start = left === OUTSIDE ? at.outside : at.spots.get(left);
        if (left === OUTSIDE || right === OUTSIDE) strangers = true;
        if (!start || left === right) return [];
        // What is said to everybody leaves the node outwards.
        const end = right === OUTSIDE ? at.outside : right === 'everybody' ? { ...start, x: start.x + 62 * Math.cos(start.angle), y: start.y + 62 * Math.sin(start.angle) } : at.spots.get(right);
        if (!end) return [];
        const [near, far] = [sizes.get(left) ?? 8, right === 'everybody' ? 0 : (sizes.get(right) ?? 8)];
        const level = Math.max(levels.get(left) ?? 0, levels.get(right) ?? 0) as Level;
        return [{ record, ...between(start, end, near, far), level }];
      });
      drawn += batch.length;
      if (strangers) setOutside(true);
      if (batch.length) {
        dots.current?.add(batch);
        last = [...batch.map(({ record }) => record).reverse(), ...last].slice(0, RECENT);
      }
    };
    if (past !== null) {
      const abort = new AbortController();
      const ask = setTimeout(() => {
        get<WireList>(url('/api/v2/wire', { node: all ? 'all' : null, limit: BEFORE_MAX }), abort.signal).then(
          ({ data }) => {
            const lately = data.records.filter((record) => Date.parse(record.at) > past - BEFORE_MS);
            last = [];
            asked = new Set(data.nodes.filter((node) => node.problem === undefined).map((node) => node.name));
            heard(lately, 'here');
            setRecent(last);
            setRate({ seen: lately.length, drawn: last.length });
            setState(lately.length ? 'past' : 'past-none');
          },
          () => !abort.signal.aborted && setState('lost'),
        );
      }, MOMENT_MS);
      return () => {
        clearTimeout(ask);
        abort.abort();
      };
    }
    setState('connecting');
    const own = follow({ all, heard });
    feed = own;
    const stop = effect(() => setState(own.state.value));
    const timer = setInterval(() => {
      const passed = (performance.now() - told) / 1_000;
      setRate({ seen: Math.round(seen / passed), drawn: Math.round(drawn / passed) });
      setRecent(last);
      [seen, drawn, told] = [0, 0, performance.now()];
    }, RECENT_MS);
    return () => {
      own.close();
      stop();
      clearInterval(timer);
    };
  }, [all, past]);
  return { dots, recent, state, rate, outside };
}

/** What the feed of messages is worth, in words. */
function says(state: Told, moves: boolean, rate: { seen: number; drawn: number } | null): string {
  if (state === 'none') return 'This node captures no messages: an older version of hive, or switched off. No dots.';
  if (state === 'past-none') return 'No message of the ten seconds before that moment is kept.';
  if (state === 'past') return `${plural(rate?.seen ?? 0, 'message')} of the ten seconds before that moment.`;
  if (state === 'lost') return 'Messages do not come at the moment.';
  if (state === 'hidden') return 'Rests while the page is not looked at.';
  if (state === 'connecting' || rate === null) return 'Waiting for messages …';
  if (!moves) return `${plural(rate.seen, 'message')} a second. Nothing moves, as this browser wishes; they stand in the list.`;
  return rate.seen === rate.drawn ? `${plural(rate.seen, 'message')} a second, each one a dot` : `${plural(rate.seen, 'message')} a second, ${rate.drawn} of them drawn`;
}

function Legend() {
  return (
    <ul class="topo-legend dim" aria-label="Legend">
      {LEVELS.map(({ tone, text }, level) => (
        <li key={tone}><span class={`swatch ${tone}`} aria-hidden="true" />{text} <small>{PULSE_MS[level as Level] / 1_000} s</small></li>
      ))}
      <li><svg width="16" height="16" viewBox="-8 -8 16 16" aria-hidden="true"><polygon points="6.1,3.5 0,7 -6.1,3.5 -6.1,-3.5 0,-7 6.1,-3.5" /></svg>voter</li>
      <li><svg width="16" height="16" viewBox="-8 -8 16 16" aria-hidden="true"><rect x="-6" y="-6" width="12" height="12" rx="2" /></svg>staging</li>
      <li><svg width="16" height="16" viewBox="-8 -8 16 16" aria-hidden="true"><circle r="6" /></svg>drone</li>
      <li><svg width="16" height="16" viewBox="-8 -8 16 16" aria-hidden="true"><circle r="6" class="dashed" /></svg>old swarm</li>
      <li><svg width="16" height="16" viewBox="-8 -8 16 16" aria-hidden="true"><circle r="5" class="refused" /></svg>refused message</li>
    </ul>
  );
}

function Table({ nodes, marked, onMark }: { nodes: Drawn[]; marked: string | null; onMark: (name: string | null) => void }) {
  return (
    <Panel class={nodes.length > BESIDE_MAX ? 'scroll-x topo-long' : 'scroll-x'}>
      <table class="list cards topo-table">
        <thead><tr><th>Node</th><th>Part</th><th>State</th><th>Work</th></tr></thead>
        <tbody>
          {nodes.map(({ name, part, machine, level, health }) => {
            const state = machine.drone?.state ?? machine.node?.state;
            const build = machine.drone?.builds.find((one) => one.state !== 'assigned');
            return (
              <tr key={name} class={marked === name ? 'marked' : ''} onPointerEnter={() => onMark(name)} onPointerLeave={() => onMark(null)}>
                <td data-label="Node"><span class={`swatch level-${level}`} aria-hidden="true" /><a href={`/nodes/${encodeURIComponent(name)}`}>{name}</a></td>
                <td data-label="Part">{part === 'legacy' ? 'old swarm' : part}{machine.node?.staging && part !== 'staging' ? ', staging' : ''}</td>
                <td data-label="State"><StateBadge look={state ? memberLook(state) : undefined} />{level === 1 || health === 'grounded' ? <span class="dim"> {health}</span> : null}</td>
                <td data-label="Work" class="wrap">
                  {build ? <><a href={`/jobs/${build.job}`}>{build.target}</a><Progress percent={build.percent} label={`Progress of ${build.target}`} /></> : null}
                  <span class="dim">{machine.drone ? `${machine.drone.used} of ${machine.drone.slots} slots` : '–'}</span>
                </td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </Panel>
  );
}

function Recent({ list, state }: { list: WireRecord[]; state: Told }) {
  if (list.length === 0) return <Panel class="pad"><Empty>{state === 'none' ? 'This node captures no messages.' : state === 'past' || state === 'past-none' ? 'None of that time is kept.' : 'Nothing was said since this page was opened.'}</Empty></Panel>;
  return (
    <Panel>
      <ul class="feed topo-feed">
        {list.map((record) => (
          <li key={record.id}>
            <a href={`/wire?record=${encodeURIComponent(record.id)}`}>{time(record.at, now.peek())}</a>
            <Badge tone={refused(record.verdict) ? 'bad' : 'idle'}>{record.kind}</Badge>
            <span class="what">{record.from} → {record.to} <span class="dim">{record.protocol}{refused(record.verdict) ? `, refused: ${record.verdict}` : ''}{record.latency_ms !== null ? `, after ${duration(record.latency_ms)}` : ''}</span></span>
          </li>
        ))}
      </ul>
    </Panel>
  );
}

function Whole({ list }: { list: Machine[] }) {
  const stage = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const [marked, setMarked] = useState<string | null>(null);
  const [narrow, setNarrow] = useState(false);
  const [under, setUnder] = useState<{ x: number; y: number; record: WireRecord } | null>(null);
  const moves = useMotion();
  const params = query.value;
  const text = (params.get('q') ?? '').toLowerCase();
  const nodes = drawnOf(list, status.value?.coordinator?.name ?? null);
  const all = (params.get('seen') ?? (nodes.length <= ALL_MAX ? 'all' : 'here')) === 'all';
  const standing = nodes.map(({ name, part }) => `${part} ${name}`).join('\n');
  const at = useMemo(() => layout(nodes, narrow ? 0.8 : nodes.length > BESIDE_MAX ? 1.75 : 1.4), [standing, narrow]);
  const { dots, recent, state, rate, outside } = useMessages(canvas, stage, nodes, at, all, moves);
  const dimmed = useMemo(() => new Set(text ? nodes.filter(({ name, part, machine, health }) => !`${name} ${part} ${machine.drone?.role ?? machine.node?.role ?? ''} ${health}`.toLowerCase().includes(text)).map((node) => node.name) : []), [text, standing]);
  const shown = nodes.filter((node) => !dimmed.has(node.name));
  useEffect(() => {
    const place = stage.current?.parentElement;
    if (!place) return;
    const size = new ResizeObserver(() => setNarrow(place.clientWidth < 560));
    size.observe(place);
    return () => size.disconnect();
  }, []);
  const hit = (event: MouseEvent): WireRecord | null => {
    const box = stage.current?.getBoundingClientRect();
    return box ? (dots.current?.at(event.clientX - box.left, event.clientY - box.top) ?? null) : null;
  };
  const open = (event: MouseEvent) => {
    const record = hit(event);
    const node = event.target instanceof Element ? event.target.closest('a.topo-node') : null;
    if (!record) {
      // Links of a drawing are no links to the router.
      const name = node?.getAttribute('data-name');
      if (!name || event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
      event.preventDefault();
      go(`/nodes/${encodeURIComponent(name)}`);
      return;
    }
    // A dot above a node is meant, not the node.
    event.preventDefault();
    event.stopPropagation();
    go(`/wire?record=${encodeURIComponent(record.id)}`);
  };
  const move = (event: MouseEvent) => {
    const record = hit(event);
    const box = stage.current?.getBoundingClientRect();
    if (record && box) setUnder({ x: event.clientX - box.left, y: event.clientY - box.top, record });
    else if (under) setUnder(null);
  };
  const beside = nodes.length <= BESIDE_MAX;
  return (
    <>
      <div class="toolbar">
        <FilterField value={params.get('q') ?? ''} label="Find nodes" placeholder="Name, role, state" onInput={(q) => setQuery({ q })} />
        <Choice
          label="Messages as seen by"
          value={all ? 'all' : 'here'}
          options={[{ value: 'all', text: 'All nodes', title: 'Messages as every node sees them, asked once a second' }, { value: 'here', text: 'This node', title: 'Messages that this node sends and receives' }]}
          onChange={(value) => setQuery({ seen: value })}
        />
        <span class="end" role="status">{plural(nodes.length, 'node')}{text ? `, ${shown.length} fit` : ''}</span>
      </div>
      <div class={beside ? 'topo-page beside' : 'topo-page'}>
        <Panel class="topo-panel">
          <div class={nodes.length > BESIDE_MAX ? 'topo-scroll many' : 'topo-scroll'}>
            <div ref={stage} class={`topo-stage ${under ? 'on-dot' : ''}`} style={{ maxWidth: at.width * LARGEST }} onClickCapture={open} onPointerMove={move} onPointerLeave={() => setUnder(null)}>
              <Picture nodes={nodes} at={at} marked={marked} dimmed={dimmed} outside={outside} onMark={setMarked} />
              <canvas ref={canvas} class="topo-dots" aria-hidden="true" />
              {under ? <div class="topo-tip" aria-hidden="true" style={{ left: under.x + 14, top: under.y + 14 }}><b>{under.record.kind}</b> {under.record.from} → {under.record.to}<br /><span class="dim">{under.record.protocol} · click for the record</span></div> : null}
            </div>
          </div>
          <p class="topo-rate dim" data-feed={state}><Icon name="wire" size={14} /> {says(state, moves, rate)}</p>
          <Legend />
        </Panel>
        <Table nodes={shown} marked={marked} onMark={setMarked} />
      </div>
      <Section title="Messages that passed last" aside={<a href="/wire">All messages</a>}><Recent list={recent} state={state} /></Section>
    </>
  );
}

export default function Topology() {
  const { nodes, list } = useMachines();
  if (list === null) return nodes.error ? <Failure error={nodes.error} /> : <Loading />;
  if (list.length === 0) return <Empty>There is no node yet.</Empty>;
  return <Whole list={list} />;
}
