// The grid of a circuit whose edges are at spans of positions: a column a span, a row for the heads
// and one for the MLP of each layer that has any. A node stands in each column in which a path passes
// through it, so edges are steps of paths: ["m0@io", "a23.h0<v>@end", effect, the edge].
"use strict";

const TOP = 54; // of logits: below the picture's buttons

// The steps of a circuit's edges, as many as are among `edges`; they come as their edges do.
function stepsOf(circuit, edges) {
  const some = new Set(edges);
  return circuit.steps.map(([i, writer, reader]) => [writer, reader, circuit.all[i][2], circuit.all[i]]).filter((step) => some.has(step[3]));
}

function spanGrid({ spans }, steps) {
  const cells = spanCells(steps);
  const used = spans.filter((span) => [...cells.values()].some((cell) => cell.span === span));
  const rows = [...new Set([...cells.values()].map(({ row }) => row))].sort((a, b) => a - b);
  const [box, gap, left] = [52, 34, 84];
  const column = box + 10;
  const row = Math.min(Math.max(470 / (rows.length + 1), 40), 96);
  const middles = new Map();
  let x = left;
  for (const span of used) {
    const wide = Math.max(...[...cells.values()].filter((cell) => cell.span === span).map(({ nodes }) => nodes.length * column), 8 * span.length);
    middles.set(span, x + wide / 2);
    x += wide + gap;
  }
  const top = TOP + 16 + row;
  const base = top + Math.max(rows.length - 1, 0) * row;
  const places = new Map();
  for (const { span, row: own, nodes } of cells.values()) {
    nodes.forEach((node, i) => places.set(node, { x: middles.get(span) + (i - (nodes.length - 1) / 2) * column, y: base - rows.indexOf(own) * row, width: box, height: 17 }));
  }
  const read = [...new Set(steps.filter(([, reader]) => reader === "logits").map(([writer]) => named(writer).span))].map((span) => middles.get(span));
  const middle = read.length ? read.reduce((a, b) => a + b) / read.length : left + 65;
  places.set("logits", { x: middle, y: TOP, width: 130, height: 20 });
  const width = Math.max(x - gap + 40, middle + 80, 420);
  const grid = { box, row, middle: (left + width) / 2, span: width - left, width, height: base + 70, always: ["logits"], place: (node) => places.get(node) };
  grid.background = () => spanBackground(grid, middles, rows.map((own, i) => [own, base - i * row]), [left - 18, top, base]);
  return grid;
}

// Heads and MLPs of a layer are two rows, the input is the row below: 2 * layer, and 1 more for the MLP.
function spanCells(steps) {
  const cells = new Map();
  for (const node of new Set(steps.flatMap(ends))) {
    if (node === "logits") continue;
    const { kind, layer, span } = named(node);
    const row = kind === "input" ? -1 : 2 * layer + (kind === "m");
    const cell = cells.get(`${span} ${row}`) ?? cells.set(`${span} ${row}`, { span, row, nodes: [] }).get(`${span} ${row}`);
    cell.nodes.push(node);
  }
  for (const { nodes } of cells.values()) nodes.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  return cells;
}

function spanBackground(grid, middles, rows, [left, top, base]) {
  const parts = [];
  const label = (x, y, words, anchor = "middle") => parts.push(svg("text", { class: "small", x, y: y + 4, "text-anchor": anchor }, words));
  for (const [span, x] of middles) {
    parts.push(svg("path", { class: "lane", d: `M${x} ${top - grid.row / 2}V${base + 14}` }));
    label(x, grid.height - 14, span);
  }
  for (const [row, y] of rows) {
    if (row < 0) continue;
    parts.push(svg("line", { class: "rule", x1: left + 8, x2: grid.width - 20, y1: y, y2: y }));
    label(left, y, row % 2 ? `${(row - 1) / 2} MLP` : String(row / 2), "end");
  }
  label(left, grid.height - 14, "at", "end");
  label(left, TOP, "layer", "end");
  return svg("g", { "aria-hidden": "true" }, parts);
}
