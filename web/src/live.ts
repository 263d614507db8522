// What the hive is doing right now, for every tab of the page, from one stream per browser.
//
//   leader among this browser's pages ──stream──► node           followers ◄──BroadcastChannel── leader
//   no Web Locks (plain HTTP is no secure context): each visible page has a stream of its own
//   no stream: the status is asked for every 2 s, and whoever shows something asks again when the index has moved
//
// Never done here: showing anything.
import { effect, signal } from '@preact/signals';
import { get, Refusal } from './api';
import { moment } from './moment';
import { readStream, type Message } from './sse';
import type { HiveEvent, LogStatus, QueueStatus, Status } from './types';

/** Kinds of things that changed, as the stream names them; null: unknown, so all of them. */
export interface Changes {
  /** Rises with each. */
  count: number;
  index: number;
  kinds: string[] | null;
  jobs: string[];
}

interface Summary {
  as_of: string;
  index: number;
  coordinator: string | null;
  quorum: boolean;
  hive_id: string | null;
  queue: QueueStatus;
  degraded: string[];
  notices: string[];
  members: { up: number; suspect: number; down: number };
}

const POLL_MS = 2_000;
/** A page that streams still looks at everything so often: loads and ages are no changes. */
const LOOK_MS = 5_000;
const RETRY_MS = 3_000;
/** Without an answer for so long the node is called silent. */
const LOST_MS = 6_000;
const TOPICS = 'status,changes,events';

export const status = signal<Status | null>(null);
export const log = signal<LogStatus | null>(null);
/** Why the hive of the moment that is shown is not to be had; null: it is. */
export const problem = signal<unknown>(null);
/** When the last answer came, by this browser's monotonic clock. */
export const heardAt = signal(0);
/** How news come. */
export const line = signal<'connecting' | 'stream' | 'poll' | 'lost'>('connecting');
export const changes = signal<Changes>({ count: 0, index: 0, kinds: null, jobs: [] });
/** Raised by R and after every act of this page: whoever shows something asks again. */
export const refreshes = signal(0);
/** Ticks once a second, for ages; the moment that is shown, while that is past. */
export const now = signal(Date.now());

type Listener = (event: HiveEvent) => void;
const listeners = new Set<Listener>();

/** Calls `listener` for each event that the stream brings. There are none while the page polls. */
export function onEvent(listener: Listener): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function refresh(): void {
  refreshes.value += 1;
  void look();
}

function changed(index: number, kinds: string[] | null, jobs: string[] = []): void {
  changes.value = { count: changes.value.count + 1, index, kinds, jobs };
}

function heard(): void {
  heardAt.value = performance.now();
  if (line.value !== 'stream') line.value = streaming ? 'stream' : 'poll';
}

let streaming = false;
let looking = false;
let lookedAt: number | null = null;

/** Asks for the whole status. */
async function look(): Promise<void> {
  if (looking) return;
  looking = true;
  lookedAt = moment.peek();
  try {
    const asked = moment.peek();
    const answer = await get<Status>('/api/v2/status', AbortSignal.timeout(asked === null ? 5_000 : 15_000)).catch((error: unknown) => {
      // A moment of which nothing is known is an answer, too.
      if (asked === null || !(error instanceof Refusal) || error.status === 0) throw error;
      heard();
      problem.value = error;
      status.value = null;
      return null;
    });
    if (answer === null) return;
    // Somebody went on meanwhile: what is now is not shown as then, nor the other way round.
    if ((asked === null) !== (moment.peek() === null)) return;
    problem.value = null;
    const before = log.value;
    status.value = answer.data;
    log.value = answer.data.log;
    heard();
    if (asked === null && !streaming && before?.applied !== answer.data.log.applied) changed(answer.data.log.applied, null);
  } catch {
    if (performance.now() - heardAt.value > LOST_MS || heardAt.value === 0) {
      line.value = 'lost';
    }
  } finally {
    looking = false;
    if (moment.peek() !== lookedAt) void look();
  }
}

