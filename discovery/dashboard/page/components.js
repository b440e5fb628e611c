// Which heads and MLPs carry flow: a grid of layer x head, and the same figures as a table.
"use strict";

function componentsView(found) {
  const names = found.sets.map((set, i) => (i && set.name === found.sets[0].name ? `${set.name}, the other` : set.name ?? "?"));
  const [first, second] = names;
  const kinds = [
    ...found.sets.map((set, i) => ({ title: names[i], value: (name) => set.flow[name]?.mean ?? null, tell: (name) => tellFlow(set.flow[name]) })),
    found.difference ? { title: "difference", signed: true, value: (name) => found.difference.flow[name]?.flow ?? null,
      tell: (name) => tellDifference(found.difference.flow[name]), named: (name) => found.difference.flow[name]?.named } : null,
  ].filter(Boolean);
  const body = el("div", {});
  const side = el("div", { class: "scroll flat tall", tabindex: 0, role: "region", "aria-label": "Components, largest first" });
  const note = el("p", { class: "quiet" });
  const title = el("h2", {});
  const buttons = kinds.map((kind) => el("button", { type: "button", click: () => show(kind) }, kind.title));
  function show(kind) {
    kinds.forEach((k, i) => buttons[i].setAttribute("aria-pressed", String(k === kind)));
    const sorted = [...new Set(found.sets.flatMap((set) => Object.keys(set.flow)))].filter((name) => kind.value(name) !== null)
      .sort((a, b) => Math.abs(kind.value(b)) - Math.abs(kind.value(a)));
    title.textContent = kind.signed ? `${first} less ${second}` : `Flow on ${plural(found.sets[kinds.indexOf(kind)].n_prompts ?? 0, "prompt")} of ${kind.title}`;
    note.textContent = noteOf(found, kind);
    body.replaceChildren(kind.signed ? signLegend(first, second) : "", heatGrid(found, kind));
    const rows = sorted.slice(0, ROWS);
    side.replaceChildren(...[cutNote(rows.length, sorted.length), kind.signed ? differenceTable(found.difference, rows) : flowTable(found.sets[kinds.indexOf(kind)], rows)].filter(Boolean));
  }
  show(kinds[kinds.length - 1]);
  return el("div", {},
    el("div", { class: "bar" }, kinds.length > 1 ? buttons : null),
    el("div", { class: "circuit even" }, el("section", { class: "panel" }, title, body, note), panel("Components", side)));
}

function noteOf(found, kind) {
  const scales = `${found.mlp ? "Heads and MLPs have a scale each; a" : "A"} stronger colour is more, by the square root.`;
  if (!kind.signed) return `${scales} Flow is what states are made of and no effect.`;
  const { confidence, false_discoveries: rate } = found.difference;
  const count = Object.values(found.difference.flow).filter((row) => row.named).length;
  return `${scales} A dot: named as different, ${count} in all, with at most ${shown(100 * rate)} % false ones expected. Intervals: ${shown(100 * confidence)} % each, by bootstrap.`;
}

function signLegend(first, second) {
  const key = (look, words) => el("span", {}, svg("svg", { width: 16, height: 12, "aria-hidden": "true" },
    svg("g", { class: `cell ${look}` }, svg("rect", { class: "shade", width: 14, height: 12 }))), words);
  return el("div", { class: "legend" }, key("more", `more for ${first}`), key("less", `more for ${second}`));
}

function tellFlow(row) {
  return row ? `flow ${shown(row.mean)}, spread ${shown(row.spread)}, on the route of ${percent(row.on_route)}` : "no flow";
}

function tellDifference(row) {
  return row ? `difference ${shown(row.flow)} [${shown(row.low)}, ${shown(row.high)}]${row.named ? ", named as different" : ""}` : "no difference";
}

