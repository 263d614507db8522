// What nodes say to each other, as in a packet analyser: filter, list, decoded detail, conversations, exports. Everything that is shown
// stands in the address, so that a record or a filter can be handed on.
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import { effect } from '@preact/signals';
import { get, url } from '../api';
import { bytes, count, duration, plural, time } from '../format';
import { refreshes, status } from '../live';
import { moment } from '../moment';
import { query, setQuery } from '../router';
import { mayAdmin } from '../session';
import { Grid } from '../ui/grid';
import { Icon } from '../ui/icon';
import { useResource } from '../resource';
import { Choice, Empty, Failure, Loading } from '../ui/parts';
import { Badge } from '../ui/state';
import { Histogram } from '../wire/density';
import { Detail } from '../wire/detail';
import { follow, type FeedState } from '../wire/feed';
import { FilterBar } from '../wire/filter';
import { Clock } from '../wire/parts';
import { refused, type Conversation, type WireList, type WireNode, type WireRecord } from '../wire/types';

const PAGE = 500;
const KEPT = 5_000;
const ROW_PX = 32;
const TALKS = 300;
const REFUSED = '!(verdict in ("taken", "sent"))';

interface Messages {
  list: WireRecord[] | null;
  more: boolean;
  error: unknown;
  nodes: WireNode[];
  older: () => void;
  feed: FeedState | null;
  dropped: number;
}

function newestFirst(records: WireRecord[]): WireRecord[] {
  return [...records].sort((left, right) => right.number - left.number || left.id.localeCompare(right.id));
}

/** Records that fit, the newest first; with `following` those that come, too. */
function useMessages(filter: string, node: string | null, before: string | null, following: boolean, wanted: boolean): Messages {
  const [list, setList] = useState<WireRecord[] | null>(null);
  const [about, setAbout] = useState<{ more: boolean; error: unknown; nodes: WireNode[] }>({ more: false, error: null, nodes: [] });
  const [feed, setFeed] = useState<FeedState | null>(null);
  const [dropped, setDropped] = useState(0);
  const mark = `${refreshes.value} ${moment.value ?? 'now'}`;
  useEffect(() => {
    if (!wanted) return;
    const abort = new AbortController();
    get<WireList>(url('/api/v2/wire', { filter, node, before, limit: PAGE }), abort.signal).then(
      ({ data }) => {
        setList(newestFirst(data.records));
        setAbout({ more: data.more, error: null, nodes: data.nodes });
      },
      (error: unknown) => !abort.signal.aborted && setAbout((was) => ({ ...was, error })),
    );
    return () => abort.abort();
  }, [filter, node, before, mark, wanted]);
  useEffect(() => {
    if (!following || !wanted) {
      setFeed(null);
      return;
    }
    let fresh: WireRecord[] = [];
    const named = node !== null && node !== 'all' ? `node == ${JSON.stringify(node)}` : '';
    const only = [filter && named ? `(${filter})` : filter, named].filter(Boolean).join(' && ');
    const own = follow({ filter: only, all: node !== null, heard: (records) => fresh.push(...records) });
    const timer = setInterval(() => {
      if (fresh.length === 0) return;
      const came = fresh;
      fresh = [];
      setList((was) => {
        const known = new Set((was ?? []).slice(0, 3_000).map((record) => record.id));
        return newestFirst([...came.filter((record) => !known.has(record.id)), ...(was ?? [])]).slice(0, KEPT);
      });
    }, 300);
    const stop = effect(() => {
      setFeed(own.state.value);
      setDropped(own.dropped.value);
    });
    return () => {
      clearInterval(timer);
      own.close();
      stop();
    };
  }, [filter, node, following, wanted]);
  const older = () => {
    const oldest = list?.[list.length - 1];
    if (!oldest) return;
    get<WireList>(url('/api/v2/wire', { filter, node, before: String(oldest.number), limit: PAGE })).then(
      ({ data }) => {
        setList((was) => [...(was ?? []), ...newestFirst(data.records)]);
        setAbout((was) => ({ ...was, more: data.more }));
      },
      (error: unknown) => setAbout((was) => ({ ...was, error })),
    );
  };
  return { list, ...about, older, feed, dropped };
}

function Verdict({ verdict, status: came }: { verdict: string; status: string | null }) {
  if (refused(verdict)) return <Badge tone="bad" icon="bad">{verdict.replace(/_/g, ' ')}</Badge>;
  return <span class={came && /^(4|5|refused|error|busy)/.test(came) ? 'wire-sour' : 'dim'}>{came ?? verdict}</span>;
}

