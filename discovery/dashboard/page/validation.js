// Is the circuit true: the verdict with what decides it and what to do next, every test folded below.
"use strict";

const ANSWERS = [[true, "hold", "yes", "+"], [false, "fail", "no", "−"], [null, "are not decided", "open", "?"]];
const DIRECTIONS = ["sufficiency", "noising", "denoising"];
const SEARCHES = ["empty", "class", "random", "greedy", "exact"];
const LADDER = "Kept edges carry what they do on the prompt itself. Each row says whose values the cut edges carry instead, and whose input the circuit reads: the prompt's own, or that of any prompt with the same named feature.";

function validationView(v) {
  const { n_prompts, n_edges, score, unit } = v.about;
  const lead = `${plural(n_edges ?? 0, "edge")}, tried on ${shown(n_prompts)} prompts that it was not found on. ${score ?? "Score"} of the model ${shown(v.model)}, with every edge cut ${shown(v.empty)} ${unit ?? ""}.`;
  return el("div", { class: "stack" },
    v.decision ? decisionParts(v.decision, v.next) : null,
    el("p", { class: "quiet" }, lead),
    folded(testsTitle(v.verdicts), !v.decision, testsPart(v)),
    folded("All figures", !v.decision, figuresPart(v)),
    v.samples.length || v.provenance.length ? el("div", { class: "columns" }, samplesPanel(v), originPanel(v.provenance)) : null);
}

function folded(title, open, ...children) {
  return el("details", { class: "folded", open }, el("summary", {}, title), children);
}

// The verdict, the three figures that it follows from, and what would change it.
function decisionParts({ heading, figures }, next) {
  return [el("section", { "aria-label": "Verdict" }, el("h2", { class: "verdict" }, heading ?? "–"), el("div", { class: "cards-3" }, figures.map(figureCard))),
    panel("What to do next", next.length ? el("ol", { class: "steps" }, next.map((step) => el("li", {}, step))) : el("p", {}, "Nothing: no test asks for more."))];
}

function figureCard(one) {
  const look = one.good === null ? "open" : one.good ? "yes" : "no";
  return el("section", { class: `panel figure ${look}` }, el("h3", {}, one.question ?? "–"), el("p", { class: "big" }, one.said ?? "–"),
    one.share ? shareBar(one) : null, el("p", { class: "quiet" }, `${one.scale ?? ""}${one.baselines.length ? " (dotted)" : ""}.`));
}

const BAND_WORDS = ["no", "partly", "yes"];

// A share with its interval between 0 and 1, on the bands of the words; baselines dotted.
function shareBar({ question, said, share, baselines, borders }) {
  const [left, width] = [8, 304];
  const x = (value) => left + width * Math.min(Math.max(value, 0), 1);
  const bounds = [0, ...borders, 1];
  const bands = borders.length === 2 ? BAND_WORDS.map((word, i) => [
    svg("rect", { class: i % 2 ? "band" : "track", x: x(bounds[i]), y: 6, width: x(bounds[i + 1]) - x(bounds[i]), height: 14 }),
    svg("text", { class: "small", x: (x(bounds[i]) + x(bounds[i + 1])) / 2, y: 36, "text-anchor": "middle" }, word)])
    : svg("rect", { class: "track", x: left, y: 6, width, height: 14 });
  return chart(320, 42, `${question} ${said}`, bands,
    share.low === null || share.high === null ? null : svg("line", { class: "span", x1: x(share.low) - 1, x2: x(share.high) + 1, y1: 13, y2: 13 }),
    baselines.map((value) => svg("line", { class: "baseline", x1: x(value), x2: x(value), y1: 2, y2: 24 })),
    svg("path", { class: "s0 mark-point", d: MARKS[0], transform: `translate(${x(share.value).toFixed(1)} 13)` }));
}

function testsTitle(verdicts) {
  const counted = verdicts.filter((x) => x.counted);
  const counts = ANSWERS.map(([answer, title]) => `${counted.filter((x) => x.holds === answer).length} ${title.replace("are ", "")}`);
  return `All tests: ${counts.join(", ")}`;
}

function testsPart(v) {
  const [counted, beside] = [true, false].map((side) => v.verdicts.filter((x) => x.counted === side));
  return el("div", { class: "stack" }, v.headline ? el("p", {}, v.headline) : twoSided(v),
    el("div", { class: "columns" },
      panel("What the whole model has", ANSWERS.map((answer) => verdictList(counted, answer))),
      el("div", { class: "stack" },
        beside.length ? panel("Beside the count: what the whole model does not have either", ANSWERS.map((answer) => verdictList(beside, answer))) : null,
        v.left_out.length ? panel("Not done", leftOut(v.left_out)) : null)));
}

function figuresPart(v) {
  return el("div", { class: "columns" },
    el("div", { class: "stack" },
      panel("Faithfulness, by how it is measured", cellLegend(), cellChart(v.cells, v.about.zero)),
      panel("The same knock-outs in circuit and model", knockoutChart(v))),
    el("div", { class: "stack" },
      panel("Resampling what is outside the circuit", el("p", { class: "quiet" }, LADDER), ladderChart(v.ladder)),
      panel("All tests", testTable(v.tests))));
}

function samplesPanel({ samples }) {
  if (!samples.length) return null;
  const cells = (s) => [s.prompt ?? "–", s.answers.join(", "), shown(s.model), shown(s.circuit), shown(s.empty)];
  return panel("Some of the prompts", el("div", { class: "scroll flat" }, table("Some of the prompts, and their scores",
    [["prompt", "words"], ["answer", ""], ["model", "n"], ["circuit", "n"], ["every edge cut", "n"]], samples.map(cells), "cards samples")));
}

