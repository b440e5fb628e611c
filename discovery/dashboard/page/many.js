// Many circuits: how their runs differ, which edges they share, and the circuit of those that are
// in at least so many of them.
"use strict";

function manyPage(runs) {
  const circuits = runs.map((d) => d.circuit);
  const rows = sharedRows(circuits);
  const names = shortNames(runs.map((d) => d.summary));
  const sizes = circuits.map((c) => c.edges.length);
  const patterns = patternsOf(rows);
  const common = consensusView(runs, rows);
  const overlap = overlapChart(names, sizes, patterns, (pattern) => common.only(pattern));
  const rest = patterns.slice(MOST_COLUMNS).reduce((n, p) => n + p.rows.length, 0);
  return el("div", { class: "stack" }, manyHead(runs, rows, sizes),
    differencePanel(runs.map((d) => d.summary)),
    common.element,
    panel("Overlap", el("p", { class: "quiet" }, "A column is a set of edges that are in exactly the marked runs; press one to see them above.", rest ? ` ${plural(patterns.length - MOST_COLUMNS, "smaller set")} with ${plural(rest, "edge")} not drawn.` : ""),
      el("div", { class: "picture flat whole", tabindex: 0, role: "region", "aria-label": "Overlap" }, overlap)));
}

function manyHead(runs, rows, sizes) {
  const pairs = jaccards(rows, sizes);
  const inAll = rows.filter((row) => row.count === runs.length).length;
  const same = ["layers", "heads", "mlp"].every((key) => runs.every((d) => d.circuit[key] === runs[0].circuit[key]));
  const out = store ? null : el("a", { class: "button", download: "circuits.html", href: `export?${new URLSearchParams(runs.map((d) => ["id", d.summary.id]))}` }, "Export as one file");
  return el("div", { class: "head" }, el("div", {}, el("h1", {}, `${runs.length} circuits`),
    el("p", { class: "quiet" }, `${plural(rows.length, "edge")} in any, ${inAll.toLocaleString("en")} in all. Jaccard index of two: median ${shown(median(pairs))}, from ${shown(Math.min(...pairs))} to ${shown(Math.max(...pairs))}.`),
    same ? null : el("p", { class: "error" }, "The models have different sizes: names that are equal are not the same heads.")), out);
}

// The grid with each edge as thick as the share of circuits that have it.
function consensusView(runs, rows) {
  const circuit = unionOf(runs.map((d) => d.circuit), rows);
  const drawn = drawCircuit(circuit, `Edges of ${runs.length} circuits, as thick as many have them`, null, isLarge(circuit) ? usedPlaces(circuit, circuit.edges) : null);
  const { picture, nodes } = drawn;
  const state = { least: Math.max(2, Math.ceil(runs.length / 2)), focus: null, pattern: null };
  const slider = el("input", { id: "least", type: "range", min: 1, max: runs.length, value: state.least, input: () => update({ least: +slider.value, pattern: null }) });
  const above = el("output", { for: "least" });
  const clear = el("button", { type: "button", click: () => update({ focus: null, pattern: null }) }, "Show all");
  const places = { nodes: el("p", {}), table: el("div", { class: "scroll" }) };
  const title = el("h2", {});

  function update(change) {
    Object.assign(state, change);
    const fits = (row) => (state.pattern ? row.pattern === state.pattern.pattern : row.count >= state.least);
    const kept = rows.filter(fits);
    const near = kept.filter((row) => !state.focus || touches([row.writer, row.reader], state.focus));
    showShared(drawn, rows, new Set(kept), state.focus);
    above.textContent = state.pattern ? `in exactly ${plural(state.pattern.runs.size, "run")}` : `in at least ${state.least} of ${runs.length}`;
    slider.setAttribute("aria-valuetext", `${above.textContent}, ${plural(kept.length, "edge")}`);
    clear.disabled = !state.focus && !state.pattern;
    title.textContent = `${state.focus ? `${state.focus}: ` : ""}${plural(near.length, "edge")} ${above.textContent}`;
    places.table.replaceChildren(sharedTable(near, runs.length));
    places.nodes.replaceChildren(...nodesInAll(runs, state.least));
    say(title.textContent);
  }
  roving(picture, nodes);
  for (const node of nodes) pressable(node, () => update({ focus: state.focus === node.dataset.id ? null : node.dataset.id }));
  tipsIn(picture, (target) => {
    const row = rows[+target.closest?.(".edge")?.dataset.edge];
    if (row) return [`${row.writer} → ${row.reader}`, `in ${row.count} of ${runs.length}, by the median ${placeText(row.median)}`];
    return target.closest?.(".node") ? [target.closest(".node").getAttribute("aria-label")] : null;
  });
  update({});
  const element = el("div", { class: "circuit" }, pictureBox(picture, "Picture of what they share"),
    el("div", { class: "side" }, el("div", { class: "panel" }, el("div", { class: "row" }, el("label", { for: "least" }, "In how many runs"), above, clear), slider, places.nodes),
      el("section", { class: "panel side" }, title, places.table)));
  return { element, only: (pattern) => update({ pattern }) };
}

// A percentile in words.
function placeText(value) {
  return `no weaker than ${percent(value)} of a circuit's edges`;
}

function nodesInAll(runs, least) {
  const nodes = sharedNodes(runs.map((d) => d.circuit));
  const of = (k) => nodes.filter(([, n]) => n >= k).map(([node]) => node).sort(COLLATOR.compare);
  const line = (words, some) => el("span", {}, el("strong", {}, `${words}: `), some.length ? some.join(", ") : "none", ". ");
  return [line("Nodes in all", of(runs.length)), least < runs.length ? line(`In at least ${least}`, of(least)) : null].filter(Boolean);
}

// One circuit of all edges, each with the share of circuits that have it; the sizes are the largest.
function unionOf(circuits, rows) {
  const most = (key) => Math.max(...circuits.map((c) => c[key]));
  return { layers: most("layers"), heads: most("heads"), groups: circuits[0].groups, mlp: circuits.some((c) => c.mlp),
    edges: rows.map((row) => [row.writer, row.reader, row.count / circuits.length]) };
}

function showShared({ layer, nodes }, rows, kept, focus) {
  const used = new Set(["input", "logits"]);
  layer.show((i) => kept.has(rows[i]), (i) => Boolean(focus) && !touches([rows[i].writer, rows[i].reader], focus));
  for (const row of kept) for (const node of ends([row.writer, row.reader])) used.add(node);
  for (const node of nodes) {
    node.classList.toggle("absent", !used.has(node.dataset.id));
    node.classList.toggle("focused", node.dataset.id === focus);
    node.setAttribute("aria-pressed", String(node.dataset.id === focus));
  }
}

function sharedTable(near, n) {
  const cells = (rows) => rows.map((row) => [row.writer, row.reader, `${row.count} of ${n}`, percent(row.median)]);
  const some = table("Edges that are shown, the most common first", [["from", ""], ["into", ""], ["runs", "n"], ["place", "n"]], cells(near.slice(0, ROWS)), "edges");
  some.whole = cells(near);
  return el("div", {}, cutNote(Math.min(near.length, ROWS), near.length, "the most common first"), some);
}
