// Shapes of terminals: tickets, messages of the socket, recordings.

export interface Ticket {
  ticket: string;
  node: string;
  path: string;
  expires_in_ms: number;
}

export type Told =
  | { type: 'connected'; data: string }
  | { type: 'output'; data: string }
  | { type: 'ended'; exit_code: number | null; data: string | null }
  | { type: 'error'; data: string; error?: { message: string; hint: string } };

export interface Recording {
  id: string;
  node: string;
  by: string;
  started_at: string;
  duration_ms: number;
  size_bytes: number;
  columns: number;
  rows: number;
}

export interface RecordingList {
  recordings: Recording[];
  unreachable: string[];
}
