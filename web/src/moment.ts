// The moment that the page shows: none, and it is live; or one of the past, for every tab alike.
//
//   ?at=MILLISECONDS in the address ◄──► moment ──► every question to the node gets `at=` (see api.ts)
//
// Never done here: asking anything, showing anything.
import { effect, signal } from '@preact/signals';
import { query, setQuery } from './router';

/** Milliseconds since 1970; null: now. */
export const moment = signal<number | null>(null);
/** How many times faster than life it is played; null: it stands. */
export const speed = signal<number | null>(null);

/** A moment is written into the address when it has stood for so long. */
const SETTLED_MS = 250;
/** Played moments come so often. */
const STEP_MS = 500;
/** So close to now it is live again. */
const LIVE_MS = 1_500;

/** Reads answered of now alone: who is signed in, what the node keeps beside its record of the past. */
const PRESENT = /^\/api\/v2\/(session$|activity\b|wire\/fields|wire\/[^/?]+@|sql\b|recordings|audit\/check|nodes\/[^/]+\/logs)/;

/** What an address says, and null when it says nothing that is a time. */
export function parseMoment(text: string | null): number | null {
  if (!text) return null;
  const at = /^\d+$/.test(text) ? Number(text) : /^\d{4}-\d\d-\d\d/.test(text) ? Date.parse(text) : NaN;
  return Number.isFinite(at) && at > 0 ? at : null;
}

/** A path as it is asked for: of the moment that is shown. */
export function ofMoment(path: string): string {
  const at = moment.peek();
  if (at === null || !path.startsWith('/api/v2/') || PRESENT.test(path)) return path;
  return `${path}${path.includes('?') ? '&' : '?'}at=${Math.round(at)}`;
}

let timer: ReturnType<typeof setTimeout> | undefined;
let written: string | null = null;

/** Shows a moment; null, or one that is now: live. */
export function show(at: number | null): void {
  const next = at === null || at >= Date.now() - LIVE_MS ? null : Math.round(at);
  if (next === null) speed.value = null;
  moment.value = next;
  clearTimeout(timer);
  timer = setTimeout(() => {
    written = next === null ? null : String(next);
    setQuery({ at: written });
  }, next === null ? 0 : SETTLED_MS);
}

/** Plays on from the moment that is shown. */
export function play(times: number | null): void {
  speed.value = moment.value === null ? null : times;
}

/** For buttons that change something: in the past they do nothing, and say why. */
export function whenLive(): { disabled?: boolean; title?: string } {
  return moment.value === null ? {} : { disabled: true, title: 'This is the past: nothing can be changed there. Go back to live first.' };
}

/** Begins, once. */
export function startMoment(): void {
  effect(() => {
    const text = query.value.get('at');
    if (text === written) return;
    written = text;
    clearTimeout(timer);
    const at = parseMoment(text);
    moment.value = at !== null && at < Date.now() - LIVE_MS ? at : null;
    if (moment.peek() === null) speed.value = null;
  });
  let last = performance.now();
  setInterval(() => {
    const passed = performance.now() - last;
    last = performance.now();
    // A page that slept did not play meanwhile.
    if (speed.value !== null && moment.value !== null && passed < 10 * STEP_MS) show(moment.value + passed * speed.value);
  }, STEP_MS);
}
