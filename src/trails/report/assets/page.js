"use strict";
// The report's script: inflates the data element, draws one view at a time. Text reaches the page only as textContent.
(() => {
let D;
const $ = (id) => document.getElementById(id);
const RU = (navigator.language || "").toLowerCase().startsWith("ru");
let lang = RU ? "ru" : "en", arrays = null;
const WORDS = {
corpus: ["Corpus", "Корпус"], chains: ["Chains", "Цепочки"], map: ["Map", "Карта"], light: ["Light", "Светлая"], dark: ["Dark", "Тёмная"],
measure: ["Colour by", "Окраска"], layer: ["Layer", "Слой"], mean: ["mean of layers", "среднее по слоям"], baseline: ["minus the baseline of random pairs", "за вычетом случайных пар"],
surprisal: ["surprisal", "неожиданность"], entropy: ["entropy", "энтропия"], rank: ["rank", "ранг"], logit_shift: ["logit shift", "сдвиг логитов"],
attention_shift: ["attention shift", "сдвиг внимания"], hidden_shift: ["hidden shift", "сдвиг состояний"], change: ["change of surprisal (after − before)", "изменение (после − до)"],
nats: ["nats", "наты"], items: ["more likely items", "более вероятных"], share: ["total variation, 0 to 1", "полная вариация, 0–1"], cos: ["1 − cosine", "1 − косинус"],
token: ["Token", "Токен"], tokens: ["tokens", "токенов"], step: ["step", "шаг"], steps: ["Steps", "Шаги"], role: ["Role", "Роль"], text: ["Text", "Текст"],
uniform: ["a uniform guess", "равномерное угадывание"], floor: ["noise floor", "шум прибора"], notmeasured: ["not measured", "не измерено"],
hover: ["Point at a token, or use the arrow keys in the strip.", "Наведите на токен или пользуйтесь стрелками."],
arcs: ["Attention between steps", "Внимание между шагами"], arcnote: ["share of attention per token, divided by an even spread; weaker arcs are hidden", "внимание на токен относительно равномерного; слабые дуги скрыты"],
least: ["at least", "не менее"], heat: ["Layers (last on top) × tokens", "Слои (последний сверху) × токены"], curve: ["Surprisal and entropy along the chain", "Неожиданность и энтропия вдоль цепочки"],
gaps: ["Seams where a step may be missing", "Швы, где, возможно, пропущен шаг"], gap: ["the seam of this chain where a step may be missing, score", "шов, где, возможно, пропущен шаг, оценка"], overlaps: ["Shared with other chains", "Общее с другими цепочками"], inchains: ["chains", "цепочек"],
auc: ["AUC on this corpus", "AUC на этом корпусе"], byplace: ["by place alone", "по одному месту"], source: ["Source", "Источник"], question: ["Question", "Вопрос"], answer: ["Answer", "Ответ"],
alternatives: ["The model expected", "Модель ожидала"], probability: ["probability", "вероятность"], looks: ["looks most at step", "смотрит больше всего на шаг"],
follows: ["Which role follows which", "Какая роль за какой следует"], expected: ["expected if independent", "ожидалось при независимости"], average: ["mean", "среднее"], hist: ["Surprisal of all tokens", "Неожиданность всех токенов"],
left: ["Notes", "Примечания"], count: ["count", "число"], search: ["Find a state", "Найти состояние"], follow: ["Follow a chain", "Проследить цепочку"], none: ["none", "нет"],
maphelp: ["x: place in the chain, from its beginning to its end. Drag to move, wheel or + and − to zoom.", "x: место в цепочке от начала к концу. Тяните мышью; колесо или + и − меняют масштаб."],
before: ["before", "до"], after: ["after", "после"], explicit: ["from a connective", "по связке"], implicit: ["without a connective", "без связки"], excess: ["beyond chance", "сверх случайного"], control: ["control", "контроль"], withheld: ["too few chains for a control, so no excess is given", "цепочек мало для контроля, превышение не приводится"], run: ["run", "прогон"]
};
const t = (key) => (WORDS[key] || [key, key])[lang === "ru" ? 1 : 0];
const el = (tag, cls, text) => { const e = document.createElement(tag); if (cls) e.className = cls; if (text !== undefined) e.textContent = text; return e; };
const add = (parent, ...kids) => { for (const k of kids) if (k) parent.append(k); return parent; };
const svg = (tag, attrs) => { const e = document.createElementNS("http://www.w3.org/2000/svg", tag); for (const k in attrs) e.setAttribute(k, attrs[k]); return e; };
// control characters are shown, never sent
const shown = (s) => s.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, (c) => "\u2039U+" + c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0") + "\u203a");
const fmt = (v, d) => (v === null || v === undefined || Number.isNaN(v)) ? "–" : v.toFixed(d === undefined ? 4 : d);

async function inflate() {
  const raw = Uint8Array.from(atob($("data").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate"));
  const whole = new Uint8Array(await new Response(stream).arrayBuffer()), head = new DataView(whole.buffer).getUint32(0, true);
  D = JSON.parse(new TextDecoder().decode(whole.subarray(4, 4 + head)));
  arrays = whole.slice(4 + head);
}
// an array reference is [kind, byte offset, length]; f: float32, i: int32, t: thousandths, low bytes before high bytes
function array(ref) {
  if (!ref) return null;
  const [kind, at, n] = ref;
  if (kind === "f") return new Float32Array(arrays.slice(at, at + 4 * n).buffer);
  if (kind === "i") return new Int32Array(arrays.slice(at, at + 4 * n).buffer);
  const out = new Float32Array(n);
  for (let i = 0; i < n; i++) { const v = arrays[at + i] | (arrays[at + n + i] << 8); out[i] = v === 65535 ? NaN : v / 1000; }
  return out;
}

// colour scales that stay ordered for every kind of colour vision: sequential (cividis-like) and diverging (blue–orange)
const SEQ = [[253, 253, 252], [255, 234, 150], [240, 190, 90], [214, 130, 70], [160, 70, 80], [90, 30, 80]];
const SEQ_DARK = [[22, 23, 26], [52, 50, 92], [96, 70, 120], [160, 96, 108], [220, 150, 84], [255, 226, 130]];
const DIV = [[30, 90, 170], [140, 180, 220], [253, 253, 252], [245, 190, 130], [190, 90, 10]];
const DIV_DARK = [[90, 160, 255], [50, 80, 130], [22, 23, 26], [130, 80, 30], [255, 160, 60]];
const isDark = () => { const c = document.documentElement.classList; return c.contains("dark") || (!c.contains("light") && matchMedia("(prefers-color-scheme:dark)").matches); };
function colour(share, diverging) {
  if (!(share >= 0)) return null;
  const scale = diverging ? (isDark() ? DIV_DARK : DIV) : (isDark() ? SEQ_DARK : SEQ);
  const x = Math.min(1, share) * (scale.length - 1), i = Math.min(scale.length - 2, Math.floor(x)), f = x - i;
  return scale[i].map((a, k) => Math.round(a + (scale[i + 1][k] - a) * f));
}
const css = (c) => "rgb(" + c.join(",") + ")";
const ink = (c) => (0.299 * c[0] + 0.587 * c[1] + 0.114 * c[2]) > 140 ? "#111" : "#fff";

const SCALARS = ["surprisal", "entropy", "rank", "logit_shift"], LAYERED = ["attention_shift", "hidden_shift"];
const UNIT = { surprisal: "nats", entropy: "nats", rank: "items", logit_shift: "share", attention_shift: "share", hidden_shift: "cos", change: "nats" };
const cache = new Map();
function chainOf(id) {
  if (cache.has(id)) return cache.get(id);
  const c = D.chains.find((x) => x.id === id);
  if (!c) return null;
  const a = {};
  for (const k in c.arrays) a[k] = array(c.arrays[k]);
  const whole = { ...c, a, n: c.pieces.length };
  if (cache.size > 8) cache.delete(cache.keys().next().value);
  cache.set(id, whole);
  return whole;
}
function values(c, measure, layer, minus) {
  if (measure === "change") return c.a.surprisal_after.map((v, i) => v - c.a.surprisal[i]);
  if (SCALARS.includes(measure)) { const v = c.a[measure]; return measure === "rank" ? Float32Array.from(v, (x) => x < 0 ? NaN : x) : v; }
  const a = c.a[measure], L = D.run.n_layers + (measure === "hidden_shift" ? 1 : 0), out = new Float32Array(c.n), base = c.a.hidden_baseline;
  const first = measure === "hidden_shift" ? 1 : 0;
  for (let i = 0; i < c.n; i++) {
    if (layer !== null) { out[i] = a[i * L + layer] - (minus && measure === "hidden_shift" ? base[layer] : 0); continue; }
    let s = 0, m = 0;
    for (let l = first; l < L; l++) { const v = a[i * L + l]; if (!Number.isNaN(v)) { s += v - (minus && measure === "hidden_shift" ? base[l] : 0); m++; } }
    out[i] = m ? s / m : NaN;
  }
  return out;
}
function scaleOf(v, diverging) {
  const f = Array.from(v).filter((x) => !Number.isNaN(x)).sort((a, b) => a - b);
  if (!f.length) return { share: () => NaN, low: NaN, high: NaN };
  const q = (p) => f[Math.min(f.length - 1, Math.floor(p * f.length))];
  if (diverging) { const m = Math.max(1e-9, Math.abs(q(0.02)), Math.abs(q(0.98))); return { low: -m, high: m, share: (x) => Math.max(0, Math.min(1, (x + m) / (2 * m))) }; }
  const low = Math.min(q(0), q(0.02)), high = Math.max(q(0.98), low + 1e-9);
  return { low, high, share: (x) => Math.max(0, Math.min(1, (x - low) / (high - low))) };
}

// ---- chain -----------------------------------------------------------------------------------------------------------
let state = { measure: "surprisal", layer: null, minus: false, least: 1, token: -1 };
function stepOf(c, i) { return c.steps.findIndex((s) => i >= s.tok[0] && i < s.tok[1]); }
function chainView(id) {
  const c = chainOf(id), main = $("main");
  main.className = "";
  if (!c) { main.replaceChildren(el("p", "warn", id)); return; }
  const left = el("div"), aside = el("aside");
  aside.id = "detail"; aside.setAttribute("aria-live", "polite");
  main.replaceChildren(left, aside);
  const head = add(el("section"), el("h2", "", c.source + " · " + c.source_id));
  add(head, el("p", "dim small", c.id + " · " + c.n + " " + t("tokens") + " · " + c.steps.length + " × " + t("step") + " · " + D.run.model + " · " + t("run") + " " + D.run.id));
  for (const key of ["question", "answer"]) if (c[key]) { const d = el("details"); add(d, el("summary", "", t(key)), el("p", "", shown(c[key]))); head.append(d); }
  const bar = el("div", "bar"), pick = el("select"); pick.id = "measure";
  const measures = [...SCALARS, ...LAYERED.filter((m) => c.a[m]), ...(c.a.surprisal_after ? ["change"] : [])];
  for (const m of measures) { const o = el("option", "", t(m)); o.value = m; o.selected = m === state.measure; pick.append(o); }
  if (!measures.includes(state.measure)) state.measure = "surprisal";
  const lay = el("input"), layText = el("span", "small"); lay.type = "range"; lay.id = "layer"; lay.min = 0; lay.max = D.run.n_layers; lay.step = 1; lay.value = state.layer === null ? 0 : state.layer;
  const minus = el("input"); minus.type = "checkbox"; minus.checked = state.minus; minus.id = "minus";
  const layLabel = add(el("label"), el("span", "", t("layer")), lay, layText), minusLabel = add(el("label"), minus, el("span", "", t("baseline")));
  const legend = el("span", "legend"), note = el("p", "dim small"); note.id = "note";
  add(bar, add(el("label"), el("span", "", t("measure")), pick), layLabel, minusLabel, legend);
  const strip = el("div", "strip"); strip.id = "strip"; strip.tabIndex = 0; strip.setAttribute("role", "group"); strip.setAttribute("aria-label", t("token"));
  add(left, head, add(el("section"), bar, strip, note));
  let v, sc, diverging;
  const BLOCK = 96, blocks = [];
  const paint = (span) => { const i = +span.dataset.i, share = sc.share(v[i]), k = colour(share, diverging); span.style.backgroundColor = k ? css(k) : ""; span.style.color = k ? ink(k) : ""; span.dataset.value = String(v[i]); };
  const fill = (b) => {
    if (b.full) return;
    b.node.style.height = ""; b.node.className = "block";
    for (let i = b.from; i < b.to; i++) {
      const s = el("span", "tok" + (c.edges.has(i) ? " edge" : "") + (i === state.token ? " on" : ""), shown(c.pieces[i]));
      s.dataset.i = i; paint(s); b.node.append(s);
    }
    b.full = true;
  };
  const drain = (b) => { if (!b.full || c.n <= 480) return; const h = b.node.getBoundingClientRect(); b.node.replaceChildren(); b.node.className = "empty"; b.node.style.height = Math.max(20, h.height) + "px"; b.full = false; };
  c.edges = new Set(c.steps.map((s) => s.tok[0]));
  for (let from = 0; from < c.n; from += BLOCK) { const node = el("div", "empty"); const b = { node, from, to: Math.min(c.n, from + BLOCK), full: false }; node.style.height = "90px"; blocks.push(b); strip.append(node); }
  const watch = new IntersectionObserver((list) => { for (const e of list) { const b = blocks.find((x) => x.node === e.target); if (e.isIntersecting) fill(b); else drain(b); } }, { root: strip, rootMargin: "200px" });
  const refresh = () => {
    diverging = state.measure === "change" || (state.measure === "hidden_shift" && state.minus);
    const layered = LAYERED.includes(state.measure);
    layLabel.hidden = !layered; minusLabel.hidden = state.measure !== "hidden_shift";
    lay.max = D.run.n_layers; if (state.layer === 0 && state.measure !== "hidden_shift") state.layer = null;
    layText.textContent = state.layer === null ? t("mean") : String(state.layer);
    const index = state.layer === null ? null : (state.measure === "hidden_shift" ? state.layer : state.layer - 1);
    v = values(c, state.measure, index, state.minus); sc = scaleOf(v, diverging);
    for (const s of strip.querySelectorAll(".tok")) paint(s);
    legend.replaceChildren(el("span", "", fmt(sc.low, 3)));
    for (let i = 0; i <= 5; i++) { const b = el("i"); b.style.backgroundColor = css(colour(i / 5, diverging)); legend.append(b); }
    legend.append(el("span", "", fmt(sc.high, 3) + " " + t(UNIT[state.measure])));
    const control = c.controls[state.measure] || {}, parts = [];
    const finite = Array.from(v).filter((x) => !Number.isNaN(x));
    const mean = finite.reduce((a, b) => a + b, 0) / Math.max(1, finite.length);
    parts.push(t(state.measure) + " " + fmt(mean) + " " + t(UNIT[state.measure]) + " / " + t("token").toLowerCase());
    if (control.name) parts.push(control.name + ": " + fmt(control.value));
    parts.push(t("floor") + ": " + (D.run.noise[state.measure === "change" ? "surprisal" : state.measure] === undefined ? t("notmeasured") : D.run.noise[state.measure === "change" ? "surprisal" : state.measure].toExponential(1)));
    note.textContent = parts.join(" · ");
    heat(); detail(state.token);
  };
  const detail = (i) => {
    aside.replaceChildren(el("h3", "", t("token")));
    if (i < 0) { aside.append(el("p", "dim small", t("hover"))); return; }
    const s = stepOf(c, i), dl = el("dl");
    add(aside, add(el("p"), add(el("bdi"), el("code", "", shown(c.pieces[i]) || "∅")), el("span", "dim small", "  " + (i + 1) + " / " + c.n + (s >= 0 ? " · " + t("step") + " " + s + " " + c.steps[s].role : ""))));
    for (const m of measures) { const w = m === state.measure ? v : values(c, m, null, false); const dd = el("dd", "", fmt(w[i], m === "rank" ? 0 : 4)); dd.dataset.measure = m; add(dl, el("dt", "", t(m)), dd); }
    if (c.a.surprisal_after) { const dd = el("dd", "", fmt(c.a.surprisal_after[i])); add(dl, el("dt", "", t("surprisal") + " " + t("after")), dd); }
    aside.append(dl);
    if (c.a.top_id) {
      const k = c.a.top_id.length / c.n, box = el("div", "alt");
      aside.append(el("h3", "", t("alternatives")));
      for (let j = 0; j < k; j++) { const at = i * k + j, p = Math.exp(c.a.top_log_probability[at]); if (Number.isNaN(p)) continue; add(box, add(el("bdi"), el(c.a.top_id[at] === c.a.token_ids[i] ? "b" : "span", "", shown(D.pieces[c.a.top_id[at]] || "#" + c.a.top_id[at]))), el("span", "small", (100 * p).toFixed(2) + " %")); }
      aside.append(box);
    }
    if (s > 0 && c.links.length) {
      const best = c.links.filter((l) => l[0] === s).sort((a, b) => b[2] / b[3] - a[2] / a[3])[0];
      if (best) aside.append(el("p", "small", t("looks") + " " + best[1] + ": " + fmt(best[2]) + " (" + t("uniform") + " " + fmt(best[3]) + ")"));
    }
  };
  const go = (i) => {
    if (i < 0 || i >= c.n) return;
    for (const s of strip.querySelectorAll(".on")) s.classList.remove("on");
    state.token = i; const b = blocks[Math.floor(i / BLOCK)]; fill(b);
    const s = strip.querySelector('[data-i="' + i + '"]'); if (s) { s.classList.add("on"); s.scrollIntoView({ block: "nearest" }); }
    detail(i);
  };
  strip.addEventListener("pointerover", (e) => { const i = e.target.dataset && e.target.dataset.i; if (i !== undefined) { for (const s of strip.querySelectorAll(".on")) s.classList.remove("on"); e.target.classList.add("on"); state.token = +i; detail(+i); } });
  strip.addEventListener("keydown", (e) => { const d = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, Home: -1e9, End: 1e9 }[e.key]; if (d === undefined) return; e.preventDefault(); go(Math.max(0, Math.min(c.n - 1, (state.token < 0 ? 0 : state.token) + d))); });
  pick.addEventListener("change", () => { state.measure = pick.value; refresh(); });
  lay.addEventListener("input", () => { state.layer = +lay.value === 0 && state.measure !== "hidden_shift" ? null : +lay.value; refresh(); });
  minus.addEventListener("change", () => { state.minus = minus.checked; refresh(); });

  // steps with arcs
  let arcs = () => {};
  const sec = add(el("section"), el("h2", "", t("steps"))), grid = el("div", "steps"), body = el("table"), rows = [];
  const over = new Map(); for (const o of c.overlaps) { const s = stepOf(c, o.first); if (!over.has(s)) over.set(s, []); over.get(s).push(o); }
  const gapOf = new Map(c.gaps.map((g) => [g.step, g]));
  for (const [i, s] of c.steps.entries()) {
    const tr = el("tr"), td = el("td"); tr.dataset.step = i;
    const text = c.text.slice(s.start, s.end), cut = s.connective ? text.toLowerCase().indexOf(s.connective.toLowerCase()) : -1;
    if (gapOf.has(i)) { const g = gapOf.get(i); if (g.rank === 0) td.append(el("div", "gap", "▸ " + t("gap") + " " + fmt(g.score, 3) + " · " + t("auc") + " " + fmt(g.control_auc, 3) + " (" + t("byplace") + " " + fmt(g.baseline_auc, 3) + ")")); }
    const p = el("bdi");
    if (cut >= 0) add(p, document.createTextNode(shown(text.slice(0, cut))), el("b", "", shown(text.slice(cut, cut + s.connective.length))), document.createTextNode(shown(text.slice(cut + s.connective.length)))); else p.textContent = shown(text);
    td.append(p);
    const mine = (over.get(i) || []).sort((a, b) => b.n_tokens - a.n_tokens);
    if (mine.length > 2) mine.push(null);
    for (const o of mine.length > 3 ? [mine[0], mine[1], null] : mine) {
      if (!o) { if (mine.length > 3) td.append(el("div", "ov dim", "+ " + (mine.length - 3))); continue; } const d = el("div", "ov", "⟷ " + o.n_chains + " " + t("inchains") + ", " + o.n_tokens + " " + t("tokens") + ", " + t("excess") + " " + fmt(o.excess, 3) + ": "); for (const other of o.others.slice(0, 4)) { const a = el("a", "", other); a.href = "#chain/" + other; add(d, a, document.createTextNode(" ")); } td.append(d); }
    const role = el("td", "role", s.role); role.title = s.explicit ? t("explicit") : t("implicit"); if (!s.explicit) role.classList.add("dim");
    const mean = el("td", "n", fmt(s.surprisal, 3)); mean.dataset.measure = "surprisal";
    add(tr, el("td", "n dim", String(i)), role, td, mean); rows.push(tr);
  }
  const headRow = el("tr"); add(headRow, el("th", "n", "#"), el("th", "", t("role")), el("th", "", t("text")), el("th", "n", t("surprisal") + ", " + t("nats")));
  add(body, add(el("thead"), headRow), add(el("tbody"), ...rows));
  if (c.links.length && c.steps.length <= 40) {
    const box = el("div"), bar2 = el("div", "bar"), least = el("input"), said = el("span", "small");
    least.type = "range"; least.id = "least"; least.min = 0.5; least.max = 6; least.step = 0.1; least.value = state.least;
    add(bar2, el("span", "", t("arcs") + ", " + t("least")), least, said, el("span", "dim small", t("arcnote")));
    const draw = () => {
      state.least = +least.value; said.textContent = state.least.toFixed(1) + " ×";
      const top = grid.getBoundingClientRect().top, y = rows.map((r) => { const b = r.getBoundingClientRect(); return b.top + b.height / 2 - top; });
      const h = grid.getBoundingClientRect().height, w = 110, g = svg("svg", { width: w, height: h, role: "img", "aria-label": t("arcs") });
      for (const [later, earlier, mass, even] of c.links) {
        const times = mass / even; if (!(times >= state.least)) continue;
        const a = y[later], b = y[earlier], x = w - 6 - Math.min(w - 12, 10 + Math.abs(later - earlier) * 9);
        const path = svg("path", { class: "arc", d: "M" + (w - 4) + " " + a + "C" + x + " " + a + " " + x + " " + b + " " + (w - 4) + " " + b, "stroke-width": Math.min(5, 0.6 + times / 3), "stroke-opacity": Math.min(0.95, 0.25 + times / 10) });
        const title = svg("title", {}); title.textContent = later + " → " + earlier + ": " + mass.toFixed(4) + " / " + even.toFixed(4) + " = " + times.toFixed(2) + " ×"; path.append(title); g.append(path);
      }
      box.replaceChildren(g);
    };
    least.addEventListener("input", draw); add(sec, bar2); add(grid, box, body); add(sec, grid); requestAnimationFrame(draw); arcs = draw;
  } else {
    add(grid, el("div"), body); add(sec, grid);
    if (c.links.length) { // a matrix where arcs would be a disc
      const S = c.steps.length, cell = Math.max(2, Math.min(12, Math.floor(900 / S))), cv = el("canvas"); cv.width = cv.height = S * cell; cv.setAttribute("role", "img"); cv.setAttribute("aria-label", t("arcs"));
      const x = cv.getContext("2d"); for (const [later, earlier, mass, even] of c.links) { const k = colour(Math.min(1, mass / even / 6), false); x.fillStyle = css(k); x.fillRect(earlier * cell, later * cell, cell, cell); }
      add(sec, el("h3", "", t("arcs")), el("p", "dim small", t("arcnote")), add(el("div", "scroll"), cv));
    }
  }
  // curve and heat map
  const curve = el("canvas"), heatBox = el("div", "scroll"), cvs = el("canvas"), heatSec = el("section"), readout = el("p", "dim small");
  add(left, add(el("section"), el("h2", "", t("curve")), curve), sec, add(heatSec, el("h2", "", t("heat")), add(heatBox, cvs), readout));
  const drawCurve = () => {
    const w = Math.max(300, left.clientWidth), h = 150, r = devicePixelRatio || 1; curve.width = w * r; curve.height = h * r; curve.style.width = w + "px"; curve.style.height = h + "px";
    const x = curve.getContext("2d"); x.scale(r, r); x.font = "11px system-ui,sans-serif"; const max = Math.max(1, D.run.uniform || 0), style = getComputedStyle(document.body);
    const px = (i) => 34 + (w - 44) * (c.n > 1 ? i / (c.n - 1) : 0), py = (z) => h - 16 - (h - 28) * Math.min(1, z / max);
    x.strokeStyle = style.getPropertyValue("--line"); x.fillStyle = style.getPropertyValue("--dim"); x.setLineDash([4, 4]); x.beginPath(); x.moveTo(34, py(D.run.uniform)); x.lineTo(w - 10, py(D.run.uniform)); x.stroke(); x.setLineDash([]); x.fillText(t("uniform") + " " + D.run.uniform.toFixed(2), 38, py(D.run.uniform) - 3); x.fillText("0", 22, h - 14);
    for (const s of c.steps.slice(1)) { x.strokeStyle = style.getPropertyValue("--line"); x.beginPath(); x.moveTo(px(s.tok[0]), 10); x.lineTo(px(s.tok[0]), h - 16); x.stroke(); }
    for (const [key, width, col] of [["entropy", 1, style.getPropertyValue("--dim")], ["surprisal", 1.6, style.getPropertyValue("--mark")]]) { x.strokeStyle = col; x.lineWidth = width; x.beginPath(); let pen = false; for (let i = 0; i < c.n; i++) { const z = c.a[key][i]; if (Number.isNaN(z)) { pen = false; continue; } if (pen) x.lineTo(px(i), py(z)); else x.moveTo(px(i), py(z)); pen = true; } x.stroke(); }
  };
  const heat = () => {
    const m = LAYERED.includes(state.measure) ? state.measure : "attention_shift";
    heatSec.hidden = !c.a[m]; if (!c.a[m]) return;
    const L = D.run.n_layers + (m === "hidden_shift" ? 1 : 0), cw = Math.max(2, Math.min(10, Math.floor(1100 / c.n))), ch = 6, shownN = Math.min(c.n, Math.floor(16000 / cw));
    cvs.width = shownN * cw; cvs.height = L * ch; const x = cvs.getContext("2d"), a = c.a[m], sub = Array.from(a).map((z, i) => m === "hidden_shift" && state.minus ? z - c.a.hidden_baseline[i % L] : z), dv = m === "hidden_shift" && state.minus, s = scaleOf(sub, dv);
    for (let i = 0; i < shownN; i++) for (let l = 0; l < L; l++) { const k = colour(s.share(sub[i * L + l]), dv); if (!k) continue; x.fillStyle = css(k); x.fillRect(i * cw, (L - 1 - l) * ch, cw, ch); }
    readout.textContent = t(m) + " (" + t(UNIT[m]) + "), " + fmt(s.low, 3) + " … " + fmt(s.high, 3) + (c.onset ? " · onset: " + c.onset : "") + (shownN < c.n ? " · 1–" + shownN + " / " + c.n : "");
    cvs.onpointermove = (e) => { const b = cvs.getBoundingClientRect(), i = Math.floor((e.clientX - b.left) / b.width * shownN), l = L - 1 - Math.floor((e.clientY - b.top) / b.height * L); if (i >= 0 && i < c.n && l >= 0) { readout.textContent = t(m) + " · " + t("layer") + " " + (m === "hidden_shift" ? l : l + 1) + " · " + t("token") + " " + (i + 1) + " " + JSON.stringify(shown(c.pieces[i])) + ": " + fmt(sub[i * L + l], 3); } };
  };
  for (const b of blocks) watch.observe(b.node);
  refresh(); drawCurve();
  state.redraw = () => { drawCurve(); arcs(); };
}

// ---- corpus ----------------------------------------------------------------------------------------------------------
function table(columns, rows) {
  const tb = el("table"), hr = el("tr");
  for (const [name, numeric] of columns) hr.append(el("th", numeric ? "n" : "", name));
  add(tb, add(el("thead"), hr), add(el("tbody"), ...rows.map((r) => { const tr = el("tr"); r.forEach((v, i) => { const td = el("td", columns[i][1] ? "n" : ""); if (v instanceof Node) td.append(v); else td.textContent = typeof v === "number" ? (Number.isInteger(v) ? String(v) : fmt(v)) : shown(String(v === null ? "–" : v)); tr.append(td); }); return tr; })));
  return tb;
}
const link = (id, text) => { const a = el("a", "", text || id); a.href = "#chain/" + id; return a; };
function corpusView() {
  const main = $("main"), C = D.corpus; main.className = "wide";
  const a = el("section"), cols = el("div", "cols");
  add(a, el("h2", "", t("chains")), add(el("div", "list"), table([["id", 0], [t("source"), 0], [t("text"), 0], [t("tokens"), 1], [t("surprisal"), 1]], D.chains.map((c) => [link(c.id), c.source + " " + c.source_id, c.text.slice(0, 90), c.pieces.length, c.mean_surprisal]))));
  if (D.left_out.length) add(a, el("h3", "", t("left")), ...D.left_out.map((s) => el("p", "small", s)));
  const roles = add(el("section"), el("h2", "", t("follows")));
  const R = C.roles, k = R.length, size = 460, mid = size / 2, rad = mid - 62, g = svg("svg", { viewBox: "0 0 " + size + " " + size, width: size, height: size, role: "img", "aria-label": t("follows") });
  const at = (i) => [mid + rad * Math.sin(2 * Math.PI * i / k), mid - rad * Math.cos(2 * Math.PI * i / k)];
  const max = Math.max(1, ...C.follows.map((f) => f.count)), byRole = new Map(R.map((r, i) => [r.role, i]));
  for (const f of C.follows.slice(0, 40)) {
    const [x1, y1] = at(byRole.get(f.from)), [x2, y2] = at(byRole.get(f.to)), dx = (y2 - y1) * 0.18, dy = (x1 - x2) * 0.18, own = f.from === f.to;
    const path = svg("path", { class: "arc", d: own ? "M" + (x1 - 5) + " " + y1 + "a 12 12 0 1 1 10 0" : "M" + x1 + " " + y1 + "Q" + ((x1 + x2) / 2 + dx) + " " + ((y1 + y2) / 2 + dy) + " " + x2 + " " + y2, "stroke-width": 0.6 + 7 * f.count / max, "stroke-opacity": f.count > f.expected ? 0.75 : 0.2 });
    const title = svg("title", {}); title.textContent = f.from + " → " + f.to + ": " + f.count + " (" + t("expected") + " " + f.expected.toFixed(1) + ")"; path.append(title); g.append(path);
  }
  R.forEach((r, i) => { const [x, y] = at(i); g.append(svg("circle", { cx: x, cy: y, r: 5 + 14 * Math.sqrt(r.count / Math.max(1, R[0].count)), fill: "var(--panel)", stroke: "var(--fg)" })); const txt = svg("text", { x, y: y < mid ? y - 24 : y + 32, "text-anchor": "middle" }); txt.textContent = r.role + " " + r.count; g.append(txt); });
  add(roles, g, add(el("div", "list"), table([[t("role"), 0], ["→", 0], [t("count"), 1], [t("expected"), 1], [t("surprisal"), 1]], C.follows.map((f) => [f.from, f.to, f.count, f.expected, f.surprisal]))));
  const hist = add(el("section"), el("h2", "", t("hist"))), H = C.histogram, hw = 460, hh = 200, gs = svg("svg", { viewBox: "0 0 " + hw + " " + hh, width: hw, height: hh, role: "img", "aria-label": t("hist") }), top = Math.max(1, ...H.counts), xr = H.edges[H.edges.length - 1];
  H.counts.forEach((n, i) => { const x = 30 + (hw - 40) * H.edges[i] / xr, w = (hw - 40) * (H.edges[i + 1] - H.edges[i]) / xr; const r = svg("rect", { x, y: hh - 24 - (hh - 50) * n / top, width: Math.max(1, w - 1), height: (hh - 50) * n / top, fill: "var(--mark)" }); const ti = svg("title", {}); ti.textContent = H.edges[i].toFixed(1) + "–" + H.edges[i + 1].toFixed(1) + ": " + n; r.append(ti); gs.append(r); });
  for (const [val, name, dash] of [[D.run.uniform, t("uniform"), "4 4"], [C.mean_surprisal, t("average"), ""]]) { const x = 30 + (hw - 40) * Math.min(1, val / xr); gs.append(svg("line", { x1: x, x2: x, y1: 16, y2: hh - 24, stroke: "var(--fg)", "stroke-dasharray": dash })); const tx = svg("text", { x: Math.min(x, hw - 4), y: 12, "text-anchor": x > hw / 2 ? "end" : "start" }); tx.textContent = name + " " + val.toFixed(3); gs.append(tx); }
  const ax = svg("text", { x: hw / 2, y: hh - 4, "text-anchor": "middle" }); ax.textContent = t("nats"); gs.append(ax);
  add(hist, gs, el("p", "small dim", C.n_tokens + " " + t("tokens") + " · " + C.n_chains + " " + t("inchains")), table([[t("source"), 0], [t("inchains"), 1], [t("tokens"), 1], [t("surprisal"), 1]], C.sources.map((s) => [s.source, s.n_chains, s.n_tokens, s.surprisal])));
  add(cols, roles, hist);
  const rest = el("div", "cols");
  if (C.gaps.length) add(rest, add(el("section"), el("h2", "", t("gaps")), el("p", "small dim", t("auc") + " " + fmt(C.gaps[0].control_auc, 3) + " · " + t("byplace") + " " + fmt(C.gaps[0].baseline_auc, 3)), table([["id", 0], [t("step"), 1], ["score", 1]], C.gaps.map((x) => [link(x.chain), x.step, x.score]))));
  if (C.overlaps.length) add(rest, add(el("section"), el("h2", "", t("overlaps")), el("p", "small dim", C.overlaps[0].control_name ? t("control") + ", " + C.overlaps[0].control_name + ": " + fmt(C.overlaps[0].control, 4) : t("withheld")), table([[t("text"), 0], [t("tokens"), 1], [t("inchains"), 1], ["", 0]], C.overlaps.map((o) => { const s = el("span"); o.chains.slice(0, 3).forEach((id) => add(s, link(id, id.slice(0, 8)), document.createTextNode(" "))); return [o.text.slice(0, 160), o.n_tokens, o.n_chains, s]; }))));
  main.replaceChildren(a, cols, rest);
  state.redraw = null;
}

// ---- map -------------------------------------------------------------------------------------------------------------
function mapView() {
  const M = D.map, main = $("main"); main.className = "wide";
  const X = array(M.x), Y = array(M.y), N = array(M.n_chains), S = array(M.start), E = array(M.end), W = array(M.count);
  const box = el("div", "mapbox"), gl = el("canvas"), top = el("canvas"); gl.id = "gl"; box.tabIndex = 0; add(box, gl, top);
  const bar = el("div", "bar"), find = el("input"), follow = el("select"), info = el("span", "small"); find.type = "search"; find.placeholder = t("search"); find.id = "find"; follow.id = "follow";
  const o0 = el("option", "", t("follow") + ": " + t("none")); o0.value = ""; follow.append(o0);
  for (const c of D.chains) if (M.paths[c.id]) { const o = el("option", "", c.source + " " + c.source_id); o.value = c.id; follow.append(o); }
  add(bar, find, follow, info);
  main.replaceChildren(add(el("section"), el("h2", "", t("map")), el("p", "small dim", M.verdict + " " + t("maphelp")), bar, box));
  let zx = 0.92, zy = 0.92, ox = 0, oy = 0, frame = 0, budget = Math.min(S.length, 40000), path = null, hit = -1;
  const G = gl.getContext("webgl2", { antialias: false, preserveDrawingBuffer: true });
  info.textContent = X.length + " × state, " + S.length + " × trail" + (G ? "" : " · canvas 2D");
  const prog = (vs, fs) => { const p = G.createProgram(); for (const [kind, src] of [[G.VERTEX_SHADER, vs], [G.FRAGMENT_SHADER, fs]]) { const s = G.createShader(kind); G.shaderSource(s, "#version 300 es\nprecision highp float;\n" + src); G.compileShader(s); G.attachShader(p, s); } G.linkProgram(p); return p; };
  let points, lines, pBuf, nBuf, lBuf, aBuf;
  if (G) {
    points = prog("in vec2 p;in float n;uniform vec4 v;uniform float r;out float q;void main(){gl_Position=vec4(p*v.xy+v.zw,0,1);gl_PointSize=r*clamp(2.+1.6*log2(n),2.,11.);q=n;}", "in float q;uniform vec3 c;out vec4 o;void main(){vec2 d=gl_PointCoord-.5;if(dot(d,d)>.25)discard;o=vec4(c,.85);}");
    lines = prog("in vec2 p;in float a;uniform vec4 v;out float q;void main(){gl_Position=vec4(p*v.xy+v.zw,0,1);q=a;}", "in float q;uniform vec3 c;out vec4 o;void main(){o=vec4(c*q,q);}");
    const flat = new Float32Array(X.length * 2); for (let i = 0; i < X.length; i++) { flat[2 * i] = X[i]; flat[2 * i + 1] = Y[i]; }
    const lf = new Float32Array(S.length * 4), la = new Float32Array(S.length * 2); for (let i = 0; i < S.length; i++) { lf[4 * i] = X[S[i]]; lf[4 * i + 1] = Y[S[i]]; lf[4 * i + 2] = X[E[i]]; lf[4 * i + 3] = Y[E[i]]; la[2 * i] = la[2 * i + 1] = Math.min(0.7, 0.06 + 0.1 * Math.log2(1 + W[i])); }
    const buf = (d) => { const b = G.createBuffer(); G.bindBuffer(G.ARRAY_BUFFER, b); G.bufferData(G.ARRAY_BUFFER, d, G.STATIC_DRAW); return b; };
    pBuf = buf(flat); nBuf = buf(Float32Array.from(N)); lBuf = buf(lf); aBuf = buf(la);
    G.enable(G.BLEND); G.blendFunc(G.ONE, G.ONE_MINUS_SRC_ALPHA);
  }
  const sx = (i) => (X[i] * zx + ox + 1) / 2 * box.clientWidth, sy = (i) => (1 - (Y[i] * zy + oy)) / 2 * box.clientHeight;
  const draw = () => {
    frame = 0; const r = devicePixelRatio || 1, w = box.clientWidth, h = box.clientHeight, began = performance.now(), dark = isDark();
    for (const c of [gl, top]) { if (c.width !== w * r || c.height !== h * r) { c.width = w * r; c.height = h * r; } }
    if (G) {
      G.viewport(0, 0, gl.width, gl.height); G.clearColor(0, 0, 0, 0); G.clear(G.COLOR_BUFFER_BIT);
      const use = (p, list, col) => { G.useProgram(p); for (const [name, b, size] of list) { const a = G.getAttribLocation(p, name); G.bindBuffer(G.ARRAY_BUFFER, b); G.enableVertexAttribArray(a); G.vertexAttribPointer(a, size, G.FLOAT, false, 0, 0); } G.uniform4f(G.getUniformLocation(p, "v"), zx, zy, ox, oy); G.uniform3f(G.getUniformLocation(p, "c"), ...col); };
      use(lines, [["p", lBuf, 2], ["a", aBuf, 1]], dark ? [0.49, 0.71, 1] : [0.04, 0.39, 0.77]); G.drawArrays(G.LINES, 0, 2 * Math.min(S.length, budget));
      use(points, [["p", pBuf, 2], ["n", nBuf, 1]], dark ? [0.9, 0.9, 0.92] : [0.1, 0.1, 0.12]); G.uniform1f(G.getUniformLocation(points, "r"), r); G.drawArrays(G.POINTS, 0, Math.min(X.length, Math.max(2000, budget)));
      const px = new Uint8Array(4); G.readPixels(0, 0, 1, 1, G.RGBA, G.UNSIGNED_BYTE, px); // waits for the frame, so that its time is known
    }
    const x = top.getContext("2d"); x.setTransform(r, 0, 0, r, 0, 0); x.clearRect(0, 0, w, h); const style = getComputedStyle(document.body);
    if (!G) { x.strokeStyle = style.getPropertyValue("--mark"); x.globalAlpha = 0.25; x.beginPath(); for (let i = 0; i < Math.min(S.length, 6000); i++) { x.moveTo(sx(S[i]), sy(S[i])); x.lineTo(sx(E[i]), sy(E[i])); } x.stroke(); x.globalAlpha = 1; x.fillStyle = style.getPropertyValue("--fg"); for (let i = 0; i < Math.min(X.length, 6000); i++) x.fillRect(sx(i) - 1.5, sy(i) - 1.5, 3, 3); }
    if (path) { x.strokeStyle = style.getPropertyValue("--warn"); x.lineWidth = 2.5; x.beginPath(); let pen = false; for (const i of path) { if (i < 0) { pen = false; continue; } if (pen) x.lineTo(sx(i), sy(i)); else x.moveTo(sx(i), sy(i)); pen = true; } x.stroke(); }
    x.font = "12px system-ui,sans-serif"; x.textBaseline = "middle"; const used = []; let labels = 0;
    for (let i = 0; i < X.length && labels < 28; i++) {
      const a = sx(i), b = sy(i); if (a < 0 || b < 8 || a > w - 30 || b > h - 8) continue;
      const label = shown(M.text[i] || "").replace(/\s+/g, " ").slice(0, 38); if (!label.trim()) continue; const wide = x.measureText(label).width + 10, flip = a + wide > w;
      if (i !== hit && used.some(([p, q, z]) => Math.abs(q - b) < 15 && a < p + z && p < a + wide)) continue;
      used.push([a, b, wide]); labels++; x.fillStyle = style.getPropertyValue("--bg"); x.globalAlpha = 0.8; x.fillRect(flip ? a - wide : a + 5, b - 8, wide - 4, 16); x.globalAlpha = 1; x.fillStyle = i === hit ? style.getPropertyValue("--warn") : style.getPropertyValue("--fg"); x.fillText(label, flip ? a - wide + 2 : a + 8, b);
    }
    const took = performance.now() - began; top.dataset.frame = took.toFixed(1);
    if (took > 40 && budget > 4000) budget = Math.floor(budget * 0.7); else if (took < 12 && budget < S.length) budget = Math.min(S.length, Math.ceil(budget * 1.3));
  };
  const ask = () => { if (!frame) frame = requestAnimationFrame(draw); };
  const zoom = (f, cx, cy) => { const a = 2 * cx / box.clientWidth - 1, b = 1 - 2 * cy / box.clientHeight; ox = a - (a - ox) * f; oy = b - (b - oy) * f; zx *= f; zy *= f; ask(); };
  box.addEventListener("wheel", (e) => { e.preventDefault(); const b = box.getBoundingClientRect(); zoom(Math.exp(-e.deltaY / 500), e.clientX - b.left, e.clientY - b.top); }, { passive: false });
  box.addEventListener("pointerdown", (e) => { box.setPointerCapture(e.pointerId); box.dataset.drag = "1"; });
  box.addEventListener("pointerup", () => { delete box.dataset.drag; });
  box.addEventListener("pointermove", (e) => {
    if (box.dataset.drag) { ox += 2 * e.movementX / box.clientWidth; oy -= 2 * e.movementY / box.clientHeight; ask(); return; }
    const b = box.getBoundingClientRect(), mx = e.clientX - b.left, my = e.clientY - b.top; let best = -1, near = 100;
    for (let i = 0; i < Math.min(X.length, 20000); i++) { const d = (sx(i) - mx) ** 2 + (sy(i) - my) ** 2; if (d < near) { near = d; best = i; } }
    if (best >= 0) info.textContent = JSON.stringify(shown(M.text[best] || "")) + " · " + N[best] + " " + t("inchains");
  });
  box.addEventListener("keydown", (e) => { const w = box.clientWidth / 2, h = box.clientHeight / 2; if (e.key === "+" || e.key === "=") zoom(1.25, w, h); else if (e.key === "-") zoom(0.8, w, h); else if (e.key === "ArrowLeft") { ox += 0.1; ask(); } else if (e.key === "ArrowRight") { ox -= 0.1; ask(); } else if (e.key === "ArrowUp") { oy -= 0.1; ask(); } else if (e.key === "ArrowDown") { oy += 0.1; ask(); } else return; e.preventDefault(); });
  find.addEventListener("input", () => { const q = find.value.toLowerCase(); hit = q ? M.text.findIndex((s) => s && s.toLowerCase().includes(q)) : -1; if (hit >= 0) { ox = -X[hit] * zx; oy = -Y[hit] * zy; } ask(); });
  follow.addEventListener("change", () => { path = follow.value ? array(M.paths[follow.value]) : null; ask(); });
  state.redraw = ask; draw();
}

// ---- frame -----------------------------------------------------------------------------------------------------------
function route() {
  const [page, id] = decodeURIComponent(location.hash.slice(1)).split("/"), nav = $("nav");
  const view = page === "map" && D.map ? "map" : page === "chain" ? "chain" : (D.chains.length === 1 && page !== "corpus") ? "chain" : "corpus";
  nav.replaceChildren();
  for (const [name, label] of [["corpus", t("corpus")], ...(D.map ? [["map", t("map")]] : []), ...(view === "chain" ? [["chain/" + (id || D.chains[0].id), t("chains")]] : [])]) { const a = el("a", "", label); a.href = "#" + name; if (name.split("/")[0] === view) a.setAttribute("aria-current", "page"); nav.append(a); }
  document.documentElement.lang = lang; $("lang").textContent = lang === "ru" ? "English" : "Русский"; $("theme").textContent = isDark() ? t("light") : t("dark");
  if (view === "map") mapView(); else if (view === "chain") chainView(id || D.chains[0].id); else corpusView();
  document.body.dataset.ready = view;
}
$("lang").addEventListener("click", () => { lang = lang === "ru" ? "en" : "ru"; route(); });
$("theme").addEventListener("click", () => { const c = document.documentElement.classList, d = isDark(); c.toggle("dark", !d); c.toggle("light", d); route(); });
addEventListener("resize", () => { if (state.redraw) state.redraw(); });
addEventListener("hashchange", () => { state.token = -1; scrollTo(0, 0); route(); });
inflate().then(() => { $("title").textContent = D.title; $("subtitle").textContent = D.subtitle; route(); });
})();
