// The page of the corpus. A part of page.js.
views.corpus = () => {
  const C = D.corpus,
    drawing = (P, name) => { const g = picture(...P.size, name); for (const [tag, attributes, word, text, before = ""] of P.parts) g.append(svg(tag, attributes, grouped(before + (word && t(word) + " ") + text))); return g; };
  const both = D.chains.some((c) => c.mean_after != null);
  show("wide",
    section(t`chains`, table(["id", t`source`, t`text`, t`tokens`, t`surprisal`, ...(both ? [t`after`, t`difference`] : [])], D.chains.map((c) => [c.id, own(`${c.source} ${c.source_id}`), own(c.begins), c.pieces.length, c.mean_surprisal, ...(both ? [c.mean_after, c.mean_after == null ? null : c.mean_after - c.mean_surprisal] : [])])), notes()),
    h("div.cols", section(t`follows`, drawing(C.drawn_roles, t`follows`), table([t`role`, "→", t`count`, t`expected`, t`surprisal`], C.follows.map(Object.values))),
      section(t`hist`, drawing(C.drawn_histogram, t`hist`), small(`${count("ntokens", C.n_tokens)} · ${count("nchains", C.n_chains)}`), table([t`source`, t`inchains`, t`tokens`, t`surprisal`], C.sources.map(Object.values)))),
    h("div.cols", C.seams[0] && section(t`gaps`, C.seams.map((s) => small(said(s))), C.gaps[0] && table(["id", t`step`, t`score`], C.gaps.map((g) => [link(g.chain, g.chain, held(g.chain).steps[g.step]?.tok[0]), g.step, g.score]))),
      C.shared[0] && section(t`overlaps`, C.shared.map((s) => small(said(s))), table(["", t`text`, t`length`, t`inchains`, ""], C.overlaps.map((o) => [h("span", said(o.kind)), h("bdi", o.kind === "skeleton" ? linked(o.text) : shown(o.text)), h("span", count({ skeleton: "nsteps", masked: "nsymbols" }[o.kind] || "ntokens", o.n_tokens)), o.n_chains, h("span", o.chains.map((id) => [link(id, id.slice(0, 8)), " "]), o.more > 0 && "+ " + o.more)])))));
};
