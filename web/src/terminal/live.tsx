// A terminal on a node: a ticket is bought with the session, a socket opened with the ticket. Loaded when it is first opened.
import { useEffect, useRef, useState } from 'preact/hooks';
import { explain, send } from '../api';
import { at } from '../base';
import { Icon } from '../ui/icon';
import { openScreen, type Screen } from './screen';
import type { Ticket, Told } from './types';

type State = { word: 'opening' | 'open' } | { word: 'over'; why: string; hint: string; bad: boolean };

function over(why: string, hint = '', bad = true): State {
  return { word: 'over', why, hint, bad };
}

/** Connects a screen with a node until one of them ends. */
async function converse(node: string, screen: Screen, say: (state: State) => void, signal: AbortSignal): Promise<void> {
  let ticket: Ticket;
  try {
    ticket = await send<Ticket>(`/api/v2/nodes/${encodeURIComponent(node)}/terminal`);
  } catch (error) {
    const { message, hint } = explain(error);
    return say(over(message, hint));
  }
  if (signal.aborted) return;
  const { terminal } = screen;
  const place = new URL(at(ticket.path), location.href);
  place.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';
  const socket = new WebSocket(place);
  const tell = (message: object) => socket.readyState === WebSocket.OPEN && socket.send(JSON.stringify(message));
  let ended = false;
  socket.onopen = () => tell({ type: 'ticket', ticket: ticket.ticket, columns: terminal.cols, rows: terminal.rows });
  socket.onmessage = (event: MessageEvent<string>) => {
    const told = JSON.parse(event.data) as Told;
    if (told.type === 'connected') {
      say({ word: 'open' });
      terminal.focus();
    } else if (told.type === 'output') terminal.write(told.data);
    else {
      ended = true;
      if (told.type === 'error') say(over(told.error?.message ?? told.data, told.error?.hint));
      else say(over(told.data ?? `The shell ended${told.exit_code ? ` with ${told.exit_code}` : ''}.`, '', told.data !== null));
    }
  };
  socket.onclose = () => {
    if (!ended && !signal.aborted) say(over('The connection broke.', 'What ran in the terminal was ended.'));
  };
  const input = terminal.onData((data) => {
    // Longer pastes go in pieces: a message has a limit.
    for (let from = 0; from < data.length; from += 8_192) tell({ type: 'input', data: data.slice(from, from + 8_192) });
  });
  const resize = terminal.onResize(({ cols, rows }) => tell({ type: 'resize', columns: cols, rows }));
  signal.addEventListener('abort', () => {
    input.dispose();
    resize.dispose();
    socket.close();
  });
}

export default function Live({ node }: { node: string }) {
  const place = useRef<HTMLDivElement>(null);
  const [state, setState] = useState<State>({ word: 'opening' });
  const [times, setTimes] = useState(0);
  useEffect(() => {
    if (!place.current) return;
    setState({ word: 'opening' });
    const abort = new AbortController();
    const screen = openScreen(place.current, null);
    void converse(node, screen, (next) => !abort.signal.aborted && setState(next), abort.signal);
    return () => {
      abort.abort();
      screen.close();
    };
  }, [node, times]);
  return (
    <div class="term">
      <div class="row term-bar">
        <span class={`lamp ${state.word === 'open' ? 'good' : state.word === 'over' && state.bad ? 'bad' : ''}`} aria-hidden="true" />
        <span role="status">{state.word === 'open' ? `Connected with ${node}` : state.word === 'opening' ? 'Opening …' : 'Over'}</span>
        <span class="tag honey"><span class="term-dot" aria-hidden="true" /> recorded</span>
        <span class="dim wide">Keys belong to it while it has the focus.</span>
        <span class="grow" />
        {state.word === 'over' ? <button type="button" class="button small" onClick={() => setTimes(times + 1)}><Icon name="refresh" size={14} /> Open again</button> : null}
      </div>
      {state.word === 'over' ? <div class={`note ${state.bad ? 'bad' : ''}`} role="alert"><p>{state.why}</p>{state.hint ? <p class="dim">{state.hint}</p> : null}</div> : null}
      <div ref={place} class="term-screen panel" data-keys="own" />
    </div>
  );
}
