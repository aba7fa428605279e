// Opens a report in headless Chromium and tells what it shows. Arguments: a JSON file {file, chromium, library, chains: [id],
// measures: [name], map: bool, pictures: {name: {hash, size: [w, h], hover: text of a token}}, folder, size: [w, h]}. Prints one
// JSON object. Every request but the file itself is listed and refused.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createRequire } from 'node:module'

const plan = JSON.parse(readFileSync(process.argv[2], 'utf8'))
const { chromium } = createRequire(join(plan.library, 'x.js'))('playwright-core')
const browser = await chromium.launch({
  executablePath: plan.chromium,
  args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update',
    '--disable-sync', '--no-first-run', '--disable-default-apps'],
})
const seen = { requests: [], console: [], dialogs: [], chains: {}, hits: 0 }
try {
  const page = await browser.newPage({ viewport: { width: (plan.size || [1400])[0], height: (plan.size || [0, 900])[1] } })
  page.setDefaultTimeout(60000)
  const address = 'file://' + plan.file
  // what Chromium's software renderer says of itself is no message of the page
  const driver = text => /WebGL/.test(text) && /GL Driver Message|software WebGL/.test(text)
  page.on('console', m => { if ((m.type() === 'error' || m.type() === 'warning') && !driver(m.text())) seen.console.push(m.text()) })
  page.on('pageerror', e => seen.console.push(String(e)))
  page.on('dialog', d => { seen.dialogs.push(d.message()); d.dismiss() })
  page.on('request', r => { if (!r.url().startsWith(address)) seen.requests.push(r.url()) })
  await page.route('**/*', route => route.request().url().startsWith(address) ? route.continue() : route.abort())
  const home = plan.home || 'corpus'
  await page.goto(address + '#' + home)
  await page.waitForSelector(`body[data-ready=${home}]`)
  seen[home] = await page.locator('main').innerText()
  seen.links = await page.locator('main a').evaluateAll(all => all.map(a => [a.textContent, a.getAttribute('href')]))
  seen.cells = await page.locator('main tbody tr').evaluateAll(all => all.map(r => [...r.cells].map(c => c.textContent)))
  seen.title = await page.title()
  // how far a table is wider than its place
  seen.wide = await page.locator('.list').evaluateAll(all => all.map(e => e.scrollWidth - e.clientWidth))
  for (const id of plan.chains || []) {
    await page.goto(address + '#chain/' + id)
    await page.waitForFunction(want => document.body.dataset.ready === 'chain' && document.querySelector('main').innerText.includes(want), id)
    const chain = { measures: {}, detail: {}, named: {}, alternatives: {}, first: await page.inputValue('#measure') }
    for (const measure of plan.measures || ['surprisal']) {
      const has = await page.locator(`#measure option[value="${measure}"]`).count()
      if (!has) continue
      await page.selectOption('#measure', measure)
      await page.waitForFunction(() => document.querySelector('#strip .tok'))
      // the strip keeps only what is near the view: walk through it
      chain.measures[measure] = await page.evaluate(async () => {
        const strip = document.getElementById('strip'), found = new Map()
        for (let y = 0; ; y += 150) {
          strip.scrollTop = y
          await new Promise(r => setTimeout(r, 60))
          for (const t of strip.querySelectorAll('.tok')) found.set(+t.dataset.i, [t.dataset.value, t.textContent])
          if (y > strip.scrollHeight) break
        }
        return [...found.entries()].sort((a, b) => a[0] - b[0]).map(e => e[1])
      })
      chain.note = await page.locator('#note').innerText()
    }
    await page.evaluate(() => { document.getElementById('strip').scrollTop = 0 })
    await page.focus('#strip')
    await page.keyboard.press('Home')
    for (let i = 0; i < 3; i++) {
      chain.detail[i] = await page.locator('#detail dd').evaluateAll(all => all.map(d => [d.dataset.measure || '', d.textContent]))
      chain.named[i] = await page.locator('#detail dt').evaluateAll(all => all.map(d => d.textContent))
      chain.alternatives[i] = await page.locator('#detail .alt > *').evaluateAll(all => all.map(d => d.textContent))
      await page.keyboard.press('ArrowRight')
    }
    await page.keyboard.press('End')
    chain.looks = await page.locator('#detail').innerText()
    chain.steps = await page.locator('tr[data-step]').evaluateAll(all => all.map(r => [...r.cells].map(c => c.innerText)))
    chain.live = await page.locator('#strip .tok').count()
    chain.arcs = await page.locator('.steps svg path').count()
    seen.chains[id] = chain
  }
  if (plan.map) {
    await page.goto(address + '#map')
    await page.waitForSelector('body[data-ready=map]')
    await page.waitForTimeout(300)
    seen.map = await page.locator('main').innerText()
    seen.mapPixels = await page.evaluate(() => {
      const c = document.getElementById('gl'), g = c.getContext('webgl2')
      if (!g) return -1
      const p = new Uint8Array(4 * c.width * c.height)
      g.readPixels(0, 0, c.width, c.height, g.RGBA, g.UNSIGNED_BYTE, p)
      let n = 0
      for (let i = 3; i < p.length; i += 4) n += p[i] > 0
      return n
    })
    await page.fill('#find', plan.find || 'zzz')
    await page.waitForTimeout(200)
    seen.found = await page.locator('.bar > span.small').first().textContent()
  }
  for (const [name, { hash, size, hover }] of Object.entries(plan.pictures || {})) {
    await page.setViewportSize({ width: size[0], height: size[1] })
    await page.goto('about:blank')
    await page.goto(address + '#' + hash)
    await page.waitForSelector(`body[data-ready=${hash.split('/')[0]}]`)
    if (hover) {
      await page.waitForSelector('#strip .tok')
      const tokens = await page.locator('#strip .tok').allTextContents()
      await page.locator('#strip .tok').nth(tokens.indexOf(hover)).hover()
    }
    await page.waitForTimeout(500)
    await page.screenshot({ path: join(plan.folder, name + '.png') })
    seen.pictures = { ...seen.pictures, [name]: await page.locator('main').innerText() }
  }
  seen.hits = await page.evaluate(() => window.__hit || 0)
} finally {
  await browser.close()
}
console.log(JSON.stringify(seen))
