// The table of runs: filter, sort, choose two, and news of those that still run.
"use strict";

const STATES = { done: "✓", running: "▶", failed: "✕", killed: "■", unreadable: "!", unknown: "?" };
const COLUMNS = [
  // title, class, what sorts, what is shown
  ["run", "", (r) => r.id, null],
  ["model", "", (r) => r.model, (r) => r.model ?? "–"],
  ["task", "words", (r) => r.task, (r) => r.task ?? "–"],
  ["method", "words", (r) => r.method, (r) => r.method ?? "–"],
  ["threshold", "n", (r) => r.threshold, (r) => shown(r.threshold)],
  ["edges", "n", (r) => r.n_edges, (r) => shown(r.n_edges)],
  ["faithfulness", "n", (r) => r.faithfulness, (r) => percent(r.faithfulness)],
  ["metric", "n", (r) => r.metric_circuit, (r) => metricText(r)],
  ["time", "n", (r) => r.seconds, (r) => span(r.seconds)],
  ["started", "", (r) => r.started, (r) => (r.started ? r.started.slice(0, 16).replace("T", " ") : "–")],
  ["state", "", (r) => r.state, null],
];
const list = { words: "", state: "", sort: "started", down: true, chosen: [], cut: false };

function metricText(run) {
  return run.metric_circuit === null ? "–" : `${run.metric ?? ""} ${shown(run.metric_circuit)}`;
}

function stateMark(state) {
  return el("span", { class: `state ${state in STATES ? state : "unknown"}` },
    el("span", { "aria-hidden": "true" }, STATES[state] ?? "?"), ` ${state}`);
}

function matching(runs) {
  const words = list.words.toLowerCase().split(/\s+/).filter(Boolean);
  const text = (r) => [r.id, r.model, r.task, r.method, r.state, r.metric, r.ablation, r.tracked && `W&B ${r.tracked.name} ${r.tracked.group}`].join(" ").toLowerCase();
  const some = runs.filter((r) => (!list.state || r.state === list.state) && words.every((w) => text(r).includes(w)));
  const value = COLUMNS.find(([name]) => name === list.sort)[2];
  const sign = list.down ? -1 : 1;
  return some.sort((a, b) => {
    const [x, y] = [value(a) ?? null, value(b) ?? null];
    if (x === null || y === null) return (x === null) - (y === null); // nothing comes last
    return sign * (typeof x === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true }));
  });
}

function runsPage(runs) {
  const count = el("p", { class: "quiet", role: "status" });
  const body = el("tbody");
  const head = el("tr");
  const page = el("div", { class: "runs" },
    el("div", { class: "bar" }, filterFields(runs, redraw), count),
    el("p", { id: "chosen", class: "quiet" }),
    el("div", { class: "scroll" }, el("table", { class: "list" },
      el("caption", { class: "unseen" }, "Runs"), el("thead", {}, head), body)));

  function redraw() {
    const some = matching(runs);
    const at = document.activeElement?.dataset?.key;
    head.replaceChildren(el("th", { scope: "col" }, el("span", { class: "unseen" }, "compare")), ...headCells(redraw));
    body.replaceChildren(...some.map(runRow));
    count.textContent = some.length === runs.length ? plural(runs.length, "run") : `${some.length} of ${plural(runs.length, "run")}`;
    if (list.cut) count.textContent += "; there are more";
    if (!runs.length) body.append(el("tr", {}, el("td", { colspan: 12, class: "quiet" }, "No run here yet. A search started with this folder as its run folder appears by itself.")));
    else if (!some.length) body.append(el("tr", {}, el("td", { colspan: 12, class: "quiet" }, "no run matches")));
    if (at) [...page.querySelectorAll("[data-key]")].find((e) => e.dataset.key === at)?.focus();
  }
  page.update = (news) => {
    runs = news;
    redraw();
  };
  redraw();
  return page;
}

function filterFields(runs, redraw) {
  const words = el("input", { id: "filter", type: "search", placeholder: "model, task, method …", value: list.words,
    input: (e) => { list.words = e.target.value; redraw(); } });
  const state = el("select", { id: "state", change: (e) => { list.state = e.target.value; redraw(); } },
    el("option", { value: "" }, "any"), Object.keys(STATES).map((s) => el("option", { value: s, selected: s === list.state }, s)));
  return [el("label", { for: "filter" }, "Filter"), words, el("label", { for: "state" }, "State"), state];
}

function headCells(redraw) {
  return COLUMNS.map(([name, kind]) => {
    const here = list.sort === name;
    const press = () => {
      list.down = here ? !list.down : kind === "n";
      list.sort = name;
      redraw();
    };
    const arrow = el("span", { "aria-hidden": "true" }, here ? (list.down ? " ↓" : " ↑") : "");
    return el("th", { scope: "col", class: kind, "aria-sort": here ? (list.down ? "descending" : "ascending") : null },
      el("button", { type: "button", "data-key": `sort ${name}`, click: press }, name, arrow));
  });
}

function runRow(run) {
  const choose = el("input", { type: "checkbox", "aria-label": `compare ${run.id}`, "data-key": `choose ${run.id}`,
    change: (e) => chooseRun(run.id, e.target.checked) });
  choose.checked = list.chosen.includes(run.id);
  choose.disabled = !run.views.includes("circuit");
  const cells = COLUMNS.map(([name, kind, , text]) => {
    if (name === "run") return el("th", { scope: "row" }, runName(run), run.tracked ? el("div", { class: "quiet" }, `W&B: ${run.tracked.name ?? "no name"}`) : null, run.error ? el("div", { class: "error clip", title: run.error }, run.error.slice(0, 300)) : null);
    return el("td", { class: kind }, name === "state" ? stateMark(run.state) : text(run));
  });
  return el("tr", { "data-run": run.id, class: run.state }, el("td", {}, choose), cells);
}

function runName(run) {
  const parts = run.id.split("/");
  const last = parts.pop();
  return el("a", { href: address("run", run.id), "data-key": `open ${run.id}` },
    parts.length ? el("span", { class: "quiet" }, breakable(`${parts.join("/")}/`)) : null, breakable(last));
}

// The last two that were ticked are compared.
function chooseRun(id, on) {
  const third = on && list.chosen.length === 2;
  list.chosen = list.chosen.filter((other) => other !== id);
  if (on) list.chosen = [...list.chosen, id].slice(-2);
  for (const box of document.querySelectorAll("[data-run] input")) {
    box.checked = list.chosen.includes(box.closest("[data-run]").dataset.run);
  }
  const note = third ? `Two runs are compared, the two ticked last: ${list.chosen.join(" and ")}.` : "";
  document.getElementById("chosen").textContent = note;
  say(note);
  drawNavigation();
}
