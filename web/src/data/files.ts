// A result as a file. Pure, but for the download itself.
import type { SqlAnswer } from './types';

/** A cell as spreadsheets read it. What would be taken for a formula is marked as text: names of packages come from anywhere. */
function cell(value: string | number | null): string {
  if (value === null) return '';
  if (typeof value === 'number') return String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
}

export function csv(answer: SqlAnswer): string {
  const lines = [answer.columns.map((column) => cell(column.name)), ...answer.rows.map((row) => row.map(cell))];
  return lines.map((line) => `${line.join(',')}\r\n`).join('');
}

/** An object per row. Columns of the same name get a number. */
export function json(answer: SqlAnswer): string {
  const names: string[] = [];
  for (const { name } of answer.columns) {
    let own = name;
    for (let number = 2; names.includes(own); number += 1) own = `${name}_${number}`;
    names.push(own);
  }
  const rows = answer.rows.map((row) => Object.fromEntries(row.map((value, at) => [names[at] ?? String(at), value])));
  return `${JSON.stringify(rows, null, 1)}\n`;
}

/** Hands a text over as a file. */
export function download(name: string, type: string, text: string): void {
  const address = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement('a');
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
