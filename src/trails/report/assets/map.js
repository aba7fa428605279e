// The map of states: points and lines by WebGL2, labels and a followed chain on a canvas above. A part of page.js.
views.map = () => {
  const M = D.map, T = [], chains = D.chains.filter((c) => M.paths[c.id]), [N, S, E, W] = ["n_chains", "start", "end", "count"].map((k) => array(M[k])), [X, Y] = ["x", "y"].map((k) => array(M[k]).map((v) => v / 32.767 - 1)), gl = h("canvas", { id: "gl" }), top = h("canvas"), box = h("div.mapbox", { tabIndex: 0, role: "group", ariaLabel: t`map` }, gl, top),
    find = h("input", { type: "search", placeholder: t`search`, ariaLabel: t`search`, id: "find" }), next = h("button", { id: "next", type: "button", disabled: true }, t`next`), info = h("span.small"), label = (i) => shown(T[i] || ""),
    follow = h("select", { id: "follow", ariaLabel: t`follow` }, option("", `${t`follow`}: ${t`none`}`), chains.map((c) => option(c.id, `${c.source} ${c.source_id}`)));
  for (const c of chains) array(M.paths[c.id]).forEach((s, i) => T[s] ??= c.pieces.slice(max(0, i + 1 - M.k), i + 1).join(""));
  set(T, M.text);
  show("wide", section(t`map`, small(said(M.verdict)), small(t`maphelp`), h("div.bar", find, next, follow, info), box),
    section(t`meets`, M.meets[0] ? table([t`text`, t`length`, t`inchains`, t`chains`, ""], M.meets.map((m) => [own(m.text.trim() ? m.text : visible(m.text)), m.n_tokens, m.n_chains, h("span", m.chains.map(([id, at]) => [link(id, id.slice(0, 8), at), " "]), m.n_chains > m.chains.length && "…"), m.state >= 0 && h("button", { type: "button", onclick: () => { seek([m.state]); box.scrollIntoView({ block: "center" }); } }, t`onmap`)])) : small(t`nomeets`), M.cut && small(said(M.cut))));
  let zx = 0.92, zy = 0.92, ox = 0, oy = 0, frame = 0, budget = min(S.length, 40000), path, drag, hit = -1;
  const G = gl.getContext("webgl2", { antialias: false, preserveDrawingBuffer: true });
  info.textContent = `${count("states", X.length)}, ${count("trails", S.length)}` + (G ? "" : " · canvas 2D");
  const program = G?.createProgram(), buffer = (data) => { const b = G.createBuffer(); G.bindBuffer(G.ARRAY_BUFFER, b); G.bufferData(G.ARRAY_BUFFER, data, G.STATIC_DRAW); return b; };
  let layers = [];
  if (G) {
    // c.w: pixels of a point, 0 for lines; n: chains of a point, opacity of a line
    ["layout(location=0)in vec2 p;layout(location=1)in float n;uniform vec4 v,c;out float q;void main(){gl_Position=vec4(p*v.xy+v.zw,0,1);gl_PointSize=c.w*clamp(2.+1.6*log2(n),2.,11.);q=c.w>0.?.85:n;}",
      "in float q;uniform vec4 c;out vec4 o;void main(){vec2 d=gl_PointCoord-.5;if(c.w>0.&&dot(d,d)>.25)discard;o=vec4(c.rgb*q,q);}"]
    .forEach((source, i) => { const s = G.createShader(G.VERTEX_SHADER - i); G.shaderSource(s, "#version 300 es\nprecision highp float;" + source); G.compileShader(s); G.attachShader(program, s); });
    G.linkProgram(program); G.useProgram(program);
    const times = (length, f) => Float32Array.from({ length }, (_, k) => f(k, k >> 1)), places = (n, state) => times(2 * n, (k, i) => (k % 2 ? Y : X)[state(i)]);
    layers = [
      [buffer(places(2 * S.length, (k) => (k % 2 ? E : S)[k >> 1])), buffer(times(2 * S.length, (k, i) => min(0.7, 0.06 + 0.1 * Math.log2(1 + W[i])))), G.LINES, () => 2 * min(S.length, budget), "mark"],
      [buffer(places(X.length, (i) => i)), buffer(Float32Array.from(N)), G.POINTS, () => min(X.length, max(2000, budget)), "fg"],
    ];
    G.enable(G.BLEND); G.blendFunc(G.ONE, G.ONE_MINUS_SRC_ALPHA);
  }
  let w, tall;
  const sx = (i) => (X[i] * zx + ox + 1) / 2 * w, sy = (i) => (1 - Y[i] * zy - oy) / 2 * tall;
  const draw = () => {
    frame = 0;
    w = box.clientWidth; tall = box.clientHeight;
    const r = devicePixelRatio, began = performance.now(), x = pen(top), used = [];
    for (const c of [gl, top]) if (c.width !== w * r || c.height !== tall * r) set(c, { width: w * r, height: tall * r });
    if (G) {
      G.viewport(0, 0, gl.width, gl.height); G.clear(G.COLOR_BUFFER_BIT);
      for (const [places, sizes, kind, count, ink] of layers) {
        // a canvas turns any colour, the system's too, into six digits
        x.fillStyle = tint(ink);
        [places, sizes].forEach((b, at) => { G.bindBuffer(G.ARRAY_BUFFER, b); G.enableVertexAttribArray(at); G.vertexAttribPointer(at, 2 - at, G.FLOAT, false, 0, 0); });
        const give = (name, ...four) => G.uniform4f(G.getUniformLocation(program, name), ...four);
        give("v", zx, zy, ox, oy); give("c", ...rgb(x.fillStyle).map((part) => part / 255), kind ? 0 : r);
        G.drawArrays(kind, 0, count());
      }
      // waits for the frame, so that its time is known
      G.readPixels(0, 0, 1, 1, G.RGBA, G.UNSIGNED_BYTE, new Uint8Array(4));
    }
    x.setTransform(r, 0, 0, r, 0, 0); x.clearRect(0, 0, w, tall);
    const [fg, bg, warn] = ["fg", "bg", "warn"].map(tint), line = (pairs) => { x.beginPath(); for (const [a, b] of pairs) { x.moveTo(sx(a), sy(a)); x.lineTo(sx(b), sy(b)); } x.stroke(); };
    if (!G) { x.strokeStyle = tint("line"); line(Array.from(S.subarray(0, 6000), (s, i) => [s, E[i]])); x.fillStyle = fg; X.slice(0, 6000).forEach((_, i) => x.fillRect(sx(i) - 1.5, sy(i) - 1.5, 3, 3)); }
    if (path) { x.strokeStyle = warn; x.lineWidth = 2.5; line(Array.from(path, (s, i) => [s, path[i + 1]]).filter(([a, b]) => a >= 0 && b >= 0)); }
    x.font = FONT; x.textBaseline = "middle";
    for (let i = 0; i < X.length && used.length < 60; i++) {
      const a = sx(i), b = sy(i);
      if (a < 0 || b < 8 || a > w - 30 || b > tall - 8) continue;
      const text = label(i).replace(/\s+/g, " ").slice(0, 38);
      if (!text.trim()) continue;
      const wide = x.measureText(text).width + 10, from = a + wide > w ? a - wide : a + 5;
      if (i !== hit && used.some(([p, q, z]) => abs(q - b) < 15 && from < p + z && p < from + wide)) continue;
      used.push([from, b, wide]); x.fillStyle = bg; x.globalAlpha = 0.8; x.fillRect(from, b - 8, wide - 4, 16); x.globalAlpha = 1; x.fillStyle = i === hit ? warn : fg; x.fillText(text, from + 3, b);
    }
    if (hit >= 0) { x.strokeStyle = warn; x.lineWidth = 2; x.beginPath(); x.arc(sx(hit), sy(hit), 9, 0, 7); x.stroke(); }
    const took = performance.now() - began;
    top.dataset.frame = took.toFixed(1);
    if (took > 40 && budget > 4000) budget = floor(budget * 0.7); else if (took < 12) budget = min(S.length, Math.ceil(budget * 1.3));
  };
  const ask = () => { if (!frame) frame = requestAnimationFrame(draw); },
    zoom = (f, [cx, cy]) => { const a = 2 * cx / w - 1, b = 1 - 2 * cy / tall; ox = a - (a - ox) * f; oy = b - (b - oy) * f; zx *= f; zy *= f; ask(); },
    move = (dx, dy) => { ox += dx; oy += dy; ask(); };
  on(box, "wheel", (e) => { e.preventDefault(); zoom(exp(-e.deltaY / 500), [e.offsetX, e.offsetY]); });
  on(box, "pointerdown", (e) => { box.setPointerCapture(e.pointerId); drag = true; });
  on(box, "lostpointercapture", () => drag = false);
  on(box, "pointermove", (e) => {
    if (drag) { move(2 * e.movementX / w, -2 * e.movementY / tall); return; }
    let best = -1, near = 100;
    for (let i = 0; i < min(X.length, 20000); i++) { const d = (sx(i) - e.offsetX) ** 2 + (sy(i) - e.offsetY) ** 2; if (d < near) { near = d; best = i; } }
    if (best >= 0) info.textContent = `${visible(label(best))} · ${count("nchains", N[best])}`;
  });
  on(box, "keydown", (e) => {
    const step = ARROWS[e.key], factor = { "+": 1.25, "=": 1.25, "-": 0.8 }[e.key];
    if (step) move(step[0] / -10, step[1] / -10); else if (factor) zoom(factor, [w / 2, tall / 2]); else return;
    e.preventDefault();
  });
  // one of the states found after the other, each in the middle
  let hits = [], turn = -1;
  const advance = () => {
    hit = hits[turn = (turn + 1) % hits.length] ?? -1;
    info.textContent = hit < 0 ? find.value && count("states", 0) : `${turn + 1} / ${count("states", hits.length)} · ${visible(label(hit))} · ${count("nchains", N[hit])}`;
    next.disabled = hits.length < 2;
    if (hit >= 0) [ox, oy] = [-X[hit] * zx, -Y[hit] * zy];
    ask();
  },
    seek = (found) => { hits = found; turn = -1; advance(); };
  on(find, "input", () => { const q = find.value.toLowerCase(); seek(q ? Object.keys(T).filter((i) => T[i]?.toLowerCase().includes(q)).map(Number) : []); });
  on(find, "keydown", (e) => { if (e.key === "Enter") advance(); });
  on(next, "click", advance);
  on(follow, "change", () => { path = follow.value && array(M.paths[follow.value]); ask(); });
  ui.redraw = ask; draw();
};
