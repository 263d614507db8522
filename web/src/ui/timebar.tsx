// The time bar: how much went on when, and which moment is shown. One for all tabs.
//
// A slider for keys and screen readers, a canvas for eyes. Never done here: asking for what the tabs show (they do, of the moment).
import { effect, signal } from '@preact/signals';
import { useEffect, useRef, useState } from 'preact/hooks';
import { explain, get, url } from '../api';
import { about, count, plural, sentence, time } from '../format';
import { now, problem } from '../live';
import { moment, play, show, speed } from '../moment';
import { dark } from '../theme';
import type { Activity } from '../types';
import { Icon } from './icon';

const HOUR_MS = 3_600_000;
const RANGES = [
  { ms: HOUR_MS, text: '1 h' },
  { ms: 6 * HOUR_MS, text: '6 h' },
  { ms: 24 * HOUR_MS, text: '1 day' },
  { ms: 7 * 24 * HOUR_MS, text: '7 days' },
];
const SPEEDS = [1, 10, 60];
const BUCKETS = 180;
/** A dragged moment is shown so often while it moves. */
const DRAG_MS = 120;
const ASK_MS = 10_000;
const PAD = 8;

const range = signal(HOUR_MS);

/** The moment in words. */
export function words(at: number | null, current: number): string {
  if (at === null) return 'live';
  return `${time(at, current)}, ${about(current - at)} ago`;
}

/** The waveform of the range that is shown, asked for anew while time goes on. */
function useActivity(spanMs: number): { activity: Activity | null; error: unknown } {
  const [activity, setActivity] = useState<Activity | null>(null);
  const [error, setError] = useState<unknown>(null);
  useEffect(() => {
    let abort = new AbortController();
    const ask = () => {
      if (document.visibilityState === 'hidden') return;
      abort.abort();
      abort = new AbortController();
      const { signal } = abort;
      const to = Date.now();
      get<Activity>(url('/api/v2/activity', { from: to - spanMs, to, buckets: BUCKETS }), signal).then(
        ({ data }) => {
          setActivity(data);
          setError(null);
        },
        (why: unknown) => !signal.aborted && setError(why),
      );
    };
    ask();
    const timer = setInterval(ask, ASK_MS);
    return () => {
      clearInterval(timer);
      abort.abort();
    };
  }, [spanMs]);
  return { activity, error };
}

