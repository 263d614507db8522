// What a query found: rows, or a chart of them, and both as files.
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import { about, count, plural, shortId } from '../format';
import { Grid } from '../ui/grid';
import { Icon } from '../ui/icon';
import { lazy } from '../ui/lazy';
import { Choice, Empty } from '../ui/parts';
import { csv, download, json } from './files';
import { isTime, type SqlAnswer } from './types';

const Chart = lazy(() => import('./chart'));
const ROW_PX = 30;
const LOOKED_AT = 60;
const CHARS_MAX = 44;
const whole = new Intl.DateTimeFormat('en-GB', { dateStyle: 'medium', timeStyle: 'medium' });

/** Width of each column by what stands in its first rows, characters. */
function widths(answer: SqlAnswer): number[] {
  return answer.columns.map((column, at) => {
    const cells = answer.rows.slice(0, LOOKED_AT).map((row) => (isTime(column.name, row[at]) ? 21 : String(row[at] ?? 'null').length));
    return Math.min(CHARS_MAX, Math.max(column.name.length + 1, 5, ...cells));
  });
}

function Cell({ column, value }: { column: string; value: string | number | null }) {
  if (value === null) return <span class="dim">null</span>;
  if (typeof value === 'number' && isTime(column, value)) return <time title={String(value)} dateTime={new Date(value * 1_000).toISOString()}>{whole.format(value * 1_000)}</time>;
  if (typeof value === 'number') return <span class="data-number">{Number.isInteger(value) ? value : Number(value.toPrecision(9))}</span>;
  if (column === 'job_id' && /^[0-9a-f-]{36}$/.test(value)) return <a href={`/jobs/${value}`} title={value}>{shortId(value)}…</a>;
  return <span title={value}>{value}</span>;
}

function Charted({ answer }: { answer: SqlAnswer }) {
  const numeric = answer.columns.flatMap((_, at) => (answer.rows.some((row) => typeof row[at] === 'number') ? [at] : []));
  const first = answer.columns.findIndex((column, at) => !numeric.includes(at) || isTime(column.name, answer.rows[0]?.[at]));
  const [x, setX] = useState(first >= 0 ? first : 0);
  const [ys, setYs] = useState<number[]>(() => numeric.filter((at) => at !== (first >= 0 ? first : 0) && !isTime(answer.columns[at]?.name ?? '', answer.rows[0]?.[at])).slice(0, 3));
  if (numeric.length === 0) return <Empty>There is no number in this result to draw.</Empty>;
  const name = (at: number) => answer.columns[at]?.name ?? '';
  return (
    <div class="panel pad">
      <div class="row data-axes">
        <label class="row"><span class="dim">Along</span>
          <select class="field" value={String(x)} onChange={(event) => setX(Number(event.currentTarget.value))}>
            {answer.columns.map((column, at) => <option key={at} value={String(at)}>{column.name}</option>)}
          </select>
        </label>
        <fieldset class="row"><legend class="sr">Drawn</legend>
          {numeric.filter((at) => at !== x).map((at) => (
            <label key={at} class="row"><input type="checkbox" checked={ys.includes(at)} onChange={(event) => setYs(event.currentTarget.checked ? [...ys, at] : ys.filter((one) => one !== at))} /> {name(at)}</label>
          ))}
        </fieldset>
      </div>
      {ys.length ? <Chart answer={answer} x={x} ys={ys} label={`${ys.map(name).join(', ')} by ${name(x)}; the rows say the same`} /> : <Empty>Choose what is drawn.</Empty>}
    </div>
  );
}

export function Result({ answer }: { answer: SqlAnswer }) {
  const [as, setAs] = useState<'rows' | 'chart'>('rows');
  const box = useRef<HTMLDivElement>(null);
  const chars = useMemo(() => widths(answer), [answer]);
  useEffect(() => {
    const style = box.current?.style;
    style?.setProperty('--columns', chars.map((one) => `minmax(${one}ch, ${one}fr)`).join(' '));
    style?.setProperty('--least', `calc(${chars.reduce((sum, one) => sum + one, 0)}ch + ${chars.length} * .9rem + 1.8rem)`);
    style?.setProperty('--rows', String(Math.min(answer.rows.length, 400)));
  }, [chars, as]);
  return (
    <section aria-label="Result">
      <div class="toolbar">
        <Choice label="Result as" value={as} options={[{ value: 'rows', text: 'Rows' }, { value: 'chart', text: 'Chart' }]} onChange={setAs} />
        <button type="button" class="button small" onClick={() => download('hive.csv', 'text/csv', csv(answer))}><Icon name="download" size={14} /> CSV</button>
        <button type="button" class="button small" onClick={() => download('hive.json', 'application/json', json(answer))}><Icon name="download" size={14} /> JSON</button>
        <span class="end" role="status">{plural(answer.count, 'row')}{answer.truncated ? ', and there are more' : ''} · {count(answer.elapsed_ms)} ms · data {answer.age_ms < 1_500 ? 'of now' : `${about(answer.age_ms)} old`}</span>
      </div>
      {as === 'chart' ? <Charted answer={answer} /> : answer.rows.length === 0 ? <Empty>No row fits.</Empty> : (
        <div ref={box} class="data-rows">
          <Grid
            label="Rows"
            count={answer.rows.length}
            rowPx={ROW_PX}
            columns="data-columns"
            head={answer.columns.map((column) => <span title={column.type}>{column.name}</span>)}
            row={(at) => answer.rows[at]?.map((value, column) => <Cell column={answer.columns[column]?.name ?? ''} value={value} />) ?? null}
          />
        </div>
      )}
    </section>
  );
}
