// Small parts of the Wire tab.
const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });

/** The time of a message to the millisecond; `whole` to the microsecond, as its number has it. */
export function Clock({ at, number, whole = false }: { at: string; number?: number; whole?: boolean }) {
  const ms = Date.parse(at);
  const micros = number !== undefined && Math.abs(number / 1_000 - ms) < 2_000 ? number % 1_000_000 : (ms % 1_000) * 1_000;
  const part = String(Math.floor(micros)).padStart(6, '0');
  return <time dateTime={at} title={at}>{clock.format(ms)}.{whole ? part : part.slice(0, 3)}</time>;
}
