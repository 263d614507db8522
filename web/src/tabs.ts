// Every tab there is: its key, its address, the file that shows it. What is not here does not exist.
//
// A tab is a file of `tabs/` whose default export is a component. It is loaded when it is opened.
import type { ComponentType } from 'preact';
import type { IconName } from './ui/icon';

export interface TabProps {
  /** What stands in the address behind the tab's own part, decoded: a node's name, a job's id. */
  argument: string | null;
}

export interface Tab {
  id: string;
  title: string;
  /** The key that opens it. 4 stays free for releases. */
  key: string;
  icon: IconName;
  /** Its address; others that belong to it too begin with `also`. */
  path: string;
  also: string[];
  load: () => Promise<{ default: ComponentType<TabProps> }>;
}

export const tabs: Tab[] = [
  {
    id: 'overview', title: 'Overview', key: '1', icon: 'gauge', path: '/overview', also: [],
    load: () => import('./tabs/overview'),
  },
  {
    id: 'fleet', title: 'Fleet', key: '2', icon: 'server', path: '/fleet', also: [],
    load: () => import('./tabs/fleet'),
  },
];

export interface Place {
  tab: Tab;
  argument: string | null;
}

/** Which tab an address belongs to; none: there is no such page. */
export function find(path: string): Place | null {
  if (path === '/') path = '/overview';
  const at = path.replace(/\/+$/, '');
  for (const tab of tabs) {
    if (at === tab.path) return { tab, argument: null };
    for (const prefix of [tab.path, ...tab.also]) {
      const rest = at.startsWith(`${prefix}/`) ? at.slice(prefix.length + 1) : null;
      if (rest && !rest.includes('/')) {
        try {
          return { tab, argument: decodeURIComponent(rest) };
        } catch {
          return null;
        }
      }
    }
  }
  return null;
}
