// The grid of heads, fixed: column = head, row = layer, bottom to top; the MLPs in a column of their own at
// the right, half a row above their heads. Places depend on the architecture only, so pictures of
// different runs can be laid over each other. All lengths are in the picture's own units.
"use strict";

const FEEDS = { q: ["q", -1, "query"], k: ["k", 0, "key"], v: ["v", 1, "value"], m: ["m", 0, "MLP"], l: ["l", 0, "logits"] };
const TIP = 7; // height of an edge's end

const WIDE = 24; // heads from which empty columns are folded
const READABLE = 0.62; // of its own size; a picture any smaller has no room for names

// `used`: the layers and heads that are drawn, where stretches of others are folded; all without.
function headGrid({ layers, heads, groups, mlp }, used = null) {
  const { offsets, bands, most: height } = foldedPlaces(layers, used?.layers);
  const across = foldedPlaces(heads, heads > WIDE ? used?.heads : null);
  const columns = across.most + 1;
  const column = Math.min(Math.max(700 / columns, 50), 92);
  const row = Math.min(Math.max(430 / (height + 1), groups < heads ? 48 : 40), 170);
  const grid = { layers, heads, groups, mlp, column, row, bands, gaps: across.bands, box: Math.min(52, 0.94 * column), left: 84, always: ["input", "logits"] };
  grid.span = (columns - 0.5 + (mlp ? 1.15 : 0)) * column;
  grid.width = grid.left + grid.span + 72;
  const end = Math.max(46, 0.62 * row);
  grid.top = 26 + end;
  grid.base = grid.top + height * row + (mlp ? 0.5 * row : 0);
  grid.foot = grid.base + end + (groups < heads ? 12 : 0);
  grid.height = grid.foot + 46;
  grid.headX = (head) => grid.left + ((across.offsets[head] ?? columns + head - heads) + 0.35) * column;
  grid.middle = grid.left + (across.most / 2 + 0.35) * column;
  grid.right = grid.headX(heads - 1);
  grid.layerY = (layer) => grid.base - offsets[layer] * row;
  grid.place = (node) => headPlace(grid, node);
  grid.background = () => headBackground(grid);
  return grid;
}

// Where each of so many stands, counted from the first; two and more unused ones in a stretch are
// one band and stand at one place.
function foldedPlaces(count, used) {
  const [offsets, bands] = [[], []];
  let at = 0;
  for (let first = 0; first < count; at++) {
    let last = first;
    if (used && !used.has(first)) while (last + 1 < count && !used.has(last + 1)) last++;
    for (let i = first; i <= last; i++) offsets[i] = at;
    if (last > first) bands.push([first, last]);
    first = last + 1;
  }
  return { offsets, bands, most: at - 1 };
}

// Layers and heads with an edge at them.
function usedPlaces({ heads, groups }, edges) {
  const names = edges.flatMap(([writer, reader]) => [named(writer), named(reader)]).filter(({ kind }) => !isEnd(kind));
  const each = heads / groups;
  const of = ({ kind, index }) => (kind === "kv" ? Array.from({ length: each }, (_, i) => index * each + i) : kind === "h" ? [index] : []);
  return { layers: new Set(names.map(({ layer }) => layer)), heads: new Set(names.flatMap(of)) };
}

// What a name says: "a5.kv1<k>@s2" is node a5.kv1, kind kv, layer 5, index 1, feeds k, at span s2; a
// writer that is no reader feeds nothing. Null for what is no name.
function named(name) {
  const found = /^((?:input|logits)|m(\d+)|a(\d+)\.(h|kv)(\d+))(?:<([qkv])>)?(?:@([^@<>]+))?$/.exec(name ?? "");
  if (!found) return null;
  const [, node, mlp, layer, group, index, part, span] = found;
  const kind = isEnd(node) ? node : group ?? "m";
  return { node, span, kind, layer: +(mlp ?? layer ?? 0), index: +(index ?? 0), feeds: part ?? { m: "m", logits: "l" }[kind] };
}

// Middle and size on the grid of heads, of a node such as "a3.h1", "a3.kv0", "m4", "input", "logits".
function headPlace(grid, node) {
  const { kind, layer, index } = named(node);
  if (kind === "input") return { x: grid.middle, y: grid.foot, width: 130, height: 20 };
  if (kind === "logits") return { x: grid.middle, y: grid.top - (grid.foot - grid.base), width: 130, height: 20 };
  const y = grid.layerY(layer);
  if (kind === "m") return { x: grid.headX(grid.heads - 1) + 1.1 * grid.column, y: y - 0.5 * grid.row, width: grid.box, height: 17 };
  if (kind === "h") return { x: grid.headX(index), y, width: grid.box, height: 17 };
  const size = grid.heads / grid.groups;
  const [from, to] = [grid.headX(index * size), grid.headX((index + 1) * size - 1)];
  return { x: (from + to) / 2, y: y + 18, width: grid.box, height: 15, from, to };
}

