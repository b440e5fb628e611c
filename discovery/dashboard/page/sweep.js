// All runs of a task in one plot: edges against how good the circuit is. A point is a run.
"use strict";

const HIGHER = ["faithfulness", "logit_diff", "prob_diff"]; // of the others less is better
const sweep = { group: "", y: "faithfulness" };

function sweepPage(runs) {
  const usable = runs.filter((r) => r.n_edges > 0 && r.state === "done" && (r.faithfulness !== null || r.metric_circuit !== null));
  if (!usable.length) return el("p", { class: "quiet" }, "No finished run with edges and a score yet.");
  const groupOf = (r) => `${r.task} in ${r.model}`;
  const groups = [...new Set(usable.map(groupOf))].sort();
  if (!groups.includes(sweep.group)) sweep.group = groups.map((g) => [usable.filter((r) => groupOf(r) === g).length, g]).sort((a, b) => b[0] - a[0])[0][1];
  const measures = ["faithfulness", ...new Set(usable.map((r) => r.metric).filter(Boolean))];
  const body = el("div", {});
  const group = el("select", { id: "group", change: (e) => { sweep.group = e.target.value; redraw(); } }, groups.map((g) => el("option", { value: g, selected: g === sweep.group }, g)));
  const y = el("select", { id: "measure", change: (e) => { sweep.y = e.target.value; redraw(); } }, measures.map((m) => el("option", { value: m, selected: m === sweep.y }, m)));
  function redraw() {
    const value = (r) => (sweep.y === "faithfulness" ? r.faithfulness : r.metric === sweep.y ? r.metric_circuit : null);
    const some = usable.filter((r) => groupOf(r) === sweep.group && value(r) !== null);
    body.replaceChildren(...(some.length ? sweepParts(some, value) : [el("p", { class: "quiet" }, `No run here has ${sweep.y}.`)]));
  }
  redraw();
  return el("div", {}, el("div", { class: "bar" }, el("label", { for: "group" }, "Task"), group, el("label", { for: "measure" }, "Against edges"), y), body);
}

function sweepParts(runs, value) {
  const methods = [...new Set(runs.map((r) => r.method))].sort();
  const front = paretoFront(runs, value, HIGHER.includes(sweep.y));
  const legend = el("div", { class: "legend" }, methods.map((m, i) => markKey(i, m ?? "?")), el("span", {}, "dashed: no run is better with fewer edges"));
  const line = table("Runs on the front, fewest edges first", [["edges", "n"], [sweep.y === "faithfulness" ? "faithful" : sweep.y, "n"], ["threshold", "n"], ["run", ""]],
    front.map((r) => [shown(r.n_edges), sweepText(value(r)), shown(r.threshold), el("a", { href: address("run", r.id), title: r.id, "aria-label": r.id }, r.method ?? "run")]), "edges");
  return [el("div", { class: "circuit" }, el("section", { class: "panel" }, legend, sweepChart(runs, value, methods, front)),
    panel("On the front", el("div", { class: "scroll flat" }, line)))];
}

function sweepText(value) {
  return sweep.y === "faithfulness" ? percent(value) : shown(value);
}

// Runs that no other beats with as few edges, fewest edges first.
function paretoFront(runs, value, higher) {
  const sign = higher ? -1 : 1;
  const sorted = [...runs].sort((a, b) => a.n_edges - b.n_edges || sign * (value(a) - value(b)));
  let best = Infinity;
  return sorted.filter((r) => sign * value(r) < best && ((best = sign * value(r)), true));
}

function sweepChart(runs, value, methods, front) {
  const area = [64, 30, 780, 460];
  const x = makeScale(runs.map((r) => r.n_edges), area[0], area[2], true);
  const y = makeScale(runs.map(value), area[3], area[1]);
  const at = (r) => [x(r.n_edges), y(value(r))];
  const points = runs.map((r) => svg("a", { href: address("run", r.id), "data-run": r.id, "aria-label": `${r.id}: ${r.method}, ${plural(r.n_edges, "edge")}, ${sweep.y} ${sweepText(value(r))}` },
    svg("path", { class: `s${methods.indexOf(r.method) % MARKS.length} mark-point`, d: MARKS[methods.indexOf(r.method) % MARKS.length], transform: `translate(${at(r).map((v) => v.toFixed(1)).join(" ")})` })));
  const picture = legible(svg("svg", { viewBox: "0 0 800 506", role: "group", class: "chart", "aria-label": `${sweep.y} against edges, ${plural(runs.length, "run")}` },
    axes(area, x, y, "edges, logarithmic", sweep.y, sweep.y === "faithfulness"), polyline(front.map(at), "front"), points));
  const byId = new Map(runs.map((r) => [r.id, r]));
  return tipsIn(picture, (target) => {
    const r = byId.get(target.closest?.("[data-run]")?.dataset.run);
    return r ? [r.id, `${r.method}, threshold ${shown(r.threshold)}`, `${plural(r.n_edges, "edge")}, ${sweep.y} ${sweepText(value(r))}`] : null;
  });
}
