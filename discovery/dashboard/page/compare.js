// Two circuits side by side: the edges of both, of the left one only, of the right one only.
"use strict";

const SHARES = [["in-both", "in both"], ["only-left", "only left"], ["only-right", "only right"]];

function comparePage(left, right) {
  const alike = sameMeasure([left, right]);
  const rows = sharedEdges(left.circuit.edges, right.circuit.edges, alike);
  const count = (share) => rows.filter((r) => r.share === share).length;
  const state = { share: "", focus: null, least: rows.length > 150 ? rows.length - 2 * FIRST : 0 };
  const used = isLarge(left.circuit) ? usedPlaces(left.circuit, rows.map((r) => [r.writer, r.reader])) : null; // folded alike
  const sides = [compareSide("Left", left, rows, 0, used), compareSide("Right", right, rows, 1, used)];
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
    above.textContent = `${alike ? `≥ ${percent(large.length ? large[large.length - 1].size : null)} of the largest` : `place ≥ ${percent(large.length ? large[large.length - 1].size : null)}`} · ${large.length} of ${plural(rows.length, "edge")}`;
    slider.setAttribute("aria-valuetext", above.textContent);
    body.replaceChildren(compareTable(near, alike));
    say(`${plural(near.length, "edge")} shown`);
  }
  for (const side of sides) {
    roving(side.element, side.nodes);
    for (const node of side.nodes) pressable(node, () => update({ focus: state.focus === node.dataset.id ? null : node.dataset.id }));
  }
  update({});
  const scale = el("div", { class: "bar narrow" }, el("label", { for: "least" }, `Smallest |${measureOf(left.circuit)}|`), slider, above);
  return compareLayout(left, right, rows, count, sides, [el("div", { class: "bar" }, buttons, compareLegend(), clear), scale], body);
}

function compareLayout(left, right, rows, count, sides, bars, body) {
  const jaccard = rows.length ? count("in-both") / rows.length : null;
  const same = ["layers", "heads", "mlp"].every((k) => left.circuit[k] === right.circuit[k]);
  const out = store ? null : el("a", { class: "button", download: "comparison.html",
    href: `export?${new URLSearchParams([left, right].map((d) => ["id", d.summary.id]))}` }, "Export as one file");
  return el("div", {},
    el("div", { class: "head" }, el("div", {}, el("h1", {}, "Two circuits"),
      el("p", { class: "quiet" }, `${count("in-both")} of ${plural(rows.length, "edge")} are in both (Jaccard ${shown(jaccard)}).`),
      same ? null : el("p", { class: "error" }, "The two models have different sizes: names that are equal are not the same heads.")), out),
    sameMeasure([left, right]) ? null : el("p", { class: "quiet" }, "Their numbers measure different things, so each edge is given by its place in its own circuit: 100 % is the strongest."),
    bars,
    el("div", { class: "pair" }, sides.map((s) => s.element)),
    differencePanel([left.summary, right.summary]), el("div", { class: "next" }, panel("Edges", body)));
}

// Largest first: each effect as a share of its own side's largest, or where they do not measure the
// same by its place in its own circuit.
function sharedEdges(left, right, alike) {
  const found = new Map();
  [left, right].forEach((edges, side) => edges.forEach(([writer, reader, effect], i) => {
    const name = `${writer}->${reader}`;
    const row = found.get(name) ?? { name, writer, reader, effects: [null, null], places: [null, null] };
    row.effects[side] = effect;
    row.places[side] = percentile(i, edges.length);
    found.set(name, row);
  }));
  const rows = [...found.values()];
  for (const r of rows) r.share = r.effects[0] === null ? "only-right" : r.effects[1] === null ? "only-left" : "in-both";
  const tops = [left, right].map((edges) => Math.abs(edges[0]?.[2] ?? 0) || 1); // they come largest first
  for (const r of rows) r.size = alike ? Math.max(...r.effects.map((e, side) => Math.abs(e ?? 0) / tops[side])) : Math.max(...r.places.map((p) => p ?? 0));
  return rows.sort((a, b) => b.size - a.size);
}

function compareSide(title, details, rows, side, used) {
  const share = new Map(rows.map((r) => [r.name, r.share]));
  const edges = details.circuit.edges;
  const name = ([writer, reader]) => `${writer}->${reader}`;
  const { picture, nodes, layer } = drawCircuit(details.circuit, `${title}: ${details.summary.id}`, (edge) => share.get(name(edge)), used);
  tipsIn(picture, (target) => describePart(target, edges));
  function show(kept, focus) {
    const on = edges.map((edge) => kept.has(name(edge)));
    layer.show((i) => on[i]);
    const used = new Set(["input", "logits", ...edges.filter((_, i) => on[i]).flatMap(ends)]);
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
    pictureBox(picture, `${title} circuit`));
  return { element, nodes, show };
}

function compareTable(near, alike) {
  const write = [0, 1].map((side) => aligned(near.map((r) => r.effects[side])));
  const cell = (r, side) => (alike ? write[side](r.effects[side]) : percent(r.places[side]));
  const cells = (rows) => rows.map((r) => [r.writer, r.reader, cell(r, 0), cell(r, 1), SHARES.find(([k]) => k === r.share)[1]]);
  const some = table("Edges of the two circuits, largest first", [["from", ""], ["into", ""], ["left", "n"], ["right", "n"], ["where", ""]], cells(near.slice(0, ROWS)), "edges");
  some.whole = cells(near);
  return el("div", {}, cutNote(Math.min(near.length, ROWS), near.length), some);
}

function compareLegend() {
  return el("div", { class: "legend" }, SHARES.map(([share, words]) => el("span", { class: `key l ${share}` },
    svg("svg", { width: 30, height: 8, "aria-hidden": "true" }, svg("path", { class: "line", d: "M0 4H30", "stroke-width": share === "in-both" ? 2 : 3.5 })), words)));
}
