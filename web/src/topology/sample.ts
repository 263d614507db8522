// Which messages are drawn. Pure.
//
// Every dot is one message. A message is drawn once, though both its ends may have seen it; of a busy hive as many as can be told apart.
import type { WireRecord } from '../wire/types';

/** Most dots that begin in a second. */
export const DOTS_PER_S = 90;
/** So long a burst may be saved up for, seconds. */
const SAVED_S = 0.3;

/** Lets messages through up to a rate, spread evenly over what comes: each of a batch has the same chance. */
export class Sampler {
  private allowance = DOTS_PER_S * SAVED_S;
  private lastMs: number | null = null;

  /** Those of a batch that are drawn. `nowMs` never goes back. */
  take<T>(batch: T[], nowMs: number): T[] {
    const passedS = this.lastMs === null ? 0 : (nowMs - this.lastMs) / 1_000;
    this.lastMs = nowMs;
    this.allowance = Math.min(DOTS_PER_S * SAVED_S, this.allowance + passedS * DOTS_PER_S);
    const room = Math.floor(this.allowance);
    if (batch.length <= room) {
      this.allowance -= batch.length;
      return batch;
    }
    const taken: T[] = [];
    for (let at = 0; at < room; at += 1) {
      const one = batch[Math.floor((at * batch.length) / room)];
      if (one !== undefined) taken.push(one);
    }
    this.allowance -= taken.length;
    return taken;
  }
}

/** Whether this record is the one of its message that is drawn: the sender's, where the sender is heard. */
export function isDrawn(record: WireRecord, heard: ReadonlySet<string>): boolean {
  return record.sent || !heard.has(record.from);
}

/** Where a name or an address of a record is: a node's name, `everybody`, or outside. */
export function placeOf(party: string, byName: ReadonlySet<string>, byAddress: ReadonlyMap<string, string>): string {
  if (byName.has(party)) return party;
  if (party === 'everybody') return party;
  const first = party.split(' ')[0] ?? party;
  if (byName.has(first)) return first;
  const address = /[0-9a-fA-F:.]+:\d+/.exec(party)?.[0];
  if (address === undefined) return OUTSIDE;
  return byAddress.get(address) ?? byAddress.get(address.replace(/:\d+$/, '')) ?? OUTSIDE;
}

/** Whoever is no node: browsers, programs, strangers. */
export const OUTSIDE = '(outside)';