// One cell a component, bottom to top; one stop of the tab key, arrows move.
function heatGrid(found, kind) {
  const [width, height] = [Math.min(Math.max(600 / found.heads, 30), 64), Math.min(Math.max(450 / found.layers, 14), 44)];
  const [left, top] = [52, 8];
  const x = (head) => left + (head ?? found.heads + 0.4) * width;
  const y = (layer) => top + (found.layers - 1 - layer) * height;
  const places = [];
  for (let layer = 0; layer < found.layers; layer++) {
    for (let head = 0; head < found.heads; head++) places.push([`a${layer}.h${head}`, layer, head]);
    if (found.mlp) places.push([`m${layer}`, layer, null]);
  }
  const size = (name) => Math.abs(kind.value(name) ?? 0);
  const most = { h: Math.max(...places.filter((p) => p[2] !== null).map((p) => size(p[0])), 0) || 1, m: Math.max(...places.filter((p) => p[2] === null).map((p) => size(p[0])), 0) || 1 };
  const cells = places.map(([name, layer, head]) => {
    const look = kind.signed ? (kind.value(name) < 0 ? "less" : "more") : head === null ? "mlp" : "more";
    const shade = Math.sqrt(size(name) / (head === null ? most.m : most.h));
    return svg("g", { class: `cell ${look}`, role: "img", "data-component": name, "aria-label": `${name}: ${kind.tell(name)}` },
      svg("rect", { class: "ground", x: x(head), y: y(layer), width: width - 2, height: height - 2 }),
      svg("rect", { class: "shade", x: x(head), y: y(layer), width: width - 2, height: height - 2, "fill-opacity": shade.toFixed(3) }),
      kind.named?.(name) ? svg("circle", { class: "named", cx: x(head) + width / 2 - 1, cy: y(layer) + height / 2 - 1, r: 3 }) : null);
  });
  const base = top + found.layers * height;
  const step = Math.ceil(found.layers / 30);
  const label = (px, py, words, anchor = "middle") => svg("text", { class: "small", x: px, y: py, "text-anchor": anchor }, words);
  const full = x(null) + (found.mlp ? width : -0.4 * width) + 8;
  const picture = legible(svg("svg", { viewBox: `0 0 ${full} ${base + 24}`, class: "chart heatmap", role: "group", "aria-label": `${kind.title} by layer and head` },
    svg("g", { "aria-hidden": "true" },
      Array.from({ length: found.layers }, (_, l) => (l % step ? null : label(left - 8, y(l) + height / 2 + 3, String(l), "end"))),
      Array.from({ length: found.heads }, (_, h) => label(x(h) + width / 2 - 1, base + 16, String(h))),
      found.mlp ? label(x(null) + width / 2 - 1, base + 16, "MLP") : null, label(left - 8, base + 16, "head", "end")),
    cells));
  const tell = (target) => { const cell = target.closest?.(".cell"); return cell ? cell.getAttribute("aria-label").split(": ") : null; };
  roving(picture, cells);
  picture.addEventListener("focusin", (event) => { const box = event.target.getBoundingClientRect(); tip(tell(event.target), { clientX: box.right, clientY: box.bottom }); });
  picture.addEventListener("focusout", () => tip(null));
  return tipsIn(picture, tell);
}

function flowTable(set, names) {
  const write = aligned(names.map((name) => set.flow[name].mean));
  return table(`Flow on ${set.name}, largest first`, [["component", ""], ["flow", "n"], ["spread", "n"], ["on route", "n"]],
    names.map((name) => [name, write(set.flow[name].mean), write(set.flow[name].spread), percent(set.flow[name].on_route)]), "edges");
}

function differenceTable(difference, names) {
  const row = (name) => difference.flow[name];
  const write = aligned(names.map((name) => row(name).flow));
  return table("Differences, largest first", [["component", ""], ["difference", "n"], ["interval", "n"], ["adjusted p", "n"]],
    names.map((name) => [row(name).named ? `${name} •` : name, write(row(name).flow), `${write(row(name).low)} to ${write(row(name).high)}`, shown(row(name).adjusted_p, 2)]), "edges");
}
