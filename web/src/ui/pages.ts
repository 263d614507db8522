// A long list, fetched in windows as it is looked at, and fetched anew where it is looked at when it changes.
import { effect } from '@preact/signals';
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import { get, Refusal, url } from '../api';
import { changes, refreshes } from '../live';
import { moment } from '../moment';
import type { JobLine, JobPage } from '../types';

const PAGE = 100;
/** Windows that are kept; those looked at last stay. */
const KEPT = 40;
const AT_MOST_MS = 1_000;
/** Moments that follow each other are asked for so often. */
const THEN_MS = 150;

export interface JobPages {
  total: number;
  states: JobPage['states'];
  error: unknown;
  loaded: boolean;
  row: (at: number) => JobLine | null;
  range: (from: number, to: number) => void;
}

interface Window {
  jobs: JobLine[];
  stale: boolean;
}

/** Jobs by filter. */
export function useJobPages(query: Record<string, string | null>): JobPages {
  const key = JSON.stringify(query);
  const [about, setAbout] = useState<{ total: number; states: JobPage['states']; error: unknown; loaded: boolean }>({
    total: 0, states: {}, error: null, loaded: false,
  });
  const [, drawn] = useState(0);
  const seen = useRef({ from: 0, to: 40 });
  const list = useMemo(() => new Map<number, Window>(), [key]);
  const fetching = useMemo(() => new Set<number>(), [key]);
  const fetchSeen = useRef(() => {});
  useEffect(() => {
    const abort = new AbortController();
    const one = async (page: number) => {
      if (fetching.has(page)) return;
      fetching.add(page);
      try {
        const { data } = await get<JobPage>(url('/api/v2/queue', { ...query, offset: page * PAGE, limit: PAGE }), abort.signal);
        list.delete(page);
        list.set(page, { jobs: data.jobs, stale: false });
        for (const old of list.keys()) {
          if (list.size <= KEPT) break;
          list.delete(old);
        }
        setAbout({ total: data.total, states: data.states, error: null, loaded: true });
      } catch (error) {
        const unknown = error instanceof Refusal && error.code === 'not_recorded';
        if (unknown) list.clear();
        if (!abort.signal.aborted) setAbout((before) => ({ ...before, ...(unknown ? { total: 0, states: {} } : {}), error, loaded: true }));
      } finally {
        fetching.delete(page);
      }
      drawn((times) => times + 1);
    };
    fetchSeen.current = () => {
      const first = Math.floor(seen.current.from / PAGE);
      const last = Math.floor(Math.max(seen.current.to - 1, 0) / PAGE);
      for (let page = first; page <= last; page += 1) {
        const known = list.get(page);
        if (!known || known.stale) void one(page);
      }
    };
    fetchSeen.current();
    let timer: ReturnType<typeof setTimeout> | undefined;
    let first = true;
    let shown = moment.peek();
    const dispose = effect(() => {
      const change = changes.value;
      void refreshes.value;
      const at = moment.value;
      if (first) {
        first = false;
        return;
      }
      // The past does not change.
      if (at === shown && at !== null) return;
      const pauseMs = at === shown ? AT_MOST_MS : THEN_MS;
      shown = at;
      if (pauseMs === AT_MOST_MS && change.kinds !== null && !change.kinds.includes('jobs') && !change.kinds.includes('sessions')) return;
      timer ??= setTimeout(() => {
        timer = undefined;
        for (const window of list.values()) window.stale = true;
        fetchSeen.current();
      }, pauseMs);
    });
    return () => {
      abort.abort();
      dispose();
      clearTimeout(timer);
    };
  }, [key]);
  return {
    ...about,
    row: (at) => list.get(Math.floor(at / PAGE))?.jobs[at % PAGE] ?? null,
    range: (from, to) => {
      seen.current = { from, to };
      fetchSeen.current();
    },
  };
}
