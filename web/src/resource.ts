// Something that is asked of the node and asked again when it may have changed.
import { effect, signal, type Signal } from '@preact/signals';
import { useEffect, useMemo, useRef } from 'preact/hooks';
import { get, Refusal, type Answer } from './api';
import { changes, line, refreshes } from './live';
import { moment } from './moment';

export interface Resource<T> {
  data: T | null;
  error: unknown;
  loading: boolean;
  /** Index at which the node answered. */
  index: number | null;
}

interface Options {
  /** Kinds of changes that concern it; none: all. */
  kinds?: string[];
  /** Ask again so often whatever happens, for what changes without an entry in the log. */
  everyMs?: number;
  /** At most this often. */
  atMostMs?: number;
}

/** Moments that follow each other while somebody drags or plays are asked for so often. */
const THEN_MS = 150;

const EMPTY: Resource<never> = { data: null, error: null, loading: true, index: null };

/** The answer to GET `path`, kept fresh while the component is shown. A null path asks nothing. */
export function useResource<T>(path: string | null, options: Options = {}): Resource<T> {
  const { kinds, everyMs, atMostMs = 500 } = options;
  const state: Signal<Resource<T>> = useMemo(() => signal<Resource<T>>(EMPTY), []);
  const wanted = kinds?.join(',');
  const shown = useRef(path);
  useEffect(() => {
    if (path === null) {
      state.value = { ...EMPTY, loading: false };
      return;
    }
    // Of something else nothing is shown, however short.
    state.value = shown.current === path ? { ...state.peek(), loading: true } : EMPTY;
    shown.current = path;
    const abort = new AbortController();
    let asking = false;
    let again = false;
    let askedAt = 0;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const ask = async () => {
      if (asking) {
        again = true;
        return;
      }
      asking = true;
      askedAt = performance.now();
      try {
        const asked = moment.peek();
        const answer: Answer<T> = await get<T>(path, abort.signal);
        // What is now is not shown as then, nor the other way round.
        if ((asked === null) !== (moment.peek() === null)) again = true;
        else state.value = { data: answer.data, error: null, loading: false, index: answer.log?.applied ?? null };
      } catch (error) {
        // What was there stays, so that a node that is away for a moment takes nothing off the screen.
        // Of a moment of which nothing is known, nothing is shown.
        const unknown = error instanceof Refusal && error.code === 'not_recorded';
        if (!abort.signal.aborted) state.value = { ...(unknown ? EMPTY : state.peek()), error, loading: false };
      }
      asking = false;
      if (again && !abort.signal.aborted) {
        again = false;
        soon(moment.peek() === null ? atMostMs : THEN_MS);
      }
    };
    const soon = (pauseMs = atMostMs) => {
      clearTimeout(timer);
      timer = setTimeout(() => void ask(), Math.max(0, askedAt + pauseMs - performance.now()));
    };
    void ask();
    let first = true;
    const dispose = effect(() => {
      const change = changes.value;
      void refreshes.value;
      if (first) {
        first = false;
        return;
      }
      // The past does not change.
      if (moment.peek() !== null) return;
      if (change.kinds === null || !wanted || change.kinds.some((kind) => wanted.split(',').includes(kind))) soon();
    });
    let began = true;
    const moved = effect(() => {
      void moment.value;
      if (!began) soon(THEN_MS);
      began = false;
    });
    const looked = effect(() => {
      // Whatever was missed while the node was away.
      if (line.value === 'stream' || line.value === 'poll') if (state.peek().error !== null) soon();
    });
    const interval = everyMs ? setInterval(() => document.visibilityState === 'visible' && moment.peek() === null && soon(), everyMs) : undefined;
    return () => {
      abort.abort();
      dispose();
      moved();
      looked();
      clearTimeout(timer);
      clearInterval(interval);
    };
  }, [path, wanted, everyMs]);
  return state.value;
}
