// Keys: 1–9 and 0 open tabs, R asks anew, / goes to the filter, ? shows this, Ctrl-K finds anything. Never while somebody writes.
import { signal } from '@preact/signals';
import { refresh } from './live';
import { go } from './router';
import { tabs } from './tabs';

export const helpOpen = signal(false);
export const paletteOpen = signal(false);
export const signInOpen = signal(false);

/** Whether keys belong to what has the focus: fields, and whatever says so (a terminal). */
function writes(target: EventTarget | null): boolean {
  return target instanceof Element && target.closest('input, textarea, select, [contenteditable="true"], [data-keys="own"]') !== null;
}

export function startKeys(): void {
  document.addEventListener('keydown', (event) => {
    if ((event.ctrlKey || event.metaKey) && !event.altKey && event.key.toLowerCase() === 'k') {
      if (event.target instanceof Element && event.target.closest('[data-keys="own"]')) return;
      event.preventDefault();
      paletteOpen.value = true;
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || writes(event.target) || document.querySelector('dialog[open]')) return;
    const tab = tabs.find((tab) => tab.key === event.key);
    if (tab) go(tab.path);
    else if (event.key === 'r' || event.key === 'R') refresh();
    else if (event.key === '?') helpOpen.value = true;
    else if (event.key === '/') {
      const filter = document.querySelector<HTMLElement>('main [data-filter]');
      if (filter) filter.focus();
      else paletteOpen.value = true;
    } else return;
    event.preventDefault();
  });
}
