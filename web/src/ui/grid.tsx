// Rows of equal height, of which only those are drawn that are seen: 100,000 of them cost as much as 40.
//
// As a table for readers, with the number of each row. What is drawn is asked of `row`, which may not be there yet.
import { useLayoutEffect, useRef, useState } from 'preact/hooks';
import type { ComponentChildren } from 'preact';

const MORE_ROWS = 8;

interface Props {
  label: string;
  /** Number of rows. */
  count: number;
  /** Height of each, pixels. */
  rowPx: number;
  /** Class that sets the columns. */
  columns: string;
  head: ComponentChildren[];
  /** Cells of a row; none while it is not there. */
  row: (at: number) => ComponentChildren[] | null;
  rowClass?: (at: number) => string;
  /** What is seen now, for whoever fetches it. */
  onRange?: (from: number, to: number) => void;
}

export function Grid({ label, count, rowPx, columns, head, row, rowClass, onRange }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const body = useRef<HTMLDivElement>(null);
  const [seen, setSeen] = useState({ top: 0, height: 600 });
  useLayoutEffect(() => {
    const place = box.current;
    if (!place) return;
    let frame = 0;
    const look = () => {
      frame = 0;
      setSeen({ top: place.scrollTop, height: place.clientHeight });
    };
    const scrolled = () => {
      frame ||= requestAnimationFrame(look);
    };
    place.addEventListener('scroll', scrolled, { passive: true });
    const size = new ResizeObserver(scrolled);
    size.observe(place);
    look();
    return () => {
      place.removeEventListener('scroll', scrolled);
      size.disconnect();
      cancelAnimationFrame(frame);
    };
  }, []);
  const from = Math.max(0, Math.floor(seen.top / rowPx) - MORE_ROWS);
  const to = Math.min(count, Math.ceil((seen.top + seen.height) / rowPx) + MORE_ROWS);
  useLayoutEffect(() => {
    body.current?.style.setProperty('height', `${count * rowPx}px`);
  }, [count, rowPx]);
  useLayoutEffect(() => onRange?.(from, to), [from, to, count]);
  const rows = [];
  for (let at = from; at < to; at += 1) rows.push(at);
  return (
    <div ref={box} class="grid panel" role="table" aria-label={label} aria-rowcount={count + 1} tabIndex={0}>
      <div class="grid-head" role="rowgroup">
        <div class={`grid-row ${columns}`} role="row" aria-rowindex={1}>
          {head.map((cell, number) => <div key={number} role="columnheader">{cell}</div>)}
        </div>
      </div>
      <div ref={body} class="grid-body" role="rowgroup">
        {rows.map((at) => {
          const cells = row(at);
          return (
            <div
              key={at}
              class={`grid-row ${columns} ${rowClass?.(at) ?? ''} ${cells ? '' : 'waiting'}`}
              role="row"
              aria-rowindex={at + 2}
              style={{ top: at * rowPx, height: rowPx }}
            >
              {cells ? cells.map((cell, number) => <div key={number} role="cell">{cell}</div>) : <div role="cell">…</div>}
            </div>
          );
        })}
      </div>
    </div>
  );
}
