// The filter of messages: one line with completion of fields, comparisons and values that were seen.
import { useEffect, useRef, useState } from 'preact/hooks';
import { useResource } from '../resource';
import { complete, type Offer } from './complete';
import type { WireFields } from './types';

export function FilterBar({ value, onChange }: { value: string; onChange: (filter: string) => void }) {
  const { data: known } = useResource<WireFields>('/api/v2/wire/fields', { kinds: ['nodes'], atMostMs: 30_000 });
  const [text, setText] = useState(value);
  const [cursor, setCursor] = useState(0);
  const [open, setOpen] = useState(false);
  const [chosen, setChosen] = useState(-1);
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => {
    if (document.activeElement !== field.current) setText(value);
  }, [value]);
  const found = known && open ? complete(text, cursor, known) : null;
  const offers = found?.offers ?? [];
  const apply = (next: string, at: number) => {
    setText(next);
    setCursor(at);
    setChosen(-1);
    // Half a filter is none: it counts when Enter is pressed or the field is left. An empty one is whole.
    if (next.trim() === '') onChange('');
  };
  const commit = () => {
    setOpen(false);
    onChange(text.trim());
  };
  const take = (offer: Offer) => {
    if (!found) return;
    const rest = text.slice(cursor);
    const head = `${text.slice(0, found.from)}${offer.text} `;
    apply(head + rest.trimStart(), head.length);
    requestAnimationFrame(() => {
      field.current?.focus();
      field.current?.setSelectionRange(head.length, head.length);
    });
  };
  const key = (event: KeyboardEvent) => {
    const move = event.key === 'ArrowDown' ? 1 : event.key === 'ArrowUp' ? -1 : 0;
    if (move !== 0 && offers.length) {
      setChosen((chosen + move + offers.length + (chosen < 0 && move < 0 ? 1 : 0)) % offers.length);
      event.preventDefault();
    } else if ((event.key === 'Enter' || event.key === 'Tab') && open && chosen >= 0 && offers[chosen]) {
      take(offers[chosen]);
      event.preventDefault();
    } else if (event.key === 'Enter') commit();
    else if (event.key === 'Escape' && open) {
      setOpen(false);
      event.preventDefault();
    }
  };
  const look = () => setCursor(field.current?.selectionStart ?? text.length);
  return (
    <div class="wire-filter" onFocusOut={(event) => { if (!(event.relatedTarget instanceof Node && event.currentTarget.contains(event.relatedTarget))) commit(); }}>
      <input
        ref={field}
        class="field mono"
        type="text"
        role="combobox"
        data-filter
        aria-label="Filter messages"
        aria-expanded={open && offers.length > 0}
        aria-controls="wire-offers"
        aria-autocomplete="list"
        aria-activedescendant={chosen >= 0 ? `wire-offer-${chosen}` : undefined}
        placeholder={'kind == "ADVICE" && latency > 20ms'}
        autocomplete="off"
        autocapitalize="off"
        spellcheck={false}
        maxLength={1000}
        value={text}
        onFocus={() => { look(); setOpen(true); }}
        onClick={look}
        onKeyUp={look}
        onKeyDown={key}
        onInput={(event) => { setOpen(true); apply(event.currentTarget.value, event.currentTarget.selectionStart ?? 0); }}
      />
      <ul id="wire-offers" class="wire-offers panel" role="listbox" aria-label="What may come next" hidden={!open || offers.length === 0}>
        {offers.map((offer, at) => (
          <li key={offer.text} id={`wire-offer-${at}`} role="option" aria-selected={at === chosen} onPointerDown={(event) => { event.preventDefault(); take(offer); }}>
            <code>{offer.text}</code> <span class="dim">{offer.detail}</span>
          </li>
        ))}
      </ul>
    </div>
  );
}
