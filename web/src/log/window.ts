// A stretch of a build's log: raw bytes from the node, cut into lines that know where they begin.
//
// Bytes are made harmless here, not there, so that places in the log stay true. A line that goes on for ever is cut, a log that does is
// kept from its end. Never done here: showing anything.

import { at as address } from '../base';
import { moment, ofMoment } from '../moment';

export interface LogLine {
  text: string;
  /** Where it begins in the log, bytes. */
  offset: number;
}

const LINE_MAX = 2_000;
const LINES_MAX = 200_000;
/** Loaded before and behind a place that is jumped to, bytes. */
export const AROUND = 256 << 10;
export const TAIL = 1 << 20;

// Colours and the other sequences of terminals, then everything that would be obeyed or turns text around.
const SEQUENCES = /\u001b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)?|[()][A-Z0-9]|[@-Z\\-_=>])/g;
const HOSTILE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** One line as it is shown. */
export function harmless(raw: string): string {
  let text = raw.replace(SEQUENCES, '');
  // What a progress bar wrote over is not seen on a terminal either.
  const parts = text.split('\r').filter((part) => part !== '');
  text = parts[parts.length - 1] ?? '';
  text = text.replace(HOSTILE, (c) => `\\u{${c.charCodeAt(0).toString(16)}}`);
  return text.length > LINE_MAX ? `${text.slice(0, LINE_MAX)}… (${text.length - LINE_MAX} more characters)` : text;
}

/** Where to begin, and how far to go. */
export interface Span {
  offset?: number;
  tail?: number;
  until?: number;
  follow?: boolean;
}

export class LogWindow {
  lines: LogLine[] = [];
  /** Where the first line begins. */
  start = 0;
  /** Behind the last byte that was read. */
  end = 0;
  /** Number of the first line; none while it is not known. */
  firstNumber: number | null = null;
  /** Everything to the end is there, or comes. */
  atEnd = false;
  attempt = 0;
  private rest: Uint8Array[] = [];
  private restStart = 0;

  constructor(
    private readonly job: string,
    private readonly wantedAttempt: number | null,
    private readonly drawn: () => void,
  ) {}

  /** Reads on from `end`, or anew from a place. Throws the node's sentence. */
  async read(span: Span, signal: AbortSignal): Promise<void> {
    const query = new URLSearchParams();
    if (this.wantedAttempt !== null) query.set('attempt', String(this.wantedAttempt));
    query.set('offset', String(span.offset ?? 0));
    if (span.tail !== undefined) query.set('tail', String(span.tail));
    if (span.follow && moment.peek() === null) query.set('follow', '1');
    const own = new AbortController();
    const stop = () => own.abort();
    signal.addEventListener('abort', stop, { once: true });
    try {
      const response = await fetch(address(ofMoment(`/api/v2/jobs/${this.job}/log?${query}`)), { signal: own.signal, cache: 'no-store' });
      if (!response.ok || response.body === null) throw new Error(await said(response));
      this.attempt = Number(response.headers.get('x-hive-attempt') ?? 0);
      const from = Number(response.headers.get('x-hive-offset') ?? span.offset ?? 0);
      this.begin(from);
      this.atEnd = span.until === undefined;
      const reader = response.body.getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        this.take(value);
        if (span.until !== undefined && this.end >= span.until) {
          own.abort();
          break;
        }
      }
      this.flush();
    } finally {
      signal.removeEventListener('abort', stop);
      this.drawn();
    }
  }

  private begin(from: number): void {
    this.lines = [];
    this.start = from;
    this.end = from;
    this.rest = [];
    this.restStart = from;
    // Begun in the middle of a line: what is before its end is left out.
    this.firstNumber = from === 0 ? 1 : null;
    this.skipping = from > 0;
  }

  private skipping = false;

  private take(bytes: Uint8Array): void {
    let at = 0;
    for (;;) {
      const end = bytes.indexOf(10, at);
      if (end < 0) break;
      this.rest.push(bytes.subarray(at, end));
      this.push(this.end + end + 1);
      at = end + 1;
    }
    if (at < bytes.length) this.rest.push(bytes.subarray(at));
    this.end += bytes.length;
    if (this.lines.length > LINES_MAX) {
      const gone = this.lines.length - LINES_MAX;
      this.lines.splice(0, gone);
      this.start = this.lines[0]?.offset ?? this.end;
      if (this.firstNumber !== null) this.firstNumber += gone;
    }
    this.drawn();
  }

  private push(next: number): void {
    const raw = this.rest.length === 1 ? this.rest[0]! : joined(this.rest);
    this.rest = [];
    if (this.skipping) {
      this.skipping = false;
      this.start = next;
    } else this.lines.push({ text: harmless(new TextDecoder().decode(raw)), offset: this.restStart });
    this.restStart = next;
  }

  /** A last line without an end. */
  private flush(): void {
    if (this.rest.length > 0 && this.rest.some((part) => part.length > 0)) this.push(this.end);
  }

  /** Position of the line at or around a byte; none when it is not loaded. */
  find(offset: number): number | null {
    if (this.lines.length === 0 || offset < this.start || offset >= this.end) return null;
    let [low, high] = [0, this.lines.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if ((this.lines[middle]?.offset ?? Infinity) <= offset) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** Some place whose number the node told: from it all others follow. */
  anchor(offset: number, number: number): void {
    const at = this.find(offset);
    if (at !== null && this.firstNumber === null) this.firstNumber = number - at;
  }
}

function joined(parts: Uint8Array[]): Uint8Array {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

async function said(response: Response): Promise<string> {
  try {
    const { error } = (await response.json()) as { error?: { message: string; hint: string } };
    return error ? `${error.message} (${error.hint})` : `the node answered ${response.status}`;
  } catch {
    return `the node answered ${response.status}`;
  }
}
