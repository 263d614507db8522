// Logs of a node itself: its agent's, its system's, its kernel's, portage's. Over the mesh, from whichever node shows this page.
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import { explain, fetchRaw, url } from '../api';
import { OnlyNow } from '../ui/timebar';
import { plural } from '../format';
import { signInOpen } from '../keys';
import { refreshes } from '../live';
import { harmless } from '../log/window';
import { query, setQuery } from '../router';
import { mayAdmin } from '../session';
import type { TabProps } from '../tabs';
import { Icon } from '../ui/icon';
import { Choice, Empty, FilterField, Loading } from '../ui/parts';

const SOURCES = [{ value: 'agent', text: 'Agent' }, { value: 'system', text: 'System' }, { value: 'kernel', text: 'Kernel' }, { value: 'emerge', text: 'Portage' }];
const LINES = ['200', '1000', '5000'];
const KEPT = 20_000;
const DRAWN_EVERY_MS = 200;
const ROW_PX = 19;
const MORE_ROWS = 30;

/** Lines of a log as they come; with `follow`, also those that are written from now on. */
function useLines(path: string): { lines: string[]; problem: unknown; loading: boolean } {
  const [state, setState] = useState<{ lines: string[]; problem: unknown; loading: boolean }>({ lines: [], problem: null, loading: true });
  const mark = refreshes.value;
  useEffect(() => {
    const abort = new AbortController();
    let lines: string[] = [];
    let drawn: ReturnType<typeof setTimeout> | undefined;
    const draw = () => {
      drawn ??= setTimeout(() => {
        drawn = undefined;
        setState({ lines: [...lines], problem: null, loading: false });
      }, DRAWN_EVERY_MS);
    };
    const read = async () => {
      const response = await fetchRaw(path, abort.signal);
      if (response.body === null) return;
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = '';
      for (;;) {
        const { done, value } = await reader.read();
        const parts = (rest + (value ?? '')).split('\n');
        rest = done ? '' : (parts.pop() ?? '');
        lines.push(...parts.filter((line, at) => !done || line !== '' || at < parts.length - 1).map(harmless));
        if (lines.length > KEPT) lines = lines.slice(-KEPT);
        draw();
        if (done) return;
      }
    };
    setState({ lines: [], problem: null, loading: true });
    read().catch((problem: unknown) => !abort.signal.aborted && setState({ lines, problem, loading: false }));
    return () => {
      abort.abort();
      clearTimeout(drawn);
    };
  }, [path, mark]);
  return state;
}

function Lines({ lines, follow }: { lines: string[]; follow: boolean }) {
  const box = useRef<HTMLDivElement>(null);
  const [seen, setSeen] = useState({ top: 0, height: 600 });
  const stays = useRef(true);
  useEffect(() => {
    const place = box.current;
    if (place && stays.current) place.scrollTop = place.scrollHeight;
  }, [lines.length, follow]);
  const from = Math.max(0, Math.floor(seen.top / ROW_PX) - MORE_ROWS);
  const shown = lines.slice(from, Math.ceil((seen.top + seen.height) / ROW_PX) + MORE_ROWS);
  return (
    <div
      ref={box}
      class="log-box panel node-log"
      role="log"
      aria-live="off"
      aria-label="Lines of the log"
      tabIndex={0}
      onScroll={(event) => {
        const place = event.currentTarget;
        stays.current = place.scrollHeight - place.scrollTop - place.clientHeight < 3 * ROW_PX;
        setSeen({ top: place.scrollTop, height: place.clientHeight });
      }}
    >
      <div class="log-body" style={{ height: lines.length * ROW_PX }}>
        {shown.map((line, at) => (
          <div key={from + at} class={`log-line ${/\b(error|fatal|panic|failed|ERROR)\b/.test(line) ? 'bad-line' : /\b(warn|warning|WARN)\b/.test(line) ? 'warn-line' : ''}`} style={{ top: (from + at) * ROW_PX }}><span class="log-text">{line}</span></div>
        ))}
      </div>
    </div>
  );
}

function Whole({ node }: { node: string }) {
  const params = query.value;
  const source = params.get('source') ?? 'agent';
  const lines = params.get('lines') ?? LINES[0] ?? '200';
  const follow = params.get('follow') === '1';
  const text = (params.get('q') ?? '').toLowerCase();
  const path = (more: boolean) => url(`/api/v2/nodes/${encodeURIComponent(node)}/logs`, { source, lines, follow: more && follow ? '1' : null, harmless: more ? null : '1' });
  const log = useLines(path(true));
  const fits = useMemo(() => (text ? log.lines.filter((line) => line.toLowerCase().includes(text)) : log.lines), [log.lines, text]);
  const problem = log.problem ? explain(log.problem) : null;
  return (
    <>
      <OnlyNow what="The end of the log as it is now; its lines tell their own times." />
      <div class="title"><div class="grow"><h2 class="big">Logs of {node}</h2><p class="dim"><a href={`/nodes/${encodeURIComponent(node)}`}>About {node}</a></p></div></div>
      <div class="toolbar">
        <Choice label="Which log" value={source} options={SOURCES} onChange={(value) => setQuery({ source: value === 'agent' ? null : value })} />
        <FilterField value={params.get('q') ?? ''} label="Lines with" placeholder="Only lines with …" onInput={(q) => setQuery({ q })} />
        <select class="field" aria-label="How many lines" value={lines} onChange={(event) => setQuery({ lines: event.currentTarget.value })}>
          {LINES.map((count) => <option key={count} value={count}>last {count} lines</option>)}
        </select>
        <button type="button" class="button small" aria-pressed={follow} onClick={() => setQuery({ follow: follow ? null : '1' })}><Icon name={follow ? 'pause' : 'play'} size={13} /> {follow ? 'Following' : 'Follow'}</button>
        <a class="button small" href={path(false)} download={`${node.replace(/[^A-Za-z0-9._-]+/g, '_')}-${source}.log`}><Icon name="download" size={14} /> Download</a>
        <span class="end" role="status">{plural(fits.length, 'line')}{text ? ` of ${log.lines.length}` : ''}</span>
      </div>
      {problem ? <div class="note bad" role="alert"><p>{problem.message}</p>{problem.hint ? <p class="dim">{problem.hint}</p> : null}</div> : null}
      {log.loading ? <Loading /> : fits.length ? <Lines lines={fits} follow={follow} /> : problem ? null : <Empty>{text ? 'No line fits.' : 'This log is empty.'}</Empty>}
    </>
  );
}

export default function Logs({ argument }: TabProps) {
  if (mayAdmin.value && argument) return <Whole key={argument} node={argument} />;
  return (
    <div class="panel pad data-locked">
      <OnlyNow what="The end of the log as it is now; its lines tell their own times." />
      <h2>Logs of {argument ?? 'a node'}</h2>
      <p>What the agent, the system, the kernel and portage wrote there. For this the admin key is needed, at the admin port of a node.</p>
      <p><button type="button" class="button primary" onClick={() => (signInOpen.value = true)}><Icon name="key" size={15} /> Sign in</button></p>
    </div>
  );
}
