// The search again, reader by reader: the circuit as it grows, what was tested for each reader, and
// the metric and the edges that were left.
"use strict";

const REPLAY = 12_000; // milliseconds of the whole replay, with a limit for each step below
const NOTHING = { // why a reader has no test
  disconnected: "Nothing to test: no edge that is kept leaves this node, so what it reads cannot matter.",
  "gate removed": "Nothing to test: all edges into this reader were cut together, at its gate.",
  skipped: "Nothing to test: these edges are off the shortlist and were cut together.",
};

function searchView({ search: rows, summary, circuit, decisions }) {
  const name = summary.metric ?? "metric";
  const last = rows.length - 1;
  const drawing = circuit ?? circuitSoFar(rows, decisions?.rows ?? []);
  const charts = [
    searchChart(rows, (r) => r.metric, `${name} of what is left`, drawing ? 440 : 600),
    searchChart(rows, (r) => r.n_edges, "edges left"),
    searchChart(rows, (r) => r.n_kept, "edges kept so far"),
  ];
  const growing = drawing ? growingCircuit(drawing, rows) : null;
  const tested = decisionsPanel(rows, decisions);
  const facts = el("dl", {});

  function show(i) {
    const row = rows[i];
    for (const part of [...charts, growing, tested]) part?.show(i);
    const texts = [["reader", row.reader ?? "–"], ["step", `${i + 1} of ${rows.length}`], ["reason", row.reason ?? "–"], [name, shown(row.metric)],
      ["edges left", shown(row.n_edges)], ["kept", shown(row.n_kept)], ["tests", shown(row.n_tests)], ["passes", shown(row.n_passes)], ["time", span(row.seconds)]];
    facts.replaceChildren(...texts.map(([key, text]) => el("div", {}, el("dt", {}, key), el("dd", {}, text))));
  }
  const player = replayBar(rows, show);
  player.go(last);
  const [metric, left, kept] = charts.map((one) => el("section", { class: "panel" }, one.picture));
  const side = el("div", { class: "side" }, growing ? metric : null, tested.element);
  return el("div", {},
    el("div", { class: "panel replay" }, player.element, facts),
    el("div", { class: "circuit" }, growing?.element ?? metric, side),
    el("div", { class: "columns" }, left, kept));
}

// The slider over all readers; the buttons and the replay stop only where something was tested.
function replayBar(rows, show) {
  const last = rows.length - 1;
  const stops = rows.map((_, i) => i).filter((i) => i === last || testsAt(rows, i) > 0);
  const slider = el("input", { id: "step", type: "range", min: 0, max: last, value: last, input: () => go(+slider.value) });
  const play = el("button", { type: "button", click: () => (timer ? stop() : start()) }, "Replay");
  const back = el("button", { type: "button", "aria-label": "Previous test", title: "Previous test", click: () => go(stops.findLast((i) => i < +slider.value) ?? 0) }, "‹");
  const on = el("button", { type: "button", "aria-label": "Next test", title: "Next test", click: () => go(stops.find((i) => i > +slider.value) ?? last) }, "›");
  let timer = null;

  function go(i) {
    slider.value = i;
    slider.setAttribute("aria-valuetext", `reader ${i + 1} of ${rows.length}, ${rows[i].reader}`);
    show(i);
  }
  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Replay";
  }
  function start() {
    const jump = Math.max(1, Math.round(stops.length / 130)); // a long search takes no longer to watch
    let i = +slider.value >= last ? 0 : stops.findIndex((s) => s >= +slider.value);
    play.textContent = "Stop";
    timer = setInterval(() => {
      if (!slider.isConnected) return stop();
      go(stops[i]);
      if (i >= stops.length - 1) return stop();
      i = Math.min(i + jump, stops.length - 1);
    }, Math.min(Math.max(REPLAY / stops.length, 90), 350));
  }
  return { element: el("div", { class: "bar" }, play, back, on, el("label", { for: "step" }, "Step"), slider), go };
}

// ---- the picture ---------------------------------------------------------------------------------

// Kept edges appear when their reader is settled; a mark goes from reader to reader. A step touches
// only what changes.
function growingCircuit(circuit, rows) {
  const settled = new Map(); // a reader's gate and what a shortlist skips come before its edges
  rows.forEach((row, i) => { if (row.kind === "edges" || !settled.has(row.reader)) settled.set(row.reader, i); });
  const stepOf = ([, reader]) => settled.get(reader) ?? rows.length - 1;
  const { picture, nodes: all, layer } = drawCircuit(circuit, "The circuit as far as it is found");
  const nodes = new Map(all.map((node) => [node.dataset.id, node]));
  for (const node of nodes.values()) for (const name of ["role", "tabindex", "aria-pressed"]) node.removeAttribute(name);
  const first = new Map();
  for (const edge of circuit.edges) {
    for (const node of ends(edge)) first.set(node, Math.min(first.get(node) ?? Infinity, stepOf(edge)));
  }
  const marks = layer.show(() => true);
  const changes = [ // what appears: step, element, class while it is not there yet
    ...circuit.edges.map((edge, i) => [stepOf(edge), marks[i], "off"]),
    ...[...first].filter(([node]) => !isEnd(node)).map(([node, step]) => [step, nodes.get(node), "absent"]),
  ].sort((a, b) => a[0] - b[0]);
  for (const [, element, look] of changes) element.classList.add(look);
  const marker = settlingMark(headGrid(circuit));
  picture.append(marker.element);
  tipsIn(picture, (target) => describePart(target, circuit.edges));
  let count = 0;
  function show(i) {
    while (count < changes.length && changes[count][0] <= i) changes[count][1].classList.remove(changes[count++][2]);
    while (count > 0 && changes[count - 1][0] > i) changes[--count][1].classList.add(changes[count][2]);
    marker.move(rows[i].reader);
  }
  const element = pictureBox(picture, "Picture of the circuit so far");
  return { element, show };
}

