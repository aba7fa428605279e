// The map of states: points and lines by WebGL2, labels and a followed chain on a canvas above. A part of page.js.
function mapView() {
  const M = D.map, [X, Y, N, S, E, W] = ["x", "y", "n_chains", "start", "end", "count"].map((k) => array(M[k])), gl = h("canvas", { id: "gl" }), top = h("canvas"), box = h("div.mapbox", { tabIndex: 0 }, gl, top);
  const find = h("input", { type: "search", placeholder: t("search"), id: "find" }), info = h("span.small"), label = (i) => shown(M.text[i] || "");
  const follow = h("select", { id: "follow" }, option("", `${t("follow")}: ${t("none")}`), D.chains.filter((c) => M.paths[c.id]).map((c) => option(c.id, `${c.source} ${c.source_id}`)));
  main.className = "wide";
  main.replaceChildren(section(t("map"), h("p.small dim", M.verdict + " " + t("maphelp")), h("div.bar", find, follow, info), box));
  let zx = 0.92, zy = 0.92, ox = 0, oy = 0, frame = 0, budget = Math.min(S.length, 40000), path = null, hit = -1;
  const G = gl.getContext("webgl2", { antialias: false, preserveDrawingBuffer: true });
  info.textContent = `${X.length} ${t("states")}, ${S.length} ${t("trails")}` + (G ? "" : " · canvas 2D");
  const program = (...sources) => { const p = G.createProgram(); sources.forEach((source, i) => { const s = G.createShader(i ? G.FRAGMENT_SHADER : G.VERTEX_SHADER); G.shaderSource(s, "#version 300 es\nprecision highp float;\n" + source); G.compileShader(s); G.attachShader(p, s); }); G.linkProgram(p); return p; };
  const buffer = (data) => { const b = G.createBuffer(); G.bindBuffer(G.ARRAY_BUFFER, b); G.bufferData(G.ARRAY_BUFFER, data, G.STATIC_DRAW); return b; };
  const HEAD = "in vec2 p;in float n;uniform vec4 v;uniform float r;out float q;void main(){gl_Position=vec4(p*v.xy+v.zw,0,1);";
  let layers = [];
  if (G) {
    const places = (...ends) => Float32Array.from({ length: ends[0].length * ends.length * 2 }, (_, k) => { const i = ends[(k >> 1) % ends.length][Math.floor(k / 2 / ends.length)]; return k % 2 ? Y[i] : X[i]; });
    const strength = Float32Array.from({ length: 2 * S.length }, (_, k) => Math.min(0.7, 0.06 + 0.1 * Math.log2(1 + W[k >> 1])));
    layers = [
      [program(HEAD + "q=n;}", "in float q;uniform vec3 c;out vec4 o;void main(){o=vec4(c*q,q);}"), buffer(places(S, E)), buffer(strength), G.LINES, () => 2 * Math.min(S.length, budget), [[0.04, 0.39, 0.77], [0.49, 0.71, 1]]],
      [program(HEAD + "gl_PointSize=r*clamp(2.+1.6*log2(n),2.,11.);q=n;}", "in float q;uniform vec3 c;out vec4 o;void main(){vec2 d=gl_PointCoord-.5;if(dot(d,d)>.25)discard;o=vec4(c,.85);}"), buffer(places(X.map((_, i) => i))), buffer(Float32Array.from(N)), G.POINTS, () => Math.min(X.length, Math.max(2000, budget)), [[0.1, 0.1, 0.12], [0.9, 0.9, 0.92]]],
    ];
    G.enable(G.BLEND); G.blendFunc(G.ONE, G.ONE_MINUS_SRC_ALPHA);
  }
  const sx = (i) => (X[i] * zx + ox + 1) / 2 * box.clientWidth, sy = (i) => (1 - Y[i] * zy - oy) / 2 * box.clientHeight;
  const draw = () => {
    frame = 0;
    const r = devicePixelRatio || 1, w = box.clientWidth, tall = box.clientHeight, began = performance.now(), x = top.getContext("2d"), used = [];
    for (const c of [gl, top]) if (c.width !== w * r || c.height !== tall * r) Object.assign(c, { width: w * r, height: tall * r });
    if (G) {
      G.viewport(0, 0, gl.width, gl.height); G.clearColor(0, 0, 0, 0); G.clear(G.COLOR_BUFFER_BIT);
      for (const [p, places, sizes, kind, count, ink] of layers) {
        G.useProgram(p);
        for (const [name, b, size] of [["p", places, 2], ["n", sizes, 1]]) { const a = G.getAttribLocation(p, name); if (a < 0) continue; G.bindBuffer(G.ARRAY_BUFFER, b); G.enableVertexAttribArray(a); G.vertexAttribPointer(a, size, G.FLOAT, false, 0, 0); }
        G.uniform4f(G.getUniformLocation(p, "v"), zx, zy, ox, oy); G.uniform3f(G.getUniformLocation(p, "c"), ...ink[+isDark()]); G.uniform1f(G.getUniformLocation(p, "r"), r);
        G.drawArrays(kind, 0, count());
      }
      G.readPixels(0, 0, 1, 1, G.RGBA, G.UNSIGNED_BYTE, new Uint8Array(4)); // waits for the frame, so that its time is known
    }
    x.setTransform(r, 0, 0, r, 0, 0); x.clearRect(0, 0, w, tall);
    const [fg, bg, warn] = ["fg", "bg", "warn"].map(tint), line = (pairs) => { x.beginPath(); for (const [a, b] of pairs) { x.moveTo(sx(a), sy(a)); x.lineTo(sx(b), sy(b)); } x.stroke(); };
    if (!G) { x.strokeStyle = tint("mark"); x.globalAlpha = 0.25; line(Array.from(S.subarray(0, 6000), (s, i) => [s, E[i]])); x.globalAlpha = 1; x.fillStyle = fg; for (let i = 0; i < Math.min(X.length, 6000); i++) x.fillRect(sx(i) - 1.5, sy(i) - 1.5, 3, 3); }
    if (path) { x.strokeStyle = warn; x.lineWidth = 2.5; line(Array.from(path, (s, i) => [s, path[i + 1]]).filter(([a, b]) => a >= 0 && b >= 0)); }
    x.font = "12px system-ui,sans-serif"; x.textBaseline = "middle";
    for (let i = 0; i < X.length && used.length < 28; i++) {
      const a = sx(i), b = sy(i);
      if (a < 0 || b < 8 || a > w - 30 || b > tall - 8) continue;
      const text = label(i).replace(/\s+/g, " ").slice(0, 38);
      if (!text.trim()) continue;
      const wide = x.measureText(text).width + 10, from = a + wide > w ? a - wide : a + 5;
      if (i !== hit && used.some(([p, q, z]) => Math.abs(q - b) < 15 && from < p + z && p < from + wide)) continue;
      used.push([from, b, wide]); x.fillStyle = bg; x.globalAlpha = 0.8; x.fillRect(from, b - 8, wide - 4, 16); x.globalAlpha = 1; x.fillStyle = i === hit ? warn : fg; x.fillText(text, from + 3, b);
    }
    const took = performance.now() - began;
    top.dataset.frame = took.toFixed(1);
    if (took > 40 && budget > 4000) budget = Math.floor(budget * 0.7); else if (took < 12) budget = Math.min(S.length, Math.ceil(budget * 1.3));
  };
  const ask = () => { if (!frame) frame = requestAnimationFrame(draw); };
  const mouse = (e) => { const b = box.getBoundingClientRect(); return [e.clientX - b.left, e.clientY - b.top]; };
  const zoom = (f, [cx, cy]) => { const a = 2 * cx / box.clientWidth - 1, b = 1 - 2 * cy / box.clientHeight; ox = a - (a - ox) * f; oy = b - (b - oy) * f; zx *= f; zy *= f; ask(); };
  const move = (dx, dy) => { ox += dx; oy += dy; ask(); };
  box.addEventListener("wheel", (e) => { e.preventDefault(); zoom(Math.exp(-e.deltaY / 500), mouse(e)); }, { passive: false });
  box.addEventListener("pointerdown", (e) => { box.setPointerCapture(e.pointerId); box.dataset.drag = "1"; });
  box.addEventListener("pointerup", () => { delete box.dataset.drag; });
  box.addEventListener("pointermove", (e) => {
    if (box.dataset.drag) { move(2 * e.movementX / box.clientWidth, -2 * e.movementY / box.clientHeight); return; }
    const [mx, my] = mouse(e); let best = -1, near = 100;
    for (let i = 0; i < Math.min(X.length, 20000); i++) { const d = (sx(i) - mx) ** 2 + (sy(i) - my) ** 2; if (d < near) { near = d; best = i; } }
    if (best >= 0) info.textContent = `${JSON.stringify(label(best))} · ${N[best]} ${t("inchains")}`;
  });
  box.addEventListener("keydown", (e) => {
    const step = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[e.key], factor = { "+": 1.25, "=": 1.25, "-": 0.8 }[e.key];
    if (step) move(...step); else if (factor) zoom(factor, [box.clientWidth / 2, box.clientHeight / 2]); else return;
    e.preventDefault();
  });
  find.addEventListener("input", () => { const q = find.value.toLowerCase(); hit = q ? M.text.findIndex((s) => s && s.toLowerCase().includes(q)) : -1; if (hit >= 0) { ox = -X[hit] * zx; oy = -Y[hit] * zy; } ask(); });
  follow.addEventListener("change", () => { path = follow.value ? array(M.paths[follow.value]) : null; ask(); });
  state.redraw = ask; draw();
}
