// Parts of the browser test for whoever looks inside: messages, data, terminals, logs, the audit log. Run by browser.mjs, which brings the
// hive, the browser and what a page is checked with.
import assert from 'node:assert/strict';

export function inside({ env, WAIT, open, axe }) {
  async function operator(browser, options = {}) {
    const made = await open(browser, env.admin, options);
    await made.page.goto(`${env.admin}/nodes/${env.otherName}`);
    await made.page.click('text=Sign in');
    await made.page.fill('input[type=password]', env.key);
    await made.page.click('dialog >> button[type=submit]');
    await made.page.waitForSelector('dialog', { state: 'detached', ...WAIT });
    return made;
  }

  /** Goes on without loading anew: a key that is kept in memory stays. */
  const go = (page, path) => page.evaluate((path) => {
    history.pushState(null, '', path);
    dispatchEvent(new PopStateEvent('popstate'));
  }, path);

  const shot = (page, name) => page.screenshot({ path: `${env.screenshots}/${name}.png` });

  /** A dot is a message: a click leads to its record, and what it says is there for operators. */
  async function dots(browser) {
    const { page, context, check } = await operator(browser, { reducedMotion: 'no-preference' });
    await go(page, '/topology');
    await page.waitForSelector('.topo-stage[data-moves]', WAIT);
    await page.waitForFunction(() => document.querySelectorAll('.topo-feed li').length > 3, null, WAIT);
    await shot(page, 'topology-moves');
    check('topology');
    // Clicks where dots pass until one is hit: between two nodes there is always one on its way, sooner or later.
    const until = Date.now() + WAIT.timeout;
    const box = await page.locator('.topo-stage').boundingBox();
    const hit = () => new URL(page.url()).pathname === '/wire';
    while (!hit() && Date.now() < until) {
      const place = await page.evaluate(() => {
        const canvas = document.querySelector('.topo-dots');
        // Gone already: a dot was hit.
        if (!canvas) return null;
        const { width, height } = canvas;
        // A copy, because a canvas that is read is drawn in another way from then on.
        window.copy ??= document.createElement('canvas').getContext('2d', { willReadFrequently: true });
        Object.assign(window.copy.canvas, { width, height });
        window.copy.drawImage(canvas, 0, 0);
        const { data } = window.copy.getImageData(0, 0, width, height);
        const nodes = [...document.querySelectorAll('.topo .shape')].map((shape) => shape.getBoundingClientRect());
        const stage = canvas.getBoundingClientRect();
        for (let at = 3; at < data.length; at += 4 * 7) {
          if (data[at] < 250) continue;
          const x = (((at >> 2) % width) * stage.width) / width;
          const y = (Math.floor((at >> 2) / width) * stage.height) / height;
          const covered = nodes.some((node) => Math.hypot(node.left + node.width / 2 - stage.left - x, node.top + node.height / 2 - stage.top - y) < node.width);
          if (!covered) return { x, y };
        }
        return null;
      });
      if (place) await page.mouse.click(box.x + place.x, box.y + place.y);
      else await page.evaluate(() => new Promise(requestAnimationFrame));
    }
    assert.ok(hit(), 'no dot was hit');
    const id = new URL(page.url()).searchParams.get('record');
    await page.waitForSelector(`[data-record="${id}"] .wire-title`, WAIT);
    await page.waitForSelector(`[data-record="${id}"] .wire-tree li`, WAIT);
    await axe(page, 'a record');
    await shot(page, 'wire-record');
    check('following a dot');
    await context.close();
  }

  /** Filters with completion, conversations, exports that are what they claim. */
  async function wire(browser) {
    const { page, context, check } = await operator(browser);
    await go(page, '/wire');
    await page.waitForSelector('.grid-body [role=row] time', WAIT);
    await page.focus('.wire-filter input');
    await page.keyboard.type('protocol == "ra');
    await page.waitForSelector('[role=option] >> text=/raft/', WAIT);
    await axe(page, 'completion of a filter');
    await page.keyboard.press('ArrowDown');
    await page.keyboard.press('Enter');
    await page.keyboard.press('Enter');
    await page.waitForFunction(() => new URLSearchParams(location.search).get('filter') === 'protocol == "raft"', null, WAIT);
    await page.waitForFunction(() => {
      const rows = [...document.querySelectorAll('.grid-body [role=row]')];
      return rows.length > 0 && rows.every((row) => row.children[3].textContent === 'raft');
    }, null, WAIT);
    await page.click('text=Follow');
    const first = () => page.locator('.grid-body time').first().getAttribute('datetime');
    const before = await first();
    await page.waitForFunction((before) => document.querySelector('.grid-body time').getAttribute('datetime') > before, before, WAIT);
    await page.locator('.grid').focus();
    await page.keyboard.press('ArrowDown');
    await page.waitForSelector('.wire-detail .wire-title', WAIT);
    await page.click('text=Following');
    await page.click('.wire-close');
    await page.click('text=Conversations');
    await page.waitForSelector('.wire-talk-columns time', WAIT);
    await page.locator('.grid-body .grid-row').first().click();
    await page.waitForSelector('.wire-related button', WAIT);
    await axe(page, 'conversations');
    await shot(page, 'wire-conversations');
    check('wire');
    for (const [name, begins] of [['JSON lines', '{'], ['pcapng', '\u000a\u000d\u000d\u000a']]) {
      const [file] = await Promise.all([page.waitForEvent('download', WAIT), page.click(`a:has-text("${name}")`)]);
      const stream = await file.createReadStream();
      const piece = await new Promise((done) => stream.once('data', done));
      assert.equal(piece.toString('latin1', 0, begins.length), begins, name);
    }
    await context.close();
  }

  /** A query with completion, its rows, chart, files and link; what writes is refused. */
  async function data(browser) {
    const { page, context, check } = await operator(browser);
    await page.keyboard.press('9');
    await page.locator('.cm-content').waitFor(WAIT);
    await page.click('.data-queries >> text=Jobs by state');
    await page.waitForSelector('.data-rows [role=cell] >> text=needed', WAIT);
    await axe(page, 'data');
    await shot(page, 'data-rows');
    await page.locator('.cm-content').click();
    await page.keyboard.press('Control+a');
    await page.keyboard.type('SELECT target, state, count(*) AS number FROM jobs WHERE jobs.sta');
    await page.locator('.cm-tooltip-autocomplete').getByText('state', { exact: true }).first().waitFor(WAIT);
    await page.keyboard.type("te != 'received' AND target LIKE '%onerror%' GROUP BY target");
    await page.keyboard.press('Control+Enter');
    await page.waitForSelector('.data-rows [role=cell] >> text=<img src=x onerror=alert(1)>', WAIT);
    assert.equal(await page.locator('main img').count(), 0, 'a name is text in a result');
    await page.click('text=Chart');
    await page.waitForSelector('.data-chart canvas', WAIT);
    const link = page.url();
    assert.ok(link.includes('#q=SELECT'), link);
    const [file] = await Promise.all([page.waitForEvent('download', WAIT), page.click('button:has-text("CSV")')]);
    assert.equal(file.suggestedFilename(), 'hive.csv');
    await page.locator('.cm-content').click();
    await page.keyboard.press('Control+a');
    await page.keyboard.type('DELETE FROM jobs');
    check('data');
    await page.keyboard.press('Escape');
    await page.keyboard.press('Control+Enter');
    await page.waitForSelector('.data-main [role=alert]', WAIT);
    await context.close();
  }

  /** A shell on another node, what it prints in its colours, its end; then its recording. The agent's log. All of it in the audit log. */
  async function terminal(browser) {
    const { page, context, check } = await operator(browser);
    await page.click('.title >> text=Logs');
    await page.waitForSelector('.node-log .log-line', WAIT);
    await axe(page, 'logs of a node');
    await shot(page, 'node-logs');
    await go(page, `/terminal/${env.otherName}`);
    await page.waitForSelector('text=Connected with', WAIT);
    await page.keyboard.type("printf '\\033[38;2;200;30;30m%s\\033[0m\\n' is-$((6 * 7))");
    await page.keyboard.press('Enter');
    await page.waitForSelector('.xterm-rows >> text=is-42', WAIT);
    await shot(page, 'terminal');
    await axe(page, 'a terminal');
    check('terminal');
    await page.keyboard.type('exit');
    await page.keyboard.press('Enter');
    await page.waitForSelector('.term >> text=The shell ended', WAIT);
    await page.keyboard.press('r');
    await page.locator('main table .link').first().click(WAIT);
    await page.waitForSelector('.replay .xterm-rows >> text=is-42', WAIT);
    await shot(page, 'terminal-replay');
    check('a recording');
    await go(page, '/events?show=audit');
    await page.waitForSelector(`td:has-text("/nodes/${env.otherName}/terminal")`, WAIT);
    await page.click('text=Check the chain');
    await page.waitForSelector('text=/intact, \\d+/', WAIT);
    await axe(page, 'the audit log');
    await shot(page, 'audit');
    check('audit');
    await page.click('[data-act="sign-out-everywhere"]');
    await page.click('dialog >> button[type=submit]');
    await page.waitForSelector('header >> text=Sign in', WAIT);
    await page.goto(`${env.admin}/data`);
    await page.waitForSelector('.data-locked', WAIT);
    await context.close();
  }

  return { operator, parts: { dots, wire, data, terminal } };
}
