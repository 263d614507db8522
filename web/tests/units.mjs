// Parts of the dashboard that need no browser: what comes in pieces is the same however it was cut, and nothing foreign is obeyed.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { build } from 'esbuild';

/** A module of `src`, as the page gets it. */
async function load(path) {
  const { outputFiles } = await build({ entryPoints: [`src/${path}`], bundle: true, write: false, format: 'esm', jsx: 'automatic', jsxImportSource: 'preact' });
  return import(`data:text/javascript;base64,${Buffer.from(outputFiles[0].text).toString('base64')}`);
}

globalThis.document = { documentElement: { dataset: {} } };
globalThis.location = { pathname: '/overview', search: '', origin: 'http://node' };
globalThis.history = { replaceState() {}, pushState() {} };
const { parser } = await load('sse.ts');
const { harmless, LogWindow } = await load('log/window.ts');
const format = await load('format.ts');
const { moment, parseMoment, show, ofMoment, whenLive } = await load('moment.ts');

test('server-sent events are the same however they are cut', () => {
  const text = ': hello\n\nevent: status\r\nid: 7\r\ndata: {"a":\ndata: 1}\r\n\r\ndata:plain\n\nevent: lost\n\nretry: 5\ndata: after\n\n';
  for (let cut = 1; cut < text.length; cut += 1) {
    const heard = [];
    const push = parser((message) => heard.push(message));
    for (let at = 0; at < text.length; at += cut) push(text.slice(at, at + cut));
    assert.deepEqual(heard, [
      { event: 'status', id: '7', data: '{"a":\n1}' },
      { event: 'message', id: '7', data: 'plain' },
      { event: 'message', id: '7', data: 'after' },
    ], `cut every ${cut}`);
  }
});

test('lines of a log are shown and not obeyed', () => {
  const cases = [
    ['plain', 'plain'],
    ['\u001b[31mred\u001b[0m \u001b[K!', 'red !'],
    ['a\u001b]0;title\u0007b', 'ab'],
    [' 10 %\r 50 %\r100 %', '100 %'],
    ['end\r', 'end'],
    ['x\u202egpj.exe\u200b', 'x\\u{202e}gpj.exe\\u{200b}'],
    ['<script>alert(1)</script>', '<script>alert(1)</script>'],
    ['Grüße 蜂\t.', 'Grüße 蜂\t.'],
  ];
  for (const [raw, shown] of cases) assert.equal(harmless(raw), shown);
  assert.match(harmless('y'.repeat(1e6)), /^y{2000}… \(998000 more characters\)$/);
});

test('a log knows where its lines begin however its bytes come', async () => {
  const text = 'first\n蜂 second\n\nfourth without an end';
  const bytes = new TextEncoder().encode(text);
  const offsets = [0, 6, 17, 18];
  for (let cut = 1; cut <= bytes.length; cut += 1) {
    globalThis.fetch = async () => {
      const body = new ReadableStream({
        start(controller) {
          for (let at = 0; at < bytes.length; at += cut) controller.enqueue(bytes.slice(at, at + cut));
          controller.close();
        },
      });
      return new Response(body, { headers: { 'x-hive-offset': '0', 'x-hive-attempt': '2' } });
    };
    const log = new LogWindow('job', null, () => {});
    await log.read({}, new AbortController().signal);
    assert.deepEqual(log.lines.map((line) => line.text), ['first', '蜂 second', '', 'fourth without an end']);
    assert.deepEqual(log.lines.map((line) => line.offset), offsets);
    assert.deepEqual([log.firstNumber, log.attempt, log.end], [1, 2, bytes.length]);
    assert.deepEqual([0, 5, 6, 17, 18, 30].map((at) => log.find(at)), [0, 0, 1, 2, 3, 3]);
    assert.equal(log.find(1000), null);
  }
});

