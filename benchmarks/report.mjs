// Opens reports in headless Chromium and times them. Argument: a JSON file {chromium, modules, long: {file, id}, map: file}.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createRequire } from 'node:module'

const plan = JSON.parse(readFileSync(process.argv[2], 'utf8'))
const { chromium } = createRequire(join(plan.modules, 'x.js'))('playwright-core')
const browser = await chromium.launch({
  executablePath: plan.chromium,
  args: ['--headless', '--no-sandbox', '--disable-gpu', '--enable-unsafe-swiftshader', '--ignore-gpu-blocklist', '--no-first-run'],
})
const seen = { version: browser.version() }
// frames while a motion runs: time between animation frames, in ms
const frames = (page, motion) => page.evaluate(async (motion) => {
  const gaps = [], strip = document.getElementById('strip'), box = document.querySelector('.mapbox')
  let last = await new Promise(requestAnimationFrame)
  for (let i = 0; i < 90; i++) {
    if (motion === 'scroll') strip.scrollTop += 120
    else box.dispatchEvent(new KeyboardEvent('keydown', { key: i % 2 ? 'ArrowLeft' : 'ArrowRight' }))
    const now = await new Promise(requestAnimationFrame)
    gaps.push(now - last); last = now
  }
  return gaps.sort((a, b) => a - b)
}, motion)
try {
  const page = await browser.newPage({ viewport: { width: 1400, height: 900 } })
  page.setDefaultTimeout(120000)
  const opens = []
  for (let i = 0; i < 3; i++) {
    await page.goto('about:blank')
    await page.addInitScript(() => {
      new MutationObserver(() => {
        if (document.body && document.body.dataset.ready && document.querySelector('#strip .tok') && !window.__ready) {
          requestAnimationFrame(() => { window.__ready = performance.now() })
        }
      }).observe(document, { subtree: true, childList: true, attributes: true })
    })
    await page.goto('file://' + plan.long.file + '#chain/' + plan.long.id)
    await page.waitForFunction(() => window.__ready)
    opens.push(await page.evaluate(() => window.__ready))
  }
  seen.open = opens.sort((a, b) => a - b)
  seen.scroll = await frames(page, 'scroll')
  await page.goto('file://' + plan.map + '#map')
  await page.waitForSelector('body[data-ready=map]')
  seen.renderer = await page.evaluate(() => {
    const g = document.createElement('canvas').getContext('webgl2'), e = g && g.getExtension('WEBGL_debug_renderer_info')
    return e ? g.getParameter(e.UNMASKED_RENDERER_WEBGL) : 'none'
  })
  await frames(page, 'pan') // the first frames set how much is drawn
  seen.pan = await frames(page, 'pan')
  seen.draw = await page.evaluate(() => +[...document.querySelectorAll('.mapbox canvas')].pop().dataset.frame)
} finally {
  await browser.close()
}
console.log(JSON.stringify(seen))
