// Shapes of /api/v2/sql.

export interface SqlAnswer {
  columns: { name: string; type: string }[];
  rows: (string | number | null)[][];
  count: number;
  truncated: boolean;
  elapsed_ms: number;
  age_ms: number;
}

export interface SqlTable {
  name: string;
  kind: 'table' | 'view';
  meaning: string;
  columns: { name: string; type: string; meaning: string }[];
}

export interface SqlSchema {
  tables: SqlTable[];
  rows_default: number;
  rows_max: number;
  timeout_ms: number;
}

/** Whether a column holds points in time, which are seconds since 1970 here. */
export function isTime(column: string, value: unknown): boolean {
  return typeof value === 'number' && value > 1e9 && value < 1e10 && /(_at|_until|timestamp|since|last_seen|last_attempt)$/.test(column);
}
