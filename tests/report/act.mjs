// Does what a reader does on a page, and prints what the page then holds. Argument: a JSON file {file, chromium, library, hash,
// locale, size: [w, h], acts}. An act is {go: hash}, {press: [selector, key, times]}, {hover: [selector, x, y]}, {fill: [selector,
// text]}, {click: selector}, {drag: [selector, dx, dy]} (by a finger: the plan has touch: true) or {tell: expression}; what the expressions are is the answer, in their order.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createRequire } from 'node:module'

const plan = JSON.parse(readFileSync(process.argv[2], 'utf8'))
const { chromium } = createRequire(join(plan.library, 'x.js'))('playwright-core')
const browser = await chromium.launch({ executablePath: plan.chromium, args: ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run'] })
const seen = { console: [], told: [] }
try {
  const [width, height] = plan.size || [1400, 900]
  const page = await (await browser.newContext({ viewport: { width, height }, locale: plan.locale || 'en-GB', hasTouch: Boolean(plan.touch) })).newPage()
  page.setDefaultTimeout(30000)
  page.on('pageerror', e => seen.console.push(String(e)))
  const go = async hash => {
    await page.goto('file://' + plan.file + '#' + hash)
    await page.waitForSelector(`body[data-ready=${hash.split('/')[0]}]`)
    if (hash.startsWith('chain')) await page.waitForSelector('#strip .tok')
  }
  await go(plan.hash)
  for (const act of plan.acts) {
    if (act.go) await go(act.go)
    if (act.press) {
      await page.focus(act.press[0])
      for (let i = 0; i < (act.press[2] || 1); i++) await page.keyboard.press(act.press[1])
    }
    if (act.hover) await page.locator(act.hover[0]).first().hover({ position: { x: act.hover[1], y: act.hover[2] } })
    if (act.fill) await page.fill(...act.fill)
    if (act.drag) {
      const [selector, dx, dy] = act.drag, { x, y, width, height } = await page.locator(selector).first().boundingBox(), cdp = await page.context().newCDPSession(page)
      const finger = (type, ...at) => cdp.send('Input.dispatchTouchEvent', { type, touchPoints: at.map(k => ({ x: x + width / 2 + k * dx, y: y + height / 2 + k * dy })) })
      await finger('touchStart', 0)
      for (let k = 1; k <= 10; k++) await finger('touchMove', k / 10)
      await finger('touchEnd')
    }
    if (act.click) await page.locator(act.click).first().click()
    // two frames: what is drawn on the next frame is drawn
    await page.evaluate(() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done))))
    if (act.tell) seen.told.push(await page.evaluate(act.tell))
  }
} finally {
  await browser.close()
}
console.log(JSON.stringify(seen))
