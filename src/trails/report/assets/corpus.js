// The page of the corpus. A part of page.js.
views.corpus = () => {
  const C = D.corpus, R = C.roles, g = picture(560, 400, t`follows`), most = max(1, ...C.follows.map((f) => f.count)),
    at = (role) => { const turn = 2 * Math.PI * R.findIndex((r) => r.role === role) / R.length; return [280 + 150 * Math.sin(turn), 200 - 150 * Math.cos(turn)]; };
  for (const f of C.follows.slice(0, 40)) {
    const [x1, y1] = at(f.from), [x2, y2] = at(f.to),
      d = f.from === f.to ? `M${x1 - 5} ${y1}a 12 12 0 1 1 10 0` : `M${x1} ${y1}Q${(x1 + x2) / 2 + (y2 - y1) * 0.18} ${(y1 + y2) / 2 + (x1 - x2) * 0.18} ${x2} ${y2}`;
    g.append(arc(d, 0.6 + 7 * f.count / most, f.count > f.expected ? 0.75 : 0.2, `${f.from} → ${f.to}: ${f.count} (${t`expected`} ${fmt(f.expected, 1)})`));
  }
  R.forEach((r) => { const [x, y] = at(r.role), out = 5 + 14 * sqrt(r.count / max(1, R[0].count)), far = 1 + (out + 14) / 150; g.append(svg("circle", { cx: x, cy: y, r: out }), svg("text", { x: 280 + (x - 280) * far, y: 204 + (y - 200) * far, "text-anchor": x > 281 ? "start" : x < 279 ? "end" : "middle" }, `${r.role} ${r.count}`)); });
  const H = C.histogram, bars = picture(460, 200, t`hist`), top = max(1, ...H.counts), last = H.edges.at(-1), px = (z) => 30 + 420 * min(1, z / last);
  H.counts.forEach((n, i) => { const [a, b] = H.edges.slice(i), height = 150 * n / top; bars.append(svg("rect", { x: px(a), y: 176 - height, width: max(1, px(b) - px(a) - 1), height }, `${fmt(a, 1)}–${fmt(b, 1)}: ${n}`)); });
  for (const [z, name, dash, y] of [[D.run.uniform, "uniform", "4 4", 9], [C.mean_surprisal, "average", "", 22]]) if (z !== null) { const x = px(z); bars.append(svg("path", { d: `M${x} 16V176`, "stroke-dasharray": dash }), svg("text", { x, y, "text-anchor": x > 230 ? "end" : "start" }, `${t(name)} ${fmt(z, 3)}`)); }
  bars.append(svg("text", { x: 230, y: 196, "text-anchor": "middle" }, t`nats`));
  show("wide",
    section(t`chains`, table(["id", t`source`, t`text`, t`tokens`, t`surprisal`], D.chains.map((c) => [c.id, own(`${c.source} ${c.source_id}`), own(c.text.slice(0, 90)), c.pieces.length, c.mean_surprisal])), notes()),
    h("div.cols", section(t`follows`, g, table([t`role`, "→", t`count`, t`expected`, t`surprisal`], C.follows.map(Object.values))),
      section(t`hist`, bars, small(`${count("ntokens", C.n_tokens)} · ${count("nchains", C.n_chains)}`), table([t`source`, t`inchains`, t`tokens`, t`surprisal`], C.sources.map(Object.values)))),
    h("div.cols", C.seams[0] && section(t`gaps`, C.seams.map((s) => small(said(s))), C.gaps[0] && table(["id", t`step`, t`score`], C.gaps.map(Object.values))),
      C.shared[0] && section(t`overlaps`, C.shared.map((s) => small(said(s))), table(["", t`text`, t`tokens`, t`inchains`, ""], C.overlaps.map((o) => [h("span", said(o.kind)), own(o.text.slice(0, 160)), o.n_tokens, o.n_chains, h("span", o.chains.map((id) => [link(id, id.slice(0, 8)), " "]))])))));
};
