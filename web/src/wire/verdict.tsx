// Why a message was refused, and what to do about it.

const MEANING: Record<string, [string, string]> = {
  wrong_secret: ['Whoever sent it does not know the secret of this hive.', 'Compare `hive secret fingerprint` on both machines.'],
  refused_probably_secret: ['It could not be decrypted: probably another secret.', 'Compare `hive secret fingerprint` on both machines.'],
  malformed: ['It is no message of hive.', 'Something else speaks to this port.'],
  version: ['It is of a version of the protocol that this node does not speak.', 'Compare `hive --version` on both machines.'],
  replay: ['It was seen before: somebody sent it again.', 'A few after a broken line are harmless; many are not.'],
  clock: ['Its time is too far from the time here.', 'On the machine whose clock is wrong: timedatectl set-ntp true'],
  rate: ['Too many came from there.', 'Look what sends so much.'],
  limit: ['Too many came from there.', 'Look what sends so much.'],
  foreign_epoch: ['It belongs to another hive, or to this one before it was founded anew.', 'See: hive doctor'],
  stranger: ['Its sender is no member of this hive.', 'See: hive peers'],
  misdirected: ['It was meant for another node.', 'Two machines may have the same address.'],
  stale_incarnation: ['Its sender has been started anew since.', 'It ends by itself.'],
  clone: ['Two machines have the same identity.', 'Give one of them a new one: hive identity reset'],
  not_approved: ['Its sender waits to be approved.', 'See: hive peers'],
  ourselves: ['It came from this node itself.', 'Harmless.'],
  silent: ['Nothing came behind the greeting.', 'Harmless when it is rare.'],
  handshake: ['The encrypted connection was not agreed on.', 'See: hive doctor'],
};

export function VerdictNote({ verdict }: { verdict: string }) {
  const meaning = MEANING[verdict];
  return meaning ? <p class="note bad">Refused. {meaning[0]} <span class="dim">{meaning[1]}</span></p> : null;
}
