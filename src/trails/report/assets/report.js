// The page of an analysis. A part of page.js.
function findings(R) {
  return h("section", h("p.verdict", said(R.verdict)),
    R.scores[0] && h("div", h("h3", t`scores`), table(R.score_columns.map(head), R.scores, true)), R.said.map((s) => h("p.small", said(s))),
    R.withheld.map(([reason, names]) => h("p.warn", t`noscore`, " ", said(names), ": ", said(reason))),
    R.tables.map((T) => {
      const folded = T.detail || T.drawn;
      return [T.drawn && [h("h3", said(T.title)), drawn(T, ...T.drawn)], h(folded ? "details" : "div", h(folded ? "summary" : "h3", T.drawn ? t`numbers` : said(T.title)), table(T.columns.map(head), T.rows))];
    }),
    R.parts.map(([name, part]) => [h("h2", said(name)), findings(part)]), R.notes.map((s) => small(said(s))),
    R.commands.map(([does, line]) => h("p.small", said(does), ": ", h("code", shown(line)))));
}
const head = (name) => h("span", said(name));
views.report = () => {
  const facts = Object.entries(D.report.facts), box = findings(D.report), Y = D.report.layers, of = Y && chainOf(Y.chain);
  if (of) {
    const map = layerMap(of, t`heat`, Y.onset);
    box.append(map.node);
    map.draw(Y.values ? array(Y.values).map((v) => (v - 32) * Y.scale) : layered(of, HIDDEN, true), columns(HIDDEN), Y.values ? t`moved_states` : t`minuspairs`, unit(HIDDEN), !Y.values);
  }
  if (facts[0]) box.append(h("details", h("summary", t`facts`), table(["", ""], facts.map(([k, v]) => [h("code", k), h("span", cell(v))]))));
  if (D.chains[0]) box.append(h("h2", t`chains`), table(["id", t`text`, t`tokens`], D.chains.map((c) => [c.id, own(c.begins), c.pieces.length])));
  show("wide", box, notes());
  // what is folded has no width until it opens
  on(box, "toggle", fit, true);
};
