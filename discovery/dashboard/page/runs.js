// The table of runs: filter, sort, group, columns; runs to compare; news of those that still run.
// What is set stands in the address, so that a view can be kept and sent.
"use strict";

const STATES = { done: "✓", running: "▶", failed: "✕", killed: "■", unreadable: "!", unknown: "?" };
const FEW = 60; // runs that are drawn before one asks for the others
const list = { filter: "", state: "", group: "", sort: "started", down: true, columns: USUAL, closed: new Set(), chosen: [], cut: false };

// The view that an address names; what it does not name is as usual.
function readView(options) {
  const sort = options.get("sort") ?? "-started";
  const columns = (options.get("columns") ?? "").split(",").filter(Boolean);
  Object.assign(list, { filter: options.get("filter") ?? "", state: options.get("state") ?? "", group: options.get("group") ?? "",
    sort: sort.replace(/^-/, ""), down: sort.startsWith("-"), columns: columns.length ? [...new Set(["run", ...columns])] : USUAL });
}

function listAddress() {
  const { filter, state, group, sort, down, columns } = list;
  const said = { filter, state, group, sort: sort === "started" && down ? "" : `${down ? "-" : ""}${sort}`, columns: columns === USUAL ? "" : columns.join(",") };
  const options = new URLSearchParams(Object.entries(said).filter(([, value]) => value));
  return `#/${options.size ? `?${options}` : ""}`;
}

function stateMark(state, progress = null) {
  const part = state === "running" && progress !== null ? ` ${Math.floor(100 * progress)} %` : "";
  return el("span", { class: `state ${Object.hasOwn(STATES, state) ? state : "unknown"}`, title: part ? "edges of the search that are decided" : null },
    el("span", { "aria-hidden": "true" }, Object.hasOwn(STATES, state) ? STATES[state] : "?"), ` ${state}${part}`);
}

function runsPage(runs) {
  const count = el("p", { class: "quiet", role: "status" });
  const wrong = el("p", { id: "filter-error", class: "error" });
  const parts = { head: el("tr"), table: el("table", { class: "list cards" }) };
  const columns = columnChoice(() => names, () => { rows.clear(); redraw(); });
  const chosen = el("div", { id: "chosen", class: "bar" });
  const rows = new Map(); // of runs, as long as their columns stay
  let names = fieldNames(runs);
  let most = FEW;
  const more = el("button", { type: "button", class: "more", "data-key": "more", click: () => { most = Infinity; redraw(); } });
  const page = el("div", { class: "runs" },
    el("div", { class: "bar" }, filterFields(redraw, () => { rows.clear(); redraw(); }), columns.element, count), wrong, chosen,
    el("div", { class: "scroll" }, parts.table), more);
  parts.table.append(el("caption", { class: "unseen" }, "Runs"), el("thead", {}, parts.head));

  function matching() {
    wrong.textContent = "";
    try {
      const fits = parseFilter(list.filter, names);
      return runs.filter((r) => (!list.state || r.state === list.state) && fits(r));
    } catch (error) {
      wrong.textContent = error.message;
      say(error.message);
      return runs;
    }
  }
  function rowOf(run, shared) {
    if (!rows.has(run)) rows.set(run, runRow(run, shared));
    return rows.get(run);
  }
  function redraw() {
    const some = sorted(matching(), list.sort, list.down);
    const at = document.activeElement?.dataset?.key;
    parts.head.replaceChildren(el("th", { scope: "col" }, tickAll(some)), ...headCells(redraw));
    for (const body of [...parts.table.tBodies]) body.remove();
    parts.table.append(...(some.length ? bodiesOf(some, most, rowOf, redraw) : [emptyBody(runs.length)]));
    count.textContent = some.length === runs.length ? plural(runs.length, "run") : `${some.length} of ${plural(runs.length, "run")}`;
    if (list.cut) count.textContent += "; there are more";
    more.hidden = some.length <= most;
    more.textContent = `Show the other ${(some.length - most).toLocaleString("en")}`;
    showChosen(chosen);
    if (!store && page.isConnected) history.replaceState(null, "", listAddress());
    if (at) [...page.querySelectorAll("[data-key]")].find((e) => e.dataset.key === at)?.focus();
  }
  page.update = (news) => {
    const before = new Map(runs.map((run) => [JSON.stringify(run), run]));
    runs = news.map((run) => before.get(JSON.stringify(run)) ?? run); // rows of these stay
    const kept = new Set(runs);
    for (const run of rows.keys()) if (!kept.has(run)) rows.delete(run);
    names = fieldNames(runs);
    redraw();
  };
  redraw();
  return page;
}