function feedName(reader) {
  return FEEDS[named(reader).feeds][2];
}

// Out of the writer's top, into the reader's bottom, bowed away from the middle; the bow grows
// with the distance, so that edges over different distances separate.
function edgePath(grid, writer, reader) {
  const { feeds } = named(reader);
  const [start, end] = ends([writer, reader]).map(grid.place);
  const fan = (at, other) => (at.width < 100 ? 0 : at.width * Math.min(Math.max((0.8 * (other.x - at.x)) / grid.span, -0.44), 0.44));
  const x0 = start.x + fan(start, end);
  const x1 = end.x + fan(end, start) + (FEEDS[feeds][1] * end.width) / 3.2;
  const y0 = start.y - start.height / 2;
  const y1 = end.y + end.height / 2 + TIP;
  const rise = Math.max(0.45 * (y0 - y1), 10);
  const outwards = x0 + x1 >= 2 * grid.middle ? 1 : -1;
  const around = Math.abs(end.x - start.x) < 1 && y0 - y1 > grid.row ? (grid.box / 2 + 8) / 0.75 : 0; // boxes between them
  const bow = outwards * (around + Math.min(6 + 0.07 * (y0 - y1), around ? 24 : 60));
  const n = (value) => value.toFixed(1);
  return { x: x1, y: y1, d: `M${n(x0)} ${n(y0)}C${n(x0 + bow)} ${n(y0 - rise)} ${n(x1 + bow)} ${n(y1 + rise)} ${n(x1)} ${n(y1)}` };
}

// A triangle for an edge that helps, a circle for one that hurts; filled and open.
function edgeEnd({ x, y }, effect, size) {
  const n = (value) => value.toFixed(1);
  if (effect >= 0) return `M${n(x - size)} ${n(y)}h${n(2 * size)}l${n(-size)} ${-TIP}z`;
  const r = size * 0.85;
  return `M${n(x - r)} ${n(y - TIP / 2)}a${n(r)} ${n(r)} 0 1 0 ${n(2 * r)} 0a${n(r)} ${n(r)} 0 1 0 ${n(-2 * r)} 0z`;
}

const EDGE = svg("g", {}, svg("path", { class: "line" }), svg("path", { class: "tip" })); // copied: quicker than made anew

// `look` gives a further class for an edge, or nothing.
function drawEdge(grid, [writer, reader, effect], i, strongest, look) {
  const strength = Math.abs(effect) / strongest;
  const path = edgePath(grid, writer, reader);
  const width = (0.9 + 3.4 * strength ** 0.7).toFixed(2);
  const kind = `edge ${named(reader).feeds} ${effect < 0 ? "minus" : "plus"} ${look ?? ""}`;
  const ink = (0.8 + 0.2 * strength ** 0.5).toFixed(2); // inherited; the group's own opacity would make it a layer
  const drawn = EDGE.cloneNode(true);
  fill(drawn, { class: kind, "data-edge": i, "stroke-opacity": ink, "fill-opacity": ink }, []);
  fill(drawn.firstChild, { d: path.d, "stroke-width": width }, []);
  drawn.lastChild.setAttribute("d", edgeEnd(path, effect, 2.6 + 1.6 * strength));
  return drawn;
}

function headBackground(grid) {
  const parts = [];
  const label = (x, y, words, anchor = "middle") => parts.push(svg("text", { class: "small", x, y: y + 4, "text-anchor": anchor }, words));
  const inside = (bands, i) => bands.some(([from, to]) => from <= i && i <= to);
  const heads = Array.from({ length: grid.heads }, (_, head) => head).filter((head) => !inside(grid.gaps, head));
  for (const [from, to] of grid.bands) {
    const y = grid.layerY(from);
    parts.push(svg("path", { class: "fold", d: `M${grid.headX(0) - 22} ${y}H${grid.right + 22}` }));
    label(grid.left - 18, y, `${from}–${to}`, "end");
  }
  for (let layer = 0; layer < grid.layers; layer++) {
    if (inside(grid.bands, layer)) continue;
    const y = grid.layerY(layer);
    parts.push(svg("line", { class: "rule", x1: grid.headX(0) - 22, x2: grid.right + 22, y1: y, y2: y }));
    for (const head of heads) parts.push(svg("circle", { class: "dot", cx: grid.headX(head), cy: y, r: 1.8 }));
    if (grid.mlp) parts.push(svg("circle", { class: "dot", cx: grid.place(`m${layer}`).x, cy: y - 0.5 * grid.row, r: 1.8 }));
    label(grid.left - 18, y, String(layer), "end");
  }
  for (const head of heads) label(grid.headX(head), grid.height - 14, String(head));
  for (const [from, to] of grid.gaps) label(grid.headX(from), grid.height - 14, `${from}–${to}`);
  label(grid.left - 18, grid.height - 14, "head", "end");
  label(grid.left - 18, grid.place("logits").y, "layer", "end");
  if (grid.mlp) label(grid.place("m0").x, grid.height - 14, "MLP");
  return svg("g", { "aria-hidden": "true" }, parts);
}

