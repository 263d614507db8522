// Shapes of /api/v2, as src/api writes them. Only what the dashboard reads.

export type JobState = 'needed' | 'delegated' | 'received' | 'blocked' | 'failed' | 'cancelled' | 'quarantined';
export type AttemptState =
  | 'assigned' | 'building' | 'uploading' | 'accepted' | 'failed' | 'lost' | 'stale' | 'cancelled';
export type MemberState = 'alive' | 'suspect' | 'down' | 'left' | 'legacy';
export type RaftPart = 'voter' | 'standby' | 'observer' | 'none';

export interface LogStatus {
  epoch: number;
  epoch_id: string | null;
  applied: number;
  committed: number;
  age_ms: number;
}

export interface Envelope<T> {
  schema: number;
  ok: boolean;
  data?: T;
  error?: { code: string; message: string; hint: string };
  as_of?: string;
  log?: LogStatus;
}

export interface QueueStatus {
  needed: number;
  delegated: number;
  building: number;
  received: number;
  blocked: number;
  failed: number;
  cancelled: number;
  quarantined: number;
  paused: boolean;
}

export interface MemberStatus {
  name: string;
  peer_id: string | null;
  addresses: string[];
  role: string | null;
  state: MemberState;
  raft: RaftPart;
  version: string;
  last_seen_ms: number | null;
  load: number | null;
  cores: number;
  founder: boolean;
  staging: boolean;
}

export interface Inventory {
  cpu_cores: number;
  ram_gb: number;
  disk_free_gb: number;
  arch: string;
  distro: string;
  distro_version: string;
  virt: string;
  has_gpu: boolean;
  docker_installed: boolean;
  languages: string[];
  tools: Record<string, string>;
  labels: string[];
  features: string[];
  tree: string | null;
}

export interface NodeView extends MemberStatus {
  inventory: Inventory | null;
}

export interface Status {
  hive_id: string | null;
  self: {
    name: string;
    peer_id: string;
    role: string | null;
    state: string;
    version: string;
    uptime_ms: number;
    artifact_bytes: number;
  };
  coordinator: { name: string; peer_id: string; term: number } | null;
  quorum: boolean;
  members: MemberStatus[];
  log: LogStatus;
  queue: QueueStatus;
  notices: string[];
  degraded: string[];
  as_of: string;
}

export interface Decision {
  by: string;
  why: string;
  at: string;
}

export interface FleetBuild {
  job: string;
  target: string;
  attempt: number;
  state: AttemptState;
  elapsed_ms: number | null;
  percent: number | null;
  eta_ms: number | null;
  samples: number;
}

export interface FleetDrone {
  name: string;
  peer_id: string;
  legacy?: boolean;
  role: string | null;
  state: MemberState;
  slots: number;
  used: number;
  load: number | null;
  cores: number;
  cores_limit: number | null;
  arch: string;
  ram_gb: number;
  paused: Decision | null;
  draining: Decision | null;
  drain_left_ms: number | null;
  grounded_left_ms: number | null;
  uploads_paused_left_ms: number | null;
  builds: FleetBuild[];
}

export interface Fleet {
  drones: FleetDrone[];
  paused: Decision | null;
}

export interface JobLine {
  id: string;
  state: JobState;
  backend: string;
  target: string;
  priority: number;
  node: string | null;
  attempts: number;
  submitted_at: string;
  waiting_for: string | null;
  session: string | null;
  depends_on: string[];
  joined: string | null;
  estimate_ms: number | null;
}

export interface JobPage {
  total: number;
  offset: number;
  jobs: JobLine[];
  states: Partial<Record<JobState, number>>;
}

export interface Attempt {
  attempt: number;
  node: string;
  state: AttemptState;
  started_at: string | null;
  ended_at: string | null;
  class: string | null;
  reason: string | null;
  exit_code: number | null;
}

export interface Artifact {
  name: string;
  sha256: string;
  size: number;
}

export interface Job {
  id: string;
  session: string;
  state: JobState;
  backend: string;
  target: string;
  priority: number;
  labels: string[];
  pure: boolean;
  submitter: string;
  submitted_at: string;
  attempts: Attempt[];
  artifacts: Artifact[];
  waiting_for: string | null;
  reason: string | null;
  depends_on: string[];
  joined: string | null;
  estimate_ms: number | null;
}

export interface Graph {
  job: string;
  jobs: { id: string; level: number; target: string; state: JobState; estimate_ms: number | null }[];
  edges: [string, string][];
  truncated: boolean;
}

export interface Explanation {
  subject: string;
  summary: string;
  details: { name: string; eligible: boolean; why: string }[];
  remedy: string;
}

export interface SessionLine {
  id: string;
  name: string;
  phase: string;
  submitter: string;
  total_packages: number;
  completed_packages: number;
  failed_packages: number;
  started_at: string;
  completed_at: string | null;
}

export interface Eta {
  p50_ms: number;
  p90_ms: number;
  samples: number;
  jobs: number;
  guessed: number;
  left_out: number;
}

export interface Session extends SessionLine {
  counts: QueueStatus;
  why: string | null;
  eta: Eta | null;
}

export interface HistoryLine {
  job: string;
  session: string;
  target: string;
  package: string;
  backend: string;
  attempt: number;
  drone: string;
  state: AttemptState;
  class: string | null;
  reason: string | null;
  exit_code: number | null;
  assigned_at: string;
  started_at: string | null;
  ended_at: string | null;
  duration_ms: number | null;
  artifact_bytes: number | null;
}

export interface CriticalPath {
  jobs: { id: string; target: string; state: JobState; left_ms: number }[];
  more: number;
  p50_ms: number;
  guessed: number;
}

export interface Throughput {
  from: string;
  bucket_ms: number;
  buckets: { done: number; failed: number }[];
  truncated: boolean;
}

export interface HiveEvent {
  id: number;
  at: string;
  type: string;
  message: string;
  drone?: string | undefined;
  package?: string;
  job?: string;
  session?: string;
}

export interface Advice {
  advisor: string;
  policy: string;
  ranking: { role: string; rule: string; cap: number | null; reason: string }[];
  skipped: string[];
}

export interface Identity {
  role: string;
  packages: string[];
  assigned_by: string[];
  assigned_at: string;
  reason: string;
  ballot: string;
  provisional: boolean;
  founder: boolean;
  advice: Advice[];
  dissent: Advice[];
  packages_state: string;
}

export interface LogPhases {
  attempt: number;
  phases: { name: string; source: 'hive' | 'output'; line: number; offset: number; at: string; took_ms: number | null }[];
  cut: boolean;
  growing: boolean;
}

export interface LogMatches {
  matches: { line: number; offset: number; text: string }[];
  complete: boolean;
  next_offset: number;
  next_line: number;
}

export interface FirstError {
  error: { line: number; offset: number; text: string; [more: string]: unknown } | null;
  complete: boolean;
}

export interface Changed {
  action: string;
  jobs: number;
  drones: number;
}

/** How much went on when. */
export interface Activity {
  from: string;
  bucket_ms: number;
  buckets: { events: number; jobs: number; failures: number; messages: number }[];
  known_from: string | null;
  reaches_back_ms: number | null;
  now: string;
}
