// Moves the slider of layers on a page and prints what stands beside it and under the strip. Argument: a JSON file {file, chromium,
// library, id, moves: [[measure, position of the slider or null, minus the baseline]]}.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createRequire } from 'node:module'

const plan = JSON.parse(readFileSync(process.argv[2], 'utf8'))
const { chromium } = createRequire(join(plan.library, 'x.js'))('playwright-core')
const browser = await chromium.launch({ executablePath: plan.chromium, args: ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run'] })
const seen = { console: [], moves: [] }
try {
  const page = await (await browser.newContext({ locale: plan.locale || 'en-GB' })).newPage()
  page.setDefaultTimeout(60000)
  page.on('pageerror', e => seen.console.push(String(e)))
  await page.goto('file://' + plan.file + '#chain/' + plan.id)
  await page.waitForSelector('#strip .tok')
  seen.options = await page.locator('#measure option').allTextContents()
  for (const [measure, position, minus] of plan.moves) {
    await page.selectOption('#measure', measure)
    if (await page.locator('#minus').isVisible()) await page.setChecked('#minus', minus)
    if (position !== null) await page.evaluate(at => { const e = document.getElementById('layer'); e.value = at; e.dispatchEvent(new Event('input')) }, position)
    seen.moves.push(await page.evaluate(() => {
      const e = document.getElementById('layer'), p = e.parentNode
      return {
        at: [e.min, e.max, e.step, e.value], shown: p.textContent, note: document.getElementById('note').textContent,
        legend: document.querySelector('.legend').textContent, bar: document.querySelector('.bar').textContent,
        values: [...document.querySelectorAll('#strip .tok')].map(t => +t.dataset.value),
      }
    }))
  }
} finally {
  await browser.close()
}
console.log(JSON.stringify(seen))