function emptyBody(any) {
  const words = any ? "no run matches" : "No run here yet. A search started with this folder as its run folder appears by itself.";
  return el("tbody", {}, el("tr", {}, el("td", { colspan: list.columns.length + 1, class: "quiet" }, words)));
}

// One body, or one a group with a line that says how it stands; at most so many rows in all.
function bodiesOf(runs, most, rowOf, redraw) {
  if (!list.group) return [el("tbody", {}, runs.slice(0, most).map((run) => rowOf(run, null)))];
  let room = most;
  const column = columnOf(list.group);
  const groups = Map.groupBy(runs, (run) => cellText(column, run));
  return [...groups].map(([name, members]) => {
    const closed = list.closed.has(name);
    const shared = list.group === "folder" ? sharedParts(members) : null;
    const drawn = closed ? [] : members.slice(0, room);
    room -= drawn.length;
    const states = Object.keys(STATES).map((s) => [members.filter((r) => r.state === s).length, s]).filter(([n]) => n);
    const press = () => { if (!list.closed.delete(name)) list.closed.add(name); redraw(); };
    const line = el("tr", { class: "group" }, el("td", {}, tickAll(members, name)), el("th", { scope: "rowgroup", colspan: list.columns.length },
      el("button", { type: "button", class: "plain", "aria-expanded": String(!closed), "data-key": `group ${name}`, click: press },
        el("span", { "aria-hidden": "true" }, closed ? "▸ " : "▾ "), name),
      el("span", { class: "quiet" }, ` ${plural(members.length, "run")}: ${states.map(([n, s]) => `${n} ${s}`).join(", ")} `),
      list.group === "folder" && members.length > 1 ? el("a", { href: `#/sweep?${new URLSearchParams({ folder: name })}` }, "as a sweep") : null));
    return el("tbody", {}, line, drawn.map((run) => rowOf(run, shared)));
  });
}

// Of runs whose names are lists of settings ("threshold=0.1,seed=3_1a2b3c4d"): the parts in all.
function sharedParts(runs) {
  const [first, ...others] = runs.map((run) => new Set(settingsOf(run)));
  return new Set(others.length ? [...first].filter((part) => others.every((set) => set.has(part))) : []);
}

function settingsOf(run) {
  return run.id.split("/").pop().replace(/_[0-9a-f]{8}$/, "").split(",");
}

function filterFields(redraw, anew) {
  const words = el("input", { id: "filter", type: "search", placeholder: "words, threshold<0.1, task=ioi …", value: list.filter, "aria-describedby": "filter-error",
    title: "Words, and conditions on any field: threshold<0.1 task=ioi held-out>=80% seed!=3 model~smol note=\"\"",
    input: (e) => { list.filter = e.target.value; redraw(); } });
  const select = (id, options, key, draw) => el("select", { id, change: (e) => { list[key] = e.target.value; draw(); } },
    options.map(([value, text]) => el("option", { value, selected: value === list[key] }, text)));
  const groups = ["folder", "model", "task", "method", "metric", "threshold", "seed", "verdict", "tags"];
  if (list.group && !groups.includes(list.group)) groups.push(list.group);
  return [el("label", { for: "filter" }, "Filter"), words,
    el("label", { for: "state" }, "State"), select("state", [["", "any"], ...Object.keys(STATES).map((s) => [s, s])], "state", redraw),
    el("label", { for: "grouped" }, "Group by"), select("grouped", [["", "nothing"], ...groups.map((g) => [g, g])], "group", anew)];
}

