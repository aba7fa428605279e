// Drives Neo4j Browser in headless Chromium: imports favourites and style sheet by dropping the files, runs statements, takes
// pictures, or clicks through a guide. Arguments: a JSON file {address, files: [path], statements: [{name, text} or {name, click}],
// guide: address, pictures: folder, only: [names of those of which a picture is taken; all without it], chromium, library}. Prints
// one JSON object: {favourites: [title], frames: {name: text shown}, fills: {name: [colour of a circle]}, guide: [{slide,
// statement, nodes, shown}], errors: [what the page threw]}. Nothing outside the loopback interface is asked.
import { readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { createRequire } from 'node:module'

const plan = JSON.parse(readFileSync(process.argv[2], 'utf8'))
const { chromium } = createRequire(join(plan.library, 'x.js'))('playwright-core')
const browser = await chromium.launch({
  executablePath: plan.chromium,
  args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update',
    '--disable-sync', '--no-first-run', '--disable-default-apps'],
})
const shown = { favourites: [], frames: {}, fills: {}, guide: [], errors: [] }
try {
  const page = await browser.newPage({ viewport: { width: 1400, height: 900 } })
  page.setDefaultTimeout(120000)
  page.on('pageerror', error => shown.errors.push(String(error)))
  await page.route('**/*', route => /^(https?|wss?):\/\/(127\.0\.0\.1|localhost)[:/]/.test(route.request().url())
    ? route.continue() : route.abort())
  const type = async text => {
    await page.click('.monaco-editor')
    await page.keyboard.press('Control+A')
    await page.keyboard.press('Delete')
    await page.keyboard.insertText(text)
  }
  await page.goto(plan.address)
  await page.waitForSelector('.monaco-editor', { timeout: 120000 })
  await page.waitForTimeout(3000)
  for (const path of plan.files) {
    const bytes = readFileSync(path).toString('base64')
    await page.evaluate(async ([name, data]) => {
      const raw = Uint8Array.from(atob(data), c => c.charCodeAt(0))
      const transfer = new DataTransfer()
      transfer.items.add(new File([raw], name))
      const target = document.querySelector('.filedrop') || document.body
      for (const kind of ['dragenter', 'dragover', 'drop'])
        target.dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: transfer }))
    }, [basename(path), bytes])
    await page.waitForTimeout(2500)
  }
  const saved = await page.evaluate(() => localStorage.getItem('neo4j.documents') || '[]')
  shown.favourites = JSON.parse(saved).filter(d => !d.isStatic).map(d => d.content)
  shown.style = await page.evaluate(() => localStorage.getItem('neo4j.grass') || '')
  await page.evaluate(() => document.body.click())
  for (const { name, text, click } of plan.statements) {
    if (click !== undefined) {
      // a statement of the guide that stands in a frame: one click brings it up
      await page.locator('[data-testid="frame"] pre.runnable', { hasText: click }).first().evaluate(pre => pre.click())
      await page.waitForTimeout(1000)
      shown.editor = (shown.editor || []).concat(await page.locator('.monaco-editor').first().innerText())
    } else {
      await type(text)
    }
    await page.keyboard.press('Control+Enter')
    await page.waitForTimeout(plan.wait || 6000)
    const frame = page.locator('[data-testid="frame"]').first()
    shown.frames[name] = (await frame.innerText()).slice(0, 20000)
    shown.fills[name] = await frame.locator('svg circle').evaluateAll(all => all.map(c => c.getAttribute('fill')))
    if (plan.pictures && (!plan.only || plan.only.includes(name))) {
      await page.waitForTimeout(plan.settle || 4000)
      await frame.screenshot({ path: join(plan.pictures, name + '.png') })
    }
  }
  if (plan.guide) {
    const frames = page.locator('[data-testid="frame"]')
    await type(`:play ${plan.guide}`)
    await page.keyboard.press('Control+Enter')
    await page.waitForSelector('[data-testid="frame"] pre.runnable', { state: 'attached' })
    // a guide shows one slide at a time
    for (let slide = 0; ; slide++) {
      const runnable = page.locator('[data-testid="frame"] pre.runnable')
      const statements = await runnable.allTextContents()
      for (const [place, statement] of statements.entries()) {
        const before = await frames.count()
        await runnable.nth(place).click()
        const bare = statement.replace(/\s/g, '').slice(0, 40)
        await page.waitForFunction(
          text => document.querySelector('.monaco-editor .view-lines').innerText.replace(/\s/g, '').includes(text), bare)
        await page.click('.monaco-editor')
        await page.keyboard.press('Control+Enter')
        await page.waitForFunction(n => document.querySelectorAll('[data-testid="frame"]').length > n, before)
        const frame = frames.first()
        let text = ''
        for (let tries = 0; tries < 400; tries++) {
          text = await frame.innerText()
          if (/completed after|Displaying \d|no records|ERROR|Neo\.\w+Error|^:config/.test(text)) break
          await page.waitForTimeout(300)
        }
        const nodes = await frame.locator('svg circle').count()
        shown.guide.push({ slide, statement, nodes, shown: text.slice(0, 20000) })
        await frame.locator('[title="Close"]').first().click()
        await page.waitForFunction(n => document.querySelectorAll('[data-testid="frame"]').length <= n, before)
      }
      const next = page.locator('[data-testid="nextSlide"]')
      if (await next.count() === 0) break
      await next.first().click()
      await page.waitForTimeout(300)
    }
  }
} catch (error) {
  if (plan.failed) await browser.contexts()[0].pages()[0].screenshot({ path: plan.failed })
  throw new Error(`${error.message} behind ${JSON.stringify(shown.guide.at(-1) || {}).slice(0, 500)}`)
} finally {
  await browser.close()
}
console.log(JSON.stringify(shown))
