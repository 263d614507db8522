// Dialogs: the browser's own element, which keeps the focus inside, closes with Escape and gives the focus back.
import { signal } from '@preact/signals';
import type { ComponentChildren } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import { explain } from '../api';
import { Icon } from './icon';

export function Dialog({ title, onClose, children, class: name = '' }: { title: string; onClose: () => void; children: ComponentChildren; class?: string }) {
  const ref = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const dialog = ref.current;
    if (dialog && !dialog.open) dialog.showModal();
    return () => dialog?.close();
  }, []);
  return (
    <dialog
      ref={ref}
      class={`dialog ${name}`}
      aria-label={title}
      onClose={onClose}
      onClick={(event) => event.target === ref.current && onClose()}
    >
      <div class="dialog-in">
        <div class="dialog-head">
          <h2>{title}</h2>
          <button type="button" class="plain" aria-label="Close" onClick={onClose}><Icon name="close" /></button>
        </div>
        {children}
      </div>
    </dialog>
  );
}

interface Act {
  title: string;
  /** What will happen, and to what. */
  body: ComponentChildren;
  /** The word on the button: the name of the act. */
  verb: string;
  danger?: boolean;
  /** Asks for a reason that goes into the log of events. */
  reason?: boolean;
  run: (reason: string) => Promise<string | void>;
}

const asked = signal<Act | null>(null);
const told = signal<{ text: string; bad: boolean } | null>(null);

/** Shows what is about to be done, and does it when that is confirmed. */
export function confirm(act: Act): void {
  asked.value = act;
}

/** Says for a moment what was done. */
export function tell(text: string, bad = false): void {
  const mine = { text, bad };
  told.value = mine;
  setTimeout(() => {
    if (told.value === mine) told.value = null;
  }, 6_000);
}

function Confirm({ act }: { act: Act }) {
  const [reason, setReason] = useState('');
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<unknown>(null);
  const close = () => {
    if (asked.value === act) asked.value = null;
  };
  const run = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    setProblem(null);
    try {
      const said = await act.run(reason);
      close();
      tell(said ?? `${act.title}: done.`);
    } catch (error) {
      setProblem(error);
      setBusy(false);
    }
  };
  return (
    <Dialog title={act.title} onClose={close}>
      <form onSubmit={(event) => void run(event)}>
        <div class="dialog-body">{act.body}</div>
        {act.reason ? (
          <label class="stack">
            Why (others read it)
            <input class="field" value={reason} maxLength={300} onInput={(event) => setReason(event.currentTarget.value)} />
          </label>
        ) : null}
        {problem ? <p class="note bad" role="alert">{explain(problem).message} <span class="dim">{explain(problem).hint}</span></p> : null}
        <div class="dialog-foot">
          <button type="button" class="button" onClick={close}>Leave it</button>
          <button type="submit" class={`button ${act.danger ? 'danger' : 'primary'}`} disabled={busy}>{busy ? 'Working …' : act.verb}</button>
        </div>
      </form>
    </Dialog>
  );
}

/** Where questions and remarks appear; once per page. */
export function Dialogs() {
  const act = asked.value;
  return (
    <>
      {act ? <Confirm act={act} key={act.title} /> : null}
      <div class="toasts" role="status" aria-live="polite">
        {told.value ? <div class={`toast ${told.value.bad ? 'bad' : 'good'}`}>{told.value.text}</div> : null}
      </div>
    </>
  );
}