function headCells(redraw) {
  return list.columns.map((name) => {
    const { look, means, few } = columnOf(name);
    const here = list.sort === name;
    const press = () => {
      list.down = here ? !list.down : look === "n" && !few;
      list.sort = name;
      redraw();
    };
    const arrow = el("span", { "aria-hidden": "true" }, here ? (list.down ? " ↓" : " ↑") : "");
    return el("th", { scope: "col", class: look, title: means, "aria-sort": here ? (list.down ? "descending" : "ascending") : null },
      el("button", { type: "button", "data-key": `sort ${name}`, click: press }, name, arrow));
  });
}

function runRow(run, shared) {
  const choose = el("input", { type: "checkbox", "aria-label": `compare ${run.id}`, "data-key": `choose ${run.id}`,
    change: (e) => chooseRuns([run.id], e.target.checked) });
  choose.checked = list.chosen.includes(run.id);
  choose.disabled = !run.views.includes("circuit");
  const cells = list.columns.map((name) => {
    if (name === "run") return el("th", { scope: "row" }, runName(run, shared), run.tracked ? el("div", { class: "quiet" }, `W&B: ${run.tracked.name ?? "no name"}`) : null, run.error ? el("div", { class: "error clip", title: run.error }, run.error.slice(0, 300)) : null);
    const column = columnOf(name);
    const text = name === "state" ? stateMark(run.state, run.progress) : cellText(column, run);
    const numeric = column.look === "n" || (column.field && typeof column.value(run) === "number");
    return el("td", { class: numeric ? "n" : column.look ?? (column.field ? "words" : null), "data-name": name }, text);
  });
  return el("tr", { "data-run": run.id, class: run.state }, el("td", {}, choose), cells);
}

// In a group of one folder only what tells the run from the others there.
function runName(run, shared) {
  const parts = run.id.split("/");
  const last = parts.pop();
  const own = shared ? settingsOf(run).filter((part) => !shared.has(part)).join(",") || last : last;
  return el("a", { href: address("run", run.id), "data-key": `open ${run.id}`, title: own === last ? null : last },
    parts.length && !shared ? el("span", { class: "quiet" }, breakable(`${parts.join("/")}/`)) : null, breakable(own));
}

// ---- runs to compare ----------------------------------------------------------------------------

function tickAll(runs, name = "") {
  const ids = runs.filter((r) => r.views.includes("circuit")).map((r) => r.id);
  const box = el("input", { type: "checkbox", "aria-label": `compare all ${name || "shown"}`, "data-key": `choose all ${name}`, disabled: !ids.length, "data-all": JSON.stringify(ids),
    change: (e) => chooseRuns(ids, e.target.checked) });
  box.checked = ids.length > 0 && ids.every((id) => list.chosen.includes(id));
  return box;
}

// Any number of runs is compared, in the order in which they were ticked.
function chooseRuns(ids, on) {
  list.chosen = [...list.chosen.filter((other) => !ids.includes(other)), ...(on ? ids : [])];
  const ticked = new Set(list.chosen);
  for (const row of document.querySelectorAll("[data-run]")) {
    const box = row.querySelector("input");
    if (box) box.checked = ticked.has(row.dataset.run);
  }
  for (const box of document.querySelectorAll("[data-all]")) {
    const all = JSON.parse(box.dataset.all);
    box.checked = all.length > 0 && all.every((id) => ticked.has(id));
  }
  showChosen(document.getElementById("chosen"));
  say(`${plural(list.chosen.length, "run")} to compare`);
  drawNavigation();
}

function showChosen(place) {
  if (!place) return;
  const { chosen } = list;
  place.hidden = !chosen.length;
  place.replaceChildren(el("span", {}, `${plural(chosen.length, "run")} ticked`),
    chosen.length > 1 ? el("a", { class: "button", href: address("compare", ...chosen) }, chosen.length === 2 ? "Compare both" : `Compare all ${chosen.length}`) : el("span", { class: "quiet" }, "tick another to compare"),
    el("button", { type: "button", click: () => chooseRuns([...chosen], false) }, "Untick"));
}