test('a log that is begun in the middle leaves out the rest of a line and learns its numbers', async () => {
  const bytes = new TextEncoder().encode('lf of a line\nwhole\nlast\n');
  globalThis.fetch = async () => new Response(bytes, { headers: { 'x-hive-offset': '1000' } });
  const log = new LogWindow('job', 1, () => {});
  await log.read({ tail: 24 }, new AbortController().signal);
  assert.deepEqual(log.lines, [{ text: 'whole', offset: 1013 }, { text: 'last', offset: 1019 }]);
  assert.equal(log.firstNumber, null);
  log.anchor(1019, 42);
  assert.equal(log.firstNumber, 41);
});

test('a refusal is told in the words of the node', async () => {
  globalThis.fetch = async () => Response.json({ ok: false, error: { message: 'build3 is down', hint: 'wait' } }, { status: 502 });
  const log = new LogWindow('job', 1, () => {});
  await assert.rejects(log.read({}, new AbortController().signal), /build3 is down \(wait\)/);
});

test('numbers read well', () => {
  assert.deepEqual([0, 949, 59_400, 60_000, 61_000, 3_600_000, 5_400_000, 200_000_000].map(format.duration), ['0 ms', '949 ms', '59 s', '1 min', '1 min 1 s', '1 h', '1 h 30 min', '2 d 7 h']);
  assert.deepEqual([0, 1023, 1024, 1536, 5 * 2 ** 40].map(format.bytes), ['0 B', '1023 B', '1.0 KiB', '1.5 KiB', '5.0 TiB']);
  assert.deepEqual([format.plural(1, 'job'), format.plural(12_345, 'job')], ['1 job', '12\u202f345 jobs']);
});

const { complete } = await load('wire/complete.ts');
const { Sampler, isDrawn, placeOf, DOTS_PER_S } = await load('topology/sample.ts');
const { layout } = await load('topology/layout.ts');
const { csv, json } = await load('data/files.ts');
const { readCast } = await load('terminal/cast.ts');

test('a filter is completed by what may stand there', () => {
  const known = {
    joins: ['&&', '||'],
    fields: [
      { name: 'kind', type: 'text', meaning: '', operators: ['==', '!=', 'in'], units: [], values: ['ADVICE', 'APPEND'] },
      { name: 'latency', type: 'duration', meaning: '', operators: ['<', '>'], units: ['ms'], values: [] },
      { name: 'status', type: 'status', meaning: '', operators: ['=='], units: [], values: ['200', 'ok'] },
    ],
  };
  const cases = [
    ['', ['kind', 'latency', 'status']],
    ['la', ['latency']],
    ['!(ki', ['kind']],
    ['kind ', ['==', '!=', 'in']],
    ['kind == ', ['"ADVICE"', '"APPEND"']],
    ['kind == "ap', ['"APPEND"']],
    ['kind == "ADVICE" ', ['&&', '||']],
    ['kind == "ADVICE" && lat', ['latency']],
    ['kind in ("ADVICE", ', ['"ADVICE"', '"APPEND"']],
    ['kind in ("ADVICE") ', ['&&', '||']],
    ['latency > ', ['20ms']],
    ['status == ', ['200', '"ok"']],
    ['nonsense == ', []],
  ];
  for (const [text, offers] of cases) assert.deepEqual(complete(text, text.length, known).offers.map((offer) => offer.text), offers, text);
  assert.equal(complete('kind == "ap" && x', 11, known).from, 8, 'inside a text that is being written');
});

test('of a busy hive as many dots are drawn as can be told apart, of a calm one all', () => {
  for (const [perS, least, most] of [[200, 80, DOTS_PER_S + 1], [2_000, 80, DOTS_PER_S + 1], [40, 39, 40]]) {
    const sampler = new Sampler();
    let taken = 0;
    for (let round = 0; round < 80; round += 1) {
      const batch = Array.from({ length: perS / 4 }, (_, at) => at);
      const got = sampler.take(batch, round * 250);
      assert.equal(new Set(got).size, got.length, 'no message twice');
      if (round >= 8) taken += got.length;
    }
    assert.ok(taken / 18 >= least && taken / 18 <= most, `${perS} a second: ${taken / 18}`);
  }
  assert.ok(isDrawn({ sent: true, from: 'a' }, new Set()) && isDrawn({ sent: false, from: 'b' }, new Set(['a'])));
  assert.ok(!isDrawn({ sent: false, from: 'a' }, new Set(['a'])), 'its sender tells it, too');
  const place = (party) => placeOf(party, new Set(['a']), new Map([['10.0.0.1:8100', 'a'], ['10.0.0.1', 'a']]));
  assert.deepEqual(['a', 'a (10.0.0.9:1)', '10.0.0.1:8100', '10.0.0.1:49000', 'everybody', '203.0.113.9:1'].map(place), ['a', 'a', 'a', 'a', 'everybody', '(outside)']);
});

