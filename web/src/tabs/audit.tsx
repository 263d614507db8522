// What people had done: every act was written down before it was done, each entry with a hash over it and the one before.
import { useEffect, useState } from 'preact/hooks';
import { get, send, url } from '../api';
import { count, plural } from '../format';
import { refresh } from '../live';
import { moment, whenLive } from '../moment';
import { useResource } from '../resource';
import { query, setQuery } from '../router';
import { holder, mayAdmin, signOut } from '../session';
import { confirm } from '../ui/dialog';
import { Icon } from '../ui/icon';
import { Choice, Empty, Failure, FilterField, Loaded, Panel, Time } from '../ui/parts';
import { Badge } from '../ui/state';
import Events from './events';

interface AuditLine {
  number: number;
  at: string;
  by: string;
  from: string;
  node: string;
  act: string;
  summary: string;
  hash: string;
}

interface AuditList {
  entries: AuditLine[];
  last: number;
  before: number | null;
}

interface AuditCheck {
  intact: boolean;
  entries: number;
  last: number;
  head: string;
  problem?: string;
}

const PAGE = 200;

function Check() {
  const [busy, setBusy] = useState(false);
  const [found, setFound] = useState<AuditCheck | null>(null);
  const [problem, setProblem] = useState<unknown>(null);
  const check = async () => {
    setBusy(true);
    setProblem(null);
    try {
      setFound((await get<AuditCheck>('/api/v2/audit/check')).data);
    } catch (error) {
      setProblem(error);
    }
    setBusy(false);
  };
  return (
    <>
      <button type="button" class="button small" disabled={busy} onClick={() => void check()} {...whenLive()}>{busy ? 'Checks …' : 'Check the chain'}</button>
      {found ? (
        <span role="status">{found.intact
          ? <Badge tone="good" icon="good">intact, {count(found.entries)} checked</Badge>
          : <Badge tone="bad" icon="bad">broken: {found.problem ?? 'an entry was changed'}</Badge>} <span class="mono dim" title={found.head}>#{found.last} {found.head.slice(0, 12)}</span></span>
      ) : null}
      {problem ? <Failure error={problem} /> : null}
    </>
  );
}

function endAll(): void {
  confirm({
    title: 'Sign out everywhere', verb: 'Sign out all', danger: true,
    body: <p>Every browser that is signed in to this hive, on any node, has to give a key again: this one, too. Keys and tokens stay as they are.</p>,
    run: async () => {
      await send('/api/v2/session/revoke');
      await signOut();
      refresh();
      return 'All browsers are signed out.';
    },
  });
}

function Audit() {
  const first = useResource<AuditList>(url('/api/v2/audit', { limit: PAGE }), { kinds: ['audit', 'access'], atMostMs: 1_000 });
  const [older, setOlder] = useState<AuditLine[]>([]);
  const [before, setBefore] = useState<number | null | undefined>(undefined);
  const [problem, setProblem] = useState<unknown>(null);
  const at = moment.value;
  useEffect(() => {
    // What was older than the first page of another moment.
    setOlder([]);
    setBefore(undefined);
  }, [at]);
  const text = (query.value.get('q') ?? '').toLowerCase();
  const more = async (from: number) => {
    try {
      const { data } = await get<AuditList>(url('/api/v2/audit', { before: from, limit: PAGE }));
      setOlder((was) => [...was, ...data.entries]);
      setBefore(data.before);
      setProblem(null);
    } catch (error) {
      setProblem(error);
    }
  };
  return (
    <Loaded of={first}>
      {(data) => {
        const known = new Set(data.entries.map((entry) => entry.number));
        const all = [...data.entries, ...older.filter((entry) => !known.has(entry.number))];
        const shown = all.filter((entry) => `${entry.by} ${entry.from} ${entry.node} ${entry.act} ${entry.summary}`.toLowerCase().includes(text));
        const next = before === undefined ? data.before : before;
        return (
          <>
            <div class="toolbar">
              <FilterField value={query.value.get('q') ?? ''} label="Filter the audit log" placeholder="Who, from where, what" onInput={(q) => setQuery({ q })} />
              <Check />
              <button type="button" class="button small" data-act="sign-out-everywhere" onClick={endAll} {...whenLive()}><Icon name="out" size={14} /> Sign out everywhere</button>
              <span class="end" role="status">{plural(shown.length, 'entry', 'entries')} of {count(data.last)}</span>
            </div>
            {shown.length === 0 ? <Empty>{text ? 'No entry fits.' : 'Nobody has done anything yet.'}</Empty> : (
              <Panel class="scroll-x">
                <table class="list cards">
                  <thead><tr><th class="num">No.</th><th>When</th><th>Who</th><th>From</th><th>Act</th><th>With</th><th>Asked</th></tr></thead>
                  <tbody>
                    {shown.map((entry) => (
                      <tr key={entry.number}>
                        <td data-label="No." class="num"><span title={entry.hash}>{entry.number}</span></td>
                        <td data-label="When"><Time at={entry.at} /></td>
                        <td data-label="Who">{entry.by}</td>
                        <td data-label="From">{entry.from}</td>
                        <td data-label="Act" class="wrap mono">{entry.act}</td>
                        <td data-label="With" class="wrap">{entry.summary || <span class="dim">–</span>}</td>
                        <td data-label="Asked"><a href={`/nodes/${encodeURIComponent(entry.node)}`}>{entry.node}</a></td>
                      </tr>
                    ))}
                  </tbody>
                </table>
              </Panel>
            )}
            {problem ? <Failure error={problem} /> : null}
            {next !== null && next !== undefined ? <p class="pad"><button type="button" class="button small" onClick={() => void more(next)}>Older entries</button></p> : null}
          </>
        );
      }}
    </Loaded>
  );
}

/** Events, and for operators what people did. */
export default function EventsAndAudit() {
  if (!mayAdmin.value || holder.value === null) return <Events />;
  const audit = query.value.get('show') === 'audit';
  return (
    <>
      <div class="toolbar">
        <Choice label="What happened" value={audit ? 'audit' : 'events'} options={[{ value: 'events', text: 'Events' }, { value: 'audit', text: 'Audit log' }]} onChange={(value) => setQuery({ show: value === 'audit' ? 'audit' : null, q: null })} />
      </div>
      {audit ? <Audit /> : <Events />}
    </>
  );
}