function take(message: Message): void {
  heard();
  line.value = 'stream';
  let data: unknown;
  try {
    data = JSON.parse(message.data);
  } catch {
    return;
  }
  if (message.event === 'status') takeSummary(data as Summary);
  else if (message.event === 'changes') {
    const { index, kinds, jobs } = data as { index: number; kinds: string[]; jobs: string[] };
    changed(index, kinds, jobs);
    if (kinds.includes('nodes') || kinds.includes('fleet')) void look();
  } else if (message.event === 'event') {
    for (const listener of listeners) listener(data as HiveEvent);
  } else if (message.event === 'gap') changed(changes.value.index, null);
}

function takeSummary(summary: Summary): void {
  const known = status.value;
  if (known === null) return void look();
  // What is shown is another moment.
  if (moment.peek() !== null) return;
  // Names stand in the summary, the rest of the coordinator in the whole status.
  const down = known.members.filter((member) => member.state === 'down').length;
  const suspect = known.members.filter((member) => member.state === 'suspect').length;
  const moved = down !== summary.members.down || suspect !== summary.members.suspect;
  if ((known.coordinator?.name ?? null) !== summary.coordinator || moved) void look();
  const { queue, degraded, notices, quorum } = summary;
  status.value = { ...known, queue, degraded, notices, quorum };
  if (log.value) log.value = { ...log.value, applied: summary.index };
}

let lastId: string | null = null;

async function stream(signal: AbortSignal, pass: (message: Message) => void): Promise<void> {
  while (!signal.aborted) {
    let streams = true;
    try {
      streams = await readStream(`/api/v2/events?topics=${TOPICS}`, lastId, signal, (message) => {
        streaming = true;
        if (message.id !== null) lastId = message.id;
        pass(message);
        take(message);
      });
    } catch {
      // Broken or given up: the status says which.
    }
    streaming = false;
    if (signal.aborted) return;
    if (line.value === 'stream') line.value = 'poll';
    void look();
    await pause(streams ? RETRY_MS : 10 * RETRY_MS);
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((done) => setTimeout(done, ms));
}

/** One page of this browser streams and tells the others. */
function share(): void {
  const channel = new BroadcastChannel('hive-live');
  let leads = false;
  let toldAt = 0;
  channel.onmessage = (event: MessageEvent<Message>) => {
    if (leads) return;
    toldAt = performance.now();
    streaming = true;
    take(event.data);
  };
  setInterval(() => {
    // A leader that was put to sleep tells nothing: polling goes on meanwhile.
    if (!leads && streaming && performance.now() - toldAt > 2 * LOOK_MS) streaming = false;
  }, LOOK_MS);
  void navigator.locks.request('hive-live', async () => {
    leads = true;
    await stream(new AbortController().signal, (message) => channel.postMessage(message));
  });
}

/** A stream of this page's own, while it is looked at: a browser has six connections to a node, for all its pages. */
function alone(): void {
  let abort: AbortController | null = null;
  const follow = () => {
    if (document.visibilityState === 'hidden') {
      abort?.abort();
      abort = null;
    } else if (abort === null) {
      abort = new AbortController();
      void stream(abort.signal, () => {});
    }
  };
  document.addEventListener('visibilitychange', follow);
  follow();
}

/** Begins, once. */
export function start(): void {
  void look();
  const tick = () => {
    const wait = streaming ? LOOK_MS : POLL_MS;
    setTimeout(() => {
      if (document.visibilityState === 'visible' && moment.peek() === null) void look();
      tick();
    }, wait);
  };
  tick();
  setInterval(() => (now.value = moment.peek() ?? Date.now()), 1_000);
  let first = true;
  effect(() => {
    const at = moment.value;
    now.value = at ?? Date.now();
    if (at === null) problem.value = null;
    if (!first) void look();
    first = false;
  });
  document.addEventListener('visibilitychange', () => {
    if (document.visibilityState === 'visible') void look();
  });
  // Not before there was an answer: a node that does not answer has no stream either.
  const dispose = effect(() => {
    if (heardAt.value === 0) return;
    queueMicrotask(() => dispose());
    if ('locks' in navigator && 'BroadcastChannel' in window) share();
    else alone();
  });
}
