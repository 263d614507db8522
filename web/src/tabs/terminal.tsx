// Terminals on nodes, and what was recorded of them. Only with the admin key, and only on nodes whose operator has switched them on.
import { ago, bytes, duration } from '../format';
import { signInOpen } from '../keys';
import { now, status } from '../live';
import { moment } from '../moment';
import { useResource } from '../resource';
import { OnlyNow } from '../ui/timebar';
import { go, query, setQuery } from '../router';
import { mayAdmin } from '../session';
import type { TabProps } from '../tabs';
import type { Recording, RecordingList } from '../terminal/types';
import { Icon } from '../ui/icon';
import { lazy } from '../ui/lazy';
import { Empty, Loaded, Panel, Section } from '../ui/parts';

const Live = lazy(() => import('../terminal/live'));
const Replay = lazy(() => import('../terminal/replay'));

function Recordings({ list, node, chosen }: { list: RecordingList; node: string | null; chosen: string | null }) {
  const shown = list.recordings.filter((one) => node === null || one.node === node);
  const row = (one: Recording) => (
    <tr key={one.id} class={one.id === chosen ? 'marked' : ''}>
      <td data-label="When"><button type="button" class="link" onClick={() => setQuery({ recording: one.id })}>{ago(one.started_at, now.value)}</button></td>
      <td data-label="Node"><a href={`/nodes/${encodeURIComponent(one.node)}`}>{one.node}</a></td>
      <td data-label="By">{one.by}</td>
      <td data-label="Took" class="num">{duration(one.duration_ms)}</td>
      <td data-label="Size" class="num">{bytes(one.size_bytes)}</td>
      <td data-label="File"><a class="button small" href={`/api/v2/recordings/${encodeURIComponent(one.id)}`} download={`${one.id.replace(/[^A-Za-z0-9._-]+/g, '_')}.cast`}><Icon name="download" size={14} /> asciicast</a></td>
    </tr>
  );
  return (
    <>
      {list.unreachable.length ? <p class="note warn">Recordings of {list.unreachable.join(', ')} are not listed: no answer.</p> : null}
      {shown.length === 0 ? <Empty>No terminal was recorded{node ? ` on ${node}` : ''}.</Empty> : (
        <Panel class="scroll-x">
          <table class="list cards">
            <thead><tr><th>When</th><th>Node</th><th>By</th><th class="num">Took</th><th class="num">Size</th><th>File</th></tr></thead>
            <tbody>{shown.map(row)}</tbody>
          </table>
        </Panel>
      )}
    </>
  );
}

function Whole({ node }: { node: string | null }) {
  const recordings = useResource<RecordingList>('/api/v2/recordings', { kinds: ['audit'], everyMs: 30_000 });
  const chosen = query.value.get('recording');
  const names = status.value?.members.filter((member) => member.state === 'alive').map((member) => member.name) ?? [];
  return (
    <>
      <OnlyNow what="A terminal is opened now; recordings have their own time." />
      <div class="toolbar">
        <label class="row">
          <span class="dim">Terminal on</span>
          <select class="field" value={node ?? ''} onChange={(event) => go(event.currentTarget.value ? `/terminal/${encodeURIComponent(event.currentTarget.value)}` : '/terminal')}>
            <option value="">choose a node</option>
            {names.map((name) => <option key={name} value={name}>{name}</option>)}
          </select>
        </label>
        {node ? <a class="button small" href={`/nodes/${encodeURIComponent(node)}`}>About {node}</a> : null}
        {node ? <a class="button small" href={`/nodes/${encodeURIComponent(node)}/logs`}>Its logs</a> : null}
      </div>
      {chosen ? (
        <Section title="Recording" aside={<button type="button" class="button small" onClick={() => setQuery({ recording: null })}>Close</button>}><Replay key={chosen} id={chosen} /></Section>
      ) : node && moment.value === null ? <Live key={node} node={node} /> : null}
      <Section title="Recorded terminals"><Loaded of={recordings}>{(list) => <Recordings list={list} node={node} chosen={chosen} />}</Loaded></Section>
    </>
  );
}

export default function TerminalTab({ argument }: TabProps) {
  if (mayAdmin.value) return <Whole node={argument} />;
  return (
    <div class="panel pad data-locked">
      <OnlyNow what="A terminal is opened now; recordings have their own time." />
      <h2>A terminal on a node</h2>
      <p>For this the admin key is needed, at the admin port of a node. It is off on a node until its operator sets <code>terminal.enabled</code>; every session is recorded and stands in the audit log.</p>
      <p><button type="button" class="button primary" onClick={() => (signInOpen.value = true)}><Icon name="key" size={15} /> Sign in</button></p>
    </div>
  );
}
