// All runs of one question: edges against how good the circuit is, and settings against results. A
// point is a run; where a sweep was summed up its means over seeds stand there with their intervals.
"use strict";

const TIE = 1e-6; // values that differ by no more are equally good
const sweep = { folder: "", group: "", y: "faithfulness", filter: "", press: "open" };
const MEASURES = { // best at 1, or the more the better; what sweep.json has of it
  faithfulness: { value: (r) => r.faithfulness, far: (r, v) => Math.abs(v - 1), best: 1, text: percent, mean: (p) => p.faithfulness },
  "held-out": { value: COLUMNS["held-out"].value, far: (r, v) => Math.abs(v - 1), best: 1, text: percent, mean: () => null },
  accuracy: { value: COLUMNS.accuracy.value, far: (r, v) => -v, best: 1, text: percent, mean: () => null },
};

// `load` gives the points of a folder's sweep.json, or null.
function sweepPage(runs, options, load) {
  const usable = runs.filter((r) => r.n_edges > 0 && r.state === "done" && (r.faithfulness !== null || r.metric_circuit !== null));
  if (!usable.length) return el("p", { class: "quiet" }, "No finished run with edges and a score yet.");
  for (const key of ["folder", "group", "y", "filter"]) if (options?.has(key)) sweep[key] = options.get(key);
  const folders = [...new Set(usable.map(folderOf))].sort(COLLATOR.compare);
  if (!folders.includes(sweep.folder)) sweep.folder = "";
  const known = fieldNames(usable);
  const choice = (id, key) => el("select", { id, change: (e) => { sweep[key] = e.target.value; redraw(); } });
  const [folder, group, y, press] = [choice("folder", "folder"), choice("group", "group"), choice("measure", "y"), choice("press", "press")];
  const filter = el("input", { id: "sweep-filter", type: "search", value: sweep.filter, placeholder: "held-out>=80% seed=0 …", input: () => { sweep.filter = filter.value; redraw(); } });
  const wrong = el("p", { class: "error" });
  const body = el("div", {});
  const page = el("div", {}, el("div", { class: "bar" }, folders.length > 1 ? [el("label", { for: "folder" }, "Folder"), folder] : null,
    el("label", { for: "group" }, "Task"), group, el("label", { for: "measure" }, "Against edges"), y,
    el("label", { for: "sweep-filter" }, "Only"), filter, el("label", { for: "press" }, "A click"), press), wrong, body);

  function redraw() {
    const inside = usable.filter((r) => !sweep.folder || folderOf(r) === sweep.folder);
    const groups = [...new Set(inside.map(groupOf))].sort();
    const size = (g) => inside.filter((r) => groupOf(r) === g).length;
    if (!groups.includes(sweep.group)) sweep.group = groups.reduce((best, g) => (size(g) > size(best) ? g : best));
    const members = inside.filter((r) => groupOf(r) === sweep.group);
    const measures = measuresOf(members);
    if (!Object.hasOwn(measures, sweep.y)) sweep.y = "faithfulness";
    offer(folder, ["", ...folders], sweep.folder, (f) => f || "all");
    offer(group, groups, sweep.group);
    offer(y, Object.keys(measures), sweep.y);
    offer(press, ["open", "tick"], sweep.press, (p) => (p === "open" ? "opens the run" : "ticks it to compare"));
    const some = filtered(members, known, wrong).filter((r) => (measures[sweep.y].value(r) ?? null) !== null);
    const found = some.length ? sweepParts(some, measures[sweep.y]) : { element: el("p", { class: "quiet" }, `No run here has ${sweep.y}.`) };
    body.replaceChildren(found.element);
    if (!store && page.isConnected) history.replaceState(null, "", `#/sweep?${new URLSearchParams(["folder", "group", "y", "filter"].filter((key) => sweep[key]).map((key) => [key, sweep[key]]))}`);
    if (found.means) load(sweep.folder || (folders.length === 1 ? folders[0] : "")).then((said) => body.firstChild === found.element && said && found.means(said.points), () => {});
  }
  redraw();
  return page;
}

