// How smoothly the picture of a large hive moves: `node tests/topology.mjs [NODES] [MESSAGES A SECOND]`, 100 and 200 when nothing is said.
//
// The built page in headless Chromium, its messages through the stream as from a node. Prints frames and dots a second; ends with 1 below
// 50 frames, below 30 or above 120 dots a second.
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { chromium } from 'playwright-core';
import { play } from './play.mjs';

const [nodes, perS] = [Number(process.argv[2] ?? 100), Number(process.argv[3] ?? 200)];
const pictures = process.env.SCREENSHOTS ?? new URL('../../target/screenshots', import.meta.url).pathname;
const SECONDS = 8;
mkdirSync(pictures, { recursive: true });

const site = await play(new URL('../dist', import.meta.url).pathname, nodes, perS);
const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
const browser = await chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'] });
try {
  const page = await browser.newPage({ viewport: { width: 1366, height: 900 } });
  const complaints = [];
  page.on('console', (message) => message.type() === 'error' && !/404/.test(message.text()) && complaints.push(message.text()));
  page.on('pageerror', (error) => complaints.push(error.message));
  // Frames as they are drawn, not as the browser could.
  await page.addInitScript(() => {
    const clear = CanvasRenderingContext2D.prototype.clearRect;
    window.draws = [];
    CanvasRenderingContext2D.prototype.clearRect = function (...args) {
      window.draws.push(performance.now());
      return clear.apply(this, args);
    };
  });
  // What this machine gives a page on which a canvas of the same size is cleared and nothing else happens: other work on it counts, too.
  const bare = await page.evaluate(async () => {
    document.body.innerHTML = '<canvas width="1100" height="720"></canvas>';
    const context = document.querySelector('canvas').getContext('2d');
    const start = performance.now();
    let frames = 0;
    while (performance.now() - start < 4_000) {
      await new Promise(requestAnimationFrame);
      context.clearRect(0, 0, 1100, 720);
      context.fillRect(frames % 1000, 10, 4, 4);
      frames += 1;
    }
    return (1_000 * frames) / (performance.now() - start);
  });
  await page.goto(`${site.origin}/topology?seen=here`);
  await page.waitForSelector('.topo-rate[data-feed=stream]', { timeout: 30_000 });
  await page.waitForFunction(() => /\d+ messages a second, \d+ of them drawn/.test(document.querySelector('.topo-rate').textContent), null, { timeout: 30_000 });
  await page.waitForTimeout(3_000);
  const from = site.sent();
  const measured = await page.evaluate(async (seconds) => {
    const start = performance.now();
    window.draws.length = 0;
    const rates = [];
    const times = [];
    let last = start;
    while (performance.now() - start < seconds * 1_000) {
      await new Promise(requestAnimationFrame);
      const now = performance.now();
      times.push(now - last);
      last = now;
      rates.push(document.querySelector('.topo-rate').textContent);
    }
    times.sort((left, right) => left - right);
    const passed = (performance.now() - start) / 1_000;
    return { frames: window.draws.length / passed, slow: times[Math.floor(times.length * 0.98)], rates: [...new Set(rates)] };
  }, SECONDS);
  const really = (site.sent() - from) / SECONDS;
  const drawn = measured.rates.map((text) => Number(/(\d+) of them/.exec(text)?.[1] ?? 0));
  const least = Math.min(...drawn);
  const most = Math.max(...drawn);
  console.log(`topology of ${nodes} nodes, ${really.toFixed(0)} messages a second: ${measured.frames.toFixed(1)} frames a second, 98 of 100 within ${measured.slow.toFixed(1)} ms, ${least} to ${most} dots a second; an empty canvas here: ${bare.toFixed(1)} frames a second`);
  await page.screenshot({ path: `${pictures}/topology-${nodes}.png`, fullPage: false });
  assert.deepEqual(complaints, []);
  assert.ok(measured.frames >= 50, 'fewer than 50 frames a second');
  assert.ok(least >= 30 && most <= 120, `${least} to ${most} dots a second; an empty canvas here: ${bare.toFixed(1)} frames a second`);
} finally {
  await browser.close();
  site.close();
}
