// Parts of the browser test for the time bar: every tab as it was at a moment, and live again. Run by browser.mjs.
import assert from 'node:assert/strict';

export function time({ env, WAIT, open, axe, answer, eventually, operator }) {
  const words = (page) => page.locator('.time-track').getAttribute('aria-valuetext');
  const past = (page) => page.waitForSelector('.banner.past >> text=The hive as it was', WAIT);

  /** Of every tab: what there was at the moment at which a build ran, and nothing that came later. */
  async function everyTabThen(page, check, at, look) {
    const tabs = [
      ['overview', '/overview', '.builds >> text=past/runs'],
      ['fleet', '/fleet', `main >> text=${env.otherName}`],
      ['node', `/nodes/${env.otherName}`, 'main >> text=only the role of then is known'],
      ['queue', '/queue?q=past/', 'main >> text=past/runs'],
      ['history', '/history', 'main >> text=onerror'],
      ['job', `/jobs/${env.pastJob}`, '[data-job-title]'],
      ['topology', '/topology', '.topo-rate[data-feed^=past]'],
      ['wire', '/wire', 'main .grid-body, main .empty'],
      ['data', '/data', '[data-only-now]'],
      ['events', '/events', 'main >> text=past/runs'],
      ['terminal', `/terminal/${env.otherName}`, '[data-only-now]'],
      ['logs', `/nodes/${env.otherName}/logs`, '[data-only-now]'],
    ];
    for (const [name, path, there] of tabs) {
      await page.goto(`${env.public}${path}${path.includes('?') ? '&' : '?'}at=${at}`);
      await past(page);
      await page.waitForSelector(there, WAIT);
      await page.waitForFunction(() => !document.querySelector('main .loading'), null, WAIT);
      assert.equal(await page.locator('main .note.bad').count(), 0, `${name}: ${await page.locator('main').innerText()}`);
      check(`${name} of then, ${look}`);
      await page.screenshot({ path: `${env.screenshots}/past-${name}-${look}.png` });
      await axe(page, `${name} of then, ${look}`);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(wide <= 0, `${name} of then, ${look} is ${wide} pixels wider than the screen`);
    }
  }

  /** A build that ran is shown as running at its time on every tab; Live shows how it ended. */
  async function replay(browser) {
    const job = () => answer(`/api/v2/jobs/${env.pastJob}`);
    const ended = await eventually('the build ends', async () => {
      const found = await job();
      return found.state === 'received' ? found : null;
    });
    const [started, over] = [Date.parse(ended.attempts[0].started_at), Date.parse(ended.attempts[0].ended_at)];
    const at = Math.round((started + over) / 2);
    // The same on the node that is looked at and on another one.
    for (const origin of [env.public, env.other]) {
      const then = await answer(`/api/v2/jobs/${env.pastJob}?at=${at}`, origin);
      assert.deepEqual([then.state, then.attempts[0].state, then.attempts[0].ended_at], ['delegated', 'building', null], origin);
    }
    const looks = [
      ['light', { colorScheme: 'light' }],
      ['dark', { colorScheme: 'dark' }],
      ['phone', { colorScheme: 'light', viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true }],
    ];
    for (const [look, options] of looks) {
      const { page, context, check } = await open(browser, env.public, options);
      await everyTabThen(page, check, at, look);
      await page.goto(`${env.public}/jobs/${env.pastJob}?at=${at}`);
      await page.waitForSelector('.title .badge:has-text("building")', WAIT);
      await page.waitForSelector('main >> text=lines carry no times', WAIT);
      await page.waitForSelector('.log-text >> text=Unpacking source', WAIT);
      assert.equal(await page.locator('main >> text=the-end-of-it').count(), 0, 'nothing that was printed later');
      await page.click('.time-live');
      await page.waitForSelector('.log-text >> text=the-end-of-it', WAIT);
      await page.waitForFunction(() => location.search === '', null, WAIT);
      assert.equal(await page.locator('.banner.past').count(), 0);
      check(`live again, ${look}`);
      await context.close();
    }
    await bar(browser, at);
    await nothingChangesThen(browser, at);
  }

  /** Click, drag, keys and play; before the record it says so and shows nothing. */
  async function bar(browser, at) {
    const { page, context, check } = await open(browser, env.public);
    await page.goto(`${env.public}/overview`);
    await page.waitForSelector('[data-health]', WAIT);
    assert.equal(await words(page), 'live');
    const box = await page.locator('.time-track').boundingBox();
    await page.mouse.move(box.x + box.width - 60, box.y + box.height / 2);
    await page.mouse.down();
    await page.mouse.move(box.x + box.width - 12, box.y + box.height / 2, { steps: 5 });
    await page.mouse.up();
    await past(page);
    assert.match(await words(page), /ago$/);
    await page.waitForFunction(() => new URLSearchParams(location.search).has('at'), null, WAIT);
    const shown = () => page.evaluate(() => Number(document.querySelector('[data-moment]').dataset.moment));
    const before = await shown();
    await page.focus('.time-track');
    await page.keyboard.press('ArrowLeft');
    await page.waitForFunction((before) => Number(document.querySelector('[data-moment]').dataset.moment) < before, before, WAIT);
    // The moment goes along to another tab, by a link and by a key.
    const kept = await shown();
    await page.keyboard.press('2');
    await page.waitForFunction(() => location.pathname === '/fleet' && new URLSearchParams(location.search).has('at'), null, WAIT);
    await page.click('.nav >> text=Queue');
    await page.waitForFunction(() => location.pathname === '/queue' && new URLSearchParams(location.search).has('at'), null, WAIT);
    assert.equal(await shown(), kept);
    await page.click('[aria-label="Play on from here"]');
    await page.selectOption('[aria-label=Speed]', '10');
    await page.waitForFunction((kept) => Number(document.querySelector('[data-moment]').dataset.moment) > kept + 1_000, kept, WAIT);
    // Played to its end it is live.
    await page.waitForFunction(() => document.querySelector('[data-moment]').dataset.moment === 'live', null, WAIT);
    await page.waitForFunction(() => location.search === '', null, WAIT);
    check('the bar');
    await page.goto(`${env.public}/fleet?at=${at - 30 * 86_400_000}`);
    await page.waitForSelector('.banner.past >> text=That moment cannot be shown', WAIT);
    await page.waitForSelector('.banner.past >> text=is before the record', WAIT);
    assert.equal(await page.locator('.machine, table.list tbody tr').count(), 0, 'nothing of another moment');
    await axe(page, 'before the record');
    await page.screenshot({ path: `${env.screenshots}/past-before-the-record.png` });
    await page.focus('.time-track');
    await page.keyboard.press('End');
    await page.waitForSelector(`main >> text=${env.otherName}`, WAIT);
    await context.close();
  }

  /** Buttons are there for whoever has a key, do nothing, and say why. */
  async function nothingChangesThen(browser, at) {
    const { page, context, check } = await operator(browser);
    await page.goto(`${env.admin}/nodes/${env.otherName}?at=${at}`);
    await past(page);
    const pause = page.locator('[data-act=pause]');
    await pause.waitFor(WAIT);
    assert.equal(await pause.isDisabled(), true);
    assert.match(await pause.getAttribute('title'), /This is the past/);
    await page.click('.time-live');
    await page.waitForFunction(() => document.querySelector('[data-act=pause]')?.disabled === false, null, WAIT);
    check('acts of then');
    await context.close();
  }

  return { replay };
}
