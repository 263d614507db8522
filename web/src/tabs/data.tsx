// The hive's data, asked with SQL. Only SELECT gets through, which the node sees to. The query stands in the fragment of the address, which
// no server ever sees: that makes a link of it.
import { useEffect, useRef, useState } from 'preact/hooks';
import { explain, send } from '../api';
import { signInOpen } from '../keys';
import { useResource } from '../resource';
import { OnlyNow } from '../ui/timebar';
import { holder } from '../session';
import { canned, forget, save, saved } from '../data/saved';
import { Result } from '../data/result';
import type { SqlAnswer, SqlSchema, SqlTable } from '../data/types';
import { confirm, tell } from '../ui/dialog';
import { Icon } from '../ui/icon';
import { lazy } from '../ui/lazy';
import { Loaded, Section } from '../ui/parts';

const Editor = lazy(() => import('../data/editor'));
const FIRST = 'SELECT state, count(*) AS jobs\nFROM jobs\nGROUP BY state\nORDER BY jobs DESC';

function fromAddress(): string | null {
  return new URLSearchParams(location.hash.slice(1)).get('q');
}

function toAddress(query: string): void {
  history.replaceState(null, '', `${location.pathname}${location.search}#${new URLSearchParams({ q: query })}`);
}

async function copyLink(): Promise<void> {
  try {
    await navigator.clipboard.writeText(location.href);
    tell('The link is copied.');
  } catch {
    // Without TLS a page may not write there.
    tell('The link stands in the address bar.');
  }
}

function askName(query: string): void {
  let name = query.replace(/\s+/g, ' ').slice(0, 40);
  confirm({
    title: 'Save this query', verb: 'Save',
    body: (
      <>
        <label class="stack">Name<input class="field" defaultValue={name} maxLength={80} onInput={(event) => (name = event.currentTarget.value)} /></label>
        <p class="dim">It is kept in this browser.</p>
      </>
    ),
    run: (): Promise<string> => {
      save(name.trim() || 'Unnamed', query);
      return Promise.resolve('Saved.');
    },
  });
}

function Table({ table, onPick }: { table: SqlTable; onPick: (query: string) => void }) {
  const names = table.columns.slice(0, 8).map((column) => column.name).join(', ');
  return (
    <details class="data-table">
      <summary><b>{table.name}</b>{table.kind === 'view' ? <span class="tag">view</span> : null} <span class="dim">{table.meaning}</span></summary>
      <button type="button" class="button small" onClick={() => onPick(`SELECT ${names || '*'}\nFROM ${table.name}\nLIMIT 100`)}>Show rows</button>
      <dl>
        {table.columns.map((column) => (
          <div key={column.name}><dt class="mono">{column.name} <span class="dim">{column.type.toLowerCase()}</span></dt><dd class="dim">{column.meaning}</dd></div>
        ))}
      </dl>
    </details>
  );
}

function Side({ schema, onPick }: { schema: SqlSchema; onPick: (query: string) => void }) {
  const offered = canned.filter((one) => schema.tables.some((table) => table.name === one.table));
  return (
    <div class="data-side">
      <Section title="Queries" id="queries">
        <ul class="data-queries">
          {saved.value.map((one) => (
            <li key={one.name}>
              <button type="button" class="link" title={one.query} onClick={() => onPick(one.query)}>{one.name}</button>
              <button type="button" class="plain" aria-label={`Forget ${one.name}`} onClick={() => forget(one.name)}><Icon name="close" size={13} /></button>
            </li>
          ))}
          {offered.map((one) => <li key={`canned ${one.name}`}><button type="button" class="link dim" title={one.query} onClick={() => onPick(one.query)}>{one.name}</button></li>)}
        </ul>
      </Section>
      <Section title="Tables" id="tables">
        {schema.tables.map((table) => <Table key={table.name} table={table} onPick={onPick} />)}
      </Section>
    </div>
  );
}

function Explorer() {
  const schema = useResource<SqlSchema>('/api/v2/sql/schema', { kinds: ['access'] });
  const [chosen, setChosen] = useState(() => ({ text: fromAddress() ?? FIRST }));
  const [text, setText] = useState(chosen.text);
  const [answer, setAnswer] = useState<SqlAnswer | null>(null);
  const [problem, setProblem] = useState<unknown>(null);
  const [busy, setBusy] = useState(false);
  const asked = useRef(0);
  const run = async (query: string) => {
    const mine = (asked.current += 1);
    setBusy(true);
    toAddress(query);
    try {
      const got = await send<SqlAnswer>('/api/v2/sql', { query });
      if (mine !== asked.current) return;
      setAnswer(got);
      setProblem(null);
    } catch (error) {
      if (mine === asked.current) setProblem(error);
    }
    if (mine === asked.current) setBusy(false);
  };
  const pick = (query: string) => {
    setChosen({ text: query });
    setText(query);
    void run(query);
  };
  useEffect(() => {
    // A link to a query shows what it finds.
    if (fromAddress() !== null) void run(text);
    const moved = () => {
      const query = fromAddress();
      if (query !== null) pick(query);
    };
    window.addEventListener('hashchange', moved);
    return () => window.removeEventListener('hashchange', moved);
  }, []);
  return (
    <div class="data-page">
      <div class="data-main">
        <OnlyNow what="The tables hold how it is now." />
        <div class="panel"><Editor chosen={chosen} schema={schema.data} onChange={setText} onRun={(query) => void run(query)} /></div>
        <div class="toolbar data-run">
          <button type="button" class="button primary" disabled={busy || text.trim() === ''} onClick={() => void run(text)}><Icon name="play" size={14} /> {busy ? 'Runs …' : 'Run'}</button>
          <kbd>Ctrl Enter</kbd>
          <button type="button" class="button small" onClick={() => askName(text)}>Save</button>
          <button type="button" class="button small" onClick={() => { toAddress(text); void copyLink(); }}><Icon name="link" size={14} /> Link</button>
          {schema.data ? <span class="end">one SELECT, at most {schema.data.timeout_ms / 1_000} s and {schema.data.rows_default} rows</span> : null}
        </div>
        {problem ? <div class="note bad" role="alert"><p class="mono">{explain(problem).message}</p><p class="dim">{explain(problem).hint}</p></div> : null}
        {answer ? <Result key={answer.columns.map((column) => column.name).join('\n')} answer={answer} /> : null}
      </div>
      <Loaded of={schema}>{(data) => <Side schema={data} onPick={pick} />}</Loaded>
    </div>
  );
}

export default function Data() {
  if (holder.value === null) {
    return (
      <div class="panel pad data-locked">
        <OnlyNow what="The tables hold how it is now." />
        <h2>Ask the hive's data with SQL</h2>
        <p>Jobs, attempts, machines, events and measurements as tables; results as rows, charts, CSV and JSON. For this a key or a token is needed, at the admin port of a node.</p>
        <p><button type="button" class="button primary" onClick={() => (signInOpen.value = true)}><Icon name="key" size={15} /> Sign in</button></p>
      </div>
    );
  }
  return <Explorer />;
}
