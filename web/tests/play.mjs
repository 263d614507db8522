// A hive on paper: the built pages, served with answers in the shapes of /api/v2 for as many nodes and messages as one likes, through the
// addresses, stream and policy that a node has. What a machine alone cannot be is looked at and measured with it: a hundred nodes.
//
// Never used instead of a real hive for what a real hive can show (browser.mjs).
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { extname, join } from 'node:path';

const POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml' };
const KINDS = [['raft', 'APPEND'], ['raft', 'APPEND'], ['swim', 'PING'], ['swim', 'PONG'], ['gossip', 'STATUS'], ['control', 'LEASE'], ['control', 'ADVICE'], ['buildlog', 'OUTPUT'], ['blob', 'GET'], ['beacon', 'HELLO']];

/** Nodes: one coordinator, four voters, staging nodes, drones, and two of the old swarm when there is room. */
export function hive(count) {
  const members = [];
  const drones = [];
  for (let at = 0; at < count; at += 1) {
    const name = at < 1 ? 'hub' : at < 5 ? `voter${at}` : at < 8 ? `staging${at - 4}` : at >= count - 2 && count > 8 ? `old${count - at}` : `build-${String(at).padStart(2, '0')}`;
    const legacy = name.startsWith('old');
    const state = at === 11 ? 'down' : at === 17 ? 'suspect' : 'alive';
    const slots = 2 + (at % 3);
    const builds = at % 2 === 0 && state === 'alive' ? Array.from({ length: 1 + (at % 3 === 0 ? 1 : 0) }, (_, build) => ({
      job: `018f3c2e-7a11-7c3e-9d53-${String(at * 10 + build).padStart(12, '0')}`, target: `app-misc/package-${at}-${build}`, attempt: 1, state: 'building', elapsed_ms: 40_000, percent: (at * 17) % 100, eta_ms: 60_000, samples: 3 })) : [];
    const shared = { name, peer_id: legacy ? '' : `12D3Koo${at}`, state: legacy ? 'legacy' : state, load: 0.5, cores: 8, role: at % 7 === 0 ? 'compiler' : 'builder' };
    if (!legacy) members.push({ ...shared, addresses: [`10.0.0.${at + 1}:8100`], raft: at < 5 ? 'voter' : 'observer', version: '0.9.0', last_seen_ms: 300, founder: at === 0, staging: at >= 5 && at < 8, inventory: null });
    drones.push({ ...shared, legacy, slots, used: builds.length, cores_limit: null, arch: 'x86_64', ram_gb: 16, paused: at === 13 ? { by: 'ann', why: 'disk', at: new Date().toISOString() } : null, draining: null, drain_left_ms: null, grounded_left_ms: null, uploads_paused_left_ms: null, builds });
  }
  return { members, drones };
}

let number = Date.now() * 1_000;

/** A message between two of them, as its sender saw it. */
export function message(members, at) {
  const [protocol, kind] = KINDS[at % KINDS.length];
  const from = members[(at * 7) % members.length].name;
  let to = members[(at * 13 + 3) % members.length].name;
  if (to === from || protocol === 'raft') to = from === 'hub' ? members[1].name : 'hub';
  if (kind === 'HELLO') to = 'everybody';
  number = Math.max(number + 1, Date.now() * 1_000);
  const bad = at % 97 === 0;
  return {
    id: `${number}@${from}`, number, at: new Date(number / 1_000).toISOString(), node: from, sent: !bad, from: bad ? '203.0.113.9:40000' : from, to: bad ? 'hub' : to, protocol, kind,
    job: null, jobs: 0, session: null, bytes: 120 + (at % 900), latency_ms: at % 3 === 0 ? (at % 400) / 10 : null, status: null, verdict: bad ? 'wrong_secret' : 'sent', trace: (at % 5000).toString(16).padStart(16, '0'), summary: `term=4, commit=${at}`,
  };
}

/** Serves a hive of `count` nodes with `perS` messages a second. `answers`: more paths. */
export async function play(dist, count, perS, answers = {}) {
  const { members, drones } = hive(count);
  const log = { epoch: 1, epoch_id: null, applied: 41, committed: 41, age_ms: 20 };
  const queue = { needed: 12, delegated: 3, building: 3, received: 40, blocked: 1, failed: 1, cancelled: 0, quarantined: 0, paused: false };
  const status = {
    hive_id: '018f3c2e-7a11-7c3e-9d53-0242ac120002', self: { name: 'hub', peer_id: '12D3Koo0', role: 'builder', state: 'member', version: '0.9.0', uptime_ms: 9e6, artifact_bytes: 0 },
    coordinator: { name: 'hub', peer_id: '12D3Koo0', term: 4 }, quorum: true, members, log, queue, notices: [], degraded: [], as_of: new Date().toISOString(),
  };
  const fixed = { '/api/v2/status': status, '/api/v2/nodes': members, '/api/v2/fleet': { drones, paused: null }, ...answers };
  let sent = 0;
  const streams = new Set();
  const timer = setInterval(() => {
    for (let one = 0; one < perS / 4; one += 1) {
      const record = message(members, (sent += 1));
      for (const stream of streams) stream.write(`event: wire\ndata: ${JSON.stringify(record)}\n\n`);
    }
  }, 250);
  const server = createServer((request, response) => {
    const url = new URL(request.url, 'http://here');
    const json = (data, code = 200) => response.writeHead(code, { 'content-type': 'application/json' }).end(JSON.stringify(code < 400 ? { schema: 1, ok: true, data, as_of: status.as_of, log } : { schema: 1, ok: false, error: data }));
    if (url.pathname === '/api/v2/events' && (request.headers.accept ?? '').includes('event-stream')) {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.write('event: hello\ndata: {}\n\n');
      if (url.searchParams.get('topics')?.includes('wire')) streams.add(response);
      request.on('close', () => streams.delete(response));
      return;
    }
    const known = fixed[url.pathname];
    if (known !== undefined) {
      const data = typeof known === 'function' ? known(url, request) : known;
      if (data?.file !== undefined) return response.writeHead(200, { 'content-type': 'application/octet-stream' }).end(data.file);
      return data?.refusal ? json(data.refusal, data.status) : json(data);
    }
    if (url.pathname.startsWith('/api/')) return json({ code: 'not_found', message: `nothing is at ${url.pathname}`, hint: '' }, 404);
    const name = url.pathname === '/icon.svg' ? '../../src/web/icon.svg' : url.pathname.startsWith('/app/') ? url.pathname.slice(5) : 'index.html';
    try {
      const body = readFileSync(join(dist, name));
      response.writeHead(200, { 'content-type': TYPES[extname(name)] ?? 'application/octet-stream', 'content-security-policy': POLICY }).end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  return {
    origin: `http://127.0.0.1:${server.address().port}`,
    members,
    sent: () => sent,
    close: () => {
      clearInterval(timer);
      for (const stream of streams) stream.end();
      server.closeAllConnections();
      server.close();
    },
  };
}
