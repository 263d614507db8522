// The log of an attempt: from its end or around a place, followed while it grows, searched on the node that keeps it, folded by phase.
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from 'preact/hooks';
import { explain, get, url } from '../api';
import { count, duration, plural } from '../format';
import type { FirstError, LogMatches, LogPhases } from '../types';
import { tell } from '../ui/dialog';
import { Icon } from '../ui/icon';
import { now } from '../live';
import { moment, ofMoment } from '../moment';
import { useResource } from '../resource';
import { AROUND, LogWindow, TAIL, type Span } from './window';

const ROW_PX = 19;
const MORE_ROWS = 20;
const MATCHES = 200;
const MOMENT_MS = 300;

interface Props {
  job: string;
  attempt: number;
  target: string;
  /** The attempt goes on. */
  growing: boolean;
}

interface Place {
  offset: number;
  line: number;
}

export function LogViewer({ job, attempt, target, growing }: Props) {
  const [, drawn] = useState(0);
  const frame = useRef(0);
  const draw = () => {
    frame.current ||= requestAnimationFrame(() => {
      frame.current = 0;
      drawn((times) => times + 1);
    });
  };
  // A log that was over at the moment that is shown is the same at every later one.
  const shownAs = moment.value === null ? 'now' : growing ? String(moment.value) : 'whole';
  const log = useMemo(() => new LogWindow(job, attempt, draw), [job, attempt]);
  const phases = useResource<LogPhases>(`/api/v2/jobs/${job}/log/phases?attempt=${attempt}`, { kinds: ['jobs'], ...(growing ? { everyMs: 4_000 } : {}) });
  const [span, setSpan] = useState<Span>({ tail: TAIL, follow: growing });
  const [follow, setFollow] = useState(growing);
  const [problem, setProblem] = useState<string | null>(null);
  const [folded, setFolded] = useState<ReadonlySet<number>>(new Set());
  const [marked, setMarked] = useState<number | null>(null);
  const goTo = useRef<Place | null>(null);
  const box = useRef<HTMLDivElement>(null);
  const body = useRef<HTMLDivElement>(null);
  const [seen, setSeen] = useState({ top: 0, height: 500 });

  useEffect(() => {
    const abort = new AbortController();
    setProblem(null);
    const read = () => {
      log.read(span, abort.signal).catch((error: unknown) => {
        if (!abort.signal.aborted) setProblem(error instanceof Error ? error.message : String(error));
      });
    };
    // While somebody drags or plays, not at every moment.
    const timer = setTimeout(read, moment.peek() !== null && growing ? MOMENT_MS : 0);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [log, span, shownAs]);

  const marks = (phases.data?.phases ?? []).slice().sort((left, right) => left.offset - right.offset);
  for (const phase of marks) log.anchor(phase.offset, phase.line);

  // Rows that are shown: all lines but those of folded phases.
  const rows = useMemo(() => {
    if (folded.size === 0) return null;
    const hidden: [number, number][] = [];
    marks.forEach((phase, at) => {
      if (!folded.has(phase.offset)) return;
      const from = log.find(phase.offset);
      const next = marks[at + 1];
      const to = next ? log.find(next.offset) : log.lines.length;
      if (from !== null) hidden.push([from + 1, to ?? log.lines.length]);
    });
    const shown: number[] = [];
    let at = 0;
    for (const [from, to] of hidden) {
      for (; at < from; at += 1) shown.push(at);
      at = Math.max(at, to);
    }
    for (; at < log.lines.length; at += 1) shown.push(at);
    return shown;
  }, [folded, marks.length, log, log.lines.length, log.start]);
  const total = rows ? rows.length : log.lines.length;
  const lineAt = (row: number) => (rows ? rows[row]! : row);

  useLayoutEffect(() => {
    const place = box.current;
    if (!place) return;
    const look = () => setSeen({ top: place.scrollTop, height: place.clientHeight });
    const size = new ResizeObserver(look);
    size.observe(place);
    look();
    return () => size.disconnect();
  }, []);
  useLayoutEffect(() => {
    body.current?.style.setProperty('height', `${total * ROW_PX}px`);
    const place = box.current;
    if (!place) return;
    const wanted = goTo.current;
    if (wanted) {
      const at = log.find(wanted.offset);
      if (at === null) return;
      if (wanted.line > 0) log.anchor(wanted.offset, wanted.line);
      goTo.current = null;
      setMarked(wanted.offset);
      const row = rows ? rows.indexOf(at) : at;
      place.scrollTop = Math.max(0, row * ROW_PX - place.clientHeight / 3);
    } else if (follow) place.scrollTop = place.scrollHeight;
  });

  const jump = (place: Place) => {
    goTo.current = place;
    setFollow(false);
    setFolded(new Set());
    if (log.find(place.offset) === null) {
      const from = Math.max(0, place.offset - AROUND);
      setSpan({ offset: from, until: place.offset + 4 * AROUND });
    } else drawn((times) => times + 1);
  };
  const toEnd = () => {
    setMarked(null);
    setFollow(true);
    if (!log.atEnd) setSpan({ tail: TAIL, follow: growing });
    else if (box.current) box.current.scrollTop = box.current.scrollHeight;
  };
  const toBeginning = () => {
    setFollow(false);
    if (log.start === 0) box.current?.scrollTo({ top: 0 });
    else {
      goTo.current = { offset: 0, line: 1 };
      setSpan({ offset: 0, until: 4 * TAIL });
    }
  };
  const toError = async () => {
    try {
      const { data } = await get<FirstError>(`/api/v2/jobs/${job}/log/first-error?attempt=${attempt}`);
      if (data.error) jump(data.error);
      else tell('No line of this log looks like an error.');
    } catch (error) {
      tell(explain(error).message, true);
    }
  };

  const from = Math.max(0, Math.floor(seen.top / ROW_PX) - MORE_ROWS);
  const to = Math.min(total, Math.ceil((seen.top + seen.height) / ROW_PX) + MORE_ROWS);
  const shown = [];
  for (let row = from; row < to; row += 1) shown.push(row);
  const began = new Map(marks.map((phase) => [phase.offset, phase]));
  const fold = (offset: number) => {
    const next = new Set(folded);
    if (!next.delete(offset)) next.add(offset);
    setFollow(false);
    setFolded(next);
  };

  return (
    <div class="log">
      <div class="toolbar log-tools">
        <Search job={job} attempt={attempt} onJump={jump} />
        <button type="button" class="button small" onClick={() => void toError()}><Icon name="warn" size={14} /> First error</button>
        <button type="button" class="button small" onClick={toBeginning}>Beginning</button>
        <button type="button" class="button small" aria-pressed={follow} onClick={toEnd}>{growing && moment.value === null ? (follow ? 'Following' : 'Follow') : 'End'}</button>
        {marks.length > 1 ? (
          <button type="button" class="button small" onClick={() => { setFollow(false); setFolded(folded.size ? new Set() : new Set(marks.map((phase) => phase.offset))); }}>{folded.size ? 'Unfold' : 'Fold phases'}</button>
        ) : null}
        <a class="button small" href={ofMoment(url(`/api/v2/jobs/${job}/log`, { attempt, harmless: '1' }))} download={`${target.replace(/[^A-Za-z0-9._-]+/g, '_')}-${attempt}.log`}><Icon name="download" size={14} /> Download</a>
      </div>
      {marks.length > 1 ? <PhaseBar phases={marks} onJump={jump} /> : null}
      {moment.value !== null && growing ? <p class="note warn">It was running then, and lines carry no times: what stands here surely was written by then, up to the phase that ran.</p> : null}
      {problem ? <p class="note bad" role="alert">{problem}</p> : null}
      {log.start > 0 && log.lines.length > 0 ? (
        <p class="log-more"><button type="button" class="button small" onClick={() => { const first = log.lines[0]; if (first) { goTo.current = { offset: first.offset, line: 0 }; setFollow(false); setSpan({ offset: Math.max(0, log.start - TAIL), until: log.end }); } }}>Load earlier lines</button> <span class="dim">The first {count(Math.round(log.start / 1024))} KiB are not loaded.</span></p>
      ) : null}
      <div
        ref={box}
        class="log-box panel"
        role="group"
        aria-label="Lines of the log"
        tabIndex={0}
        onScroll={(event) => {
          const place = event.currentTarget;
          setSeen({ top: place.scrollTop, height: place.clientHeight });
          if (follow && place.scrollHeight - place.scrollTop - place.clientHeight > 3 * ROW_PX) setFollow(false);
        }}
      >
        <div ref={body} class="log-body">
          {shown.map((row) => {
            const at = lineAt(row);
            const line = log.lines[at];
            if (!line) return null;
            const phase = began.get(line.offset);
            return (
              <div key={line.offset} class={`log-line ${phase ? 'phase' : ''} ${line.offset === marked ? 'marked' : ''}`} style={{ top: row * ROW_PX }}>
                <span class="log-number">{log.firstNumber === null ? '' : log.firstNumber + at}</span>
                {phase ? (
                  <button type="button" class="fold" aria-expanded={!folded.has(line.offset)} aria-label={`Phase ${phase.name}`} onClick={() => fold(line.offset)}>
                    <Icon name={folded.has(line.offset) ? 'right' : 'down'} size={13} />
                  </button>
                ) : null}
                <span class="log-text">{line.text}</span>
                {phase?.took_ms !== undefined && phase.took_ms !== null ? <span class="log-took">{phase.name} · {duration(phase.took_ms)}</span> : null}
              </div>
            );
          })}
        </div>
        {log.lines.length === 0 && !problem ? <p class="empty log-empty">{growing ? (moment.value === null ? 'Nothing was printed yet.' : 'Nothing of it was surely written by then.') : 'This log is empty.'}</p> : null}
      </div>
      <p class="dim log-foot" role="status">
        {plural(log.lines.length, 'line')} loaded{log.atEnd ? '' : ', later ones are not'}{growing && moment.value === null ? '; the build goes on' : ''}
      </p>
    </div>
  );
}

/** Phases by how long they took; each is a way into the log. */
function PhaseBar({ phases, onJump }: { phases: LogPhases['phases']; onJump: (place: Place) => void }) {
  const own = phases.filter((phase) => phase.source === 'output');
  const shown = own.length > 1 ? own : phases;
  const took = (phase: LogPhases['phases'][number]) => phase.took_ms ?? Math.max(0, now.value - Date.parse(phase.at));
  const all = shown.reduce((sum, phase) => sum + took(phase), 0);
  return (
    <ol class="phases" aria-label="Phases">
      {shown.map((phase) => (
        <li key={phase.offset} style={{ flexGrow: Math.max(1, all ? (100 * took(phase)) / all : 1) }}>
          <button type="button" title={`${phase.name}, ${phase.took_ms === null ? 'goes on' : duration(phase.took_ms)}`} onClick={() => onJump(phase)}>
            <span class="clip">{phase.name}</span>
            <span class="dim clip">{phase.took_ms === null ? '…' : duration(phase.took_ms)}</span>
          </button>
        </li>
      ))}
    </ol>
  );
}

function Search({ job, attempt, onJump }: { job: string; attempt: number; onJump: (place: Place) => void }) {
  const [text, setText] = useState('');
  const [found, setFound] = useState<LogMatches | null>(null);
  const [problem, setProblem] = useState<string | null>(null);
  const [open, setOpen] = useState(false);
  useEffect(() => {
    setFound(null);
    setProblem(null);
    if (text.length < 2) return;
    const abort = new AbortController();
    const timer = setTimeout(() => {
      get<LogMatches>(url(`/api/v2/jobs/${job}/log/search`, { q: text, attempt, ignore_case: '1', limit: MATCHES }), abort.signal).then(
        ({ data }) => setFound(data),
        (error: unknown) => !abort.signal.aborted && setProblem(explain(error).message),
      );
    }, 250);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [text, job, attempt]);
  return (
    <div class="log-search" onFocusOut={(event) => { if (!(event.relatedTarget instanceof Node && event.currentTarget.contains(event.relatedTarget))) setOpen(false); }}>
      <input
        class="field"
        type="search"
        data-filter
        value={text}
        aria-label="Search the log"
        placeholder="Search the whole log"
        autocomplete="off"
        spellcheck={false}
        onFocus={() => setOpen(true)}
        onInput={(event) => { setText(event.currentTarget.value); setOpen(true); }}
        onKeyDown={(event) => {
          const first = found?.matches[0];
          if (event.key === 'Enter' && first) onJump(first);
          if (event.key === 'Escape') setOpen(false);
        }}
      />
      {open && text.length >= 2 ? (
        <div class="log-matches panel">
          {problem ? <p class="note bad">{problem}</p> : found === null ? <p class="dim">Searching …</p> : (
            <>
              <p class="dim" role="status">{found.matches.length === 0 ? 'No line matches.' : `${plural(found.matches.length, 'line')}${found.complete ? '' : ', and maybe more further on'}`}</p>
              <ul>
                {found.matches.map((match) => (
                  <li key={match.offset}>
                    <button type="button" onClick={() => { onJump(match); setOpen(false); }}><span class="log-number">{match.line}</span><span class="clip">{match.text}</span></button>
                  </li>
                ))}
              </ul>
            </>
          )}
        </div>
      ) : null}
    </div>
  );
}
