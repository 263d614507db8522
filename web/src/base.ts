// The path below which a proxy shows this node, empty where there is none. The page is told by the node; everything else here is written
// as if there were none.
import { options } from 'preact';

export const base = document.documentElement.dataset['base'] ?? '';

/** An address of this node as the browser asks for it. */
export function at(path: string): string {
  return path.startsWith('/') ? base + path : path;
}

/** The other way round; none: it is not below. */
export function below(path: string): string | null {
  if (base === '') return path;
  return path === base || path.startsWith(`${base}/`) ? path.slice(base.length) || '/' : null;
}

/** Makes links and pictures of all parts find their way. */
export function startBase(): void {
  if (base === '') return;
  const before = options.vnode;
  options.vnode = (vnode) => {
    if (typeof vnode.type === 'string') {
      const props = vnode.props as { href?: unknown; src?: unknown };
      if (typeof props.href === 'string') props.href = at(props.href);
      if (typeof props.src === 'string') props.src = at(props.src);
    }
    before?.(vnode);
  };
}