function filtered(runs, known, wrong) {
  wrong.textContent = "";
  try {
    return runs.filter(parseFilter(sweep.filter, known));
  } catch (error) {
    wrong.textContent = error.message;
    return runs;
  }
}

function measuresOf(runs) {
  const metric = runs[0].metric;
  const has = Object.entries(MEASURES).filter(([name, m]) => name === "faithfulness" || runs.some((r) => (m.value(r) ?? null) !== null));
  const own = { value: (r) => r.metric_circuit, far: (r, v) => (r.lower_is_better ? v : -v), text: shown, mean: (p) => p.value };
  return { ...Object.fromEntries(has), ...(metric ? { [metric]: own } : {}) };
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

function sweepParts(runs, measure) {
  const methods = [...new Set(runs.map((r) => r.method))].sort();
  const front = paretoFront(runs, (r) => measure.far(r, measure.value(r)));
  const better = measure.best === 1 && sweep.y !== "accuracy" ? "nearer to 100 %" : "better";
  const legend = el("div", { class: "legend" }, methods.map((m, i) => markKey(i, m ?? "?")), el("span", {}, `dashed: no run with as few edges is ${better}`));
  const short = new Map(shortNames(runs).map((name, i) => [runs[i], name]));
  const heads = [["run", "long"], ["method", "long"], ["edges", "n"], [sweep.y === "faithfulness" ? "faithful" : sweep.y, "n"], ["threshold", "n"]];
  const line = table("Runs on the front, fewest edges first", heads, front.map((r) => [
    el("a", { href: address("run", r.id), title: r.id, "aria-label": r.id }, short.get(r)),
    el("span", { title: r.method ?? "?" }, r.method ?? "?"), shown(r.n_edges), measure.text(measure.value(r)), shown(r.threshold)]), "edges front-runs");
  const place = el("div", {});
  const draw = (points) => place.replaceChildren(sweepChart(runs, measure, methods, front, points));
  draw([]);
  const element = el("div", { class: "stack" }, el("div", { class: "circuit roomy" }, el("section", { class: "panel" }, legend, place),
    panel("On the front", el("div", { class: "scroll flat" }, line))), parallelPanel(runs, methods));
  return { element, means: (points) => draw(pointsOf(points, runs, measure)) };
}

// The summed-up points whose runs are all here.
function pointsOf(points, runs, measure) {
  const byName = new Map(runs.map((r) => [r.id.split("/").pop(), r]));
  return points.map((p) => ({ ...p, runs: p.names.map((name) => byName.get(name)), y: measure.mean(p) }))
    .filter((p) => p.y && p.runs.length > 1 && p.runs.every(Boolean));
}

// Runs that no other beats: as few edges and as good, one of the two better. Fewest edges first.
function paretoFront(runs, far) {
  const beats = (a, b) => (a.n_edges < b.n_edges && far(a) <= far(b) + TIE) || (a.n_edges === b.n_edges && far(a) < far(b) - TIE);
  return runs.filter((b) => !runs.some((a) => beats(a, b))).sort((a, b) => a.n_edges - b.n_edges);
}

// A click on what stands for some runs opens them, or ticks them for comparison.
function pressRuns(element, runs) {
  const ids = runs.map((r) => r.id);
  const mark = () => element.classList.toggle("ticked", ids.every((id) => list.chosen.includes(id)));
  mark();
  element.addEventListener("click", (event) => {
    if (sweep.press !== "tick") return;
    event.preventDefault();
    chooseRuns(ids, !ids.every((id) => list.chosen.includes(id)));
    mark();
  });
  return element;
}

function sweepChart(runs, measure, methods, front, points) {
  const area = [64, 30, 780, 460];
  const values = [...runs.map(measure.value), ...points.flatMap((p) => [p.y.low, p.y.high])].filter((v) => v !== null);
  const log = measure.best === undefined && decades(values);
  const x = makeScale([...runs.map((r) => r.n_edges), ...points.flatMap((p) => [p.edges.low, p.edges.high])], area[0], area[2], true);
  const best = measure.best === undefined ? [] : [measure.best];
  const y = makeScale([...best, ...values], area[3], area[1], log);
  const at = (r) => [x(r.n_edges), y(measure.value(r))];
  const shape = (method) => methods.indexOf(method) % MARKS.length;
  const marks = runs.map((r) => pressRuns(svg("a", { href: address("run", r.id), "data-run": r.id, class: points.length ? "seed" : null, "aria-label": `${r.id}: ${r.method}, ${plural(r.n_edges, "edge")}, ${sweep.y} ${measure.text(measure.value(r))}` },
    svg("path", { class: `s${shape(r.method)} mark-point`, d: MARKS[shape(r.method)], transform: `translate(${at(r).map((v) => v.toFixed(1)).join(" ")})${points.length ? "scale(.6)" : ""}` })), [r]));
  const labels = points.length ? points.map((p) => [x(p.edges.mean), y(p.y.mean), p.threshold]) : front.map((r) => [...at(r), r.threshold]);
  const picture = legible(svg("svg", { viewBox: "0 0 800 506", role: "group", class: "chart", "aria-label": `${sweep.y} against edges, ${plural(runs.length, "run")}` },
    axes(area, x, y, "edges, logarithmic", `${sweep.y}${log ? ", logarithmic" : ""}`, measure.text === percent),
    best.map((v) => svg("line", { class: "level", x1: area[0], x2: area[2], y1: y(v), y2: y(v) })), polyline(front.map(at), "front"), marks,
    points.map((p) => meanMark(p, x, y, shape(p.runs[0].method), measure)), thresholdLabels(labels, area)));
  const byId = new Map(runs.map((r) => [r.id, r]));
  return tipsIn(picture, (target) => {
    const mean = target.closest?.("[data-mean]");
    if (mean) return mean.getAttribute("aria-label").split("; ");
    const r = byId.get(target.closest?.("[data-run]")?.dataset.run);
    return r ? [r.id, `${r.method}, threshold ${shown(r.threshold)}`, `${plural(r.n_edges, "edge")}, ${sweep.y} ${measure.text(measure.value(r))}`] : null;
  });
}

// A mean over seeds with both intervals; it stands for all its runs.
function meanMark(p, x, y, shape, measure) {
  const [cx, cy] = [x(p.edges.mean), y(p.y.mean)];
  const bar = (of, scale, line) => (of.low === null || of.high === null || of.low <= 0 ? null : line(scale(of.low), scale(of.high)));
  const words = `mean of ${p.runs.length} runs: threshold ${shown(p.threshold)}; edges ${shown(p.edges.mean)} [${shown(p.edges.low)}, ${shown(p.edges.high)}]; ${sweep.y} ${measure.text(p.y.mean)} [${measure.text(p.y.low)}, ${measure.text(p.y.high)}]`;
  return pressRuns(svg("a", { href: address("compare", ...p.runs.map((r) => r.id)), "data-mean": p.names.length, "aria-label": words },
    bar(p.edges, x, (a, b) => svg("line", { class: "whisker", x1: a, x2: b, y1: cy, y2: cy })),
    bar(p.y, y, (a, b) => svg("line", { class: "whisker", x1: cx, x2: cx, y1: a, y2: b })),
    svg("path", { class: `s${shape} mark-point`, d: MARKS[shape], transform: `translate(${cx.toFixed(1)} ${cy.toFixed(1)})scale(1.2)` })), p.runs);
}

// The thresholds beside their points, as many as there is room for.
function thresholdLabels(labels, [, , right]) {
  const taken = [];
  return labels.filter(([, , t]) => t !== null).map(([x, y, t]) => {
    const text = shown(t);
    const left = x + 11 + 7 * text.length > right;
    const box = [left ? x - 11 - 7 * text.length : x + 9, y - 20, left ? x - 9 : x + 11 + 7 * text.length, y - 5];
    if (taken.some((b) => box[0] < b[2] + 3 && b[0] < box[2] + 3 && box[1] < b[3] && b[1] < box[3])) return null;
    taken.push(box);
    return svg("text", { class: "small over", x: left ? x - 9 : x + 9, y: y - 9, "text-anchor": left ? "end" : "start" }, text);
  });
}
