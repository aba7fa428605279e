// Opens a report at several widths, in both languages, both themes and forced colours, and prints how far anything sticks out; then
// as it goes to paper. Argument: a JSON file {file, chromium, library, id, tokens}.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createRequire } from 'node:module'

const plan = JSON.parse(readFileSync(process.argv[2], 'utf8'))
const { chromium } = createRequire(join(plan['library'], 'x.js'))('playwright-core')
const browser = await chromium.launch({ executablePath: plan.chromium, args: ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run'] })
const seen = { sizes: [], console: [] }
const open = async (width, locale, colorScheme, forcedColors) => {
  const page = await (await browser.newContext({ viewport: { width, height: 900 }, locale, colorScheme, forcedColors })).newPage()
  page.setDefaultTimeout(60000)
  page.on('pageerror', e => seen.console.push(String(e)))
  return page
}
const go = async (page, name) => {
  await page.goto('file://' + plan.file + '#' + name)
  await page.waitForSelector(`body[data-ready=${name.split('/')[0]}]`)
}
try {
  for (const width of [400, 640, 800, 1400]) {
    for (const [locale, scheme, forced] of [['en-GB', 'light', 'none'], ['ru-RU', 'dark', 'none'], ['en-GB', 'dark', 'active']]) {
      const page = await open(width, locale, scheme, forced)
      for (const name of ['corpus', 'chain/' + plan.id]) {
        await go(page, name)
        if (name !== 'corpus') {
          await page.waitForSelector('#strip .tok')
          await page.hover('#strip .tok')
        }
        seen.sizes.push({
          width, locale, forced, name: name.split('/')[0],
          out: await page.evaluate(() => document.documentElement.scrollWidth - innerWidth),
          objects: await page.evaluate(() => document.body.textContent.includes('[object')),
          // a number of the token is in one line
          lines: await page.evaluate(() => Math.max(0, ...[...document.querySelectorAll('#detail dd')].map(d => d.getClientRects().length && d.offsetHeight / parseFloat(getComputedStyle(d).lineHeight)))),
          // the panel of a token lies on nothing (a telephone has no room beside the strip)
          covered: await page.evaluate(() => { const a = document.querySelector('aside')?.getBoundingClientRect(); return !a || innerWidth < 600 ? [] : [...document.querySelectorAll('main section')].filter(e => { const b = e.getBoundingClientRect(); return b.left < a.right - 1 && a.left < b.right - 1 && b.top < a.bottom - 1 && a.top < b.bottom - 1 }).map(e => e.innerText.slice(0, 60)) }),
          // a table that is wider than its place has its rows as blocks
          wide: await page.evaluate(() => Math.max(0, ...[...document.querySelectorAll('.list')].map(e => e.scrollWidth - e.clientWidth))),
          // the arcs are as tall as the rows that they lead to
          arcs: await page.evaluate(() => { const g = document.querySelector('.steps svg'); return g ? g.height.baseVal.value - document.querySelector('.steps table').offsetHeight : 0 }),
          // colours of tokens stay where the system takes colours away
          colours: await page.evaluate(() => new Set([...document.querySelectorAll('.tok')].map(t => getComputedStyle(t).backgroundColor)).size),
        })
      }
      await page.context().close()
    }
  }
  // rows keep their height when the window becomes wide, narrow and wide again
  const page = await open(1400, 'en-GB', 'dark', 'none')
  await go(page, 'chain/' + plan.id)
  const tall = () => page.evaluate(() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(document.querySelector('.steps').offsetHeight)))))
  const first = await tall()
  await page.setViewportSize({ width: 400, height: 900 }); await tall()
  await page.setViewportSize({ width: 1400, height: 900 })
  seen.heights = [first, await tall()]
  await page.emulateMedia({ media: 'print', colorScheme: 'dark' })
  await page.evaluate(() => dispatchEvent(new Event('beforeprint')))
  seen.paper = await page.evaluate(() => ({ tokens: document.querySelectorAll('.tok').length, background: getComputedStyle(document.body).backgroundColor, aside: getComputedStyle(document.querySelector('aside')).display }))
  await page.evaluate(() => dispatchEvent(new Event('afterprint')))
  seen.after = await page.evaluate(() => document.documentElement.className)
} finally {
  await browser.close()
}
console.log(JSON.stringify(seen))