function drawNode(grid, node, described) {
  const at = grid.place(node);
  const bracket = at.from === undefined ? null
    : svg("path", { class: "axis", d: `M${at.from - 16} ${at.y - 9}v3H${at.to + 16}v-3` });
  return svg("g", { class: `node ${["h", "kv"].includes(named(node).kind) ? "" : "end"}`, role: "button", tabindex: 0, "data-id": node, "aria-label": described, "aria-pressed": "false" },
    bracket,
    svg("rect", { x: at.x - at.width / 2, y: at.y - at.height / 2, width: at.width, height: at.height, rx: at.height / 2.6 }),
    svg("text", { x: at.x, y: at.y, "dominant-baseline": "central", "text-anchor": "middle" }, nameParts(node)));
}

// "a3.h1", of which "3.1" stays where there is little room.
function nameParts(node) {
  const { kind, layer, index } = named(node);
  const long = (letter) => svg("tspan", { class: "long" }, letter);
  if (kind === "h") return [long("a"), `${layer}.`, long("h"), String(index)];
  return kind === "kv" ? [long("a"), `${layer}.kv${index}`] : [named(node).node];
}

function shortName(node) {
  return nameParts(node).filter((part) => typeof part === "string").join("");
}

// The whole picture with its nodes, and its edges as in edgeLayer.
function drawEdges(grid, edges, title, look) {
  const layer = edgeLayer(grid, edges, look);
  const counts = countEnds(edges, grid.always);
  const nodes = [...counts].map(([node, [into, out]]) => drawNode(grid, node, `${node}: ${into} in, ${plural(out, "edge")} out`));
  const picture = legible(svg("svg", { viewBox: `0 0 ${Math.ceil(grid.width)} ${Math.ceil(grid.height)}`, width: Math.ceil(grid.width), height: Math.ceil(grid.height), role: "group", "aria-label": title },
    grid.background(), layer.element, svg("g", {}, nodes)));
  return { picture, nodes, layer };
}

// Heads side by side; `used` as in headGrid.
function drawCircuit(circuit, title, look, used) {
  return drawEdges(headGrid(circuit, used), circuit.edges, title, look);
}

// The edges of a picture, weak ones below strong ones; they come strongest first. Each is made when
// it is first shown: of many, most never are.
function edgeLayer(grid, edges, look) {
  const element = svg("g", { "aria-hidden": "true" });
  const strongest = Math.max(...edges.map((e) => Math.abs(e[2])), 0) || 1;
  const made = [];

  // Shows those of which `keep` is true, by their numbers, and dims those of which `dim` is.
  function show(keep, dim = () => false) {
    let above = null;
    for (let i = 0; i < edges.length; i++) {
      const on = keep(i);
      if (on && !made[i]) {
        made[i] = drawEdge(grid, edges[i], i, strongest, look?.(edges[i]));
        element.insertBefore(made[i], above);
      }
      if (!made[i]) continue;
      made[i].classList.toggle("off", !on);
      made[i].classList.toggle("dim", on && dim(i));
      above = made[i];
    }
    return made;
  }
  return { element, show };
}

// The nodes that an edge joins; of a step between spans, the nodes there.
function ends([writer, reader]) {
  const { node, span } = named(reader);
  return [writer, span && writer.includes("@") ? `${node}@${span}` : node];
}

function isEnd(node) {
  return node === "input" || node === "logits";
}

// For each node with an edge, and those that are `always` there: edges in and out.
function countEnds(edges, always = ["input", "logits"]) {
  const counts = new Map(always.map((node) => [node, [0, 0]]));
  const at = (node) => counts.get(node) ?? counts.set(node, [0, 0]).get(node);
  for (const edge of edges) {
    const [writer, reader] = ends(edge);
    at(writer)[1]++;
    at(reader)[0]++;
  }
  return counts;
}
