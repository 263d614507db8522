// Queries that are kept: those of this browser, and some that come with the page. Never sent anywhere.
import { signal } from '@preact/signals';

export interface Saved {
  name: string;
  query: string;
}

const NAME = 'hive-queries';
const KEPT_MAX = 100;

function kept(): Saved[] {
  try {
    const list: unknown = JSON.parse(localStorage.getItem(NAME) ?? '[]');
    return Array.isArray(list) ? list.filter((one): one is Saved => typeof one?.name === 'string' && typeof one?.query === 'string').slice(0, KEPT_MAX) : [];
  } catch {
    return [];
  }
}

export const saved = signal<Saved[]>(kept());

function keep(list: Saved[]): void {
  saved.value = list;
  try {
    localStorage.setItem(NAME, JSON.stringify(list));
  } catch {
    // A browser that keeps nothing: they are there until the page is closed.
  }
}

/** Keeps a query under a name; one of that name is replaced. */
export function save(name: string, query: string): void {
  keep([{ name, query }, ...saved.value.filter((one) => one.name !== name)].slice(0, KEPT_MAX));
}

export function forget(name: string): void {
  keep(saved.value.filter((one) => one.name !== name));
}

/** Queries that come with the page; each is offered where its table is there. */
export const canned: (Saved & { table: string })[] = [
  { name: 'Jobs by state', table: 'jobs', query: 'SELECT state, count(*) AS jobs\nFROM jobs\nGROUP BY state\nORDER BY jobs DESC' },
  { name: 'Longest builds', table: 'attempts', query: "SELECT target, drone, round(duration_s) AS seconds, ended_at, job_id\nFROM attempts\nWHERE state = 'accepted'\nORDER BY duration_s DESC\nLIMIT 50" },
  { name: 'Failures by drone and fault', table: 'attempts', query: "SELECT drone, class, count(*) AS failures\nFROM attempts\nWHERE state = 'failed'\nGROUP BY drone, class\nORDER BY failures DESC" },
  { name: 'Who waits for most', table: 'dependencies', query: 'SELECT j.target, j.state, count(*) AS waits_for\nFROM dependencies d JOIN jobs j ON j.id = d.job_id\nGROUP BY d.job_id\nORDER BY waits_for DESC\nLIMIT 50' },
  { name: 'Queue over time', table: 'metrics_log', query: 'SELECT timestamp, queue_needed, queue_delegated, queue_blocked\nFROM metrics_log\nWHERE node_id IS NULL\nORDER BY timestamp' },
  { name: 'Load of nodes', table: 'machines', query: 'SELECT name, role, load_1m, cores, building, current_task\nFROM machines\nORDER BY load_1m DESC' },
  { name: 'Space of artifacts', table: 'artifacts', query: 'SELECT node, count(*) AS files, sum(size_bytes) AS bytes\nFROM artifacts\nGROUP BY node\nORDER BY bytes DESC' },
];
