// One message: who said what to whom, what came of it, and what it says, decoded. What it says needs the admin key.
import type { ComponentChildren } from 'preact';
import { get, url } from '../api';
import { bytes, count, duration, plural, shortId } from '../format';
import { signInOpen } from '../keys';
import { useResource } from '../resource';
import { mayAdmin } from '../session';
import { useEffect, useState } from 'preact/hooks';
import { Facts, Failure, Loading } from '../ui/parts';
import { Badge } from '../ui/state';
import { Clock } from './parts';
import { refused, type WireDetail, type WireList, type WireRecord } from './types';
import { VerdictNote } from './verdict';

const DEEP = 2;
const ITEMS_MAX = 200;
const TEXT_MAX = 4_000;

function Leaf({ value }: { value: unknown }) {
  if (typeof value === 'string') return <span class="wire-text">{value.length > TEXT_MAX ? `${value.slice(0, TEXT_MAX)}… (${count(value.length - TEXT_MAX)} more)` : value}</span>;
  return <span class="wire-number">{value === null ? 'none' : String(value)}</span>;
}

/** Decoded fields, as deep as they are; deep parts folded. */
function Tree({ name, value, depth }: { name: string; value: unknown; depth: number }) {
  if (value === null || typeof value !== 'object') return <li><span class="wire-name">{name}</span> <Leaf value={value} /></li>;
  const entries: [string, unknown][] = Array.isArray(value) ? value.map((one, at) => [String(at), one]) : Object.entries(value);
  const shown = entries.slice(0, ITEMS_MAX);
  return (
    <li>
      <details open={depth < DEEP && entries.length <= 30}>
        <summary><span class="wire-name">{name}</span> <span class="dim">{Array.isArray(value) ? plural(entries.length, 'item') : plural(entries.length, 'field')}</span></summary>
        <ul>
          {shown.map(([key, one]) => <Tree key={key} name={key} value={one} depth={depth + 1} />)}
          {entries.length > shown.length ? <li class="dim">and {count(entries.length - shown.length)} more</li> : null}
        </ul>
      </details>
    </li>
  );
}

function Head({ record }: { record: WireRecord }) {
  const rows: [string, ComponentChildren][] = [
    ['When', <Clock at={record.at} number={record.number} whole />],
    ['From', record.from],
    ['To', record.to],
    ['Protocol', record.protocol],
    ['Seen by', <>{record.node}, {record.sent ? 'which sent it' : 'which received it'}</>],
    ['Length', `${bytes(record.bytes)}${record.bytes >= 1024 ? ` (${count(record.bytes)} B)` : ''}`],
  ];
  if (record.latency_ms !== null) rows.push(['After its question', duration(record.latency_ms)]);
  if (record.status) rows.push(['Status', record.status]);
  if (record.path) rows.push(['Path', <span class="mono">{record.path}</span>]);
  if (record.job) rows.push(['Job', <><a href={`/jobs/${record.job}`}>{shortId(record.job)}</a>{record.jobs > 1 ? ` and ${record.jobs - 1} more` : ''}</>]);
  if (record.session) rows.push(['Session', <a href={`/queue?session=${record.session}`}>{shortId(record.session)}</a>]);
  rows.push(['Trace', <a class="mono" href={url('/wire', { filter: `trace == "${record.trace}"`, node: 'all' })}>{record.trace}</a>]);
  return (
    <>
      <h2 class="wire-title">{record.kind} {refused(record.verdict) ? <Badge tone="bad" icon="bad">{record.verdict}</Badge> : <Badge tone="idle">{record.verdict}</Badge>}</h2>
      <VerdictNote verdict={record.verdict} />
      <Facts rows={rows} />
      {record.summary ? <p class="wire-summary mono">{record.summary}</p> : null}
    </>
  );
}

function Said({ id, onRecord }: { id: string; onRecord: (id: string) => void }) {
  const answer = useResource<WireDetail>(`/api/v2/wire/${encodeURIComponent(id)}`, { kinds: ['access'] });
  if (answer.data === null) return answer.error ? <Failure error={answer.error} /> : <Loading />;
  const { fields, kept_bytes, record, related } = answer.data;
  return (
    <>
      <h3 class="wire-part">What it says</h3>
      <ul class="wire-tree">
        {fields !== null && typeof fields === 'object'
          ? Object.entries(fields).map(([name, value]) => <Tree key={name} name={name} value={value} depth={0} />)
          : <Tree name="content" value={fields} depth={0} />}
      </ul>
      {kept_bytes < record.bytes ? <p class="dim">{kept_bytes === 0 ? 'Nothing of its content was kept.' : `The first ${bytes(kept_bytes)} of it were kept.`} Secrets are left out.</p> : <p class="dim">Secrets are left out.</p>}
      {related.length > 1 ? (
        <>
          <h3 class="wire-part">The same conversation</h3>
          <ul class="wire-related">
            {related.map((one) => (
              <li key={one.id} class={one.id === id ? 'here' : ''}>
                <button type="button" class="link" aria-current={one.id === id ? 'true' : undefined} onClick={() => onRecord(one.id)}><Clock at={one.at} number={one.number} /></button>
                <b>{one.kind}</b> <span class="dim">{one.from} → {one.to}{one.latency_ms !== null ? `, after ${duration(one.latency_ms)}` : ''}</span>
              </li>
            ))}
          </ul>
        </>
      ) : null}
    </>
  );
}

/** A record that is not in the list that is shown, by its id. */
function useRecord(id: string, known: WireRecord | null): { record: WireRecord | null; problem: unknown; looked: boolean } {
  const [found, setFound] = useState<{ id: string; record: WireRecord | null; problem: unknown } | null>(null);
  useEffect(() => {
    if (known) {
      setFound({ id, record: known, problem: null });
      return;
    }
    const abort = new AbortController();
    const [number, ...node] = id.split('@');
    // Records around it by number, as a filter by id reads all that is kept.
    get<WireList>(url('/api/v2/wire', { node: node.join('@'), since: String(Number(number) - 1), limit: 1 }), abort.signal).then(
      ({ data }) => setFound({ id, record: data.records.find((record) => record.id === id) ?? null, problem: null }),
      (problem: unknown) => !abort.signal.aborted && setFound({ id, record: null, problem }),
    );
    return () => abort.abort();
  }, [id, known === null]);
  const mine = found?.id === id ? found : null;
  return { record: known ?? mine?.record ?? null, problem: mine?.problem ?? null, looked: mine !== null };
}

export function Detail({ id, known, onRecord }: { id: string; known: WireRecord | null; onRecord: (id: string) => void }) {
  const { record, problem, looked } = useRecord(id, known);
  return (
    <div class="wire-detail-in" data-record={id}>
      {record ? <Head record={record} /> : problem ? <Failure error={problem} /> : looked ? <p class="note">The node that saw this message has no room for it any more. <span class="dim">wire.ring_records and wire.ring_mb say how much is kept.</span></p> : <Loading />}
      {mayAdmin.value ? <Said key={id} id={id} onRecord={onRecord} /> : record ? (
        <p class="note">What it says is for operators. <button type="button" class="link" onClick={() => (signInOpen.value = true)}>Sign in</button> at the admin port.</p>
      ) : null}
    </div>
  );
}
