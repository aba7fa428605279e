// A table drawn as a map of colours. A part of page.js.
// rows, columns and values as a map of colours from 0 to the largest
function drawn(T, row, column, value) {
  const distinct = (at) => [...new Set(T.rows.map((r) => r[at]))], down = distinct(row), across = distinct(column), most = max(...T.rows.map((r) => r[value])), name = head(T.columns[column]).textContent, colour = palette(false),
    wide = max(6, min(22, floor(700 / across.length))), g = picture(190 + across.length * wide, 26 + down.length * 22, T.title), label = (x, y, text, end) => g.append(svg("text", { x, y, "text-anchor": end ? "end" : "start" }, text));
  down.forEach((text, i) => label(120, 16 + i * 22, String(text), true));
  T.rows.forEach((r) => {
    const cell = svg("rect", { x: 126 + across.indexOf(r[column]) * wide, y: down.indexOf(r[row]) * 22, width: wide, height: 21 }, `${r[row]}, ${name} ${r[column]}: ${fmt(r[value])}`);
    cell.style.fill = css(colour(r[value] / most));
    g.append(cell);
  });
  label(126, 18 + down.length * 22, `${name} ${across[0]}`); label(126 + across.length * wide, 18 + down.length * 22, String(across.at(-1)), true);
  const legend = h("span.legend");
  key(legend, colour, "0", `${fmt(most)} · ${head(T.columns[value]).textContent}`);
  return h("div", g, h("div.bar", legend));
}
