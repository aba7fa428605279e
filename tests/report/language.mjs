// Opens a page for a reader of Russian and prints the texts that stand there outside of what the chains and the record say
// themselves: no token, cell, link, command or part marked as English. Argument: a JSON file {file, chromium, library, views:
// [hash], locale}. Prints {view: {texts, english, note, verdict}}; verdict: the parts of the verdict that are marked as English.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createRequire } from 'node:module'

const plan = JSON.parse(readFileSync(process.argv[2], 'utf8'))
const { chromium } = createRequire(join(plan['library'], 'x.js'))('playwright-core')
const browser = await chromium.launch({ executablePath: plan.chromium, args: ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run'] })
const seen = { console: [] }
try {
  const page = await (await browser.newContext({ viewport: { width: 1400, height: 900 }, locale: plan.locale || 'ru-RU' })).newPage()
  page.setDefaultTimeout(60000)
  page.on('pageerror', e => seen.console.push(String(e)))
  for (const view of plan.views) {
    await page.goto('file://' + plan.file + '#' + view)
    await page.waitForSelector(`body[data-ready=${view.split('/')[0]}]`)
    if (view.startsWith('chain')) {
      await page.waitForSelector('#strip .tok')
      await page.hover('#strip .tok')
    }
    seen[view] = await page.evaluate(() => {
      const own = 'bdi, code, .tok, .role, a[href^="#chain/c"], #title, #subtitle, #lang, #follow option, script, style, noscript'
      const texts = [], english = []
      const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
      for (let node = walk.nextNode(); node; node = walk.nextNode()) {
        const at = node.parentElement
        if (at.closest('body [lang=en]')) english.push(node.data)
        else if (!at.closest(own)) texts.push(node.data)
      }
      for (const e of document.querySelectorAll('main *')) for (const name of ['title', 'aria-label', 'placeholder']) if (e.getAttribute(name)) texts.push(e.getAttribute(name))
      return { texts, english, note: document.querySelector('main p').textContent, verdict: [...document.querySelectorAll('.verdict [lang=en]')].map(e => e.textContent) }
    })
  }
} finally {
  await browser.close()
}
console.log(JSON.stringify(seen))
