// Numbers, times and words for people. English, because the program speaks it.

export function duration(ms: number | null | undefined): string {
  if (ms === null || ms === undefined) return '–';
  if (ms < 950) return `${Math.round(ms)} ms`;
  const s = Math.round(ms / 1000);
  if (s < 60) return `${s} s`;
  const m = Math.floor(s / 60);
  if (m < 60) return s % 60 ? `${m} min ${s % 60} s` : `${m} min`;
  const h = Math.floor(m / 60);
  if (h < 48) return m % 60 ? `${h} h ${m % 60} min` : `${h} h`;
  return `${Math.floor(h / 24)} d ${h % 24} h`;
}

/** A duration in its largest unit. */
export function about(ms: number | null | undefined): string {
  if (ms === null || ms === undefined) return '–';
  if (ms < 1500) return '1 s';
  const s = ms / 1000;
  if (s < 90) return `${Math.round(s)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 172_800) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86_400)} d`;
}

export function ago(at: string | null | undefined, now: number): string {
  if (!at) return '–';
  const ms = now - Date.parse(at);
  return ms < 2000 ? 'just now' : `${about(ms)} ago`;
}

export function bytes(count: number | null | undefined): string {
  if (count === null || count === undefined) return '–';
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = count;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

export function count(value: number): string {
  return value.toLocaleString('en-GB').replace(/,/g, '\u202f');
}

export function plural(value: number, one: string, many = `${one}s`): string {
  return `${count(value)} ${value === 1 ? one : many}`;
}

const clockOf = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const shortClock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit' });
const dayOf = new Intl.DateTimeFormat('en-GB', { day: '2-digit', month: 'short' });

/** A time of day, with the day when it is not today. */
export function time(at: string | number | null | undefined, now = Date.now()): string {
  if (at === null || at === undefined) return '–';
  const date = new Date(at);
  const today = new Date(now).toDateString() === date.toDateString();
  return today ? clockOf.format(date) : `${dayOf.format(date)} ${shortClock.format(date)}`;
}

export function clock(at: number): string {
  return shortClock.format(at);
}

export function shortId(id: string): string {
  return id.slice(0, 8);
}

/** Words of the API as they are read: `retry_failures` → `retry failures`. */
export function word(text: string): string {
  return text.replace(/_/g, ' ');
}

/** With a capital letter, as a sentence begins. */
export function sentence(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
