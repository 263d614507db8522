// Reads server-sent events with fetch: unlike EventSource it tells a refusal from a broken line, and sees the comments that prove a
// quiet line alive.

import { at } from './base';

export interface Message {
  event: string;
  id: string | null;
  data: string;
}

/** The line is taken for dead when nothing came for so long; a comment comes every 15 s. */
const SILENCE_MS = 40_000;

/** Calls `heard` for each message until the stream ends. False: the node does not stream here. */
export async function readStream(
  path: string,
  lastId: string | null,
  signal: AbortSignal,
  heard: (message: Message) => void,
): Promise<boolean> {
  const own = new AbortController();
  const stop = () => own.abort();
  signal.addEventListener('abort', stop);
  let timer = setTimeout(stop, SILENCE_MS);
  try {
    const headers: Record<string, string> = { accept: 'text/event-stream' };
    if (lastId !== null) headers['last-event-id'] = lastId;
    const response = await fetch(at(path), { headers, signal: own.signal, credentials: 'same-origin', cache: 'no-store' });
    const type = response.headers.get('content-type') ?? '';
    if (!response.ok || !type.startsWith('text/event-stream') || response.body === null) {
      own.abort();
      return false;
    }
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    const parse = parser(heard);
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return true;
      clearTimeout(timer);
      timer = setTimeout(stop, SILENCE_MS);
      parse(value);
    }
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', stop);
  }
}

/** Takes the stream apart, however it was cut into pieces. */
export function parser(heard: (message: Message) => void): (piece: string) => void {
  let rest = '';
  let event = '';
  let id: string | null = null;
  let data: string[] = [];
  return (piece) => {
    const lines = (rest + piece).split('\n');
    rest = lines.pop() ?? '';
    for (const raw of lines) {
      const line = raw.endsWith('\r') ? raw.slice(0, -1) : raw;
      if (line === '') {
        if (data.length > 0) heard({ event: event || 'message', id, data: data.join('\n') });
        event = '';
        data = [];
        continue;
      }
      const at = line.indexOf(':');
      const name = at < 0 ? line : line.slice(0, at);
      const value = at < 0 ? '' : line.slice(at + 1).replace(/^ /, '');
      if (name === 'event') event = value;
      else if (name === 'data') data.push(value);
      else if (name === 'id') id = value;
    }
  };
}
