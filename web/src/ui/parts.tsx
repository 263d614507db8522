// Small parts that every tab is made of.
import type { ComponentChildren } from 'preact';
import { useEffect, useRef } from 'preact/hooks';
import { explain, Refusal } from '../api';
import { ago, time } from '../format';
import { now, problem } from '../live';
import type { Resource } from '../resource';
import type { Tone } from './state';

/** A titled part of a page. */
export function Section({ title, aside, children, id }: { title: string; aside?: ComponentChildren; children: ComponentChildren; id?: string }) {
  const heading = `h-${id ?? title.toLowerCase().replace(/[^a-z]+/g, '-')}`;
  return (
    <section class="section" aria-labelledby={heading}>
      <div class="section-head">
        <h2 id={heading}>{title}</h2>
        {aside ? <div class="section-aside">{aside}</div> : null}
      </div>
      {children}
    </section>
  );
}

export function Panel({ children, class: name = '' }: { children: ComponentChildren; class?: string }) {
  return <div class={`panel ${name}`}>{children}</div>;
}

/** One number with its name. */
export function Tile({ label, value, detail, tone }: { label: string; value: ComponentChildren; detail?: ComponentChildren; tone?: Tone }) {
  return (
    <div class={`tile ${tone ?? ''}`}>
      <dt>{label}</dt>
      <dd>
        {value}
        {detail ? <small>{detail}</small> : null}
      </dd>
    </div>
  );
}

/** How far something is. Without a percentage it only says that it runs. */
export function Progress({ percent, label }: { percent: number | null; label: string }) {
  const ref = useRef<HTMLDivElement>(null);
  useEffect(() => {
    // Set through the object model: the policy of the page forbids style attributes.
    ref.current?.style.setProperty('--part', `${percent ?? 0}%`);
  }, [percent]);
  return (
    <div
      class={percent === null ? 'progress unknown' : 'progress'}
      role="progressbar"
      aria-label={label}
      {...(percent === null ? {} : { 'aria-valuenow': percent, 'aria-valuemin': 0, 'aria-valuemax': 100 })}
    >
      <div ref={ref} />
    </div>
  );
}

/** A point in time: short for the eye, whole for a pointer. */
export function Time({ at }: { at: string | null | undefined }) {
  return at ? <time dateTime={at} title={at}>{time(at)}</time> : <>–</>;
}

export function Ago({ at }: { at: string | null | undefined }) {
  return at ? <time dateTime={at} title={at}>{ago(at, now.value)}</time> : <>–</>;
}

export function Empty({ children }: { children: ComponentChildren }) {
  return <p class="empty">{children}</p>;
}

export function Failure({ error }: { error: unknown }) {
  // Of a moment of which nothing is known it is said once, above everything.
  if (problem.value !== null && error instanceof Refusal && error.code === 'not_recorded') return <Empty>Nothing is known of that moment.</Empty>;
  const { message, hint } = explain(error);
  return (
    <div class="note bad" role="alert">
      <p>{message}</p>
      {hint ? <p class="dim">{hint}</p> : null}
    </div>
  );
}

/** What a resource gave; before that, that it is on its way; and why it did not come, beside what came before. */
export function Loaded<T>({ of, children }: { of: Resource<T>; children: (data: T) => ComponentChildren }) {
  if (of.data === null) return of.error ? <Failure error={of.error} /> : <Loading />;
  // That the node is away is said once, above everything.
  const away = of.error instanceof Refusal && of.error.code === 'unreachable';
  return (
    <>
      {of.error && !away ? <Failure error={of.error} /> : null}
      {children(of.data)}
    </>
  );
}

export function Loading() {
  return (
    <p class="loading" role="status">
      <span class="spinner" aria-hidden="true" /> Loading …
    </p>
  );
}

/** Names and values. */
export function Facts({ rows }: { rows: [string, ComponentChildren][] }) {
  return (
    <dl class="facts">
      {rows.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

/** A choice of a few, one of them taken. */
export function Choice<T extends string>({ label, value, options, onChange }: {
  label: string;
  value: T;
  options: { value: T; text: ComponentChildren; title?: string }[];
  onChange: (value: T) => void;
}) {
  return (
    <div class="choice" role="group" aria-label={label}>
      {options.map((option) => (
        <button key={option.value} type="button" aria-pressed={option.value === value} title={option.title} onClick={() => onChange(option.value)}>
          {option.text}
        </button>
      ))}
    </div>
  );
}

/** A field that filters what is shown; `/` goes there. */
export function FilterField({ value, label, onInput, placeholder }: { value: string; label: string; onInput: (text: string) => void; placeholder?: string }) {
  return (
    <input
      class="field filter"
      type="search"
      data-filter
      value={value}
      aria-label={label}
      placeholder={placeholder ?? label}
      autocomplete="off"
      spellcheck={false}
      onInput={(event) => onInput(event.currentTarget.value)}
    />
  );
}
