// What may come next in a filter, for completion. Pure; what is right is decided by the node.
import type { WireField, WireFields } from './types';

export interface Offer {
  /** What is written. */
  text: string;
  detail: string;
}

export interface Completion {
  /** From here to the cursor is replaced. */
  from: number;
  offers: Offer[];
}

const OFFERS_MAX = 12;
const TOKEN = /"(?:[^"\\]|\\.)*"?|&&|\|\||==|!=|<=|>=|[<>!(),]|[^\s"&|=<>!(),]+/g;
const OPERATORS = new Set(['==', '!=', '<', '<=', '>', '>=', 'contains', 'matches', 'in']);

interface Token {
  text: string;
  start: number;
  end: number;
}

type Expected = 'field' | 'operator' | 'value' | 'list' | 'join';

/** What is expected behind these tokens, and for which field. */
function after(tokens: Token[]): { expected: Expected; field: string | null } {
  let expected: Expected = 'field';
  let field: string | null = null;
  let listed = false;
  for (const { text } of tokens) {
    if (text === '&&' || text === '||') [expected, listed] = ['field', false];
    else if (text === '!' || (text === '(' && expected === 'field')) expected = 'field';
    else if (text === '(') [expected, listed] = ['value', true];
    else if (text === ',') expected = 'value';
    else if (text === ')') [expected, listed] = ['join', false];
    else if (expected === 'field') [expected, field] = ['operator', text];
    else if (OPERATORS.has(text)) expected = text === 'in' ? 'list' : 'value';
    else expected = listed ? 'value' : 'join';
  }
  return { expected, field };
}

function values(field: WireField, quoted: boolean): Offer[] {
  if (field.type === 'flag') return ['true', 'false'].map((text) => ({ text, detail: field.name }));
  if (field.type === 'size' || field.type === 'duration') return field.units.map((unit) => ({ text: `${field.type === 'size' ? 4 : 20}${unit}`, detail: 'a number with its unit' }));
  return field.values.map((value) => ({ text: quoted || !/^\d+$/.test(value) ? JSON.stringify(value) : value, detail: field.name }));
}

/** What fits at the cursor. */
export function complete(text: string, cursor: number, known: WireFields): Completion {
  const before = text.slice(0, cursor);
  const tokens = [...before.matchAll(TOKEN)].map((match) => ({ text: match[0], start: match.index, end: match.index + match[0].length }));
  const last = tokens[tokens.length - 1];
  // A word that is still being written: it reaches to the cursor and is no sign.
  const open = last && last.end === cursor && /^["\p{L}\p{N}_]/u.test(last.text) && !/^".*[^\\]"$/.test(last.text) ? last : null;
  const { expected, field: name } = after(open ? tokens.slice(0, -1) : tokens);
  const field = known.fields.find((one) => one.name === name);
  const written = (open?.text ?? '').replace(/^"/, '').toLowerCase();
  let offers: Offer[] = [];
  if (expected === 'field') offers = known.fields.map((one) => ({ text: one.name, detail: one.meaning }));
  else if (expected === 'operator') offers = [...(field?.operators ?? []).map((text) => ({ text, detail: '' })), ...(field ? [] : [])];
  else if (expected === 'list') offers = [{ text: '(', detail: 'a list of values' }];
  else if (expected === 'value' && field) offers = values(field, open?.text.startsWith('"') ?? false);
  else if (expected === 'join') offers = [{ text: '&&', detail: 'and' }, { text: '||', detail: 'or' }];
  const fits = offers.filter((offer) => {
    const plain = offer.text.replace(/^"/, '').toLowerCase();
    return plain.includes(written) && plain.replace(/"$/, '') !== written;
  });
  fits.sort((left, right) => Number(right.text.replace(/^"/, '').toLowerCase().startsWith(written)) - Number(left.text.replace(/^"/, '').toLowerCase().startsWith(written)));
  return { from: open?.start ?? cursor, offers: fits.slice(0, OFFERS_MAX) };
}