function settlingMark(grid) {
  const box = svg("rect", { y: -10, height: 20, rx: 8 });
  const name = svg("text", { "dominant-baseline": "central", "text-anchor": "middle" });
  const element = svg("g", { class: "settling", "aria-hidden": "true" }, svg("g", {}, box, name)); // the inner one keeps its size
  function move(reader) {
    const { node, feeds } = named(reader) ?? {};
    element.toggleAttribute("hidden", !feeds);
    if (!feeds) return;
    const at = grid.place(node);
    const width = node.length > 6 ? 66 : 56;
    box.setAttribute("x", -width / 2);
    box.setAttribute("width", width);
    element.setAttribute("transform", `translate(${at.x.toFixed(1)} ${at.y.toFixed(1)})`);
    name.textContent = node;
  }
  return { element, move };
}

// While a search runs there is no circuit file: sizes from the readers' names, edges from what was
// kept. Nothing before the first head is reached.
function circuitSoFar(rows, decisions) {
  const readers = rows.map((row) => named(row.reader)).filter((name) => name?.feeds);
  const of = (kind) => readers.filter((name) => name.kind === kind);
  const count = (names, at) => 1 + Math.max(-1, ...names.map((name) => name[at]));
  const [layers, heads, groups] = [count(readers, "layer"), count(of("h"), "index"), count(of("kv"), "index")];
  if (!layers || !heads || layers > 200 || heads > 200) return null;
  const writes = (name) => name && name.kind !== "logits" && (name.kind === "m" || !name.feeds);
  const settled = rows[rows.length - 1].n_tests ?? 0; // decisions are written before their reader's row
  const edges = decisions.filter((d) => d.order < settled && d.kept && d.kind === "edge" && d.effect !== null)
    .map((d) => [...d.name.split("->"), d.effect])
    .filter(([writer, reader]) => writes(named(writer)) && named(reader)?.feeds);
  edges.sort((a, b) => Math.abs(b[2]) - Math.abs(a[2]));
  return { layers, heads, groups: groups || heads, mlp: of("m").length > 0, edges };
}

// ---- what was tested -----------------------------------------------------------------------------

function testsAt(rows, i) {
  return (rows[i].n_tests ?? 0) - (i ? rows[i - 1].n_tests ?? 0 : 0);
}

// Decisions are numbered in the order of the tests, so those of a reader are a stretch of them.
function decisionsPanel(rows, decisions) {
  const all = decisions?.rows ?? [];
  const from = (order) => { // the first decision with this number or a later one
    let [low, high] = [0, all.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (all[middle].order < order) low = middle + 1; else high = middle;
    }
    return low;
  };
  const title = el("h2", { id: "tested" });
  const body = el("div", { class: "scroll", tabindex: 0, role: "region", "aria-labelledby": "tested" });
  const missing = decisions && decisions.n > all.length
    ? el("p", { class: "quiet cut" }, `${all.length.toLocaleString("en")} of ${plural(decisions.n, "decision")} are here: the kept ones, and of the cut ones the largest`) : null;
  function show(i) {
    const count = testsAt(rows, i);
    const some = all.slice(from((rows[i].n_tests ?? 0) - count), from(rows[i].n_tests ?? 0)).sort((a, b) => b.effect - a.effect);
    title.textContent = count > 0 ? `Tested for ${rows[i].reader}: ${some.filter((d) => d.kept).length} of ${count} kept` : `Tested for ${rows[i].reader ?? "–"}: nothing`;
    body.replaceChildren(...(count > 0 ? [cutNote(Math.min(some.length, ROWS), count, "the largest first"), decisionTable(some.slice(0, ROWS))]
      : [el("p", { class: "quiet" }, NOTHING[rows[i].reason] ?? "No test at this step.")]).filter(Boolean));
  }
  return { element: el("section", { class: "panel side", "aria-labelledby": "tested" }, title, missing, body), show };
}

function decisionTable(some) {
  const what = (d) => (d.kind === "gate" ? `all edges into ${d.name}` : d.name.replace("->", " → "));
  const write = aligned(some.map((d) => d.effect));
  const found = table("Decisions of this step, largest effect first", [["without", ""], ["effect", "n"], ["", ""]],
    some.map((d) => [what(d), write(d.effect), d.kept ? "kept" : "cut"]), "edges decisions");
  [...found.tBodies[0].rows].forEach((row, i) => row.classList.add(some[i].kept ? "kept" : "gone"));
  return found;
}

function searchChart(rows, value, name, width = 600, height = 210) {
  const area = [62, 28, width - 20, height - 44];
  const all = rows.map(value);
  const x = makeScale([0, rows.length], area[0], area[2]);
  const y = makeScale(all, area[3], area[1]);
  const points = all.map((v, i) => [x(i + 1), v === null ? null : y(v)]).filter((p) => p[1] !== null);
  const cursor = svg("line", { class: "cursor", y1: area[1], y2: area[3] });
  const dot = svg("circle", { class: "point", r: 5 });
  const picture = chart(width, height, `${name}, from ${shown(all[0])} to ${shown(all[all.length - 1])}`,
    axes(area, x, y, "readers settled", name), polyline(points, "stroke"), cursor, dot);
  function show(i) {
    cursor.setAttribute("x1", x(i + 1));
    cursor.setAttribute("x2", x(i + 1));
    dot.setAttribute("cx", x(i + 1));
    dot.setAttribute("cy", all[i] === null ? -20 : y(all[i]));
  }
  return { picture, show };
}