function cells(record: WireRecord) {
  return [
    <a href={url('/wire', { ...Object.fromEntries(query.value), record: record.id })} tabIndex={-1}><Clock at={record.at} number={record.number} /></a>,
    <span title={`${record.from} → ${record.to}`}>{record.from} <span class="dim" aria-label="to">→</span> {record.to}</span>,
    <b>{record.kind}</b>,
    <span class="dim">{record.protocol}</span>,
    bytes(record.bytes),
    record.latency_ms === null ? <span class="dim">–</span> : duration(record.latency_ms),
    <Verdict verdict={record.verdict} status={record.status} />,
    <span class="dim" title={record.summary}>{record.path ?? record.summary}</span>,
  ];
}

/** Which row of a grid an event is about. */
function rowOf(event: Event): number | null {
  const row = event.target instanceof Element ? event.target.closest('.grid-body [aria-rowindex]') : null;
  return row ? Number(row.getAttribute('aria-rowindex')) - 2 : null;
}

/** Rows that are chosen by a click, or by the arrows while the list has the focus. */
function Chosen({ count: rows, at, onRow, children }: { count: number; at: number; onRow: (at: number) => void; children: preact.ComponentChildren }) {
  const box = useRef<HTMLDivElement>(null);
  const key = (event: KeyboardEvent) => {
    const move = event.key === 'ArrowDown' ? 1 : event.key === 'ArrowUp' ? -1 : 0;
    if (move === 0 || rows === 0) return;
    event.preventDefault();
    const next = Math.min(rows - 1, Math.max(0, at + move));
    onRow(next);
    const grid = box.current?.querySelector('.grid');
    const top = next * ROW_PX;
    if (grid && (top < grid.scrollTop || top > grid.scrollTop + grid.clientHeight - 3 * ROW_PX)) grid.scrollTop = top - grid.clientHeight / 2;
  };
  const click = (event: MouseEvent) => {
    const row = rowOf(event);
    if (row === null || event.ctrlKey || event.metaKey || event.button !== 0) return;
    event.preventDefault();
    onRow(row);
  };
  return <div ref={box} class="wire-list" onClick={click} onKeyDown={key}>{children}</div>;
}

function Talks({ filter, node, chosen, onChoose }: { filter: string; node: string | null; chosen: string | null; onChoose: (talk: Conversation) => void }) {
  const answer = useResource<{ conversations: Conversation[] }>(url('/api/v2/wire/conversations', { filter, node, limit: TALKS }), { kinds: [], everyMs: 5_000 });
  if (answer.data === null) return answer.error ? <Failure error={answer.error} /> : <Loading />;
  const list = answer.data.conversations;
  if (list.length === 0) return <Empty>No conversation fits.</Empty>;
  const at = list.findIndex((talk) => `${talk.trace} ${talk.began}` === chosen);
  return (
    <Chosen count={list.length} at={at} onRow={(row) => { const talk = list[row]; if (talk) onChoose(talk); }}>
      <Grid
        label="Conversations"
        count={list.length}
        rowPx={ROW_PX}
        columns="wire-talk-columns"
        head={['Began', 'Between', 'What', 'Length', 'Took', 'Came of it', 'Seen by']}
        row={(row) => {
          const talk = list[row];
          return talk ? [
            <Clock at={talk.began} />, <>{talk.from} <span class="dim">→</span> {talk.to}</>, <><b>{talk.kinds.join(' → ')}</b> <span class="dim">{talk.protocol}</span></>,
            bytes(talk.bytes), talk.latency_ms === null ? <span class="dim">–</span> : duration(talk.latency_ms), <Verdict verdict={talk.verdict} status={talk.status} />, <span class="dim">{talk.nodes.join(', ')}</span>,
          ] : null;
        }}
        rowClass={(row) => (row === at ? 'chosen-row' : list[row] && refused(list[row].verdict) ? 'refused-row' : '')}
      />
    </Chosen>
  );
}

/** The messages of a conversation, each a way to its record. */
function Talk({ talk, onRecord }: { talk: Conversation; onRecord: (id: string) => void }) {
  return (
    <div class="wire-detail-in">
      <h2 class="wire-title">{talk.kinds.join(' → ')}</h2>
      <p>{talk.from} → {talk.to} <span class="dim">· {talk.protocol} · {plural(talk.records.length, 'record')}{talk.latency_ms !== null ? ` · ${duration(talk.latency_ms)}` : ''}</span></p>
      <ul class="wire-related">
        {talk.records.map((id) => <li key={id}><button type="button" class="link" onClick={() => onRecord(id)}>{id.split('@')[1]} <span class="dim mono">{id.split('@')[0]}</span></button></li>)}
      </ul>
    </div>
  );
}

function Exports({ filter, node, before }: { filter: string; node: string | null; before: string | null }) {
  if (!mayAdmin.value) return null;
  const to = (format: string) => url('/api/v2/wire/export', { format, filter, node, before });
  return (
    <>
      <a class="button small" href={to('jsonl')} download="hive-wire.jsonl"><Icon name="download" size={14} /> JSON lines</a>
      <a class="button small" href={to('pcapng')} download="hive-wire.pcapng"><Icon name="download" size={14} /> pcapng</a>
    </>
  );
}

