// A recorded terminal, asciicast v2: a line with its size, then one per piece of output with its time. Pure.

export interface Cast {
  columns: number;
  rows: number;
  /** Seconds from the beginning, and what was printed. Sizes that changed are `columns`×`rows`. */
  events: { at: number; kind: 'o' | 'r' | 'i'; data: string }[];
  lengthS: number;
}

/** Reads what there is of it; a recording that broke off ends where it did. */
export function readCast(text: string): Cast | null {
  const lines = text.split('\n');
  let head: { version?: number; width?: number; height?: number };
  try {
    head = JSON.parse(lines[0] ?? '') as typeof head;
  } catch {
    return null;
  }
  if (head.version !== 2) return null;
  const events: Cast['events'] = [];
  for (const line of lines.slice(1)) {
    if (line.trim() === '') continue;
    try {
      const [at, kind, data] = JSON.parse(line) as [number, string, string];
      if ((kind === 'o' || kind === 'r' || kind === 'i') && typeof at === 'number' && typeof data === 'string') events.push({ at, kind, data });
    } catch {
      break;
    }
  }
  return { columns: head.width ?? 80, rows: head.height ?? 24, events, lengthS: events[events.length - 1]?.at ?? 0 };
}
