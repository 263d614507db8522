// Parts that are loaded when they are first shown.
import type { ComponentType } from 'preact';
import { useEffect, useState } from 'preact/hooks';

/** A component of a chunk; until it is there, nothing of the same height. */
export function lazy<P extends object>(load: () => Promise<{ default: ComponentType<P> }>): ComponentType<P> {
  let found: ComponentType<P> | null = null;
  return function Lazy(props: P) {
    const [, drawn] = useState(0);
    useEffect(() => {
      if (found === null) {
        void load().then((module) => {
          found = module.default;
          drawn(1);
        });
      }
    }, []);
    const Part = found;
    return Part ? <Part {...props} /> : <div class="plot-place" />;
  };
}
