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
const { parser } = await load('sse.ts');
const { harmless, LogWindow } = await load('log/window.ts');
const format = await load('format.ts');

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
