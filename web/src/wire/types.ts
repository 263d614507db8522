// Shapes of /api/v2/wire: what nodes said to each other.

export interface WireRecord {
  /** NUMBER@NODE. */
  id: string;
  number: number;
  at: string;
  /** The node that saw it. */
  node: string;
  sent: boolean;
  from: string;
  to: string;
  protocol: string;
  kind: string;
  path?: string;
  job: string | null;
  jobs: number;
  session: string | null;
  bytes: number;
  latency_ms: number | null;
  status: string | null;
  verdict: string;
  trace: string;
  summary: string;
}

export interface WireNode {
  name: string;
  problem?: string;
  oldest: string | null;
  kept: number;
  noted: number;
  left_out: number;
}

export interface WireList {
  records: WireRecord[];
  latest: number;
  more: boolean;
  nodes: WireNode[];
}

export interface WireDetail {
  record: WireRecord;
  fields: unknown;
  kept_bytes: number;
  jobs: string[];
  related: WireRecord[];
}

export interface Conversation {
  trace: string;
  began: string;
  ended: string;
  protocol: string;
  from: string;
  to: string;
  kinds: string[];
  nodes: string[];
  records: string[];
  bytes: number;
  latency_ms: number | null;
  status: string | null;
  verdict: string;
  job: string | null;
  session: string | null;
}

export interface Density {
  start: string;
  end: string;
  counts: number[];
  refused: number[];
}

export interface WireField {
  name: string;
  type: 'text' | 'id' | 'size' | 'duration' | 'count' | 'status' | 'flag';
  meaning: string;
  operators: string[];
  units: string[];
  values: string[];
}

export interface WireFields {
  fields: WireField[];
  joins: string[];
}

/** Whether a message was refused: all other verdicts say why. */
export function refused(verdict: string): boolean {
  return verdict !== 'taken' && verdict !== 'sent';
}
