// Checks a node's page in a browser: that the run, its members, curves and rounds are shown, that a record opens by
// keyboard, and that nothing is wider than a phone.
//
//     npm install --prefix /tmp/page playwright-core
//     PLAYWRIGHT=/tmp/page node e2e/page/check.mjs http://127.0.0.1:PORT/ OUTPUT_FOLDER
//
// The node must have a committed round, or commit one within a minute. CHROMIUM names the browser, else
// /usr/bin/chromium. Screenshots go to the folder. Exits with 1 and what is wrong when a check fails.

import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const [url, out] = process.argv.slice(2);
assert(url && out, 'usage: node check.mjs URL OUTPUT_FOLDER');
const { chromium } = createRequire(join(process.env.PLAYWRIGHT ?? process.cwd(), '/'))('playwright-core');

/** A round may take so many milliseconds. */
const ROUND_MS = 60_000;

mkdirSync(out, { recursive: true });
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: [
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync',
  ],
});
try {
  await check(await browser.newPage({ viewport: { width: 1280, height: 900 }, colorScheme: 'light' }));
  console.log('the page shows the run, its members, curves and rounds; a record opens by keyboard; it fits a phone');
} finally {
  await browser.close();
}

async function check(page) {
  const complaints = [];
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) complaints.push(message.text());
  });
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('request', (request) => {
    if (new URL(request.url()).origin !== new URL(url).origin) complaints.push(`asks another host: ${request.url()}`);
  });
  const shot = (name) => page.screenshot({ path: join(out, `${name}.png`), fullPage: !name.startsWith('record') });

  await page.goto(url);
  await page.locator('#connection.live').waitFor();
  await page.locator('#rounds tr').first().waitFor({ timeout: ROUND_MS });
  await page.locator('#members tr').first().waitFor();

  const text = (selector) => page.locator(selector).innerText();
  assert.notEqual(await text('#run-name'), '-', 'the run has no name');
  assert.match(await text('#progress-text'), /^\d+ of \d+ rounds$/);
  assert.match(await page.title(), /\d+ of \d+.* - /);
  assert.match(await text('#me'), /^this node .+ is .+/);
  await page.locator('#chart-loss .plot .curve, #chart-loss .plot .dot').first().waitFor({ state: 'attached' });
  await page.locator('#chart-time .plot .training').waitFor({ state: 'attached' });
  const texts = await page.locator('body').innerText();
  assert.doesNotMatch(texts, /undefined|NaN|\[object|null/, 'a value is shown that is none');
  await shot('light');

  await page.locator('#chart-loss .plot').focus();
  await page.keyboard.press('Home');
  await page.locator('#chart-loss .tip').waitFor();
  assert.match(await page.locator('#chart-loss .plot').getAttribute('aria-valuetext'), /^round \d+: /);

  await tabTo(page, '#rounds button');
  await page.keyboard.press('Enter');
  await page.locator('#record[open]').waitFor();
  await page.locator('#record h3', { hasText: 'Accepted by' }).waitFor();
  assert.match(await text('#record-title'), /^Round \d+$/);
  assert(await page.locator('#record .pairs dt', { hasText: 'rule' }).count() > 0, 'the record tells no rule');
  await shot('record');
  await page.keyboard.press('Escape');
  await page.locator('#record').waitFor({ state: 'hidden' });
  assert(await page.locator('#rounds button:focus').count() === 1, 'the focus is lost when the record closes');

  await page.emulateMedia({ colorScheme: 'dark' });
  await shot('dark');
  await page.setViewportSize({ width: 360, height: 740 });
  await page.waitForTimeout(300);
  await shot('phone');
  await fits(page, 'the page');
  await page.locator('#rounds button').first().click();
  await page.locator('#record[open]').waitFor();
  await fits(page, 'a record');
  await shot('record-phone');
  assert.deepEqual(complaints, [], 'the browser complains');
}

/** Presses Tab until what has the focus matches. */
async function tabTo(page, selector) {
  for (let presses = 0; presses < 40; presses += 1) {
    await page.keyboard.press('Tab');
    if (await page.evaluate((wanted) => document.activeElement.matches(wanted), selector)) return;
  }
  assert.fail(`Tab does not come to ${selector}`);
}

async function fits(page, what) {
  const [content, window] = await page.evaluate(() => [document.scrollingElement.scrollWidth, innerWidth]);
  assert(content <= window, `${what} is ${content} pixels wide on a phone of ${window}`);
}
