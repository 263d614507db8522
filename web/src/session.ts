// Who acts from this page. Buttons that need a key are shown only while there is one.
//
// The node gets the key once, for a cookie that scripts cannot read; it is kept nowhere here.
import { computed, signal } from '@preact/signals';
import { get, send, whenRefused } from './api';
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

/** Whoever listens on the network can read what this page sends: no TLS, and not within one machine. */
export const overheard = location.protocol === 'http:' && !['localhost', '127.0.0.1', '[::1]'].includes(location.hostname);

// Its time is over, or somebody ended it: the buttons go.
whenRefused(() => {
  holder.value = null;
});

/** Whether the browser still has a session from before. */
export async function recall(): Promise<void> {
  try {
    const { data } = await get<{ name: string | null; scope?: Holder['scope']; expires_at?: string }>('/api/v2/session');
    if (data.name !== null && data.scope) {
      holder.value = { name: data.name, scope: data.scope, expires_at: data.expires_at ?? null };
    }
  } catch {
    // It does not answer; whoever acts is asked for the key.
  }
}

/** Signs in, or throws why not. */
export async function signIn(key: string): Promise<void> {
  holder.value = await send<Holder>('/api/v2/session', { key });
  refresh();
}

export async function signOut(): Promise<void> {
  holder.value = null;
  try {
    await send('/api/v2/session', undefined, 'DELETE');
  } catch {
    // There was none.
  }
}
