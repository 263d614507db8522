// Ctrl-K: finds tabs, nodes, jobs and acts by what is typed.
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import { get, url } from '../api';
import { paletteOpen, signInOpen } from '../keys';
import { refresh, status } from '../live';
import { go } from '../router';
import { holder } from '../session';
import { find, tabs } from '../tabs';
import { nextTheme } from '../theme';
import type { JobPage } from '../types';
import { Dialog } from './dialog';
import { Icon, type IconName } from './icon';
import { jobLook } from './state';

interface Entry {
  id: string;
  icon: IconName;
  text: string;
  detail: string;
  run: () => void;
}

const SHOWN_MAX = 12;

function fixed(): Entry[] {
  const entries: Entry[] = tabs.map((tab) => ({ id: `tab-${tab.id}`, icon: tab.icon, text: tab.title, detail: `tab ${tab.key}`, run: () => go(tab.path) }));
  if (find('/nodes/x')) {
    for (const member of status.value?.members ?? []) {
      entries.push({
        id: `node-${member.name}`, icon: 'node', text: member.name, detail: `${member.role ?? 'no role'} · ${member.state}`,
        run: () => go(`/nodes/${encodeURIComponent(member.name)}`),
      });
    }
  }
  entries.push({ id: 'refresh', icon: 'refresh', text: 'Ask anew', detail: 'R', run: refresh });
  entries.push({ id: 'theme', icon: 'moon', text: 'Change colours', detail: 'light, dark, as the system', run: nextTheme });
  if (!holder.value) entries.push({ id: 'key', icon: 'key', text: 'Sign in', detail: 'to change something', run: () => (signInOpen.value = true) });
  return entries;
}

export function Palette() {
  const [text, setText] = useState('');
  const [jobs, setJobs] = useState<Entry[]>([]);
  const [at, setAt] = useState(0);
  const field = useRef<HTMLInputElement>(null);
  const base = useMemo(fixed, []);
  const close = () => {
    paletteOpen.value = false;
  };
  useEffect(() => field.current?.focus(), []);
  useEffect(() => {
    setAt(0);
    const wanted = text.trim();
    if (wanted.length < 2 || !find('/jobs/x')) return setJobs([]);
    const abort = new AbortController();
    const timer = setTimeout(() => {
      get<JobPage>(url('/api/v2/queue', { q: wanted, limit: 8 }), abort.signal).then(
        ({ data }) =>
          setJobs(data.jobs.map((job) => ({
            id: job.id, icon: jobLook(job.state).icon, text: job.target, detail: `job, ${jobLook(job.state).word}`, run: () => go(`/jobs/${job.id}`),
          }))),
        () => {},
      );
    }, 150);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [text]);
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (entry: Entry) => words.every((word) => `${entry.text} ${entry.detail}`.toLowerCase().includes(word));
  const shown = [...base.filter(fits), ...jobs].slice(0, SHOWN_MAX);
  const chosen = Math.min(at, shown.length - 1);
  const key = (event: KeyboardEvent) => {
    if (event.key === 'ArrowDown') setAt(Math.min(chosen + 1, shown.length - 1));
    else if (event.key === 'ArrowUp') setAt(Math.max(chosen - 1, 0));
    else if (event.key === 'Enter') {
      close();
      shown[chosen]?.run();
    } else return;
    event.preventDefault();
  };
  return (
    <Dialog title="Find anything" onClose={close} class="palette">
      <input
        ref={field}
        class="field"
        type="text"
        role="combobox"
        aria-expanded="true"
        aria-controls="palette-list"
        aria-activedescendant={shown[chosen] ? `palette-${chosen}` : undefined}
        aria-label="A tab, a node, a package, an act"
        placeholder="A tab, a node, a package, an act"
        autocomplete="off"
        spellcheck={false}
        value={text}
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={key}
      />
      <ul id="palette-list" role="listbox" aria-label="Found">
        {shown.map((entry, number) => (
          <li
            key={entry.id}
            id={`palette-${number}`}
            role="option"
            aria-selected={number === chosen}
            onPointerMove={() => setAt(number)}
            onClick={() => {
              close();
              entry.run();
            }}
          >
            <Icon name={entry.icon} />
            <span class="clip">{entry.text}</span>
            <span class="dim">{entry.detail}</span>
          </li>
        ))}
      </ul>
      {shown.length === 0 ? <p class="empty">Nothing is called that.</p> : null}
    </Dialog>
  );
}
