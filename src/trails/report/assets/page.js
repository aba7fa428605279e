"use strict";
// The report's script: inflates the data element and draws one view at a time. Text reaches the page only as text nodes. A comment
// has its own line, a literal never goes over two lines, and no loop has an empty body: a page gets this less its comments, its
// indentation, and the semicolons before a brace.
(() => {
let D, bytes, lang = /^ru/i.test(navigator.language || "") ? 1 : 0;
const { min, max, floor, abs, round, exp } = Math, doc = document, set = Object.assign, on = (e, ...how) => e.addEventListener(...how),
  ui = { layer: null, minus: false, least: 1, token: -1 },
  views = {}, $ = (id) => doc.getElementById(id), main = $("main"), page = doc.documentElement, theme = page.classList,
  t = (key) => D.words[key]?.[lang] ?? key;
// an element: h("td.n", {title: "…"}, kid, …); kids are nodes, texts, lists of them, and what is missing
function h(name, ...parts) {
  const [tag, cls] = name.split("."), e = doc.createElement(tag);
  if (cls) e.className = cls;
  for (const p of parts.flat(9)) {
    if (p?.constructor === Object) { const { data, ...own } = p; set(e, own); set(e.dataset, data); }
    else if (p || p === 0) e.append(p);
  }
  return e;
}
function svg(tag, attributes, title) {
  const e = doc.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const k in attributes) e.setAttribute(k, attributes[k]);
  if (title) e.append(/^t/.test(tag) ? title : svg("title", {}, title));
  return e;
}
// the page between the header and the end of the window; wide where nothing stands beside it
const show = (cls, ...kids) => { main.className = cls; main.replaceChildren(...kids.filter(Boolean)); },
  section = (title, ...kids) => h("section", title && h("h2", title), ...kids),
  picture = (w, hgt, name) => svg("svg", { viewBox: `0 0 ${w} ${hgt}`, width: w, height: hgt, role: "img", "aria-label": name }),
  arc = (d, width, opacity, title) => svg("path", { class: "arc", d, "stroke-width": width, "stroke-opacity": opacity }, title),
  slider = (id, min, max, value, step = 1) => h("input", { type: "range", id, min, max, step, value }),
  option = (value, text, selected) => h("option", { value, selected }, text),
  small = (...kids) => h("p.small dim", ...kids),
  bounds = (e) => e.getBoundingClientRect(), pen = (canvas) => canvas.getContext("2d"),
  // the chain of an id, where the page has it
  held = (id) => D.chains.find((c) => c.id === id),
  // to a chain, or to one of its tokens
  link = (id, text, at) => h("a", { href: "#chain/" + id + (at >= 0 ? "/" + at : ""), title: id }, text || id),
  // control characters are shown, never sent
  shown = (s) => s.replace(/[\0-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, (c) => `‹U+${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}›`),
  // a token alone: a line feed, a blank and nothing are seen
  visible = (s) => s.replace(/\n/g, "⏎").replace(/^ +$/, "␣") || "∅",
  // what the chains say themselves
  own = (s) => h("bdi", shown(s)),
  // a long name without a blank may break behind > and / and behind its first 18 letters, and ids of chains that the page holds, and
  // of their tokens, are links
  linked = (s) => s.split(/\b(c[0-9a-f]{16}(?:(?::\w{8}:|\/)\d+)?)\b|(?<=[>/]|\w{18})/).map((part = "", i) => { const [id, ...at] = part.split(/[:/]/); return i % 2 && held(id) ? link(id, part, at.pop()) : part && [i > 0 && h("wbr"), shown(part)]; }),
  // a text with its numbers and ids; [one|few|many] is the form of a word with the last number before it, or else the first
  fill = (text, slots, at = -1) => text.replace(/[#@]|\[([^\]|]*\|[^\]]*)\]/g, (_, forms) => forms ? forms.split("|")[{ one: 0, many: 2 }[new Intl.PluralRules(page.lang).select(slots[max(at, 0)].replace(/,/g, ""))] ?? 1] : grouped(slots[++at])),
  // thousands stand apart: by a comma in English, by a blank that does not break in Russian
  grouped = (s) => lang ? s.replace(/(\d),(?=\d{3}(?!\d))/g, "$1\u00a0") : s,
  count = (key, n) => fill(t(key), [n.toLocaleString("en")]),
  // what the program says, in the reader's language where the table of words has it (numbers stand there as #, ids as @), else
  // clause by clause, and marked as English where it has not; commands, options, names with _ or / and “quotations” stay as they are
  SLOT = /\b[a-z][0-9a-f]{16}\b|\d[\d,.]*\d|\d/g,
  said = (s) => {
    const slots = s.match(SLOT) || [], w = lang && D.said[s.replace(SLOT, (m) => m[16] && m[0] > "9" ? "@" : "#")], clauses = [/(“[^”]*”| → )/, /([;:] | · )/, /(, )/].map((at) => s.split(at)).find((c) => c[1]), plain = !lang || /^((trails |--).*|\S*[_/]\S*|“[^”]*”)$/s.test(s);
    if (w || plain || !/[a-z]{2}/i.test(s.replace(SLOT, ""))) return linked((w ? fill(w, slots) : plain ? s : grouped(s)).replace(/ %/g, "\u00a0%"));
    return clauses ? clauses.map(said) : h("span", { lang: "en" }, linked(s));
  },
  // a noise floor is not 0: small values keep two digits
  fmt = (v, d) => v == null || v !== v ? "–" : d == null && v && abs(v) < 5e-4 ? v.toPrecision(2) : v.toFixed(d ?? 4),
  pct = (v) => v < 0.005 ? "< 0.01 %" : fmt(v, 2) + " %",
  // of a typed array a typed array
  finite = (v) => v.filter((x) => x === x);

async function inflate() {
  const text = atob($("data").textContent), raw = new Uint8Array(text.length);
  for (let i = 0; i < raw.length; i++) raw[i] = text.charCodeAt(i);
  const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate")),
    whole = await new Response(stream).arrayBuffer(), [head] = new Uint32Array(whole, 0, 1);
  D = JSON.parse(new TextDecoder().decode(new Uint8Array(whole, 4, head)));
  bytes = whole.slice(4 + head);
  for (const c of D.chains) c.text ??= c.pieces.join("");
}
// a reference is [stream, first value, length], a stream [kind, byte offset, length, L]. f: float32, i: int32, s: int32 less the one
// before; t: thousandths, low bytes before high bytes; d: the same as zigzag differences along rows of L, column by column
function array([stream, from, n]) {
  const [kind, at, N, L] = D.streams[stream], b = new Uint8Array(bytes, at, 2 * N), out = new Float32Array(n);
  let sum = 0;
  if (!/[td]/.test(kind)) return new (kind === "f" ? Float32Array : Int32Array)(bytes.slice(at + 4 * from, at + 4 * (from + n))).map((v) => kind === "s" ? sum += v : v);
  for (let i = 0; i < n; i++) {
    const k = L ? i % L * N / L + floor((from + i) / L) : from + i;
    let v = b[k] | b[N + k] << 8;
    if (L) sum = v = ((i % L ? sum : 0) + ((v >>> 1) ^ -(v & 1))) & 65535;
    out[i] = v === 65535 ? NaN : v / 1000;
  }
  return out;
}

// colour scales that stay ordered for every kind of colour vision: [sequential, diverging], light and dark; both: diverging
const rgb = (hex) => hex.match(/[0-9a-f]{2}/g).map((two) => parseInt(two, 16)),
  SCALES = [["fdfdfc ffea96 f0be5a d68246 a04650 5a1e50", "1e5aaa 8cb4dc fdfdfc f5be82 be5a0a"], ["16171a 34325c 604678 a0606c dc9654 ffe282", "5aa0ff 325082 16171a 82501e ffa03c"]]
  .map((two) => two.map((scale) => scale.split(" ").map(rgb)));
// of the page: its theme and a colour by name
const style = getComputedStyle(page), isDark = () => style.colorScheme === "dark",
  tint = (name) => style.getPropertyValue("--" + name);
// share from 0 to 1 → [red, green, blue], or null; asked once per drawing, because the theme is
function palette(both) {
  const scale = SCALES[+isDark()][+both];
  return (share) => {
    if (!(share >= 0)) return null;
    const x = min(1, share) * (scale.length - 1), i = min(scale.length - 2, floor(x));
    return scale[i].map((a, k) => round(a + (scale[i + 1][k] - a) * (x - i)));
  };
}
// 256 shares of a palette as pixels (alpha, blue, green, red, from the highest byte down)
const pixels = (colour) => Uint32Array.from({ length: 256 }, (_, i) => { const [r, g, b] = colour(i / 255); return (255 << 24 | b << 16 | g << 8 | r) >>> 0; }),
  css = (c) => c ? `rgb(${c})` : "",
  ink = (c) => c ? 0.299 * c[0] + 0.587 * c[1] + 0.114 * c[2] > 140 ? "#111" : "#fff" : "";

const FONT = "12px system-ui,sans-serif", SCALARS = ["surprisal", "entropy", "rank", "logit_shift", "margin", "gradient_effect", "gradient_norm"], HIDDEN = "hidden_shift", LAYERED = ["attention_shift", HIDDEN],
  UNIT = { rank: "items", gradient_norm: "slope", "gradient norm": "slope", logit_shift: "share", attention_shift: "share", hidden_shift: "cos" },
  unit = (m) => t(UNIT[m] || "nats"),
  ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] },
  cache = new Map();
function chainOf(id) {
  const c = cache.get(id) || held(id);
  if (!c || c.a) return c;
  const a = {};
  for (const k in c.arrays) a[k] = array(c.arrays[k]);
  if (cache.size > 8) cache.delete(cache.keys().next().value);
  cache.set(id, { ...c, a, n: c.pieces.length });
  return cache.get(id);
}
// a canvas of w × tall points in a room of wide × high pixels
const size = (canvas, w, tall, wide, high) => { set(canvas, { width: w, height: tall }); set(canvas.style, { width: wide + "px", height: high + "px" }); },
  columns = (m) => D.run.n_layers + (m === HIDDEN ? 1 : 0);
// values of a measure, less the baseline of random pairs where asked for
const layered = (c, m, minus) => minus && m === HIDDEN ? c.a[m].map((v, i) => v - c.a.hidden_baseline[i % columns(m)]) : c.a[m];
// of the tokens from … to: one token costs one token
function values(c, m, layer, minus, from = 0, to = c.n) {
  if (m === "change") return c.a.surprisal_after.subarray(from, to).map((v, i) => v - c.a.surprisal[from + i]);
  if (m === "rank") return Float32Array.from(c.a.rank.subarray(from, to), (x) => x < 0 ? NaN : x);
  if (!LAYERED.includes(m)) return c.a[m].subarray(from, to);
  const a = layered(c, m, minus), L = columns(m), [first, stop] = layer === null ? [L - D.run.n_layers, L] : [layer, layer + 1];
  return Float32Array.from({ length: to - from }, (_, i) => {
    let sum = 0, n = 0;
    for (let at = (from + i) * L + first; at < (from + i) * L + stop; at++) if (a[at] === a[at]) { sum += a[at]; n++; }
    return sum / n;
  });
}
// the colours of a scale between its ends
const key = (e, colour, low, high) => e.replaceChildren(low, ...[0, 1, 2, 3, 4, 5].map((i) => { const b = h("i"); b.style.background = css(colour(i / 5)); return b; }), high);
// where nothing is finite the ends are undefined and every share is NaN
function scaleOf(v, both) {
  const f = finite(both ? v.map(abs) : v).sort(), q = (p) => f[min(f.length - 1, floor(p * f.length))], high = max(q(0.98), (both ? 0 : q(0)) + 1e-9), low = both ? -high : q(0);
  return { low, high, share: (x) => max(0, min(1, (x - low) / (high - low))) };
}

// ---- chain -----------------------------------------------------------------------------------------------------------
const stepOf = (c, i) => c.steps.findIndex((s) => i >= s.tok[0] && i < s.tok[1]);
views.chain = (id, at) => {
  const c = chainOf(id), left = h("div"), aside = h("aside", { id: "detail", ariaLive: "polite" });
  if (!c) { show("", h("p.warn", id)); return; }
  show("", left, aside);
  const { maps } = c, after = c.a.surprisal_after, measures = [...SCALARS, ...LAYERED].filter((m) => c.a[m]).concat(maps, after ? ["change"] : []);
  if (!measures.includes(ui.measure)) ui.measure = maps[0] || (after ? "change" : "surprisal");
  const pick = h("select", { id: "measure" }, measures.map((m) => option(m, t(m), m === ui.measure))),
    layer = slider("layer", 0, D.run.n_layers, 0), which = h("span.small"),
    minus = h("input", { type: "checkbox", id: "minus", checked: ui.minus }), legend = h("span.legend"), note = small({ id: "note" }),
    layers = h("label", t`layer`, layer, which), less = h("label", minus, t`baseline`),
    strip = h("div.strip", { id: "strip", tabIndex: 0, role: "group", ariaLabel: t`token` });
  left.append(
    section(own(c.source + " · " + c.source_id), small(`${c.id} · ${count("ntokens", c.n)} · ${count("nsteps", c.steps.length)} · ${D.run.model} · ${t`run`} ${D.run.id}`),
      ["question", "answer"].map((key) => c[key] && h("details", h("summary", t(key)), h("p", own(c[key]))))),
    section("", h("div.bar", h("label", t`measure`, pick), layers, less, legend, h("span.small dim", t`ends`)), strip, note,
      c.overlaps[0] && small(`${t`overlaps`}: `, [...new Set(c.overlaps.map((o) => o.kind))].map((kind) => [h("span.tok " + kind, said(kind)), " "]))));
  let v, scale, colour;
  // the strip: only the blocks near the view hold their tokens
  const kinds = c.pieces.map(() => ""), BLOCK = 48, edges = new Set(c.steps.map((s) => s.tok[0])), blocks = [],
    paint = (span) => { const i = +span.dataset.i, k = colour(scale.share(v[i])); span.style.backgroundColor = css(k); span.style.color = ink(k); span.dataset.value = v[i]; },
    pour = (b) => {
      if (b.firstChild) return;
      b.style.height = ""; b.className = "block";
      for (let i = b.from; i < b.to; i++) { const s = h("span.tok" + (edges.has(i) ? " edge" : "") + kinds[i] + (i === ui.token ? " on" : ""), { data: { i } }, shown(c.pieces[i])); paint(s); b.append(s); }
    },
    drain = (b, height) => { if (!b.firstChild || c.n <= 480) return; b.replaceChildren(); b.className = "empty"; b.style.height = max(20, height) + "px"; },
    watch = new IntersectionObserver((list) => { for (const e of list) (e.isIntersecting ? pour : drain)(e.target, e.boundingClientRect.height); }, { root: strip, rootMargin: "200px" });
  for (const o of c.overlaps) for (let i = o.first; i < o.stop; i++) kinds[i] += " " + o.kind;
  for (let from = 0; from < c.n; from += BLOCK) blocks.push(h("div.empty", { from, to: min(c.n, from + BLOCK) }));
  strip.append(...blocks);
  const refresh = () => {
    const m = ui.measure, noise = D.run.noise[m === "change" ? "surprisal" : m], control = c.controls[m], base = m === HIDDEN && c.a.hidden_baseline,
      // the mean of layers stands before the first layer; the embeddings are layer 0 of hidden states
      none = D.run.n_layers - columns(m),
      both = ["change", "gradient_effect"].includes(m) || maps.includes(m) || (base && ui.minus);
    layers.hidden = !LAYERED.includes(m); less.hidden = !base;
    if (ui.layer <= none) ui.layer = null;
    layer.min = none; layer.value = ui.layer ?? none;
    which.textContent = ui.layer ?? t`mean`;
    v = values(c, m, ui.layer === null ? null : ui.layer - none - 1, ui.minus);
    scale = scaleOf(v, both); colour = palette(both);
    for (const s of strip.querySelectorAll(".tok")) paint(s);
    const whole = m === "rank" ? 0 : 3;
    key(legend, colour, fmt(scale.low, whole), fmt(scale.high, whole) + " " + unit(m));
    const f = finite(v), mean = f.reduce((a, b) => a + b, 0) / f.length;
    note.replaceChildren(h("span", `${t(m)} ${fmt(mean)} ${unit(m)} / ${t`token`.toLowerCase()} · `, control && [said(control.name), control.value !== null && ": " + fmt(base && ui.layer !== null ? base[ui.layer] : control.value), base && ui.minus && t`subtracted`, " · "], `${t`floor`}: ${noise?.toExponential(1) ?? t`notmeasured`}`, m === "change" && noise != null && " · " + fill(t`moved`, [f.filter((x) => abs(x) > noise).length, f.length].map(String))));
    heat(); detail(ui.token);
  },
    detail = (i) => {
    aside.replaceChildren(h("h3", t`token`)); aside.className = i < 0 ? "idle" : "";
    if (i < 0) { aside.append(small(t`hover`)); return; }
    const s = stepOf(c, i), number = (name, measure, x, d) => [h("dt", name), h("dd", { data: { measure } }, fmt(x, d))], top = c.a.top_id,
      which = (m) => LAYERED.includes(m) ? `, ${m === ui.measure && ui.layer !== null ? `${t`layer`} ${ui.layer}` : t`mean`}` : "",
      all = measures.flatMap((m) => number(`${t(m)}${which(m)}, ${unit(m)}`, m, m === ui.measure ? v[i] : values(c, m, null, false, i, i + 1)[0], m === "rank" ? 0 : null));
    aside.append(h("p", h("code", own(visible(c.pieces[i]))), h("span.dim small", `  ${t`position`} ${i}${s >= 0 ? ` · ${t`step`} ${s} ${c.steps[s].role}` : ""}`)),
      h("dl", h("dt", t`p`), h("dd", pct(100 * exp(-c.a.surprisal[i]))), all, after && number(`${t`surprisal`} ${t`after`}`, "after", after[i])));
    if (top) {
      const k = top.length / c.n, alt = h("div.alt");
      for (let at = i * k; at < (i + 1) * k; at++) if (top[at] >= 0) alt.append(h("bdi", h(top[at] === c.a.token_ids[i] ? "b" : "span", shown(visible(D.pieces[top[at]] ?? "#" + top[at]).replace(/^ /, "␣")))), h("span.small", pct(10 * c.a.top_share[at])));
      aside.append(h("h3", t`alternatives`, after && ` (${t`before`})`), alt);
    }
    const best = c.looks[s];
    if (best) aside.append(h("p.small", `${t`looks`} ${best[0]}: ${t`average`} ${fmt(best[1])} (${t`even`} ${fmt(best[2])})`));
  },
    span = (i) => { pour(blocks[floor(i / BLOCK)]); return strip.querySelector(`[data-i="${i}"]`); },
    mark = (i) => { strip.querySelector(".on")?.classList.remove("on"); ui.token = i; span(i).classList.add("on"); detail(i); },
    reach = (i) => { mark(i); span(i).scrollIntoView({ block: "nearest" }); };
  on(strip, "pointerover", (e) => { const { i } = e.target.dataset; if (i) mark(+i); });
  on(strip, "keydown", (e) => {
    const now = max(0, ui.token), d = ARROWS[e.key];
    let i = { Home: 0, End: c.n - 1 }[e.key] ?? (d && now + d[0]);
    if (i == null) return;
    e.preventDefault();
    if (d?.[1]) {
      // the token of the next line that stands above or below this one
      const from = bounds(span(now)), up = d[1] > 0, over = (b) => up ? b.bottom <= from.top && b.left <= from.left : b.top >= from.bottom && b.right > from.left;
      for (i = now - d[1]; i in c.pieces && !over(bounds(span(i)));) i -= d[1];
    }
    reach(i in c.pieces ? i : now);
  });
  for (const e of [pick, minus]) on(e, "change", () => { ui.measure = pick.value; ui.minus = minus.checked; refresh(); });
  on(layer, "input", () => { ui.layer = +layer.value; refresh(); });
  const steps = stepsOf(c), curve = h("canvas", { role: "img", ariaLabel: t`surprisal` }), hot = layerMap(c, t`heat`, D.report?.layers?.chain === id ? D.report.layers.onset : null);
  left.append(section([h("span.ov", t`surprisal` + (after ? " " + t`after` : "")), " ", h("span.dim", after ? t`before` : t`entropy`), after && h("span.small dim", ` · ${t`changebars`}${D.run.noise.surprisal != null ? t`band` : ""}`)], curve), steps.node, hot.node);
  const heat = () => {
    const m = LAYERED.includes(ui.measure) ? ui.measure : "attention_shift";
    if (!(hot.node.hidden = !c.a[m])) hot.draw(layered(c, m, ui.minus), columns(m), t(m === HIDDEN && ui.minus ? "minuspairs" : m), unit(m), m === HIDDEN && ui.minus);
  };
  for (const b of blocks) watch.observe(b);
  refresh();
  ui.whole = () => blocks.forEach(pour);
  const drawCurve = () => {
    const w = max(300, curve.parentNode.clientWidth), r = devicePixelRatio, uniform = D.run.uniform || 0, tall = after ? 250 : 150;
    // a token may cost more than a guess
    const high = [...c.a.surprisal, ...after || []].reduce((m, z) => (z > m ? z : m), max(1, uniform));
    size(curve, w * r, tall * r, w, tall);
    const x = pen(curve), px = (i) => 34 + (w - 44) * (c.n > 1 ? i / (c.n - 1) : 0), py = (z) => 134 - 122 * z / high, paintIn = (style) => x.fillStyle = x.strokeStyle = tint(style),
      line = (style, width, points) => { paintIn(style); x.lineWidth = width; x.beginPath(); let down; for (const [a, b] of points) { if (b === b) x[down ? "lineTo" : "moveTo"](a, b); down = b === b; } x.stroke(); };
    x.scale(r, r); x.font = FONT; paintIn("dim");
    x.setLineDash([4, 4]); line("line", 1, [[34, py(uniform)], [w - 10, py(uniform)]]); x.setLineDash([]); paintIn("dim");
    x.fillText(`${t`uniform`} ${uniform.toFixed(2)}`, 38, py(uniform) - 3); x.fillText("0", 22, 136);
    if (high > 1.05 * uniform) x.fillText(high.toFixed(1), 6, 16);
    for (const s of c.steps.slice(1)) line("line", 1, [[px(s.tok[0]), 10], [px(s.tok[0]), tall - 16]]);
    for (const [key, width, style] of [[after ? "surprisal" : "entropy", 1, "dim"], [after ? "surprisal_after" : "surprisal", 1.6, "mark"]]) line(style, width, Array.from(c.a[key], (z, i) => [px(i), py(z)]));
    if (!after) return;
    // the change below: a bar for every token, and the noise floor as a band around 0
    const change = values(c, "change"), most = scaleOf(change, true).high, dy = (z) => 200 - 40 * max(-1, min(1, z / most)), noise = D.run.noise.surprisal || 0, bar = max(1, min(8, (w - 44) / c.n - 1));
    change.forEach((z, i) => {
      paintIn(z > 0 ? "warn" : "mark"); x.fillRect(px(i) - bar / 2, min(200, dy(z)), bar, abs(dy(z) - 200));
      if (abs(z) > most) { paintIn("fg"); x.fillRect(px(i) - bar / 2, z > 0 ? 157 : 240, bar, 3); }
    });
    paintIn("dim"); x.globalAlpha = 0.4; x.fillRect(34, dy(noise), w - 44, max(1, dy(-noise) - dy(noise))); x.globalAlpha = 1;
    for (const [z, y] of [[most, 164], [0, 204], [-most, 244]]) x.fillText((z > 0 ? "+" : "") + z.toFixed(z ? 1 : 0), 2, y);
  };
  ui.redraw = () => { drawCurve(); steps.draw(); };
  drawCurve();
  if (at in c.pieces) reach(+at);
};
// layers × tokens: a pixel for every value, enlarged by the style; a cell is read by pointing at it, or with the arrow keys
function layerMap(c, title, onset) {
  const cvs = h("canvas.cells", { tabIndex: 0, role: "img" }), here = h("b"), line = h("hr"), axis = h("div.axis"), legend = h("span.legend"), readout = small({ ariaLive: "polite" }), named = h("span"),
    node = section(title, h("div.bar", named, legend, h("span.small dim", t`ends`), onset != null && h("span.warn", `┅ ${t`onset`} ${onset}`)), h("div.layers", axis, h("div.scroll", h("div.room", cvs, onset != null && line, here))), readout);
  return { node, draw(a, L, name, units, both) {
    const cw = max(2, min(10, floor(1100 / c.n))), n = min(c.n, floor(16000 / cw)), s = scaleOf(a, both), colour = palette(both), ink = pixels(colour), first = D.run.n_layers + 1 - L,
      value = (i, l) => [`${t`layer`} ${l + first} · ${t`position`} ${i} `, own(visible(c.pieces[i])), `: ${fmt(a[i * L + l], 3)} (${units})`],
      tell = (i, l) => { x = i; y = l; set(here.style, { left: i * cw + "px", bottom: l * 6 + "px", width: cw + "px" }); readout.replaceChildren(...value(i, l)); };
    let x = 0, y = L - 1, best = 0;
    size(cvs, n, L, n * cw, L * 6);
    const x2 = pen(cvs), image = x2.createImageData(n, L), out = new Uint32Array(image.data.buffer);
    for (let i = 0; i < n; i++) for (let l = 0; l < L; l++) { const at = i * L + l; out[(L - 1 - l) * n + i] = ink[round(255 * s.share(a[at]))]; if (abs(a[at]) > abs(a[best]) || a[best] !== a[best]) best = at; }
    x2.putImageData(image, 0, 0);
    named.textContent = `${name}, ${units}`; key(legend, colour, fmt(s.low, 3), fmt(s.high, 3));
    axis.replaceChildren(...[L - 1, L >> 1, 0].map((l) => h("span", `${l + first}`))); axis.style.height = L * 6 + "px";
    line.style.bottom = (onset - first) * 6 + "px"; here.style.width = 0;
    readout.replaceChildren(`${t`cells`} ${t`largest`}: `, ...value(floor(best / L), best % L), n < c.n ? ` · 1–${n} / ${c.n}` : "");
    cvs.ariaLabel = `${title}: ${name}, ${fmt(s.low, 3)} … ${fmt(s.high, 3)} ${units}`;
    cvs.onpointermove = (e) => { const i = floor(e.offsetX / cvs.offsetWidth * n), l = L - 1 - floor(e.offsetY / cvs.offsetHeight * L); if (i >= 0 && i < n && l >= 0 && l < L) tell(i, l); };
    cvs.onkeydown = (e) => { const d = ARROWS[e.key]; if (d) { e.preventDefault(); tell(max(0, min(n - 1, x + d[0])), max(0, min(L - 1, y + d[1]))); here.scrollIntoView({ block: "nearest", inline: "nearest" }); } };
  } };
}
// the table of steps with attention as arcs, or as a matrix where arcs would be a disc
function stepsOf(c) {
  const both = c.a.surprisal_after, over = new Map(), gaps = new Map(c.gaps.map((g) => [g.step, g])), grid = h("div.steps"), node = section(t`steps`), box = h("div");
  for (const o of c.overlaps) { const s = stepOf(c, o.first); over.set(s, [...(over.get(s) || []), o]); }
  const rows = c.steps.map((s, i) => {
    const part = (a, b) => shown(c.text.slice(a, b)), [cut, end] = s.connective || [s.start, s.start], g = gaps.get(i), mine = over.get(i) || [], most = mine.length > 3 ? 2 : 3,
      gap = g && h("div.gap", `▸ ${t`gap`} ${fmt(g.score, 3)} · `, said(g.worth)),
      shared = mine.slice(0, most).map((o) => h("div.ov", "⟷ ", said(o.said), o.others.map(([id, at]) => [" · ", link(id, id, at)]), o.more > 0 && " · + " + o.more));
    // a repeat of roles is a bracket beside its steps
    const role = c.overlaps.find((o) => o.kind === "skeleton" && i >= stepOf(c, o.first) && i <= stepOf(c, o.stop - 1)), cls = role ? "tr.held" + (i === stepOf(c, role.first) ? " begins" : "") + (i === stepOf(c, role.stop - 1) ? " ends" : "") : "tr";
    return h(cls, { data: { step: i } }, h("td.n dim", i), h("td.role" + (s.explicit ? "" : " dim"), { title: t(s.explicit ? "explicit" : "implicit") }, s.role),
      h("td", gap, h("bdi", part(s.start, cut), h("b", part(cut, end)), part(end, s.end)), shared, mine.length > most && h("div.ov dim", "+ " + (mine.length - most))),
      [s.surprisal, ...(both ? [s.after, s.after - s.surprisal] : [])].map((v) => h("td.n", fmt(v, 3))));
  });
  grid.append(box, h("table", h("thead", h("tr", h("th.n", "#"), h("th", t`role`), h("th", t`text`), h("th.n", `${t`surprisal`}, ${t`nats`}`), both && ["after", "difference"].map((k) => h("th.n", t(k))))), h("tbody", rows)));
  const some = c.links.length, few = some && c.steps.length <= 40, least = slider("least", 0.5, 6, ui.least, 0.1), times = h("span.small"),
    draw = () => {
    if (!few) return;
    ui.least = +least.value; times.textContent = ui.least.toFixed(1) + " ×";
    // the arcs of before would hold the rows apart, and rows are as tall as beside arcs
    const w = innerWidth < 800 ? 48 : 110;
    box.replaceChildren(); box.style.width = w + "px";
    const { top, height } = bounds(grid), y = rows.map((r) => { const b = bounds(r); return b.top + b.height / 2 - top; }), g = picture(w, height, t`arcs`);
    for (const [from, to, mass, even] of c.links) {
      const share = mass / even, x = w - 6 - min(w - 12, 10 + abs(from - to) * 9), a = y[from], b = y[to], end = w - 4;
      if (share >= ui.least) g.append(arc(`M${end} ${a}C${x} ${a} ${x} ${b} ${end} ${b}`, min(5, 0.6 + share / 3), min(0.95, 0.45 + share / 10), `${from} → ${to}: ${fmt(mass)} / ${fmt(even)} = ${fmt(share, 2)} ×`));
    }
    box.replaceChildren(g);
  };
  if (few) node.append(h("div.bar", `${t`arcs`}, ${t`least`}`, least, times, h("span.dim small", t`arcnote`)));
  node.append(grid);
  if (some && !few) {
    const S = c.steps.length, cell = max(2, min(12, floor(900 / S))), cv = h("canvas", { width: S * cell, height: S * cell, role: "img", ariaLabel: t`arcs` }), x = pen(cv), colour = palette(false);
    for (const [from, to, mass, even] of c.links) { x.fillStyle = css(colour(mass / even / 6)); x.fillRect(to * cell, from * cell, cell, cell); }
    node.append(h("h3", t`arcs`), small(t`arcnote`), h("div.scroll", cv));
  }
  on(least, "input", draw); requestAnimationFrame(draw);
  return { node, draw };
}

// ---- corpus and analysis ---------------------------------------------------------------------------------------------
// a cell: numbers as they are, whole where the column is, lists joined (texts as the terminal does), ids of chains that the page holds as links
function cell(v, whole = Number.isInteger(v)) {
  if (v == null || v instanceof Node) return v;
  if (typeof v === "number") return whole ? String(v) : fmt(v);
  return h("bdi", linked(Array.isArray(v) ? v.map((x) => typeof x === "number" ? cell(x) : visible(String(x))).join(v.every((x) => /^[\w:.-]*$/.test(x)) ? ", " : " | ") : typeof v === "object" ? JSON.stringify(v) : String(v).replace(/^\s+$/, visible)));
}
// names are in the reader's language; words: the texts of the cells are the program's, and each row has a unit of its own
function table(names, rows, words) {
  const every = (test) => names.map((_, i) => rows.every((r) => r[i] === null || test(r[i]))), numeric = every((z) => typeof z === "number"), whole = every(Number.isInteger),
    row = (tag, cells) => h("tr", cells.map((v, i) => h(tag + (numeric[i] ? ".n" : ""), { data: { name: names[i].textContent ?? names[i] } }, v)));
  return h("div.list", h("table", h("thead", row("th", names)), h("tbody", rows.map((r) => row("td", r.map((v, i) => words && typeof v === "string" ? said(v) : words ? cell(v) : cell(v, whole[i])))))));
}
// a table wider than its place has its rows as blocks of names and values
const fit = () => main.querySelectorAll(".list").forEach((e) => { e.className = "list"; if (e.scrollWidth > e.clientWidth) e.className += " rows"; }),
  notes = () => D.left_out[0] && h("div", h("h3", t`left`), D.left_out.map((s) => h("p.small", said(s))));
/* PARTS */
// ---- frame -----------------------------------------------------------------------------------------------------------
function route() {
  let asked = "";
  try { asked = decodeURIComponent(location.hash.slice(1)); } catch { /* half of a link: the first page */ }
  const [name, id, at] = asked.split("/"), home = D.report ? "report" : "corpus", one = D.chains.length === 1 && !D.report,
    view = D.map && (name === "map" || D.report && !name) ? "map" : name === "chain" || (one && name !== home) ? "chain" : home, chain = id || D.chains[0]?.id,
    pages = [[home, home], D.map && ["map", "map"], view === "chain" && ["chain", "chains", "/" + chain]].filter(Boolean);
  $("nav").replaceChildren(...pages.map(([to, label, of]) => h("a", { href: "#" + to + (of || ""), ariaCurrent: to === view ? "page" : null }, t(label))));
  page.lang = lang ? "ru" : "en"; $("lang").textContent = t`other`; $("theme").textContent = t(isDark() ? "light" : "dark");
  ui.redraw = ui.whole = null;
  for (const id of ["title", "subtitle"]) $(id).textContent = h("p", said(D[id])).textContent;
  views[view](chain, at); fit();
  if (main.querySelector("[lang=en]")) main.firstChild.prepend(small(t`english`));
  doc.body.dataset.ready = view;
}
on($("lang"), "click", () => { lang = 1 - lang; route(); });
on($("theme"), "click", () => { theme.value = isDark() ? "light" : "dark"; route(); });
on(window, "resize", () => { ui.redraw?.(); fit(); });
// paper is light, and holds every token
let worn;
on(window, "beforeprint", () => { worn = theme.value; theme.value = "light"; route(); ui.whole?.(); });
on(window, "afterprint", () => { theme.value = worn; route(); });
on(window, "hashchange", () => { ui.token = -1; scrollTo(0, 0); route(); });
inflate().then(route);
})();
