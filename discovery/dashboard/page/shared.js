// What several circuits share: which edges are in how many of them, and where each stands in its
// own circuit's order. Effects and scores of different questions are never put into one number.
"use strict";

// Whether the numbers at the edges of all these runs measure the same.
function sameMeasure(runs) {
  const kinds = runs.map(({ summary: s, circuit }) => [s.metric, s.ablation, s.model, measureOf(circuit), measureOf(circuit) === "score" ? s.method : ""].join("\n"));
  return new Set(kinds).size === 1;
}

// The share of a circuit's edges that are no stronger: the strongest has 1, they come in this order.
function percentile(i, n) {
  return 1 - i / n;
}

// Every edge of any circuit: `at`, its percentile by the number of each circuit that has it. Most
// common first, then by the median percentile.
function sharedRows(circuits) {
  const found = new Map();
  circuits.forEach(({ edges }, run) => edges.forEach(([writer, reader], i) => {
    const name = `${writer}->${reader}`;
    const row = found.get(name) ?? found.set(name, { name, writer, reader, at: new Map() }).get(name);
    row.at.set(run, percentile(i, edges.length));
  }));
  const rows = [...found.values()];
  for (const row of rows) {
    row.count = row.at.size;
    row.pattern = [...row.at.keys()].join(" ");
    row.median = median([...row.at.values()]);
  }
  return rows.sort((a, b) => b.count - a.count || b.median - a.median || COLLATOR.compare(a.name, b.name));
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const half = Math.floor(sorted.length / 2);
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

// Sets of edges that are in exactly the same circuits, the largest first.
function patternsOf(rows) {
  const groups = Map.groupBy(rows, (row) => row.pattern);
  const found = [...groups].map(([pattern, members]) => ({ pattern, runs: new Set(pattern.split(" ").map(Number)), rows: members }));
  return found.sort((a, b) => b.rows.length - a.rows.length || b.runs.size - a.runs.size);
}

// Jaccard index of each two circuits: edges in both, of those in either.
function jaccards(rows, sizes) {
  const both = sizes.map(() => sizes.map(() => 0));
  for (const { at } of rows) {
    const runs = [...at.keys()];
    for (let i = 0; i < runs.length; i++) for (let j = i + 1; j < runs.length; j++) both[runs[i]][runs[j]]++;
  }
  return sizes.flatMap((a, i) => sizes.slice(i + 1).map((b, k) => {
    const common = both[i][i + 1 + k];
    return a + b > common ? common / (a + b - common) : 1;
  }));
}

// Nodes by the number of circuits that have an edge at them, input and logits aside.
function sharedNodes(circuits) {
  const counts = new Map();
  for (const { edges } of circuits) {
    for (const node of countEnds(edges).keys()) if (!isEnd(node)) counts.set(node, (counts.get(node) ?? 0) + 1);
  }
  return [...counts].sort(([a, n], [b, m]) => m - n || COLLATOR.compare(a, b));
}

// Settings in which the runs differ: their names, and a row of texts for each run.
function settingsApart(summaries) {
  const names = new Set(summaries.flatMap((s) => Object.keys(s.asked ?? {})));
  const text = (s, name) => (s.asked?.[name] === undefined ? "–" : typeof s.asked[name] === "number" ? shown(s.asked[name]) : String(s.asked[name]));
  const apart = [...names].filter((name) => name !== "config_hash" && !name.startsWith("tracking.") && new Set(summaries.map((s) => text(s, name))).size > 1).sort();
  return { names: apart, rows: summaries.map((s) => apart.map((name) => text(s, name))) };
}

// What tells each run from the others in few words: the parts of its name that not all have.
function shortNames(runs) {
  const shared = sharedParts(runs);
  const own = runs.map((run) => settingsOf(run).filter((part) => !shared.has(part)).join(",") || run.id.split("/").pop());
  return new Set(own).size === runs.length ? own : runs.map((run) => run.id);
}

const FEW_RUNS = 4; // that stand side by side, a column each

function differencePanel(summaries) {
  const { names, rows } = settingsApart(summaries);
  const short = shortNames(summaries);
  const link = (s, i) => (store?.details[s.id].record.config === undefined && store ? short[i] : el("a", { href: address("run", s.id), title: s.id }, short[i]));
  const results = [["edges", (s) => shown(s.n_edges)], ["faithfulness", (s) => percent(s.faithfulness)], ["held-out", COLUMNS["held-out"]], ["accuracy", COLUMNS.accuracy], ["verdict", (s) => s.verdict ?? "–"]];
  const cell = (of, s) => (typeof of === "function" ? of(s) : cellText(of, s));
  const caption = "Settings in which the runs differ, and what came out";
  const values = summaries.map((s, i) => [...rows[i], ...results.map(([, of]) => cell(of, s))]);
  const titles = [...names, ...results.map(([name]) => name)];
  const apart = summaries.length > FEW_RUNS
    ? table(caption, [["run", ""], ...titles.map((name) => [name, names.includes(name) || name === "verdict" ? "words" : "n"])], summaries.map((s, i) => [link(s, i), ...values[i]]), "cards apart")
    : table(caption, [["", "words"], ...summaries.map((s, i) => [link(s, i), "words"])], titles.map((name, k) => [name, ...values.map((own) => own[k])]), "apart");
  return panel("How they differ", names.length ? null : el("p", { class: "quiet" }, "Not in their settings, as far as these are known."),
    el("div", { class: "picture flat medium", tabindex: 0, role: "region", "aria-label": "How they differ" }, apart));
}
