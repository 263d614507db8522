// Plays a recorded terminal: at its own pace or faster, from any moment. Long pauses are shortened. Loaded when one is first looked at.
import { useEffect, useRef, useState } from 'preact/hooks';
import { explain, fetchRaw, Refusal } from '../api';
import { duration } from '../format';
import { Icon } from '../ui/icon';
import { Choice, Loading } from '../ui/parts';
import { readCast, type Cast } from './cast';
import { openScreen, type Screen } from './screen';

/** A pause is shown for so long at most, seconds. */
const PAUSE_MAX_S = 2;
const STEP_MS = 50;

async function fetchCast(id: string, signal: AbortSignal): Promise<Cast> {
  const response = await fetchRaw(`/api/v2/recordings/${encodeURIComponent(id)}`, signal);
  const cast = readCast(await response.text());
  if (cast === null) throw new Refusal(0, 'unreadable', 'This is no recording of a terminal.', '');
  return cast;
}

export default function Replay({ id }: { id: string }) {
  const place = useRef<HTMLDivElement>(null);
  const screen = useRef<Screen | null>(null);
  const next = useRef(0);
  const [cast, setCast] = useState<Cast | null>(null);
  const [problem, setProblem] = useState<unknown>(null);
  const [at, setAt] = useState(0);
  const [plays, setPlays] = useState(false);
  const [speed, setSpeed] = useState('1');
  useEffect(() => {
    const abort = new AbortController();
    setCast(null);
    setProblem(null);
    fetchCast(id, abort.signal).then(setCast, (error: unknown) => !abort.signal.aborted && setProblem(error));
    return () => abort.abort();
  }, [id]);
  useEffect(() => {
    if (!cast || !place.current) return;
    const own = openScreen(place.current, cast);
    screen.current = own;
    next.current = 0;
    setAt(0);
    setPlays(true);
    return () => {
      own.close();
      screen.current = null;
    };
  }, [cast]);
  /** Shows everything up to a moment. */
  const show = (moment: number) => {
    const own = screen.current;
    if (!own || !cast) return;
    for (let event = cast.events[next.current]; event && event.at <= moment; event = cast.events[(next.current += 1)]) {
      if (event.kind === 'o') own.terminal.write(event.data);
      const size = event.kind === 'r' ? /^(\d+)x(\d+)$/.exec(event.data) : null;
      if (size) own.terminal.resize(Math.min(500, Number(size[1])), Math.min(200, Number(size[2])));
    }
  };
  const seek = (moment: number) => {
    if (moment < at) {
      screen.current?.terminal.reset();
      next.current = 0;
    }
    show(moment);
    setAt(moment);
  };
  useEffect(() => {
    if (!plays || !cast) return;
    const timer = setInterval(() => {
      setAt((before) => {
        let moment = before + (STEP_MS / 1_000) * Number(speed);
        const coming = cast.events[next.current]?.at ?? cast.lengthS;
        if (coming - moment > PAUSE_MAX_S) moment = coming - PAUSE_MAX_S;
        show(moment);
        if (moment >= cast.lengthS) setPlays(false);
        return Math.min(moment, cast.lengthS);
      });
    }, STEP_MS);
    return () => clearInterval(timer);
  }, [plays, cast, speed]);
  if (problem) return <div class="note bad" role="alert"><p>{explain(problem).message}</p><p class="dim">{explain(problem).hint}</p></div>;
  return (
    <div class="term">
      {cast ? (
        <div class="row term-bar">
          <button type="button" class="button small primary" onClick={() => { if (!plays && at >= cast.lengthS) seek(0); setPlays(!plays); }}><Icon name={plays ? 'pause' : 'play'} size={14} /> {plays ? 'Pause' : 'Play'}</button>
          <input class="term-seek" type="range" min={0} max={cast.lengthS} step={0.1} value={at} aria-label="Moment of the recording" aria-valuetext={duration(at * 1_000)} onInput={(event) => seek(Number(event.currentTarget.value))} />
          <span class="num">{duration(at * 1_000)} of {duration(cast.lengthS * 1_000)}</span>
          <Choice label="Speed" value={speed} options={['1', '2', '8'].map((value) => ({ value, text: `${value}×` }))} onChange={setSpeed} />
        </div>
      ) : <Loading />}
      <div ref={place} class="term-screen replay panel" data-keys="own" />
    </div>
  );
}
