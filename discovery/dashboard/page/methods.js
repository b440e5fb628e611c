// Several methods on one task: faithfulness over circuit size, and what the comparison counted.
"use strict";

const RANKED = [["absolute", "by |score|"], ["signed", "by score"]];

function methodsView({ methods, needed, about }) {
  const first = needed.length ? panel("Edges that each method needs", neededTable(needed)) : null;
  return el("div", { class: "stack" }, first, methods.length ? curvesOf(methods, about) : null);
}

// A row a method and a column a share of the model; a circuit's figures on new prompts below its edges.
function neededTable(needed) {
  const targets = [...new Set(needed.map((row) => row.target))].sort((a, b) => a - b);
  const cell = (row) => (row ? el("span", {}, row.edges === null ? "not reached" : shown(row.edges), el("small", {}, `KL ${percent(row.kl_share)}, accuracy ${percent(row.accuracy)}`)) : "–");
  const names = [...new Set(needed.map((row) => row.method))];
  return el("div", {}, el("div", { class: "scroll flat" }, table("Edges that each method needs", [["method", ""], ...targets.map((share) => [share === null ? "as it was found" : `to recover ${percent(share)}`, "n"])],
    names.map((name) => [name ?? "–", ...targets.map((share) => cell(needed.find((row) => row.method === name && row.target === share)))]), "needed")),
  el("p", { class: "quiet" }, "The share is of the tuning prompts, two-sided: the metric's, each prompt's error counted, and KL's. Below, the circuit on the test prompts: the share of KL that it recovers, and its accuracy."));
}

function curvesOf(methods, about) {
  const body = el("div", {});
  const buttons = RANKED.map(([ranking, words]) => el("button", { type: "button", "data-ranking": ranking, click: () => show(ranking) }, words));
  function show(ranking) {
    for (const b of buttons) b.setAttribute("aria-pressed", String(b.dataset.ranking === ranking));
    body.replaceChildren(methodsChart(methods, ranking), el("h2", { class: "next" }, "Faithfulness, and edges on paths, by edges asked for"),
      el("div", { class: "scroll flat" }, sizesTable(methods, ranking)));
  }
  show("absolute");
  return el("div", {},
    el("p", {}, `Faithfulness is the share of the way from the empty circuit (${about.metric ?? "metric"} ${shown(about.empty)} ${about.unit ?? ""}) to the model (${shown(about.model)} ${about.unit ?? ""}).`),
    el("div", { class: "circuit" },
      el("section", { class: "panel" }, el("div", { class: "bar" }, el("span", {}, "Edges taken"), buttons),
        el("div", { class: "legend" }, methods.map((m, i) => markKey(i, m.method ?? "?"))), body),
      panel("Methods", methodsTable(methods))));
}

function methodsTable(methods) {
  const shared = methods.some((m) => m.edges !== null);
  return el("div", {}, el("div", { class: "scroll flat" }, table("Methods", [["method", ""], ["CPR", "n"], ["CMD", "n"], ["shared", "n"], ["time", "n"]],
    methods.map((m) => [m.method ?? "–", shown(m.cpr), shown(m.cmd), shown(m.shared), span(m.seconds)]))),
  el("p", { class: "quiet" }, "CPR: area under the curve by score, higher is better. CMD: area between 1 and the curve by |score|, lower is better."),
  shared ? el("p", { class: "quiet" }, `Shared: of the ${plural(methods.find((m) => m.edges !== null).edges, "edge")} that ACDC chose, those among the method's first as many. For ACDC's own curve its kept edges come first.`) : null);
}

function methodsChart(methods, ranking) {
  const area = [64, 28, 760, 330];
  const points = methods.flatMap((m, i) => m[ranking].filter((p) => p.n_edges > 0 && p.faithfulness !== null).map((p) => ({ ...p, i, method: m.method })));
  if (!points.length) return el("p", { class: "quiet" }, "No size with an edge.");
  const x = makeScale(points.map((p) => p.n_edges), area[0], area[2], true);
  const y = makeScale([0, 1, ...points.map((p) => p.faithfulness)], area[3], area[1]);
  const at = (p) => [x(p.n_edges), y(p.faithfulness)];
  const marks = points.map((p, n) => svg("path", { class: `s${p.i % MARKS.length} mark-point`, d: MARKS[p.i % MARKS.length], "data-point": n, transform: `translate(${at(p).map((v) => v.toFixed(1)).join(" ")})` }));
  const picture = chart(780, 376, `Faithfulness against edges for ${plural(methods.length, "method")}; the table holds the figures`,
    axes(area, x, y, "edges on paths, logarithmic", "faithfulness", true),
    [0, 1].map((level) => svg("line", { class: "level", x1: area[0], x2: area[2], y1: y(level), y2: y(level) })),
    methods.map((_, i) => polyline(points.filter((p) => p.i === i).map(at), `series s${i % MARKS.length}`)), marks);
  return tipsIn(picture, (target) => {
    const p = points[target.dataset?.point];
    return p ? [p.method ?? "?", `${plural(p.n_edges, "edge")} of ${shown(p.requested)} asked for`, `faithfulness ${percent(p.faithfulness)}, metric ${shown(p.metric)}`] : null;
  });
}

function sizesTable(methods, ranking) {
  const sizes = [...new Map(methods.flatMap((m) => m[ranking]).map((p) => [p.share, p])).values()].sort((a, b) => a.share - b.share);
  const cell = (m, size) => {
    const p = m[ranking].find((one) => one.share === size.share);
    return p ? el("span", {}, percent(p.faithfulness), el("small", {}, plural(p.n_edges ?? 0, "edge"))) : "–";
  };
  return table("Faithfulness by size and method", [["asked for", "n"], ...methods.map((m) => [m.method ?? "?", "n"])],
    sizes.map((size) => [el("span", {}, shown(size.requested), el("small", {}, percent(size.share))), ...methods.map((m) => cell(m, size))]), "sizes");
}
