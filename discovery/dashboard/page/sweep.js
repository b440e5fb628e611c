// All runs of one question in one plot: edges against how good the circuit is. A point is a run.
"use strict";

const TIE = 1e-6; // values that differ by no more are equally good
const sweep = { folder: "", group: "", y: "faithfulness" };

function sweepPage(runs) {
  const usable = runs.filter((r) => r.n_edges > 0 && r.state === "done" && (r.faithfulness !== null || r.metric_circuit !== null));
  if (!usable.length) return el("p", { class: "quiet" }, "No finished run with edges and a score yet.");
  const folders = [...new Set(usable.map(folderOf))].sort();
  if (!folders.includes(sweep.folder)) sweep.folder = "";
  const choice = (id, key) => el("select", { id, change: (e) => { sweep[key] = e.target.value; redraw(); } });
  const [folder, group, y] = [choice("folder", "folder"), choice("group", "group"), choice("measure", "y")];
  const body = el("div", {});
  function redraw() {
    const inside = usable.filter((r) => !sweep.folder || folderOf(r) === sweep.folder);
    const groups = [...new Set(inside.map(groupOf))].sort();
    const size = (g) => inside.filter((r) => groupOf(r) === g).length;
    if (!groups.includes(sweep.group)) sweep.group = groups.reduce((best, g) => (size(g) > size(best) ? g : best));
    const members = inside.filter((r) => groupOf(r) === sweep.group);
    const measures = ["faithfulness", members[0].metric].filter(Boolean);
    if (!measures.includes(sweep.y)) sweep.y = "faithfulness";
    offer(folder, ["", ...folders], sweep.folder, (f) => f || "all");
    offer(group, groups, sweep.group);
    offer(y, measures, sweep.y);
    const value = (r) => (sweep.y === "faithfulness" ? r.faithfulness : r.metric_circuit);
    const some = members.filter((r) => value(r) !== null);
    body.replaceChildren(...(some.length ? sweepParts(some, value) : [el("p", { class: "quiet" }, `No run here has ${sweep.y}.`)]));
  }
  redraw();
  const several = folders.length > 1 ? [el("label", { for: "folder" }, "Folder"), folder] : null;
  return el("div", {}, el("div", { class: "bar" }, several, el("label", { for: "group" }, "Task"), group, el("label", { for: "measure" }, "Against edges"), y), body);
}

function offer(select, values, chosen, text = (value) => value) {
  select.replaceChildren(...values.map((v) => el("option", { value: v }, text(v))));
  select.value = chosen;
}

// Only answers to the same question can be compared.
function groupOf(run) {
  const [task, model, metric, ablation] = [run.task, run.model, run.metric, run.ablation].map((name) => name ?? "?");
  return `${task} in ${model}, ${metric}, ${ablation}`;
}

function sweepParts(runs, value) {
  const methods = [...new Set(runs.map((r) => r.method))].sort();
  const front = paretoFront(runs, (r) => shortfall(r, value(r)));
  const better = sweep.y === "faithfulness" ? "nearer to 100 %" : "better";
  const legend = el("div", { class: "legend" }, methods.map((m, i) => markKey(i, m ?? "?")), el("span", {}, `dashed: no run with as few edges is ${better}`));
  const heads = [["run", "long"], ["method", "long"], ["edges", "n"], [sweep.y === "faithfulness" ? "faithful" : sweep.y, "n"], ["threshold", "n"]];
  const line = table("Runs on the front, fewest edges first", heads, front.map((r) => [
    el("a", { href: address("run", r.id), title: r.id, "aria-label": r.id }, r.id.split("/").pop()),
    el("span", { title: r.method ?? "?" }, r.method ?? "?"), shown(r.n_edges), sweepText(value(r)), shown(r.threshold)]), "edges front-runs");
  return [el("div", { class: "circuit roomy" }, el("section", { class: "panel" }, legend, sweepChart(runs, value, methods, front)),
    panel("On the front", el("div", { class: "scroll flat" }, line)))];
}

function sweepText(value) {
  return sweep.y === "faithfulness" ? percent(value) : shown(value);
}

// What is better the smaller it is: the distance of faithfulness from 1, a metric towards its better side.
function shortfall(run, value) {
  if (sweep.y === "faithfulness") return Math.abs(value - 1);
  return run.lower_is_better ? value : -value;
}

// Runs that no other beats: as few edges and as good, one of the two better. Fewest edges first.
function paretoFront(runs, far) {
  const beats = (a, b) => (a.n_edges < b.n_edges && far(a) <= far(b) + TIE) || (a.n_edges === b.n_edges && far(a) < far(b) - TIE);
  return runs.filter((b) => !runs.some((a) => beats(a, b))).sort((a, b) => a.n_edges - b.n_edges);
}

function sweepChart(runs, value, methods, front) {
  const area = [64, 30, 780, 460];
  const x = makeScale(runs.map((r) => r.n_edges), area[0], area[2], true);
  const best = sweep.y === "faithfulness" ? [1] : [];
  const y = makeScale([...best, ...runs.map(value)], area[3], area[1]);
  const at = (r) => [x(r.n_edges), y(value(r))];
  const points = runs.map((r) => svg("a", { href: address("run", r.id), "data-run": r.id, "aria-label": `${r.id}: ${r.method}, ${plural(r.n_edges, "edge")}, ${sweep.y} ${sweepText(value(r))}` },
    svg("path", { class: `s${methods.indexOf(r.method) % MARKS.length} mark-point`, d: MARKS[methods.indexOf(r.method) % MARKS.length], transform: `translate(${at(r).map((v) => v.toFixed(1)).join(" ")})` })));
  const picture = legible(svg("svg", { viewBox: "0 0 800 506", role: "group", class: "chart", "aria-label": `${sweep.y} against edges, ${plural(runs.length, "run")}` },
    axes(area, x, y, "edges, logarithmic", sweep.y, sweep.y === "faithfulness"),
    best.map((v) => svg("line", { class: "level", x1: area[0], x2: area[2], y1: y(v), y2: y(v) })), polyline(front.map(at), "front"), points));
  const byId = new Map(runs.map((r) => [r.id, r]));
  return tipsIn(picture, (target) => {
    const r = byId.get(target.closest?.("[data-run]")?.dataset.run);
    return r ? [r.id, `${r.method}, threshold ${shown(r.threshold)}`, `${plural(r.n_edges, "edge")}, ${sweep.y} ${sweepText(value(r))}`] : null;
  });
}
