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
  {
    id: 'node', title: 'Node', key: '3', icon: 'node', path: '/nodes', also: [],
    load: () => import('./tabs/node'),
  },
  {
    id: 'queue', title: 'Queue', key: '5', icon: 'queue', path: '/queue', also: [],
    load: () => import('./tabs/queue'),
  },
  {
    id: 'history', title: 'History', key: '6', icon: 'history', path: '/history', also: [],
    load: () => import('./tabs/history'),
  },
  {
    id: 'topology', title: 'Topology', key: '7', icon: 'topology', path: '/topology', also: [],
    load: () => import('./tabs/topology'),
  },
  {
    id: 'wire', title: 'Wire', key: '8', icon: 'wire', path: '/wire', also: [],
    load: () => import('./tabs/wire'),
  },
  {
    id: 'data', title: 'Data', key: '9', icon: 'data', path: '/data', also: [],
    load: () => import('./tabs/data'),
  },
  {
    id: 'events', title: 'Events', key: '0', icon: 'events', path: '/events', also: [],
    load: () => import('./tabs/audit'),
  },
];

/** Pages without a key and a place among the tabs: they are reached by links. Each belongs to a tab, which is marked then. */
export const pages: (Omit<Tab, 'key' | 'icon'> & { of: string; behind?: string })[] = [
  {
    id: 'job', title: 'Build', path: '/jobs', also: [], of: 'queue',
    load: () => import('./tabs/job'),
  },
  {
    id: 'logs', title: 'Logs', path: '/nodes', also: [], behind: '/logs', of: 'node',
    load: () => import('./tabs/logs'),
  },
  {
    id: 'terminal', title: 'Terminal', path: '/terminal', also: [], of: 'node',
    load: () => import('./tabs/terminal'),
  },
];

export interface Place {
  tab: Omit<Tab, 'key' | 'icon'>;
  /** Id of the tab that is marked. */
  of: string;
  argument: string | null;
}

/** Which tab an address belongs to; none: there is no such page. */
export function find(path: string): Place | null {
  if (path === '/') path = '/overview';
  const at = path.replace(/\/+$/, '');
  for (const tab of [...tabs, ...pages]) {
    const of = 'of' in tab ? tab.of : tab.id;
    const behind = 'behind' in tab ? (tab.behind ?? '') : '';
    if (at === tab.path && behind === '') return { tab, of, argument: null };
    for (const prefix of [tab.path, ...tab.also]) {
      const rest = at.startsWith(`${prefix}/`) && at.endsWith(behind) ? at.slice(prefix.length + 1, at.length - behind.length) : null;
      if (rest && !rest.includes('/')) {
        try {
          return { tab, of, argument: decodeURIComponent(rest) };
        } catch {
          return null;
        }
      }
    }
  }
  return null;
}
