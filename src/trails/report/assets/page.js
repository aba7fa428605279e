"use strict";
// The report's script: inflates the data element and draws one view at a time. Text reaches the page only as text nodes.
(() => {
let D, bytes, lang = /^ru/i.test(navigator.language || "") ? 1 : 0;
const state = { measure: "surprisal", layer: null, minus: false, least: 1, token: -1, redraw: null };
const $ = (id) => document.getElementById(id), main = $("main"), root = document.documentElement.classList;
const t = (key) => (D.words[key] || [key, key])[lang];
// an element: h("td.n", {title: "…"}, kid, …); kids are nodes, texts, lists of them, and what is missing
function h(name, ...parts) {
  const [tag, cls] = name.split("."), e = document.createElement(tag);
  if (cls) e.className = cls;
  for (const p of parts) {
    if (p && p.constructor === Object) { const { data, ...own } = p; Object.assign(e, own); Object.assign(e.dataset, data); }
    else if (p || p === 0) e.append(...[].concat(p));
  }
  return e;
}
function svg(tag, attributes, title) {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const k in attributes) e.setAttribute(k, attributes[k]);
  if (title) e.append(tag === "text" || tag === "title" ? title : svg("title", {}, title));
  return e;
}
// what Python says, in the reader's language where it is known: numbers stand as # in the table of words
function told(s) {
  const n = s.match(/\d[\d,.]*\d|\d/g) || [], w = lang && D.words[s.replace(/\d[\d,.]*\d|\d/g, "#")];
  return w ? w[1].replace(/#/g, () => n.shift()) : s;
}
const section = (title, ...kids) => h("section", title && h("h2", title), ...kids);
const picture = (w, hgt, name) => svg("svg", { viewBox: `0 0 ${w} ${hgt}`, width: w, height: hgt, role: "img", "aria-label": name });
const slider = (id, min, max, step, value) => h("input", { type: "range", id, min, max, step, value });
const option = (value, text, selected) => h("option", { value, selected }, text);
const link = (id, text) => h("a", { href: "#chain/" + id }, text || id);
// control characters are shown, never sent
const shown = (s) => s.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, (c) => "\u2039U+" + c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0") + "\u203a");
// a noise floor is not 0: small values keep two digits
// a long name without a blank may break behind > and /
const soft = (s) => s.split(/(?<=[>/])/).flatMap((p) => [p, h("wbr")]).slice(0, -1);
const fmt = (v, d) => v === null || v === undefined || Number.isNaN(v) ? "–" : d === undefined && v && Math.abs(v) < 5e-4 ? v.toPrecision(2) : v.toFixed(d === undefined ? 4 : d);
const finite = (v) => v.filter((x) => x === x);  // of a typed array a typed array

async function inflate() {
  const text = atob($("data").textContent), raw = new Uint8Array(text.length);
  for (let i = 0; i < raw.length; i++) raw[i] = text.charCodeAt(i);
  const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate"));
  const whole = new Uint8Array(await new Response(stream).arrayBuffer()), head = new DataView(whole.buffer).getUint32(0, true);
  D = JSON.parse(new TextDecoder().decode(whole.subarray(4, 4 + head)));
  bytes = whole.slice(4 + head);
}
// an array reference is [kind, byte offset, length]; f: float32, i: int32, t: thousandths, low bytes before high bytes; d: the
// same as zigzag differences along rows of L
function array([kind, at, n, L]) {
  if (kind === "f" || kind === "i") return new (kind === "f" ? Float32Array : Int32Array)(bytes.slice(at, at + 4 * n).buffer);
  const out = new Float32Array(n);
  for (let i = 0, before = 0; i < n; i++) {
    let v = bytes[at + i] | (bytes[at + n + i] << 8);
    if (kind === "d") before = v = ((i % L ? before : 0) + ((v >>> 1) ^ -(v & 1))) & 65535;
    out[i] = v === 65535 ? NaN : v / 1000;
  }
  return out;
}

// colour scales that stay ordered for every kind of colour vision: [sequential, diverging], light and dark
const SCALES = [
  [[[253, 253, 252], [255, 234, 150], [240, 190, 90], [214, 130, 70], [160, 70, 80], [90, 30, 80]], [[30, 90, 170], [140, 180, 220], [253, 253, 252], [245, 190, 130], [190, 90, 10]]],
  [[[22, 23, 26], [52, 50, 92], [96, 70, 120], [160, 96, 108], [220, 150, 84], [255, 226, 130]], [[90, 160, 255], [50, 80, 130], [22, 23, 26], [130, 80, 30], [255, 160, 60]]],
];
const isDark = () => root.contains("dark") || (!root.contains("light") && matchMedia("(prefers-color-scheme:dark)").matches);
const tint = (name) => getComputedStyle(document.body).getPropertyValue("--" + name);
// share from 0 to 1 → [red, green, blue], or null; asked once per drawing, because the theme is
function palette(diverging) {
  const scale = SCALES[+isDark()][+diverging];
  return (share) => {
    if (!(share >= 0)) return null;
    const x = Math.min(1, share) * (scale.length - 1), i = Math.min(scale.length - 2, Math.floor(x));
    return scale[i].map((a, k) => Math.round(a + (scale[i + 1][k] - a) * (x - i)));
  };
}
// 256 shares of a palette as pixels (alpha, blue, green, red, from the highest byte down)
const pixels = (colour) => Uint32Array.from({ length: 256 }, (_, i) => { const [r, g, b] = colour(i / 255); return (255 << 24 | b << 16 | g << 8 | r) >>> 0; });
const css = (c) => c ? `rgb(${c})` : "";
const ink = (c) => c ? 0.299 * c[0] + 0.587 * c[1] + 0.114 * c[2] > 140 ? "#111" : "#fff" : "";

const SCALARS = ["surprisal", "entropy", "rank", "logit_shift", "margin", "gradient_effect", "gradient_norm"], LAYERED = ["attention_shift", "hidden_shift"];
const UNIT = { rank: "items", logit_shift: "share", attention_shift: "share", hidden_shift: "cos" };
const unit = (measure) => t(UNIT[measure] || "nats");
const cache = new Map();
function chainOf(id) {
  const c = cache.get(id) || D.chains.find((x) => x.id === id);
  if (!c || c.a) return c;
  const a = {};
  for (const k in c.arrays) a[k] = array(c.arrays[k]);
  if (cache.size > 8) cache.delete(cache.keys().next().value);
  cache.set(id, { ...c, a, n: c.pieces.length });
  return cache.get(id);
}
const columns = (measure) => D.run.n_layers + (measure === "hidden_shift" ? 1 : 0);
// values of a measure, less the baseline of random pairs where asked for
const layered = (c, measure, minus) => { const L = columns(measure); return minus && measure === "hidden_shift" ? c.a[measure].map((v, i) => v - c.a.hidden_baseline[i % L]) : c.a[measure]; };
// of the tokens from … to: one token costs one token
function values(c, measure, layer, minus, from = 0, to = c.n) {
  if (measure === "change") return c.a.surprisal_after.subarray(from, to).map((v, i) => v - c.a.surprisal[from + i]);
  if (measure === "rank") return Float32Array.from(c.a.rank.subarray(from, to), (x) => x < 0 ? NaN : x);
  if (!LAYERED.includes(measure)) return c.a[measure].subarray(from, to);
  const a = layered(c, measure, minus), L = columns(measure), first = L - D.run.n_layers, out = new Float32Array(to - from);
  for (let i = from; i < to; i++) {
    let sum = 0, count = 0;
    if (layer !== null) { sum = a[i * L + layer]; count = 1; }
    else for (let at = i * L + first; at < (i + 1) * L; at++) if (a[at] === a[at]) { sum += a[at]; count++; }
    out[i - from] = count ? sum / count : NaN;
  }
  return out;
}
function scaleOf(v, diverging) {
  const f = finite(v).sort(), q = (p) => f[Math.min(f.length - 1, Math.floor(p * f.length))];
  if (!f.length) return { share: () => NaN, low: NaN, high: NaN };
  const most = Math.max(1e-9, Math.abs(q(0.02)), Math.abs(q(0.98))), low = diverging ? -most : q(0), high = diverging ? most : Math.max(q(0.98), low + 1e-9);
  return { low, high, share: (x) => Math.max(0, Math.min(1, (x - low) / (high - low))) };
}

// ---- chain -----------------------------------------------------------------------------------------------------------
const stepOf = (c, i) => c.steps.findIndex((s) => i >= s.tok[0] && i < s.tok[1]);
function chainView(id) {
  const c = chainOf(id), left = h("div"), aside = h("aside", { id: "detail", ariaLive: "polite" });
  main.className = "";
  if (!c) { main.replaceChildren(h("p.warn", id)); return; }
  main.replaceChildren(left, aside);
  const maps = c.maps || [], measures = [...SCALARS, ...LAYERED].filter((m) => c.a[m]).concat(maps, c.a.surprisal_after ? ["change"] : []);
  if (!measures.includes(state.measure)) state.measure = maps[0] || "surprisal";
  const pick = h("select", { id: "measure" }, measures.map((m) => option(m, t(m), m === state.measure)));
  const layer = slider("layer", 0, D.run.n_layers, 1, state.layer || 0), layerText = h("span.small");
  const minus = h("input", { type: "checkbox", id: "minus", checked: state.minus }), legend = h("span.legend"), note = h("p.dim small", { id: "note" });
  const layerLabel = h("label", t("layer"), layer, layerText), minusLabel = h("label", minus, t("baseline"));
  const strip = h("div.strip", { id: "strip", tabIndex: 0, role: "group", ariaLabel: t("token") });
  const more = ["question", "answer"].filter((key) => c[key]).map((key) => h("details", h("summary", t(key)), h("p", shown(c[key]))));
  left.append(
    section(c.source + " · " + c.source_id, h("p.dim small", `${c.id} · ${c.n} ${t("tokens")} · ${c.steps.length} ${t("nsteps")} · ${D.run.model} · ${t("run")} ${D.run.id}`), more),
    section("", h("div.bar", h("label", t("measure"), pick), layerLabel, minusLabel, legend), strip, note));
  let v, scale, colour;
  // the strip: only the blocks near the view hold their tokens
  const BLOCK = 48, edges = new Set(c.steps.map((s) => s.tok[0])), blocks = [], of = new Map();
  const paint = (span) => { const i = +span.dataset.i, k = colour(scale.share(v[i])); span.style.backgroundColor = css(k); span.style.color = ink(k); span.dataset.value = String(v[i]); };
  const fill = (b) => {
    if (b.full) return;
    b.full = true; b.node.style.height = ""; b.node.className = "block";
    for (let i = b.from; i < b.to; i++) { const s = h("span.tok" + (edges.has(i) ? " edge" : "") + (i === state.token ? " on" : ""), { data: { i } }, shown(c.pieces[i])); paint(s); b.node.append(s); }
  };
  const drain = (b, height) => { if (!b.full || c.n <= 480) return; b.node.replaceChildren(); b.node.className = "empty"; b.node.style.height = Math.max(20, height) + "px"; b.full = false; };
  for (let from = 0; from < c.n; from += BLOCK) { const node = h("div.empty"); node.style.height = "90px"; blocks.push({ node, from, to: Math.min(c.n, from + BLOCK), full: false }); of.set(node, blocks.at(-1)); strip.append(node); }
  const watch = new IntersectionObserver((list) => { for (const e of list) (e.isIntersecting ? fill : drain)(of.get(e.target), e.boundingClientRect.height); }, { root: strip, rootMargin: "200px" });
  const refresh = () => {
    const m = state.measure, noise = D.run.noise[m === "change" ? "surprisal" : m], control = c.controls[m];
    const diverging = ["change", "gradient_effect"].includes(m) || maps.includes(m) || (m === "hidden_shift" && state.minus);
    layerLabel.hidden = !LAYERED.includes(m); minusLabel.hidden = m !== "hidden_shift";
    if (state.layer === 0 && m !== "hidden_shift") state.layer = null;
    layerText.textContent = state.layer === null ? t("mean") : state.layer;
    v = values(c, m, state.layer === null ? null : state.layer - D.run.n_layers + columns(m) - 1, state.minus);
    scale = scaleOf(v, diverging); colour = palette(diverging);
    for (const s of strip.querySelectorAll(".tok")) paint(s);
    legend.replaceChildren(fmt(scale.low, 3), ...[0, 1, 2, 3, 4, 5].map((i) => { const b = h("i"); b.style.backgroundColor = css(colour(i / 5)); return b; }), fmt(scale.high, 3) + " " + unit(m));
    const f = finite(v), mean = f.reduce((a, b) => a + b, 0) / Math.max(1, f.length);
    note.textContent = [`${t(m)} ${fmt(mean)} ${unit(m)} / ${t("token").toLowerCase()}`, ...(control ? [told(control.name) + (control.value === null ? "" : ": " + fmt(control.value))] : []), t("floor") + ": " + (noise === undefined ? t("notmeasured") : noise.toExponential(1))].join(" · ");
    heat(); detail(state.token);
  };
  const detail = (i) => {
    aside.replaceChildren(h("h3", t("token"))); aside.className = i < 0 ? "idle" : "";
    if (i < 0) { aside.append(h("p.dim small", t("hover"))); return; }
    const s = stepOf(c, i), number = (name, measure, x, d) => [h("dt", name), h("dd", { data: { measure } }, fmt(x, d))], top = c.a.top_id;
    const all = measures.flatMap((m) => number(t(m), m, m === state.measure ? v[i] : values(c, m, null, false, i, i + 1)[0], m === "rank" ? 0 : undefined));
    aside.append(h("p", h("bdi", h("code", shown(c.pieces[i]) || "∅")), h("span.dim small", `  ${i + 1} / ${c.n}${s >= 0 ? ` · ${t("step")} ${s} ${c.steps[s].role}` : ""}`)),
      h("dl", all, c.a.surprisal_after && number(`${t("surprisal")} ${t("after")}`, "after", c.a.surprisal_after[i])));
    if (top) {
      const k = top.length / c.n, alt = h("div.alt");
      for (let at = i * k; at < (i + 1) * k; at++) if (top[at] >= 0) alt.append(h("bdi", h(top[at] === c.a.token_ids[i] ? "b" : "span", shown(D.pieces[top[at]] || "#" + top[at]))), h("span.small", (10 * c.a.top_share[at]).toFixed(2) + " %"));
      aside.append(h("h3", t("alternatives")), alt);
    }
    const best = c.links.filter((l) => l[0] === s).sort((a, b) => b[2] / b[3] - a[2] / a[3])[0];
    if (best) aside.append(h("p.small", `${t("looks")} ${best[1]}: ${fmt(best[2])} (${t("uniform")} ${fmt(best[3])})`));
  };
  const mark = (i) => { for (const s of strip.querySelectorAll(".on")) s.classList.remove("on"); state.token = i; const s = strip.querySelector(`[data-i="${i}"]`); if (s) s.classList.add("on"); detail(i); return s; };
  strip.addEventListener("pointerover", (e) => { if (e.target.dataset.i !== undefined) mark(+e.target.dataset.i); });
  strip.addEventListener("keydown", (e) => {
    const d = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, Home: -1e9, End: 1e9 }[e.key], i = Math.max(0, Math.min(c.n - 1, Math.max(0, state.token) + d));
    if (d === undefined) return;
    e.preventDefault(); fill(blocks[Math.floor(i / BLOCK)]); mark(i).scrollIntoView({ block: "nearest" });
  });
  pick.addEventListener("change", () => { state.measure = pick.value; refresh(); });
  layer.addEventListener("input", () => { state.layer = +layer.value || (state.measure === "hidden_shift" ? 0 : null); refresh(); });
  minus.addEventListener("change", () => { state.minus = minus.checked; refresh(); });
  const steps = stepsOf(c), curve = h("canvas"), cvs = h("canvas"), readout = h("p.dim small"), heatSection = section(t("heat"), h("div.scroll", cvs), readout);
  left.append(section(t("curve"), curve), steps.node, heatSection);
  const heat = () => {
    const m = LAYERED.includes(state.measure) ? state.measure : "attention_shift", dv = m === "hidden_shift" && state.minus;
    heatSection.hidden = !c.a[m];
    if (!c.a[m]) return;
    const L = columns(m), cw = Math.max(2, Math.min(10, Math.floor(1100 / c.n))), n = Math.min(c.n, Math.floor(16000 / cw)), a = layered(c, m, state.minus), s = scaleOf(a, dv), ink = pixels(palette(dv)), said = t(m) + ` (${unit(m)})`;
    // a pixel for every value, enlarged by the style
    Object.assign(cvs, { width: n, height: L, className: "cells" }); Object.assign(cvs.style, { width: n * cw + "px", height: L * 6 + "px" });
    const x = cvs.getContext("2d"), image = x.createImageData(n, L), out = new Uint32Array(image.data.buffer), times = 255 / (s.high - s.low);
    for (let i = 0; i < n; i++) for (let l = 0; l < L; l++) { const z = a[i * L + l]; if (z === z) out[(L - 1 - l) * n + i] = ink[Math.max(0, Math.min(255, Math.round((z - s.low) * times)))]; }
    x.putImageData(image, 0, 0);
    readout.textContent = `${said}, ${fmt(s.low, 3)} … ${fmt(s.high, 3)}` + (n < c.n ? ` · 1–${n} / ${c.n}` : "");
    cvs.onpointermove = (e) => { const b = cvs.getBoundingClientRect(), i = Math.floor((e.clientX - b.left) / b.width * n), l = L - 1 - Math.floor((e.clientY - b.top) / b.height * L); if (i >= 0 && i < c.n && l >= 0) readout.textContent = `${said} · ${t("layer")} ${l + 1 - L + D.run.n_layers} · ${t("token")} ${i + 1} ${JSON.stringify(shown(c.pieces[i]))}: ${fmt(a[i * L + l], 3)}`; };
  };
  for (const b of blocks) watch.observe(b.node);
  refresh();
  state.whole = () => blocks.forEach(fill);
  state.redraw = () => { drawCurve(c, curve, Math.max(300, left.clientWidth)); steps.draw(); };
  drawCurve(c, curve, Math.max(300, left.clientWidth));
}
// the table of steps with attention as arcs, or as a matrix where arcs would be a disc
function stepsOf(c) {
  const over = new Map(), gaps = new Map(c.gaps.map((g) => [g.step, g])), grid = h("div.steps"), node = section(t("steps")), box = h("div");
  for (const o of c.overlaps) { const s = stepOf(c, o.first); over.set(s, [...(over.get(s) || []), o]); }
  const rows = c.steps.map((s, i) => {
    const text = c.text.slice(s.start, s.end), cut = s.connective ? text.toLowerCase().indexOf(s.connective.toLowerCase()) : -1, end = cut + s.connective.length, g = gaps.get(i), mine = (over.get(i) || []).sort((a, b) => b.n_tokens - a.n_tokens), most = mine.length > 3 ? 2 : 3;
    const gap = g && g.rank === 0 && h("div.gap", `▸ ${t("gap")} ${fmt(g.score, 3)} · ${t("auc")} ${fmt(g.control_auc, 3)} (${t("byplace")} ${fmt(g.baseline_auc, 3)})`);
    const shared = mine.slice(0, most).map((o) => h("div.ov", `⟷ ${o.n_chains} ${t("inchains")}, ${o.n_tokens} ${t("tokens")}, ${t("excess")} ${fmt(o.excess, 3)}: `, o.others.slice(0, 4).flatMap((other) => [link(other), " "])));
    return h("tr", { data: { step: i } }, h("td.n dim", String(i)), h("td.role" + (s.explicit ? "" : " dim"), { title: t(s.explicit ? "explicit" : "implicit") }, s.role),
      h("td", gap, h("bdi", cut < 0 ? shown(text) : [shown(text.slice(0, cut)), h("b", shown(text.slice(cut, end))), shown(text.slice(end))]), shared, mine.length > most && h("div.ov dim", "+ " + (mine.length - most))),
      h("td.n", { data: { measure: "surprisal" } }, fmt(s.surprisal, 3)));
  });
  const head = h("tr", h("th.n", "#"), h("th", t("role")), h("th", t("text")), h("th.n", `${t("surprisal")}, ${t("nats")}`));
  grid.append(box, h("table", h("thead", head), h("tbody", rows)));
  const few = c.steps.length <= 40, least = slider("least", 0.5, 6, 0.1, state.least), said = h("span.small");
  const draw = () => {
    if (!c.links.length || !few) return;
    state.least = +least.value; said.textContent = state.least.toFixed(1) + " ×";
    box.replaceChildren();  // the arcs of before would hold the rows apart
    const { top, height } = grid.getBoundingClientRect(), y = rows.map((r) => { const b = r.getBoundingClientRect(); return b.top + b.height / 2 - top; }), w = innerWidth < 600 ? 48 : 110, g = picture(w, height, t("arcs"));
    for (const [later, earlier, mass, even] of c.links) {
      const times = mass / even, x = w - 6 - Math.min(w - 12, 10 + Math.abs(later - earlier) * 9);
      if (times >= state.least) g.append(svg("path", { class: "arc", d: `M${w - 4} ${y[later]}C${x} ${y[later]} ${x} ${y[earlier]} ${w - 4} ${y[earlier]}`, "stroke-width": Math.min(5, 0.6 + times / 3), "stroke-opacity": Math.min(0.95, 0.25 + times / 10) }, `${later} → ${earlier}: ${mass.toFixed(4)} / ${even.toFixed(4)} = ${times.toFixed(2)} ×`));
    }
    box.replaceChildren(g);
  };
  if (c.links.length && few) node.append(h("div.bar", `${t("arcs")}, ${t("least")}`, least, said, h("span.dim small", t("arcnote"))));
  node.append(grid);
  if (c.links.length && !few) {
    const S = c.steps.length, cell = Math.max(2, Math.min(12, Math.floor(900 / S))), cv = h("canvas", { width: S * cell, height: S * cell, role: "img", ariaLabel: t("arcs") }), x = cv.getContext("2d"), colour = palette(false);
    for (const [later, earlier, mass, even] of c.links) { x.fillStyle = css(colour(mass / even / 6)); x.fillRect(earlier * cell, later * cell, cell, cell); }
    node.append(h("h3", t("arcs")), h("p.dim small", t("arcnote")), h("div.scroll", cv));
  }
  least.addEventListener("input", draw); requestAnimationFrame(draw);
  return { node, draw };
}
function drawCurve(c, canvas, w) {
  const tall = 150, r = devicePixelRatio || 1, uniform = D.run.uniform || 0;
  const max = c.a.surprisal.reduce((m, z) => (z > m ? z : m), Math.max(1, uniform));  // a token may cost more than a guess
  Object.assign(canvas, { width: w * r, height: tall * r }); Object.assign(canvas.style, { width: w + "px", height: tall + "px" });
  const x = canvas.getContext("2d"), px = (i) => 34 + (w - 44) * (c.n > 1 ? i / (c.n - 1) : 0), py = (z) => tall - 16 - (tall - 28) * z / max;
  const line = (style, width, points) => { x.strokeStyle = tint(style); x.lineWidth = width; x.beginPath(); let pen = false; for (const [a, b] of points) { if (Number.isNaN(b)) pen = false; else { x[pen ? "lineTo" : "moveTo"](a, b); pen = true; } } x.stroke(); };
  x.scale(r, r); x.font = "11px system-ui,sans-serif"; x.fillStyle = tint("dim");
  x.setLineDash([4, 4]); line("line", 1, [[34, py(uniform)], [w - 10, py(uniform)]]); x.setLineDash([]);
  x.fillText(`${t("uniform")} ${uniform.toFixed(2)}`, 38, py(uniform) - 3); x.fillText("0", 22, tall - 14);
  if (max > 1.05 * uniform) x.fillText(max.toFixed(1), 6, 16);
  for (const s of c.steps.slice(1)) line("line", 1, [[px(s.tok[0]), 10], [px(s.tok[0]), tall - 16]]);
  for (const [key, width, style] of [["entropy", 1, "dim"], ["surprisal", 1.6, "mark"]]) line(style, width, Array.from(c.a[key], (z, i) => [px(i), py(z)]));
}

// ---- corpus and analysis ---------------------------------------------------------------------------------------------
// a cell: numbers as they are, lists joined, ids of chains that the page holds as links
function cell(v) {
  if (v === null || v === undefined) return "";
  if (v instanceof Node) return v;
  if (typeof v === "number") return Number.isInteger(v) ? String(v) : fmt(v);
  if (Array.isArray(v)) v = v.map((x) => typeof x === "number" ? cell(x) : x).join(", ");
  if (typeof v === "object") v = JSON.stringify(v);
  v = String(v);
  return v.split(/\b(c[0-9a-f]{16})\b/).flatMap((part) => part.length === 17 && D.chains.some((c) => c.id === part) ? link(part) : soft(shown(part)));
}
function table(names, rows) {
  const numeric = names.map((_, i) => rows.length > 0 && rows.every((r) => typeof r[i] === "number" || r[i] === null));
  const row = (tag, cells) => h("tr", cells.map((v, i) => h(tag + (numeric[i] ? ".n" : ""), { data: { name: names[i] } }, v)));
  return h("div.list", h("table", h("thead", row("th", names)), h("tbody", rows.map((r) => row("td", r.map(cell))))));
}
const notes = () => D.left_out.length > 0 && h("div", h("h3", t("left")), D.left_out.map((s) => h("p.small", shown(told(s)))));
function corpusView() {
  const C = D.corpus, R = C.roles, size = 460, mid = size / 2, rad = mid - 62, g = picture(size, size, t("follows")), most = Math.max(1, ...C.follows.map((f) => f.count));
  const at = (i) => [mid + rad * Math.sin(2 * Math.PI * i / R.length), mid - rad * Math.cos(2 * Math.PI * i / R.length)], number = new Map(R.map((r, i) => [r.role, i]));
  for (const f of C.follows.slice(0, 40)) {
    const [x1, y1] = at(number.get(f.from)), [x2, y2] = at(number.get(f.to));
    const d = f.from === f.to ? `M${x1 - 5} ${y1}a 12 12 0 1 1 10 0` : `M${x1} ${y1}Q${(x1 + x2) / 2 + (y2 - y1) * 0.18} ${(y1 + y2) / 2 + (x1 - x2) * 0.18} ${x2} ${y2}`;
    g.append(svg("path", { class: "arc", d, "stroke-width": 0.6 + 7 * f.count / most, "stroke-opacity": f.count > f.expected ? 0.75 : 0.2 }, `${f.from} → ${f.to}: ${f.count} (${t("expected")} ${f.expected.toFixed(1)})`));
  }
  R.forEach((r, i) => { const [x, y] = at(i); g.append(svg("circle", { cx: x, cy: y, r: 5 + 14 * Math.sqrt(r.count / Math.max(1, R[0].count)), fill: "var(--panel)", stroke: "var(--fg)" }), svg("text", { x, y: y < mid ? y - 24 : y + 32, "text-anchor": "middle" }, `${r.role} ${r.count}`)); });
  const H = C.histogram, w = 460, tall = 200, bars = picture(w, tall, t("hist")), top = Math.max(1, ...H.counts), last = H.edges[H.edges.length - 1], px = (z) => 30 + (w - 40) * Math.min(1, z / last);
  H.counts.forEach((n, i) => bars.append(svg("rect", { x: px(H.edges[i]), y: tall - 24 - (tall - 50) * n / top, width: Math.max(1, px(H.edges[i + 1]) - px(H.edges[i]) - 1), height: (tall - 50) * n / top, fill: "var(--mark)" }, `${H.edges[i].toFixed(1)}–${H.edges[i + 1].toFixed(1)}: ${n}`)));
  for (const [z, name, dash] of [[D.run.uniform, "uniform", "4 4"], [C.mean_surprisal, "average", ""]]) if (z !== null) bars.append(svg("line", { x1: px(z), x2: px(z), y1: 16, y2: tall - 24, stroke: "var(--fg)", "stroke-dasharray": dash }), svg("text", { x: Math.min(px(z), w - 4), y: 12, "text-anchor": px(z) > w / 2 ? "end" : "start" }, `${t(name)} ${z.toFixed(3)}`));
  bars.append(svg("text", { x: w / 2, y: tall - 4, "text-anchor": "middle" }, t("nats")));
  const G = C.gaps[0], O = C.overlaps[0];
  main.className = "wide";
  main.replaceChildren(
    section(t("chains"), table(["id", t("source"), t("text"), t("tokens"), t("surprisal")], D.chains.map((c) => [c.id, `${c.source} ${c.source_id}`, c.text.slice(0, 90), c.pieces.length, c.mean_surprisal])), notes()),
    h("div.cols", section(t("follows"), g, table([t("role"), "→", t("count"), t("expected"), t("surprisal")], C.follows.map((f) => [f.from, f.to, f.count, f.expected, f.surprisal]))),
      section(t("hist"), bars, h("p.small dim", `${C.n_tokens} ${t("tokens")} · ${C.n_chains} ${t("inchains")}`), table([t("source"), t("inchains"), t("tokens"), t("surprisal")], C.sources.map((s) => [s.source, s.n_chains, s.n_tokens, s.surprisal])))),
    h("div.cols", G && section(t("gaps"), h("p.small dim", `${t("auc")} ${fmt(G.control_auc, 3)} · ${t("byplace")} ${fmt(G.baseline_auc, 3)}`), table(["id", t("step"), "score"], C.gaps.map((x) => [x.chain, x.step, x.score]))),
      O && section(t("overlaps"), h("p.small dim", O.control_name ? `${t("control")}, ${O.control_name}: ${fmt(O.control)}` : t("withheld")), table([t("text"), t("tokens"), t("inchains"), ""], C.overlaps.map((o) => [o.text.slice(0, 160), o.n_tokens, o.n_chains, h("span", o.chains.slice(0, 3).flatMap((id) => [link(id, id.slice(0, 8)), " "]))])))));
}
function findings(R) {
  return h("section", h("p.verdict", cell(R.verdict)),
    R.scores.length > 0 && h("div", h("h3", t("scores")), table(R.score_columns, R.scores)), R.said.map((s) => h("p.small", shown(s))),
    R.withheld.map(([reason, names]) => h("p.warn", `${t("noscore")} ${shown(names)}: ${shown(reason)}`)),
    R.tables.map((T) => h(T.detail ? "details" : "div", h(T.detail ? "summary" : "h3", shown(T.title)), table(T.columns, T.rows))),
    R.parts.flatMap(([name, part]) => [h("h2", shown(name)), findings(part)]), R.notes.map((s) => h("p.small dim", shown(s))),
    R.commands.map(([does, line]) => h("p.small", shown(does) + ": ", h("code", shown(line)))));
}
function reportView() {
  const facts = Object.entries(D.report.facts), box = findings(D.report);
  if (facts.length) box.append(h("details", h("summary", t("facts")), table(["", ""], facts.map(([k, v]) => [k, cell(v)].map((x) => h("span", x))))));
  if (D.chains.length) box.append(h("h2", t("chains")), table(["id", t("text"), t("tokens")], D.chains.map((c) => [c.id, c.text.slice(0, 90), c.pieces.length])));
  box.append(notes() || "");
  main.className = "wide";
  main.replaceChildren(box);
}

/* map.js, where there is a map */
// ---- frame -----------------------------------------------------------------------------------------------------------
function route() {
  const [page, id] = decodeURIComponent(location.hash.slice(1)).split("/"), home = D.report ? "report" : "corpus", one = D.chains.length === 1 && !D.report;
  const view = page === "map" && D.map ? "map" : page === "chain" || (one && page !== home) ? "chain" : home, chain = id || (D.chains[0] || {}).id;
  const pages = [[home, t(home)], ...(D.map ? [["map", t("map")]] : []), ...(view === "chain" ? [["chain/" + chain, t("chains")]] : [])];
  $("nav").replaceChildren(...pages.map(([name, label]) => h("a", { href: "#" + name, ariaCurrent: name.split("/")[0] === view ? "page" : null }, label)));
  document.documentElement.lang = lang ? "ru" : "en"; $("lang").textContent = lang ? "English" : "Русский"; $("theme").textContent = t(isDark() ? "light" : "dark");
  state.redraw = state.whole = null;
  ({ map: () => mapView(), chain: () => chainView(chain), report: reportView, corpus: corpusView })[view]();
  document.body.dataset.ready = view;
}
$("lang").addEventListener("click", () => { lang = 1 - lang; route(); });
$("theme").addEventListener("click", () => { const d = isDark(); root.toggle("dark", !d); root.toggle("light", d); route(); });
addEventListener("resize", () => { if (state.redraw) state.redraw(); });
// paper is light, and holds every token
let worn = null;
addEventListener("beforeprint", () => { worn = root.value; root.remove("dark"); root.add("light"); route(); if (state.whole) state.whole(); });
addEventListener("afterprint", () => { if (worn !== null) root.value = worn; worn = null; route(); });
addEventListener("hashchange", () => { state.token = -1; scrollTo(0, 0); route(); });
inflate().then(() => { $("title").textContent = shown(D.title); $("subtitle").textContent = shown(D.subtitle); route(); });
})();
