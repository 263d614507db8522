// Exchanges the admin key, or a token, for the right to act from this page.
import { useEffect, useRef, useState } from 'preact/hooks';
import { explain, Refusal } from '../api';
import { signInOpen } from '../keys';
import { signIn } from '../session';
import { Dialog, tell } from './dialog';

export function SignIn() {
  const [key, setKey] = useState('');
  const [problem, setProblem] = useState<unknown>(null);
  const [busy, setBusy] = useState(false);
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => field.current?.focus(), []);
  const close = () => {
    signInOpen.value = false;
  };
  const submit = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    setProblem(null);
    try {
      await signIn(key);
      close();
      tell('Signed in.');
    } catch (error) {
      setProblem(error);
      setBusy(false);
    }
  };
  const readsOnly = problem instanceof Refusal && problem.status === 403;
  return (
    <Dialog title="Sign in" onClose={close}>
      <form onSubmit={(event) => void submit(event)}>
        <p>Everything can be looked at without a key. To change something, give the admin key or a token.</p>
        <label class="stack">
          Key
          <input
            ref={field}
            class="field mono"
            type="password"
            autocomplete="current-password"
            value={key}
            onInput={(event) => setKey(event.currentTarget.value)}
          />
        </label>
        <p class="dim">On a node: <code>sudo hive admin key show</code>. It is not stored in this browser.</p>
        {problem ? (
          <p class="note bad" role="alert">
            {readsOnly ? 'This port only shows things. Open the admin port of a node, usually 8093 and on the node itself.' : explain(problem).message}{' '}
            <span class="dim">{explain(problem).hint}</span>
          </p>
        ) : null}
        <div class="dialog-foot">
          <button type="button" class="button" onClick={close}>Only look</button>
          <button type="submit" class="button primary" disabled={busy || key.trim() === ''}>{busy ? 'Asking …' : 'Sign in'}</button>
        </div>
      </form>
    </Dialog>
  );
}