function originPanel(provenance) {
  if (!provenance.length) return null;
  return panel("Where it comes from", el("dl", { class: "terms" }, provenance.map(([name, text]) => el("div", {}, el("dt", {}, name), el("dd", {}, el("code", {}, text))))));
}

function verdictList(verdicts, [answer, title, look, sign]) {
  const some = verdicts.filter((v) => v.holds === answer);
  if (!some.length) return null;
  return el("ul", { class: `verdicts ${look}`, "aria-label": `Properties that ${title}` }, some.map((v) => el("li", {},
    el("b", { "aria-hidden": "true" }, sign),
    el("div", {}, v.says ?? v.question ?? v.name ?? "–", el("small", {}, `${v.name}: ${v.figures ?? ""}`)))));
}

function ladderChart(ladder) {
  const rows = ladder.filter((r) => r.recovered).map((r) => ({ name: `${r.cut_edges}; ${r.input}`, ...r.recovered }));
  return rows.length ? intervals(`Share of the model under each way of resampling; 0 = ${ladder.find((r) => r.zero)?.zero ?? "?"}`, rows, "share: 0 = as in the title, 1 = the model", [0, 1])
    : el("p", { class: "quiet" }, "No rung is defined.");
}

// A mean may be right by errors that cancel; these are not.
function twoSided(v) {
  const { score, kl_share, error_share, correlation, accuracy } = v.circuit;
  if (score === null) return null;
  return el("p", { class: "quiet" }, `The circuit has ${shown(score)}. Prompt by prompt it keeps ${shown(error_share)} of the model, of KL ${shown(kl_share)} (0 = ${v.about.zero ?? "every edge cut"}, 1 = the model); correlation with the model ${shown(correlation)}, accuracy ${shown(accuracy)}.`);
}

function leftOut(parts) {
  return el("ul", {}, parts.map((one) => el("li", {}, `${one.part ?? "?"}${one.minutes === null ? "" : `, about ${shown(one.minutes)} minutes`}: ask with ${one.ask ?? "?"}`)));
}

function cellChart(cells, zero) {
  const rows = cells.filter((c) => c.share).map((c) => ({
    name: `${c.granularity}, ${c.ablation}, at ${c.positions}`, mark: Math.max(DIRECTIONS.indexOf(c.direction), 0), ...c.share }));
  if (!rows.length) return el("p", { class: "quiet" }, "No cell is defined.");
  const chart = intervals("Faithfulness with intervals", rows, "share of the means: 0 = no edge kept, 1 = the model", [0, 1]);
  return el("div", {}, [chart, el("p", { class: "quiet" }, zero ? `0 is ${zero}.` : "")]);
}

function cellLegend() {
  return el("div", { class: "legend" }, DIRECTIONS.map((name, i) => markKey(i, name)));
}

function markKey(i, name) {
  return el("span", {}, svg("svg", { width: 16, height: 16, viewBox: "-8 -8 16 16", "aria-hidden": "true" },
    svg("path", { class: `s${i % MARKS.length} mark-point`, d: MARKS[i % MARKS.length] })), name);
}

// On the diagonal, circuit and model agree.
function knockoutChart(v) {
  const some = v.knockouts.filter((t) => t.model !== null && t.circuit !== null);
  if (!some.length) return el("p", { class: "quiet" }, "No knock-outs.");
  const area = [58, 28, 560, 260];
  const both = some.flatMap((t) => [t.model, t.circuit]);
  const x = makeScale(both, area[0], area[2]);
  const y = makeScale(both, area[3], area[1]);
  const [low, high] = [Math.min(...both), Math.max(...both)];
  const kind = (t) => Math.max(SEARCHES.indexOf((t.search ?? "").split(" ")[0]), 0);
  const marks = some.map((t) => svg("path", { class: `s${kind(t)} mark-point`, d: MARKS[kind(t)], transform: `translate(${x(t.model).toFixed(1)} ${y(t.circuit).toFixed(1)})`, "data-what": `${t.search}: {${t.nodes.join(", ")}}`, "data-at": `model ${shown(t.model)}, circuit ${shown(t.circuit)}` }));
  const worst = v.worst.model === null || v.worst.circuit === null ? null
    : svg("circle", { class: "point worst", cx: x(v.worst.model), cy: y(v.worst.circuit), r: 11 });
  const picture = chart(580, 302, `${some.length} sets of nodes removed from circuit and model`,
    axes(area, x, y, `model without K, ${v.about.unit ?? ""}`, `circuit without K, ${v.about.unit ?? ""}`),
    polyline([[x(low), y(low)], [x(high), y(high)]], "front"), marks, worst);
  tipsIn(picture, (t) => (t.dataset?.what ? [t.dataset.what, t.dataset.at] : null));
  const used = [...new Set(some.map(kind))].sort();
  return el("div", {}, el("div", { class: "legend" }, used.map((i) => markKey(i, SEARCHES[i])), el("span", {}, "ringed: the worst")), picture);
}

function testTable(tests) {
  return el("div", { class: "scroll flat" }, table("All tests", [["test", ""], ["null hypothesis", ""], ["statistic", "n"], ["p", "n"], ["n", "n"]],
    tests.map((t) => [t.name ?? "–", t.null ?? "–", shown(t.statistic), shown(t.p_value, 2), shown(t.n)]), "cards"));
}