export default function Wire() {
  const params = query.value;
  const filter = params.get('filter') ?? '';
  const node = params.get('node');
  const before = params.get('before');
  const record = params.get('record');
  const talks = params.get('show') === 'conversations';
  const following = params.get('follow') === '1' && before === null && moment.value === null;
  const { list, more, error, nodes, older, feed, dropped } = useMessages(filter, node, before, following, !talks);
  const [talk, setTalk] = useState<Conversation | null>(null);
  const at = useMemo(() => list?.findIndex((one) => one.id === record) ?? -1, [list, record]);
  const known = at >= 0 ? (list?.[at] ?? null) : null;
  const names = status.value?.members.filter((member) => member.state !== 'left').map((member) => member.name) ?? [];
  const silent = nodes.filter((one) => one.problem !== undefined);
  const open = (id: string) => setQuery({ record: id });
  const side = record ? <Detail id={record} known={known} onRecord={open} /> : talks && talk ? <Talk talk={talk} onRecord={open} /> : null;
  return (
    <>
      <div class="toolbar wire-tools">
        <FilterBar value={filter} onChange={(next) => next !== filter && setQuery({ filter: next })} />
        <select class="field" aria-label="As which node saw it" value={node ?? ''} onChange={(event) => setQuery({ node: event.currentTarget.value || null })}>
          <option value="">Seen by this node</option>
          <option value="all">Seen by all nodes</option>
          {names.map((name) => <option key={name} value={name}>Seen by {name}</option>)}
        </select>
        <button type="button" class="button small" aria-pressed={filter === REFUSED} onClick={() => setQuery({ filter: filter === REFUSED ? null : REFUSED })}><Icon name="bad" size={13} /> Refused</button>
        <Choice label="As" value={talks ? 'conversations' : 'messages'} options={[{ value: 'messages', text: 'Messages' }, { value: 'conversations', text: 'Conversations' }]} onChange={(value) => setQuery({ show: value === 'messages' ? null : value, record: null })} />
        {talks ? null : <button type="button" class="button small" disabled={moment.value !== null} aria-pressed={following} onClick={() => setQuery({ follow: following ? null : '1', before: null })}><Icon name={following ? 'pause' : 'play'} size={13} /> {following ? 'Following' : 'Follow'}</button>}
        <Exports filter={filter} node={node} before={before} />
        <span class="end" role="status">
          {list && !talks ? `${plural(list.length, 'message')}${feed === 'lost' ? ', but nothing comes' : ''}${dropped ? `, ${count(dropped)} left out` : ''}` : ''}
        </span>
      </div>
      {error ? <Failure error={error} /> : null}
      {silent.length ? <p class="note warn">Not asked with success: {silent.map((one) => `${one.name} (${one.problem})`).join(', ')}</p> : null}
      <Histogram filter={filter} node={node} before={before} onMoment={(moment) => setQuery({ before: moment, follow: null })} />
      <div class={side ? 'wire-page split' : 'wire-page'}>
        {talks ? (
          <Talks filter={filter} node={node} chosen={talk ? `${talk.trace} ${talk.began}` : null} onChoose={(one) => { setTalk(one); setQuery({ record: null }); }} />
        ) : list === null ? (error ? null : <Loading />) : list.length === 0 ? (
          <Empty>{moment.value !== null ? <>No message of that time is kept{filter ? ' that fits' : ''}. {nodes.map((one) => (one.oldest ? `What ${one.name} has in memory begins at ${time(one.oldest)}. ` : ''))}</> : filter ? 'No message fits.' : 'Nothing was said yet.'}</Empty>
        ) : (
          <Chosen count={list.length} at={at} onRow={(row) => { const one = list[row]; if (one) open(one.id); }}>
            <Grid
              label="Messages"
              count={list.length}
              rowPx={ROW_PX}
              columns={side ? 'wire-columns beside' : 'wire-columns'}
              head={['When', 'From → to', 'Kind', 'Protocol', 'Length', 'After', 'Came of it', 'Says']}
              row={(row) => (list[row] ? cells(list[row]) : null)}
              rowClass={(row) => (row === at ? 'chosen-row' : list[row] && refused(list[row].verdict) ? 'refused-row' : '')}
              onRange={(_, to) => { if (to >= list.length && more && !following) older(); }}
            />
          </Chosen>
        )}
        {side ? (
          <aside class="panel wire-detail" aria-label="The chosen message">
            <button type="button" class="plain wire-close" aria-label="Close" onClick={() => { setQuery({ record: null }); setTalk(null); }}><Icon name="close" size={16} /></button>
            {side}
          </aside>
        ) : null}
      </div>
    </>
  );
}
