// Which page is shown, where its data come from, and the links between the pages. An address is
// #/page/argument/argument?option; a page is drawn anew whenever it changes.
"use strict";

const VIEWS = [
  // name, title, whether a run has it, how it is drawn
  ["circuit", "Circuit", (d) => d.circuit, (d, options) => circuitView(d.circuit, options, headAddress(d), d.summary.groups)],
  ["search", "Search", (d) => d.search?.length, (d) => searchView(d)],
  ["validation", "Validation", (d) => d.validation, (d) => validationView(d.validation)],
  ["heads", "Heads", (d) => d.heads, (d, options) => headsView(d, options)],
  ["route", "Route", (d) => d.routes, (d, options) => routesView(d, options)],
  ["methods", "Methods", (d) => d.methods, (d) => methodsView(d.methods)],
  ["components", "Components", (d) => d.components, (d) => componentsView(d.components)],
  ["record", "Record", () => true, (d) => recordView(d)],
];
const INSIDE = "This file holds the run's name, its numbers, its config, its result and its notes, with the paths in them; not the host, the process and the traceback.";
const POLL = 2000; // milliseconds between questions about running searches
const embedded = document.getElementById("data");
const store = embedded && JSON.parse(embedded.textContent);
if (store) list.chosen = store.runs.map((run) => run.id);
let drawn = 0; // counts pages, so that an answer that comes late is dropped

async function ask(path) {
  const answer = await fetch(path);
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error ?? `The server answered ${answer.status}.`);
  return value;
}

async function loadRuns() {
  if (store) return store.runs;
  const { runs, cut } = await ask("api/runs");
  list.cut = cut;
  return runs;
}

async function loadRun(id) {
  if (!store) return ask(`api/run?id=${encodeURIComponent(id)}`);
  if (!Object.hasOwn(store.details, id)) throw new Error("This file does not hold that run.");
  return store.details[id];
}

// What sweep.json says of a folder of runs, if there is one.
async function loadSweep(folder) {
  if (store || !folder) return null;
  return (await ask(`api/sweep?${new URLSearchParams({ folder: folder === "top folder" ? "." : folder })}`)).sweep;
}

function address(...parts) {
  return `#/${parts.map(encodeURIComponent).join("/")}`;
}

function here() {
  const [path, options = ""] = location.hash.slice(2).split("?");
  let parts = [];
  try { parts = path.split("/").filter(Boolean).map(decodeURIComponent); } catch { /* no address of ours */ }
  return { page: parts[0] ?? "", parts: parts.slice(1), options: new URLSearchParams(options) };
}

function drawNavigation() {
  const { page } = here();
  const several = list.chosen.length > 1;
  const link = (name, title, to) => el("a", { href: to, "aria-current": page === name ? "page" : null }, title);
  const compare = several || (page === "compare")
    ? link("compare", "Compare", several ? address("compare", ...list.chosen) : location.hash)
    : el("span", { class: "quiet", title: "Tick runs in the table" }, "Compare: tick runs");
  document.getElementById("nav").replaceChildren(link("", "Runs", listAddress()), link("sweep", "Sweep", "#/sweep"), compare, saveMenu());
}

async function draw() {
  const mine = ++drawn;
  const { page, parts, options } = here();
  const pages = { "": runsRoute, sweep: sweepRoute, run: runRoute, compare: compareRoute };
  delete document.body.dataset.ready;
  tip(null);
  drawNavigation();
  let content;
  try {
    content = await (Object.hasOwn(pages, page) ? pages[page] : runsRoute)(parts, options);
  } catch (error) {
    content = el("p", { class: "error", role: "alert" }, `This page cannot be shown: ${error.message}`);
  }
  if (mine !== drawn) return;
  document.getElementById("main").replaceChildren(content, store ? el("p", { class: "quiet inside" }, INSIDE) : "");
  if (content.running) again(mine);
  document.body.dataset.ready = page || "runs";
}

async function runsRoute(parts, options) {
  const mine = drawn;
  readView(options);
  const page = runsPage(await loadRuns());
  document.title = "Circuits";
  if (!store) follow(page, mine);
  return page;
}

// Asks again for as long as the page stays; draws only what is new.
function follow(page, mine, wait = POLL) {
  setTimeout(async () => {
    if (mine !== drawn) return;
    const start = performance.now();
    try {
      const runs = document.hidden ? null : await loadRuns();
      if (runs && mine === drawn) page.update(runs);
    } catch { /* the server is away; the next turn tells */ }
    follow(page, mine, Math.max(POLL, 10 * (performance.now() - start))); // many runs take their time
  }, wait);
}

// A run that is still being searched is shown anew, unless somebody is using the page.
function again(mine) {
  setTimeout(() => {
    if (mine !== drawn) return;
    if (document.hidden || document.getElementById("main").contains(document.activeElement)) again(mine);
    else draw();
  }, POLL);
}

async function sweepRoute(parts, options) {
  document.title = "Sweep – Circuits";
  return sweepPage(await loadRuns(), options, loadSweep);
}

