// The address is the state of what is shown: path for the tab, query for its filters. Nothing else is kept.
import { signal } from '@preact/signals';
import { at, below } from './base';

const here = () => below(location.pathname) ?? location.pathname;

export const path = signal(here());
export const query = signal(new URLSearchParams(location.search));

function read(): void {
  path.value = here();
  query.value = new URLSearchParams(location.search);
}

/** Goes to an address of this page. */
export function go(to: string): void {
  // The moment that is shown is of the page, not of a tab.
  const moment = new URLSearchParams(location.search).get('at');
  const [way = '', asked] = to.split('?', 2);
  if (moment !== null && !new URLSearchParams(asked).has('at')) to = `${way}?${asked ? `${asked}&` : ''}at=${moment}`;
  if (to === here() + location.search) return;
  history.pushState(null, '', at(to));
  read();
  window.scrollTo(0, 0);
}

/** Changes parts of the query where one is; null takes a part out. */
export function setQuery(changes: Record<string, string | null>): void {
  const next = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === '') next.delete(name);
    else next.set(name, value);
  }
  const text = next.toString();
  history.replaceState(null, '', location.pathname + (text ? `?${text}` : ''));
  read();
}

/** Follows links to this page's own addresses without loading it anew. */
export function startRouter(isOwn: (path: string) => boolean): void {
  window.addEventListener('popstate', read);
  document.addEventListener('click', (event) => {
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const link = event.target instanceof Element ? event.target.closest('a') : null;
    if (link === null || link.target || link.hasAttribute('download') || link.origin !== location.origin) return;
    const path = below(link.pathname);
    if (path === null || !isOwn(path)) return;
    event.preventDefault();
    go(path + link.search);
  });
}