function look(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** Rare things stay visible beside many: heights rise with the logarithm. */
function height(value: number, most: number): number {
  return most === 0 ? 0 : Math.log1p(value) / Math.log1p(most);
}

function draw(canvas: HTMLCanvasElement, activity: Activity | null, from: number, to: number, at: number | null): void {
  const [wide, high] = [canvas.clientWidth, canvas.clientHeight];
  const sharp = devicePixelRatio || 1;
  canvas.width = Math.round(wide * sharp);
  canvas.height = Math.round(high * sharp);
  const paint = canvas.getContext('2d');
  if (!paint || wide === 0) return;
  paint.scale(sharp, sharp);
  const x = (when: number) => PAD + ((when - from) / (to - from)) * (wide - 2 * PAD);
  const base = high - 4;
  if (activity) {
    const known = activity.known_from === null ? to : Date.parse(activity.known_from);
    if (known > from) {
      // Of this nothing can be shown.
      paint.fillStyle = look('--idle-soft');
      paint.fillRect(x(from), 2, Math.min(x(known), x(to)) - x(from), high - 4);
    }
    const most = { work: 0, messages: 0 };
    for (const bucket of activity.buckets) {
      most.work = Math.max(most.work, bucket.events);
      most.messages = Math.max(most.messages, bucket.messages);
    }
    const begin = Date.parse(activity.from);
    const bar = Math.max(1, ((wide - 2 * PAD) * activity.bucket_ms) / (to - from) - 1);
    activity.buckets.forEach((bucket, place) => {
      const left = x(begin + place * activity.bucket_ms);
      if (left < PAD - bar || left > wide - PAD) return;
      const column = (value: number, limit: number, colour: string, part: number) => {
        if (value === 0) return;
        const tall = Math.max(1.5, height(value, limit) * (high - 8) * part);
        paint.fillStyle = colour;
        paint.fillRect(left, base - tall, bar, tall);
      };
      column(bucket.messages, most.messages, look('--line-strong'), 0.55);
      column(bucket.events, most.work, look('--honey-fill'), 1);
      column(bucket.failures, most.work, look('--bad'), 1);
    });
  }
  paint.fillStyle = look('--line');
  paint.fillRect(PAD, base, wide - 2 * PAD, 1);
  const head = x(at ?? to);
  paint.fillStyle = look(at === null ? '--good' : '--focus');
  paint.fillRect(head - 1, 0, 2, high);
  paint.beginPath();
  paint.arc(head, high / 2, 5.5, 0, 2 * Math.PI);
  paint.fill();
}

/** What went on around a place of the bar. */
function told(activity: Activity | null, at: number, current: number): string {
  const place = activity ? Math.floor((at - Date.parse(activity.from)) / activity.bucket_ms) : -1;
  const bucket = activity?.buckets[place];
  const facts = bucket
    ? [
        plural(bucket.events, 'event'), bucket.jobs ? plural(bucket.jobs, 'build') + ' ended' : '',
        bucket.failures ? `${count(bucket.failures)} badly` : '', bucket.messages ? plural(bucket.messages, 'message') : '',
      ].filter(Boolean).join(', ')
    : '';
  return `${time(at, current)}${facts ? ` · ${facts}` : ''}`;
}

function Track({ activity, from, to }: { activity: Activity | null; from: number; to: number }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const track = useRef<HTMLDivElement>(null);
  const [over, setOver] = useState<{ x: number; at: number } | null>(null);
  const drag = useRef<{ at: number; shownAt: number } | null>(null);
  const at = moment.value;
  useEffect(() => {
    const own = canvas.current;
    if (!own) return;
    const paint = () => draw(own, activity, from, to, drag.current?.at ?? moment.peek());
    const size = new ResizeObserver(paint);
    size.observe(own);
    const themed = effect(() => {
      void dark.value;
      paint();
    });
    return () => {
      size.disconnect();
      themed();
    };
  }, [activity, from, to, at, over]);
  const timeAt = (event: PointerEvent): number => {
    const box = track.current!.getBoundingClientRect();
    const part = (event.clientX - box.left - PAD) / Math.max(1, box.width - 2 * PAD);
    return from + Math.min(1, Math.max(0, part)) * (to - from);
  };
  const down = (event: PointerEvent) => {
    if (event.button !== 0) return;
    track.current?.setPointerCapture(event.pointerId);
    play(null);
    drag.current = { at: timeAt(event), shownAt: performance.now() };
    show(drag.current.at);
  };
  const move = (event: PointerEvent) => {
    const when = timeAt(event);
    const box = track.current!.getBoundingClientRect();
    setOver({ x: event.clientX - box.left, at: when });
    if (!drag.current) return;
    drag.current.at = when;
    if (performance.now() - drag.current.shownAt < DRAG_MS) return;
    drag.current.shownAt = performance.now();
    show(when);
  };
  const up = (event: PointerEvent) => {
    if (!drag.current) return;
    drag.current = null;
    show(timeAt(event));
  };
  const key = (event: KeyboardEvent) => {
    const small = (to - from) / 360;
    const steps: Record<string, number> = {
      ArrowLeft: event.shiftKey ? -10 * small : -small, ArrowDown: event.shiftKey ? -10 * small : -small,
      ArrowRight: event.shiftKey ? 10 * small : small, ArrowUp: event.shiftKey ? 10 * small : small,
      PageDown: -(to - from) / 12, PageUp: (to - from) / 12,
    };
    const first = Math.max(from, activity?.known_from ? Date.parse(activity.known_from) : from);
    let next: number | null | undefined;
    if (event.key in steps) next = Math.max(first, (moment.value ?? Date.now()) + steps[event.key]!);
    else if (event.key === 'Home') next = first;
    else if (event.key === 'End') next = null;
    if (next === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    play(null);
    show(next);
  };
  const current = now.value;
  return (
    <div
      ref={track}
      class="time-track"
      role="slider"
      tabIndex={0}
      aria-label="Moment that is shown"
      aria-orientation="horizontal"
      aria-valuemin={Math.round(from / 1_000)}
      aria-valuemax={Math.round(to / 1_000)}
      aria-valuenow={Math.round((at ?? to) / 1_000)}
      aria-valuetext={words(at, Date.now())}
      onPointerDown={down}
      onPointerMove={move}
      onPointerUp={up}
      onPointerCancel={up}
      onPointerLeave={() => setOver(null)}
      onKeyDown={key}
    >
      <canvas ref={canvas} aria-hidden="true" />
      {over ? <div class="time-tip" aria-hidden="true" style={{ left: `${over.x}px` }}>{told(activity, over.at, current)}</div> : null}
    </div>
  );
}

export function TimeBar() {
  const at = moment.value;
  // The clock of the page stands in the past: the bar's own end goes on.
  const [to, setTo] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setTo(Date.now()), 1_000);
    return () => clearInterval(timer);
  }, []);
  const wanted = at === null ? range.value : Math.max(range.value, RANGES.find((one) => to - at <= one.ms)?.ms ?? to - at + HOUR_MS);
  const { activity, error } = useActivity(wanted);
  const end = Math.max(to, Date.now());
  const playing = speed.value !== null;
  return (
    <section class={at === null ? 'timebar' : 'timebar past'} aria-label="Time">
      <div class="time-left">
        <button type="button" class="button small time-live" aria-pressed={at === null} onClick={() => show(null)} title="Show how it is now">
          <span class={`lamp ${at === null ? 'good' : ''}`} aria-hidden="true" /> Live
        </button>
        <button type="button" class="button small" disabled={at === null} aria-label={playing ? 'Stand still' : 'Play on from here'} title={at === null ? 'Choose a moment of the past first' : playing ? 'Stand still' : 'Play on from here'} onClick={() => play(playing ? null : (SPEEDS[0] ?? 1))}>
          <Icon name={playing ? 'pause' : 'play'} size={14} />
        </button>
        <select class="field small" aria-label="Speed" disabled={at === null} value={String(speed.value ?? 1)} onChange={(event) => play(Number(event.currentTarget.value))}>
          {SPEEDS.map((times) => <option key={times} value={times}>{times}×</option>)}
        </select>
        <span class="time-words num" data-moment={at ?? 'live'}>{at === null ? <>now<span class="wide dim"> · {time(to)}</span></> : <><span class="wide">{time(at, end)}, </span>{about(end - at)} ago</>}</span>
      </div>
      <Track activity={activity} from={end - wanted} to={end} />
      <select class="field small time-range" aria-label="How far back the bar reaches" value={String(wanted)} onChange={(event) => (range.value = Number(event.currentTarget.value))}>
        {RANGES.map((one) => <option key={one.ms} value={one.ms} disabled={at !== null && end - at > one.ms}>{one.text}</option>)}
        {RANGES.some((one) => one.ms === wanted) ? null : <option value={wanted}>{about(wanted)}</option>}
      </select>
      {error && activity === null ? <span class="sr">{explain(error).message}</span> : null}
    </section>
  );
}

/** Says that what is shown is not now, and what of it is not known. */
export function PastBanner() {
  const at = moment.value;
  if (at === null) return null;
  const why = problem.value ? explain(problem.value) : null;
  return (
    <div class={why ? 'banner past unknown' : 'banner past'} role={why ? 'alert' : 'status'}>
      <div>
        <b>{why ? 'That moment cannot be shown.' : `The hive as it was: ${words(at, Date.now())}.`}</b>{' '}
        {why ? <>{why.message}. <span class="dim">{sentence(why.hint)}.</span></> : 'Nothing can be changed there.'}
      </div>
      <button type="button" class="button small primary" onClick={() => show(null)}>Back to live</button>
    </div>
  );
}

/** For tabs of which no past is kept: what they show is now, whatever the bar says. */
export function OnlyNow({ what }: { what: string }) {
  if (moment.value === null) return null;
  return <p class="note warn" data-only-now>{what} No past of this is kept: what stands here is of now, not of the moment that the time bar shows.</p>;
}
