// Overlap of many sets, after UpSet (Lex et al. 2014): a column is a set of edges that are in
// exactly the marked runs, its height their number; a row is a run.
"use strict";

const MOST_COLUMNS = 24;

// `pick` is called with a pattern, or null where it is let go.
function overlapChart(names, sizes, patterns, pick) {
  const drawn = patterns.slice(0, MOST_COLUMNS);
  const [label, bars, top, step, row] = [190, 70, 112, 30, names.length > 24 ? 17 : 21];
  const [left, width] = [label + bars + 14, label + bars + Math.max(28 + step * drawn.length, 200)];
  const bottom = top + row * names.length;
  const tallest = Math.max(...drawn.map((p) => p.rows.length), 1);
  const largest = Math.max(...sizes, 1);
  const y = (i) => top + (i + 0.5) * row;
  const height = (n) => (n / tallest) * (top - 48);
  const lines = names.map((name, i) => [
    i % 2 ? null : svg("rect", { class: "band", x: 0, y: top + i * row, width, height: row }),
    svg("text", { x: label - 6, y: y(i) + 4, "text-anchor": "end" }, name.length > 26 ? `${name.slice(0, 25)}…` : name, svg("title", {}, `${name}: ${plural(sizes[i], "edge")}`)),
    svg("rect", { class: "size", x: label, y: y(i) - 5, width: ((bars - 30) * sizes[i]) / largest, height: 10 }),
    svg("text", { class: "small", x: label + ((bars - 30) * sizes[i]) / largest + 3, y: y(i) + 4 }, shown(sizes[i]))]);
  const columns = drawn.map((p, c) => overlapColumn(p, left + (c + 0.5) * step, names, y, [top, height, step, bottom]));
  const picture = legible(svg("svg", { class: "overlap", viewBox: `0 0 ${width} ${bottom + 8}`, width, height: bottom + 8, role: "group", "aria-label": `Overlap of ${plural(names.length, "circuit")}` },
    svg("text", { class: "small", x: label, y: top - 8 }, "edges"), svg("text", { class: "small", x: left, y: 12 }, "edges in exactly these runs"), lines, columns));
  let chosen = null;
  columns.forEach((column, c) => pressable(column, () => {
    chosen = chosen === c ? null : c;
    columns.forEach((other, i) => other.setAttribute("aria-pressed", String(i === chosen)));
    pick(chosen === null ? null : drawn[c]);
  }));
  if (columns.length) roving(picture, columns);
  return picture;
}

function overlapColumn({ runs, rows }, x, names, y, [top, height, step, bottom]) {
  const marked = names.map((_, i) => i).filter((i) => runs.has(i));
  const who = marked.length === names.length ? "all runs" : marked.length > 6 ? plural(marked.length, "run") : marked.map((i) => names[i]).join(" and ");
  return svg("g", { class: "pattern-column", role: "button", tabindex: -1, "aria-pressed": "false", "aria-label": `${plural(rows.length, "edge")} in exactly ${who}` },
    svg("rect", { class: "around", x: x - step / 2 + 1, y: 16, width: step - 2, height: bottom - 16 }),
    svg("rect", { class: "bar-up", x: x - 8, y: top - 6 - height(rows.length), width: 16, height: height(rows.length) }),
    svg("text", { class: "small", x, y: top - 10 - height(rows.length), "text-anchor": "middle" }, shown(rows.length)),
    marked.length > 1 ? svg("line", { class: "joined", x1: x, x2: x, y1: y(marked[0]), y2: y(marked.at(-1)) }) : null,
    names.map((_, i) => svg("circle", { class: runs.has(i) ? "in" : "dot", cx: x, cy: y(i), r: runs.has(i) ? 5 : 2.2 })));
}