test('every node has a place of its own, and keeps it', () => {
  for (const count of [1, 2, 3, 5, 9, 24, 60, 100, 150]) {
    const nodes = Array.from({ length: count }, (_, at) => ({ name: `n${String(at).padStart(3, '0')}`, part: at === 0 ? 'coordinator' : at < 5 ? 'voter' : at < 8 ? 'staging' : 'drone' }));
    const made = layout(nodes);
    assert.equal(made.spots.size, count);
    const spots = [...made.spots.values()];
    for (const [at, one] of spots.entries()) {
      assert.ok(one.x > 30 && one.y > 30 && one.x < made.width - 30 && one.y < made.height - 30, `${count}: inside`);
      for (const other of spots.slice(at + 1)) assert.ok(Math.hypot(one.x - other.x, one.y - other.y) > 55, `${count} nodes: two of them touch`);
    }
    assert.deepEqual(layout([...nodes].reverse()), made, 'whatever their order');
  }
});

test('files of a result are read as what they are', () => {
  const answer = { columns: [{ name: 'a', type: 'text' }, { name: 'a', type: 'integer' }], rows: [['=1+1', 2], ['x,"y"\n', null]], count: 2, truncated: false, elapsed_ms: 0, age_ms: 0 };
  assert.equal(csv(answer), "a,a\r\n'=1+1,2\r\n\"x,\"\"y\"\"\n\",\r\n");
  assert.deepEqual(JSON.parse(json(answer)), [{ a: '=1+1', a_2: 2 }, { a: 'x,"y"\n', a_2: null }]);
});

test('a recording that broke off is shown to there', () => {
  const cast = readCast('{"version":2,"width":100,"height":30}\n[0.5,"o","hello\\r\\n"]\n[1.5,"r","90x20"]\n[2,"o","cut');
  assert.deepEqual([cast.columns, cast.rows, cast.events.length, cast.lengthS], [100, 30, 2, 1.5]);
  assert.equal(readCast('<html>'), null);
  assert.equal(readCast('{"version":1}'), null);
});

test('every question is of the moment that is shown, but for what has none', () => {
  assert.equal(ofMoment('/api/v2/fleet'), '/api/v2/fleet');
  assert.deepEqual(whenLive(), {});
  const at = Date.now() - 3_600_000;
  show(at);
  assert.equal(ofMoment('/api/v2/fleet'), `/api/v2/fleet?at=${at}`);
  assert.equal(ofMoment('/api/v2/queue?limit=5'), `/api/v2/queue?limit=5&at=${at}`);
  assert.equal(ofMoment('/api/v2/sessions/abc'), `/api/v2/sessions/abc?at=${at}`);
  assert.equal(ofMoment('/api/v2/wire?node=all'), `/api/v2/wire?node=all&at=${at}`);
  const now = ['/api/v2/session', '/api/v2/activity?from=1', '/api/v2/wire/fields', '/api/v2/wire/17@build1', '/api/v2/sql/schema', '/api/v2/recordings', '/api/v2/nodes/a/logs?source=agent', '/openapi.json'];
  for (const path of now) assert.equal(ofMoment(path), path);
  assert.equal(whenLive().disabled, true);
  show(Date.now());
  assert.equal(moment.value, null, 'now is live');
  assert.deepEqual([parseMoment(null), parseMoment('x'), parseMoment('0'), parseMoment('-5')], [null, null, null, null]);
  assert.equal(parseMoment('1795293032000'), 1795293032000);
  assert.equal(parseMoment('2026-11-21T20:30:32Z'), 1795293032000);
});
