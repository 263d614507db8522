// States of jobs, attempts and nodes: a colour, a shape and a word, so that none is told by colour alone.
import type { AttemptState, JobState, MemberState } from '../types';
import { Icon, type IconName } from './icon';

export type Tone = 'good' | 'busy' | 'warn' | 'bad' | 'idle';

interface Look {
  tone: Tone;
  word: string;
  icon: IconName;
}

const jobs: Record<JobState, Look> = {
  needed: { tone: 'idle', word: 'waiting', icon: 'idle' },
  delegated: { tone: 'busy', word: 'given out', icon: 'busy' },
  received: { tone: 'good', word: 'done', icon: 'good' },
  blocked: { tone: 'warn', word: 'blocked', icon: 'pause' },
  failed: { tone: 'bad', word: 'failed', icon: 'bad' },
  cancelled: { tone: 'idle', word: 'cancelled', icon: 'bad' },
  quarantined: { tone: 'bad', word: 'quarantined', icon: 'warn' },
};

const attempts: Record<AttemptState, Look> = {
  assigned: { tone: 'idle', word: 'given', icon: 'idle' },
  building: { tone: 'busy', word: 'building', icon: 'busy' },
  uploading: { tone: 'busy', word: 'uploading', icon: 'busy' },
  accepted: { tone: 'good', word: 'accepted', icon: 'good' },
  failed: { tone: 'bad', word: 'failed', icon: 'bad' },
  lost: { tone: 'warn', word: 'lost', icon: 'warn' },
  stale: { tone: 'idle', word: 'superseded', icon: 'idle' },
  cancelled: { tone: 'idle', word: 'cancelled', icon: 'bad' },
};

const members: Record<MemberState, Look> = {
  alive: { tone: 'good', word: 'alive', icon: 'good' },
  suspect: { tone: 'warn', word: 'suspect', icon: 'warn' },
  down: { tone: 'bad', word: 'down', icon: 'bad' },
  left: { tone: 'idle', word: 'left', icon: 'idle' },
  legacy: { tone: 'idle', word: 'legacy', icon: 'idle' },
};

export const jobLook = (state: JobState): Look => jobs[state];
export const attemptLook = (state: AttemptState): Look => attempts[state];
export const memberLook = (state: MemberState): Look => members[state];

/** A pill with icon and word. */
export function Badge({ tone, icon, children }: { tone: Tone; icon?: IconName; children: preact.ComponentChildren }) {
  return (
    <span class={`badge ${tone}`}>
      {icon ? <Icon name={icon} size={12} /> : null}
      {children}
    </span>
  );
}

export function StateBadge({ look }: { look: Look | undefined }) {
  return look ? <Badge tone={look.tone} icon={look.icon}>{look.word}</Badge> : <Badge tone="idle">unknown</Badge>;
}