async function compareRoute(ids) {
  const found = store ? await Promise.all(ids.map(loadRun)) : await ask(`api/circuits?${new URLSearchParams(ids.map((id) => ["id", id]))}`);
  document.title = "Compare – Circuits";
  const missing = found.find((d) => !d.circuit);
  if (missing) throw new Error([`${missing.summary.id} has no circuit to compare.`, ...missing.problems].join(" "));
  if (found.length < 2) throw new Error("Two runs or more can be compared.");
  return found.length === 2 ? comparePage(...found) : manyPage(found);
}

async function runRoute([id, wanted], options) {
  const details = await loadRun(id);
  const has = VIEWS.filter(([, , test]) => test(details));
  const view = has.find(([name]) => name === wanted) ?? has[0];
  const title = runTitle(details.summary);
  document.title = [title, details.summary.tracked || title === id ? null : id, "Circuits"].filter(Boolean).join(" – ");
  const tabs = has.map(([name, title]) => el("a", { href: address("run", id, name), "aria-current": view[0] === name ? "page" : null }, title));
  const content = view[3](details, options);
  const page = el("div", {}, runHead(details), notesPanel(details.summary, details.notes), ownPages(id, details.pages ?? []),
    details.problems.length ? el("ul", { class: "error", "aria-label": "Files that cannot be read" }, details.problems.map((p) => el("li", {}, p))) : null,
    el("nav", { class: "tabs", "aria-label": "Views of the run" }, tabs), content);
  page.running = !store && details.summary.state === "running";
  return page;
}

// What a run is in words, else its name.
function runTitle(s) {
  if (s.tracked?.name) return [s.tracked.name, s.tracked.job_type].filter(Boolean).join(", ");
  const where = [s.task && `on ${s.task}`, s.model && `in ${s.model}`].filter(Boolean).join(" ");
  return s.method && where ? `${s.method} ${where}` : s.id;
}

// The metric's value with its unit, as far as the result names one.
function measured(s) {
  return s.metric_circuit === null || !s.unit ? shown(s.metric_circuit) : `${shown(s.metric_circuit)} ${s.unit}`;
}

// A circuit's numbers beside those that they lie between: the model's, and of no edge kept.
function runHead({ summary: s }) {
  const between = s.metric_clean === null || s.metric_empty === null ? null : `model ${shown(s.metric_clean)}, empty ${shown(s.metric_empty)}`;
  const score = (of) => fieldOf(s, `splits.test.scores.${of}.accuracy`);
  const apart = ["model", "empty"].filter((of) => score(of) !== undefined).map((of) => `${of} ${percent(score(of))}`).join(", ");
  const facts = [["edges", s.n_edges_total ? `${shown(s.n_edges)} of ${shown(s.n_edges_total)}` : shown(s.n_edges), s.n_edges_on_paths !== null && s.n_edges_on_paths < s.n_edges ? `${shown(s.n_edges_on_paths)} on a path` : null],
    ["threshold", shown(s.threshold)], ["faithfulness", percent(s.faithfulness), "model 100 %, empty 0 %"],
    ["held-out", cellText(COLUMNS["held-out"], s), "on prompts not searched on"], ["accuracy", cellText(COLUMNS.accuracy, s), apart || null],
    [s.metric ?? "metric", measured(s), between], ["ablation", s.ablation ?? "–"], [s.views.includes("search") ? "search" : "time", span(s.seconds)]].filter(([, text]) => text !== "–");
  const out = store ? null : el("a", { class: "button", href: `export?id=${encodeURIComponent(s.id)}`, download: "circuit.html" }, "Export as one file");
  return el("div", { class: "head" },
    el("div", {}, el("h1", {}, runTitle(s)), el("p", { class: "quiet" }, `${s.id}  `, stateMark(s.state, s.progress)),
      s.error ? el("p", { class: "error" }, s.error) : null),
    el("dl", {}, facts.map(([name, text, note]) => el("div", {}, el("dt", {}, name), el("dd", {}, text), note ? el("dd", { class: "beside" }, note) : null))), out,
    s.found?.holds ? el("p", { class: "holds" }, `${s.found.holds}.`) : null);
}

// The pages that explain and validate left beside the run; they open by themselves.
function ownPages(id, names) {
  const titles = { "explanation.html": "How does it do it? The explanation", "report.html": "Is it true? The report" };
  const links = names.filter((name) => Object.hasOwn(titles, name)).map((name) => el("a", {
    href: `page?id=${encodeURIComponent(id)}&name=${name}`, target: "_blank", rel: "noopener" }, titles[name]));
  return links.length ? el("nav", { class: "tabs", "aria-label": "Pages of the run" }, links) : null;
}

function recordView({ record, summary }) {
  const kept = Object.entries(record).filter(([, text]) => text);
  const titled = (name) => (name === "traceback" ? "Traceback" : summary.tracked ? `W&B ${name}` : `${name}.json`);
  return el("div", { class: "columns" }, kept.map(([name, text]) => el("section", { class: `panel ${name}` }, el("h2", {}, titled(name)),
    el("pre", { tabindex: 0, role: "region", "aria-label": titled(name) }, text))));
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("main").focus();
});
addEventListener("hashchange", () => {
  if (location.hash.startsWith("#/") || !location.hash) draw();
});
if (store?.runs.length > 1 && !location.hash) history.replaceState(null, "", address("compare", ...store.runs.map((run) => run.id)));
if (store?.runs.length === 1 && !location.hash) history.replaceState(null, "", address("run", store.runs[0].id));
draw();
