// Two circuits side by side: the edges of both, of the left one only, of the right one only.
"use strict";

const SHARES = [["in-both", "in both"], ["only-left", "only left"], ["only-right", "only right"]];

function comparePage(left, right) {
  if (!left.circuit || !right.circuit) {
    const missing = [left, right].find((d) => !d.circuit).summary.id;
    return el("p", { class: "error", role: "alert" }, `${missing} has no circuit to compare.`);
  }
  const rows = sharedEdges(left.circuit.edges, right.circuit.edges);
  const count = (share) => rows.filter((r) => r.share === share).length;
  const state = { share: "", focus: null, least: rows.length > 150 ? rows.length - 2 * FIRST : 0 };
  const sides = [compareSide("Left", left, rows, 0), compareSide("Right", right, rows, 1)];
  const body = el("div", { class: "scroll flat" });
  const buttons = [["", "all"], ...SHARES].map(([share, words]) => el("button", { type: "button", "data-share": share, click: () => update({ share }) },
    share ? `${words}: ${count(share)}` : `${words}: ${rows.length}`));
  const clear = el("button", { type: "button", click: () => update({ focus: null }) }, "Show all heads");
  const slider = el("input", { id: "least", type: "range", min: 0, max: Math.max(rows.length - 1, 0), value: state.least, input: (e) => update({ least: +e.target.value }) });
  const above = el("output", { for: "least" });

  function update(change) {
    Object.assign(state, change);
    for (const b of buttons) b.setAttribute("aria-pressed", String(b.dataset.share === state.share));
    const large = rows.slice(0, rows.length - state.least);
    const near = large.filter((r) => (!state.share || r.share === state.share) && (!state.focus || touches([r.writer, r.reader], state.focus)));
    const kept = new Set(near.map((r) => r.name));
    for (const side of sides) side.show(kept, state.focus);
    clear.hidden = !state.focus;
    above.textContent = `≥ ${percent(large.length ? large[large.length - 1].size : null)} of the largest · ${large.length} of ${plural(rows.length, "edge")}`;
    slider.setAttribute("aria-valuetext", above.textContent);
    body.replaceChildren(compareTable(near));
    say(`${plural(near.length, "edge")} shown`);
  }
  for (const side of sides) {
    roving(side.element, side.nodes);
    for (const node of side.nodes) pressable(node, () => update({ focus: state.focus === node.dataset.id ? null : node.dataset.id }));
  }
  update({});
  const scale = el("div", { class: "bar narrow" }, el("label", { for: "least" }, "Smallest |effect|"), slider, above);
  return compareLayout(left, right, rows, count, sides, [el("div", { class: "bar" }, buttons, compareLegend(), clear), scale], body);
}

function compareLayout(left, right, rows, count, sides, bars, body) {
  const jaccard = rows.length ? count("in-both") / rows.length : null;
  const same = ["layers", "heads", "mlp"].every((k) => left.circuit[k] === right.circuit[k]);
  const out = store ? null : el("a", { class: "button", download: "comparison.html",
    href: `export?id=${encodeURIComponent(left.summary.id)}&versus=${encodeURIComponent(right.summary.id)}` }, "Export as one file");
  return el("div", {},
    el("div", { class: "head" }, el("div", {}, el("h1", {}, "Two circuits"),
      el("p", { class: "quiet" }, `${count("in-both")} of ${plural(rows.length, "edge")} are in both (Jaccard ${shown(jaccard)}).`),
      same ? null : el("p", { class: "error" }, "The two models have different sizes: names that are equal are not the same heads.")), out),
    bars,
    el("div", { class: "pair" }, sides.map((s) => s.element)),
    panel("Edges", body));
}

// Largest first, each effect as a share of its own side's largest: the units may differ.
function sharedEdges(left, right) {
  const found = new Map();
  [left, right].forEach((edges, side) => edges.forEach(([writer, reader, effect]) => {
    const name = `${writer}->${reader}`;
    const row = found.get(name) ?? { name, writer, reader, effects: [null, null] };
    row.effects[side] = effect;
    found.set(name, row);
  }));
  const rows = [...found.values()];
  for (const r of rows) r.share = r.effects[0] === null ? "only-right" : r.effects[1] === null ? "only-left" : "in-both";
  const tops = [left, right].map((edges) => Math.abs(edges[0]?.[2] ?? 0) || 1); // they come largest first
  for (const r of rows) r.size = Math.max(...r.effects.map((e, side) => Math.abs(e ?? 0) / tops[side]));
  return rows.sort((a, b) => b.size - a.size);
}

function compareSide(title, details, rows, side) {
  const share = new Map(rows.map((r) => [r.name, r.share]));
  const edges = details.circuit.edges;
  const name = ([writer, reader]) => `${writer}->${reader}`;
  const picture = drawCircuit(details.circuit, `${title}: ${details.summary.id}`, (edge) => share.get(name(edge)));
  const marks = edgeMarks(picture, edges.length);
  const nodes = [...picture.querySelectorAll(".node")];
  tipsIn(picture, (target) => describePart(target, edges));
  function show(kept, focus) {
    edges.forEach((edge, i) => marks[i].classList.toggle("off", !kept.has(name(edge))));
    const used = new Set(["input", "logits", ...edges.filter((e) => kept.has(name(e))).flatMap(([w, r]) => [w, named(r).node])]);
    for (const node of nodes) {
      node.classList.toggle("idle", !used.has(node.dataset.id));
      node.classList.toggle("focused", node.dataset.id === focus);
      node.setAttribute("aria-pressed", String(node.dataset.id === focus));
    }
  }
  const s = details.summary;
  const facts = [s.method, plural(edges.length, "edge"), s.faithfulness === null ? null : `faithfulness ${percent(s.faithfulness)}`,
    s.metric_circuit === null ? null : `${s.metric ?? "metric"} ${shown(s.metric_circuit)}`, s.threshold === null ? null : `threshold ${shown(s.threshold)}`];
  const element = el("section", { class: "panel", "data-side": side, "aria-label": title },
    el("h2", {}, `${title}: `, store ? s.id : el("a", { href: address("run", s.id) }, s.id)), el("p", { class: "quiet" }, facts.filter(Boolean).join(" · ")),
    el("div", { class: details.circuit.layers > 40 ? "picture" : "picture fit", tabindex: 0, role: "region", "aria-label": `${title} circuit` }, picture));
  return { element, nodes, show };
}

function compareTable(near) {
  const write = [0, 1].map((side) => aligned(near.map((r) => r.effects[side])));
  return el("div", {}, cutNote(Math.min(near.length, ROWS), near.length), table("Edges of the two circuits, largest first",
    [["from", ""], ["into", ""], ["left", "n"], ["right", "n"], ["where", ""]],
    near.slice(0, ROWS).map((r) => [r.writer, r.reader, write[0](r.effects[0]), write[1](r.effects[1]), SHARES.find(([k]) => k === r.share)[1]]), "edges"));
}

function compareLegend() {
  return el("div", { class: "legend" }, SHARES.map(([share, words]) => el("span", { class: `key l ${share}` },
    svg("svg", { width: 30, height: 8, "aria-hidden": "true" }, svg("path", { class: "line", d: "M0 4H30", "stroke-width": share === "in-both" ? 2 : 3.5 })), words)));
}
