// Who acts from this page. Buttons that need a key are shown only while there is one.
//
// A node that hands out session cookies gets the key once; one that does not gets it with each request, from memory.
import { computed, signal } from '@preact/signals';
import { get, Refusal, send, useKey, whenRefused } from './api';
import { refresh } from './live';

export interface Holder {
  name: string;
  scope: 'read' | 'queue' | 'drone' | 'admin';
  expires_at?: string | null;
}

export const holder = signal<Holder | null>(null);
/** May queue and cancel. */
export const mayQueue = computed(() => holder.value?.scope === 'queue' || holder.value?.scope === 'admin');
/** May do everything. */
export const mayAdmin = computed(() => holder.value?.scope === 'admin');

// Its time is over, or somebody ended it: the buttons go.
whenRefused(() => {
  if (holder.value === null) return;
  holder.value = null;
  useKey(null);
});

/** Whether the browser still has a session from before. */
export async function recall(): Promise<void> {
  try {
    const { data } = await get<{ name: string | null; scope?: Holder['scope']; expires_at?: string }>('/api/v2/session');
    if (data.name !== null && data.scope) {
      holder.value = { name: data.name, scope: data.scope, expires_at: data.expires_at ?? null };
    }
  } catch {
    // A node without sessions: the key is kept in memory.
  }
}

/** Signs in, or throws why not. */
export async function signIn(key: string): Promise<void> {
  try {
    const got = await send<Holder>('/api/v2/session', { key });
    holder.value = got;
  } catch (error) {
    if (!(error instanceof Refusal) || (error.status !== 404 && error.status !== 405)) throw error;
    holder.value = await tried(key);
  }
  refresh();
}

/** Finds out with a question that needs the key whether it is one. */
async function tried(key: string): Promise<Holder> {
  useKey(key);
  try {
    await get('/api/v2/doctor');
    return { name: 'the admin key', scope: 'admin' };
  } catch (error) {
    const scope = error instanceof Refusal && error.status === 403 ? /; (.+) has (read|queue)\b/.exec(error.message) : null;
    if (scope) return { name: scope[1] ?? 'a token', scope: scope[2] as Holder['scope'] };
    useKey(null);
    throw error;
  }
}

export async function signOut(): Promise<void> {
  useKey(null);
  holder.value = null;
  try {
    await send('/api/v2/session', undefined, 'DELETE');
  } catch {
    // There was none.
  }
}
