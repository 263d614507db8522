// Records of messages as they pass, for whoever shows them.
//
//   this node's:   topic `wire` of the stream, while somebody looks; a node without it is asked twice a second
//   other nodes':  asked once a second, as each of them sees them, when that is wanted
//
// Followed only while the page is visible. A node that captures nothing is told to whoever asks (`state`). Never done here: choosing what
// is drawn (topology/sample.ts), showing anything.
import { signal, type Signal } from '@preact/signals';
import { get, Refusal, url } from '../api';
import { readStream, type Message } from '../sse';
import type { WireList, WireRecord } from './types';

export type FeedState = 'connecting' | 'stream' | 'poll' | 'none' | 'lost' | 'hidden';

export interface FeedOptions {
  /** Only records that fit; the node's filter language. */
  filter?: string;
  /** Ask the other nodes, too. */
  all?: boolean;
  heard: (records: WireRecord[], from: 'here' | 'all') => void;
}

export interface Feed {
  state: Signal<FeedState>;
  /** Records that the node left out because there were too many. */
  dropped: Signal<number>;
  /** Nodes whose records come. */
  nodes: Signal<ReadonlySet<string>>;
  close: () => void;
}

const POLL_MS = 500;
const ALL_MS = 1_000;
const RETRY_MS = 3_000;
const AT_ONCE = 500;
/** Nodes' clocks differ: so far back records of others are looked for again, microseconds. */
const CLOCKS_US = 2_000_000;
const SEEN_MAX = 4_000;

/** One record, or several with how many were left out; a node may send either. */
function records(message: Message): { records: WireRecord[]; dropped: number } {
  try {
    const data = JSON.parse(message.data) as (WireRecord & { dropped?: number }) | { records: WireRecord[]; dropped?: number };
    return { records: 'records' in data ? data.records : [data], dropped: data.dropped ?? 0 };
  } catch {
    return { records: [], dropped: 0 };
  }
}

/** Begins to follow. */
export function follow(options: FeedOptions): Feed {
  const state = signal<FeedState>('connecting');
  const dropped = signal(0);
  const nodes = signal<ReadonlySet<string>>(new Set());
  let abort: AbortController | null = null;
  const begin = () => {
    if (document.visibilityState === 'hidden') {
      abort?.abort();
      abort = null;
      state.value = 'hidden';
    } else if (abort === null) {
      abort = new AbortController();
      state.value = 'connecting';
      void here(options, state, dropped, abort.signal);
      if (options.all) void others(options, nodes, abort.signal);
    }
  };
  document.addEventListener('visibilitychange', begin);
  begin();
  return {
    state,
    dropped,
    nodes,
    close: () => {
      document.removeEventListener('visibilitychange', begin);
      abort?.abort();
    },
  };
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((done) => {
    const timer = setTimeout(done, ms);
    signal.addEventListener('abort', () => { clearTimeout(timer); done(); }, { once: true });
  });
}

async function here(options: FeedOptions, state: Signal<FeedState>, dropped: Signal<number>, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    let told = false;
    try {
      const streams = await readStream(url('/api/v2/events', { topics: 'wire', filter: options.filter }), null, signal, (message) => {
        told = true;
        if (state.value !== 'stream') state.value = 'stream';
        if (message.event !== 'wire') return;
        const got = records(message);
        if (got.dropped) dropped.value += got.dropped;
        if (got.records.length) options.heard(got.records, 'here');
      });
      // A node that does not stream this tells it by asking.
      if (!streams && !told) return await polled(options, state, signal);
    } catch {
      // Broken: tried again.
    }
    if (signal.aborted) return;
    state.value = 'lost';
    await pause(RETRY_MS, signal);
  }
}

async function polled(options: FeedOptions, state: Signal<FeedState>, signal: AbortSignal): Promise<void> {
  let since: number | null = null;
  while (!signal.aborted) {
    try {
      const { data }: { data: WireList } = await get<WireList>(url('/api/v2/wire', { filter: options.filter, since, limit: since === null ? 1 : AT_ONCE }), signal);
      if (since !== null && data.records.length) options.heard(data.records, 'here');
      since = data.latest;
      state.value = 'poll';
    } catch (error) {
      if (signal.aborted) return;
      state.value = error instanceof Refusal && error.status !== 0 && error.status < 500 ? 'none' : 'lost';
      await pause(RETRY_MS * (state.value === 'none' ? 10 : 1), signal);
    }
    await pause(POLL_MS, signal);
  }
}

/** What all nodes see, once a second; those who do not answer are left out. */
async function others(options: FeedOptions, nodes: Signal<ReadonlySet<string>>, signal: AbortSignal): Promise<void> {
  let since: number | null = null;
  let seen = new Set<string>();
  while (!signal.aborted) {
    try {
      const { data }: { data: WireList } = await get<WireList>(
        url('/api/v2/wire', { filter: options.filter, node: 'all', since, limit: since === null ? 1 : AT_ONCE }), signal);
      const fresh = data.records.filter((record) => !seen.has(record.id));
      for (const record of fresh) seen.add(record.id);
      if (seen.size > SEEN_MAX) seen = new Set([...seen].slice(-SEEN_MAX / 2));
      const names = data.nodes.filter((node) => node.problem === undefined).map((node) => node.name);
      if (names.join() !== [...nodes.value].join()) nodes.value = new Set(names);
      if (since !== null && fresh.length) options.heard(fresh, 'all');
      const newest: number = data.more ? data.latest : Math.max(0, data.latest - CLOCKS_US);
      since = since === null ? data.latest : Math.max(since, newest);
    } catch {
      if (signal.aborted) return;
    }
    await pause(ALL_MS, signal);
  }
}
