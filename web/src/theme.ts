// Light, dark, or as the system says. Kept per browser.
import { effect, signal } from '@preact/signals';

export type Theme = 'auto' | 'light' | 'dark';
const NAME = 'hive-theme';

function kept(): Theme {
  try {
    const text = localStorage.getItem(NAME);
    return text === 'light' || text === 'dark' ? text : 'auto';
  } catch {
    return 'auto';
  }
}

export const theme = signal<Theme>(kept());
const system = matchMedia('(prefers-color-scheme: dark)');
/** What is shown, for what draws on a canvas. */
export const dark = signal(false);

export function nextTheme(): void {
  theme.value = theme.value === 'auto' ? (dark.value ? 'light' : 'dark') : theme.value === 'dark' ? 'light' : 'auto';
  try {
    if (theme.value === 'auto') localStorage.removeItem(NAME);
    else localStorage.setItem(NAME, theme.value);
  } catch {
    // A browser that keeps nothing: it is so until the page is closed.
  }
}

export function startTheme(): void {
  const apply = () => {
    dark.value = theme.value === 'dark' || (theme.value === 'auto' && system.matches);
    document.documentElement.dataset['theme'] = dark.value ? 'dark' : 'light';
  };
  system.addEventListener('change', apply);
  effect(apply);
}
