// Asking the node that served this page. Every answer of /api/v2 comes in an envelope; a refusal becomes a `Refusal`.
//
// Who asks is told by a cookie that scripts cannot read (see session.ts).
import { at } from './base';
import { moment, ofMoment } from './moment';
import type { Envelope, LogStatus } from './types';

/** What the node answered instead of data. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly hint: string,
  ) {
    super(message);
  }
}

/** An answer with where the node stood in the log when it gave it. */
export interface Answer<T> {
  data: T;
  asOf: string | null;
  log: LogStatus | null;
}

let refused = () => {};

/** Calls `then` when the session turns out not to count any more. */
export function whenRefused(then: () => void): void {
  refused = then;
}

async function ask<T>(method: string, path: string, body: unknown, signal?: AbortSignal): Promise<Answer<T>> {
  const headers: Record<string, string> = { accept: 'application/json' };
  if (body !== undefined) headers['content-type'] = 'application/json';
  let response: Response;
  try {
    response = await fetch(at(method === 'GET' ? ofMoment(path) : path), {
      method,
      headers,
      body: body === undefined ? null : JSON.stringify(body),
      signal: signal ?? null,
      credentials: 'same-origin',
      cache: 'no-store',
    });
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') throw error;
    throw new Refusal(0, 'unreachable', 'This node does not answer.', 'Open the page of another node, or wait.');
  }
  let envelope: Envelope<T>;
  try {
    envelope = (await response.json()) as Envelope<T>;
  } catch {
    throw new Refusal(response.status, 'unreadable', `The answer (${response.status}) is not JSON.`, 'Is something between?');
  }
  if (!response.ok || !envelope.ok || envelope.data === undefined) {
    if (response.status === 401) refused();
    const error = envelope.error;
    throw new Refusal(response.status, error?.code ?? 'unknown', error?.message ?? 'No answer.', error?.hint ?? '');
  }
  return { data: envelope.data, asOf: envelope.as_of ?? null, log: envelope.log ?? null };
}

export function get<T>(path: string, signal?: AbortSignal): Promise<Answer<T>> {
  return ask<T>('GET', path, undefined, signal);
}

/** What may be sent although the past is shown: who signs in, and questions that change nothing. */
const ALWAYS = ['/api/v2/session', '/api/v2/sql'];

export async function send<T>(path: string, body: unknown = {}, method = 'POST'): Promise<T> {
  if (moment.peek() !== null && !ALWAYS.includes(path)) {
    throw new Refusal(0, 'past', 'This is the past: nothing can be changed there.', 'Go back to live first.');
  }
  return (await ask<T>(method, path, body)).data;
}

/** What is no envelope: a file, a log. Throws the node's refusal. */
export async function fetchRaw(path: string, signal: AbortSignal): Promise<Response> {
  const response = await fetch(at(path), { signal, credentials: 'same-origin', cache: 'no-store' });
  if (response.ok) return response;
  if (response.status === 401) refused();
  let error: { code: string; message: string; hint: string } | undefined;
  try {
    error = ((await response.json()) as Envelope<never>).error;
  } catch {
    // Not JSON: the number says enough.
  }
  throw new Refusal(response.status, error?.code ?? 'unknown', error?.message ?? `The node answered ${response.status}.`, error?.hint ?? '');
}

/** A path with a query of what is set. */
export function url(path: string, query: Record<string, string | number | boolean | null | undefined>): string {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== '' && value !== false) params.set(name, String(value));
  }
  const text = params.toString();
  return text ? `${path}?${text}` : path;
}

/** What to say of whatever was thrown. */
export function explain(error: unknown): { message: string; hint: string } {
  if (error instanceof Refusal) return { message: error.message, hint: error.hint };
  return { message: error instanceof Error ? error.message : String(error), hint: '' };
}
