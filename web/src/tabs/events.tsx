// What happened, newest first, as it happens.
import { useEffect, useState } from 'preact/hooks';
import { get, url } from '../api';
import { plural, word } from '../format';
import { changes, onEvent, refreshes } from '../live';
import { moment } from '../moment';
import { query, setQuery } from '../router';
import type { HiveEvent } from '../types';
import { Empty, Failure, FilterField, Loading, Panel, Time } from '../ui/parts';
import { KindBadge, What } from './overview';

const KEPT = 1_000;
const FIRST = 300;
const KINDS = [
  'assign', 'start', 'complete', 'fail', 'return', 'stale', 'rebalance', 'reclaim', 'grounded', 'blocked', 'unblock', 'register', 'queue', 'control',
  'cancel', 'session', 'member_joined', 'member_left', 'role', 'coordinator', 'access', 'hive',
];

interface List {
  events: HiveEvent[];
  latest_id: number;
}

/** Events of a kind and drone, those that come later included. */
function useEvents(kind: string | null, drone: string | null): { events: HiveEvent[] | null; error: unknown } {
  const [events, setEvents] = useState<HiveEvent[] | null>(null);
  const [error, setError] = useState<unknown>(null);
  const at = moment.value;
  // What had happened by a moment of the past does not change.
  const mark = at === null ? `${changes.value.count} ${refreshes.value}` : String(at);
  useEffect(() => setEvents(null), [kind, drone, at === null]);
  useEffect(() => {
    const abort = new AbortController();
    const newest = at === null ? events?.[0]?.id : undefined;
    const timer = setTimeout(() => {
      get<List>(url('/api/v2/events', { type: kind, drone, since: newest, limit: newest ? KEPT : FIRST }), abort.signal).then(
        ({ data }) => {
          setError(null);
          setEvents((before) => merged(data.events, at === null ? (before ?? []) : []));
        },
        (why: unknown) => !abort.signal.aborted && setError(why),
      );
    }, events === null ? 0 : at === null ? 300 : 150);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [kind, drone, mark, events === null]);
  useEffect(
    () =>
      onEvent((event) => {
        if (moment.peek() === null && (kind === null || event.type === kind) && (drone === null || event.drone === drone)) setEvents((before) => merged([event], before ?? []));
      }),
    [kind, drone],
  );
  return { events, error };
}

function merged(fresh: HiveEvent[], before: HiveEvent[]): HiveEvent[] {
  const known = new Map(before.map((event) => [event.id, event]));
  for (const event of fresh) known.set(event.id, event);
  return [...known.values()].sort((left, right) => right.id - left.id).slice(0, KEPT);
}

export default function Events() {
  const params = query.value;
  const kind = params.get('type');
  const drone = params.get('drone');
  const text = params.get('q') ?? '';
  const { events, error } = useEvents(kind, drone);
  const shown = events?.filter((event) => `${event.message} ${event.drone ?? ''} ${event.package ?? ''}`.toLowerCase().includes(text.toLowerCase())) ?? null;
  return (
    <>
      <div class="toolbar">
        <FilterField value={text} label="Filter events" placeholder="Any word" onInput={(q) => setQuery({ q })} />
        <select class="field" aria-label="Kind of event" value={kind ?? ''} onChange={(event) => setQuery({ type: event.currentTarget.value || null })}>
          <option value="">All kinds</option>
          {KINDS.map((one) => <option key={one} value={one}>{word(one)}</option>)}
        </select>
        {drone ? <button type="button" class="button small" onClick={() => setQuery({ drone: null })}>{drone} ✕</button> : null}
        <span class="end" role="status">{shown ? plural(shown.length, 'event') : ''}</span>
      </div>
      {error ? <Failure error={error} /> : null}
      {shown === null ? <Loading /> : shown.length === 0 ? <Empty>No event fits.</Empty> : (
        <Panel class="scroll-x">
          <table class="list cards">
            <thead><tr><th>When</th><th>Kind</th><th>What</th><th>Node</th></tr></thead>
            <tbody>
              {shown.map((event) => (
                <tr key={event.id}>
                  <td data-label="When"><Time at={event.at} /></td>
                  <td data-label="Kind"><KindBadge kind={event.type} /></td>
                  <td data-label="What" class="wrap"><What event={{ ...event, drone: undefined }} /></td>
                  <td data-label="Node">{event.drone ? <a href={`/nodes/${encodeURIComponent(event.drone)}`}>{event.drone}</a> : null}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </Panel>
      )}
    </>
  );
}
