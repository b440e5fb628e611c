// One circuit: the picture, a slider over the effect, a head to focus, the table of what is shown.
"use strict";

const FIRST = 60; // edges at the start where there are many
const ROWS = 300; // of the table at a time

const TALL = 12; // layers from which empty ones are folded

function isLarge({ layers, heads }) {
  return layers > TALL || heads > WIDE;
}

function canFold(circuit) {
  const { layers, heads } = usedPlaces(circuit, circuit.edges);
  return layers.size < circuit.layers - 1 || (circuit.heads > WIDE && heads.size < circuit.heads - 1);
}

// `about` gives the address of a head's own view, or nothing; `groups` are nodes by the reader's names.
function circuitView(circuit, options, about, groups = {}) {
  const off = new Set(circuit.off_path);
  const loose = circuit.edges.filter((_, i) => off.has(i));
  const read = new Set(circuit.edges.map(([, reader]) => named(reader).span));
  const found = { ...circuit, all: circuit.edges, loose, spans: (circuit.spans ?? []).filter((span) => read.has(span)), steps: circuit.steps ?? [], named: groups };
  const columns = found.steps.length && options?.get("columns") !== "heads" ? "spans" : "heads";
  const state = { loose: loose.length === circuit.edges.length, fold: isLarge(circuit), focus: null, span: "", columns };
  const view = el("div", { class: "circuit" });
  const rebuild = (change) => {
    Object.assign(state, change);
    const at = ([, reader]) => !state.span || named(reader).span === state.span;
    const edges = circuit.edges.filter((edge, i) => ((state.loose && state.columns === "heads") || !off.has(i)) && at(edge));
    return drawView(view, { ...found, edges }, state, about, rebuild);
  };
  const asked = options?.get("head");
  const { nodes, update, miss } = rebuild({});
  const known = asked && named(asked) && nodes.some((n) => inFocus(n.dataset.id, oneNode(asked)));
  if (known) update({ focus: oneNode(asked) });
  if (asked && !known) miss(asked);
  view.addEventListener("keydown", (e) => { if (e.key === "Escape" && state.focus) view.update({ focus: null }); });
  return view;
}

// The picture and what stands beside it; `rebuild` draws both anew with other edges or layers. What is
// drawn are lines: the edges, or at spans the steps that paths take of them.
function drawView(view, circuit, state, about, rebuild) {
  const { edges } = circuit;
  const lines = state.columns === "spans" ? stepsOf(circuit, edges) : edges;
  const drawn = drawLines(circuit, state, lines);
  const { picture, nodes } = drawn;
  state.least = edges.length > 150 ? edges.length - FIRST : 0;
  const box = pictureBox(picture, "Picture of the circuit");
  const side = sidePanel(circuit, state, update, markIn(box, lines), about, rebuild);
  view.replaceChildren(box, side.element);
  view.update = update;

  function update(change) {
    Object.assign(state, change);
    const kept = edges.slice(0, edges.length - state.least);
    const some = new Set(kept);
    const shownLines = lines.filter((line) => some.has(edgeOf(line)));
    const isClose = shownLines.map((line) => isNear(line, state.focus));
    const close = new Set(shownLines.filter((_, i) => isClose[i]).map(edgeOf));
    const near = kept.filter((edge) => close.has(edge));
    showOnly(drawn, shownLines, isClose, state.focus);
    side.show(kept, near);
    say(`${plural(near.length, "edge")} shown`);
  }
  roving(picture, nodes);
  for (const node of nodes) {
    pressable(node, () => update({ focus: state.focus?.name === node.dataset.id ? null : oneNode(node.dataset.id) }));
    markGroup(node, circuit.named);
  }
  tipsIn(picture, (target) => describePart(target, lines, measureOf(circuit)));
  update({ focus: refocused(state.focus, nodes) });
  return { nodes, update, miss: side.miss };
}

function drawLines(circuit, state, lines) {
  const title = `Circuit of ${plural(circuit.edges.length, "edge")}`;
  if (state.columns === "spans") return drawEdges(spanGrid(circuit, lines), lines, title);
  const loose = new Set(circuit.loose);
  return drawCircuit(circuit, title, (edge) => (loose.has(edge) ? "loose" : ""), state.fold ? usedPlaces(circuit, lines) : null);
}

// Of a line that is drawn: the edge itself, or that of which it is a step.
function edgeOf(line) {
  return line[3] ?? line;
}

// What marks all lines of an edge in a picture, or no longer.
function markIn(box, lines) {
  const numbers = Map.groupBy(lines.keys(), (i) => edgeOf(lines[i]));
  return (edge, on) => {
    for (const i of numbers.get(edge) ?? []) box.querySelector(`[data-edge="${i}"]`)?.classList.toggle("here", on);
  };
}

// The place of a picture: whole where its names can then be read, else larger, and scrolled. Its
// buttons make it larger, smaller, and fit.
function pictureBox(picture, title) {
  const [, , width, height] = picture.getAttribute("viewBox").split(" ").map(Number);
  const box = el("div", { class: "picture fit", tabindex: 0, role: "region", "aria-label": title }, picture);
  const fits = el("button", { type: "button", "aria-label": "Fit the picture to its place", title: "Fit", click: () => zoom(null) }, "Fit");
  const button = (sign, name, factor) => el("button", { type: "button", "aria-label": name, title: name, click: () => zoom(factor * (picture.getBoundingClientRect().width / width || 1)) }, sign);
  const tools = el("div", { class: "zoom" }, button("−", "Smaller", 1 / 1.3), button("+", "Larger", 1.3), fits);

  function zoom(scale) {
    box.classList.toggle("fit", scale === null);
    picture.style.width = scale === null ? "" : `${Math.round(width * Math.min(Math.max(scale, 0.15), 4))}px`;
    fits.setAttribute("aria-pressed", String(scale === null));
  }
  zoom(null);
  const first = new ResizeObserver(() => {
    if (!box.clientWidth) return;
    first.disconnect();
    const scale = Math.min(box.clientWidth / width, (parseFloat(getComputedStyle(picture).maxHeight) || Infinity) / height);
    if (scale < READABLE) zoom(Math.min(Math.max(READABLE, box.clientWidth / width), 1));
    box.scrollTo((box.scrollWidth - box.clientWidth) / 2, box.scrollHeight); // the input
  });
  first.observe(box);
  return el("div", { class: "frame" }, tools, box);
}

// A head's own queries, and the keys and values that it shares with its group, are told apart.
function touches(edge, node) {
  return ends(edge).includes(node);
}

// What is in focus: a node, or the nodes of a group under its name; null for nothing. A node at a
// span is in focus at that span, by its bare name at all.
function oneNode(id) {
  return { name: id, nodes: [id] };
}

function inFocus(node, focus) {
  return focus.nodes.includes(node) || focus.nodes.includes(named(node).node);
}

function isNear(line, focus) {
  return !focus || ends(line).some((node) => inFocus(node, focus));
}

// The same focus in another picture, at all spans where it has none; null where that has no such node.
function refocused(focus, nodes) {
  const there = (one) => one && nodes.some((n) => inFocus(n.dataset.id, one));
  const bare = focus && { name: named(focus.name)?.node ?? focus.name, nodes: focus.nodes.map((node) => named(node).node) };
  return [focus, bare].find(there) ?? null;
}

// The number and the name of a node's group, or nothing.
function groupAt(groups, node) {
  const at = Object.values(groups ?? {}).findIndex((members) => members.includes(node));
  return at < 0 ? null : { at, name: Object.keys(groups)[at] };
}

function groupLook(at) {
  return `group-${at % 6}`;
}

function markGroup(node, groups) {
  const own = groupAt(groups, named(node.dataset.id).node);
  if (!own) return;
  node.classList.add(groupLook(own.at));
  node.setAttribute("aria-label", `${node.getAttribute("aria-label")}; ${own.name}`);
}

// These lines, the first of all, and their nodes; what is not close to the focus is dimmed.
function showOnly({ layer, nodes }, lines, close, focus) {
  const used = new Set(["input", "logits"]);
  const near = new Set();
  layer.show((i) => i < lines.length, (i) => !close[i]);
  lines.forEach((line, i) => {
    for (const node of ends(line)) {
      used.add(node);
      if (close[i]) near.add(node);
    }
  });
  for (const node of nodes) {
    const id = node.dataset.id;
    const mine = Boolean(focus && inFocus(id, focus));
    node.classList.toggle("idle", !used.has(id));
    node.classList.toggle("dim", Boolean(focus) && !near.has(id) && !mine);
    node.classList.toggle("focused", mine);
    node.setAttribute("aria-pressed", String(mine));
  }
}

// What the number at an edge is: a search measures effects, other methods give scores.
function measureOf(circuit) {
  return !circuit.score || circuit.score.startsWith("effect") ? "effect" : "score";
}

function describePart(target, edges, word = "effect") {
  const edge = target.closest?.(".edge");
  if (edge) {
    const [writer, reader, effect] = edges[+edge.dataset.edge];
    return [`${writer} → ${reader}`, `${word} ${shown(effect, 4)}, feeds the ${feedName(reader)}`];
  }
  const node = target.closest?.(".node");
  return node ? [node.getAttribute("aria-label")] : null;
}

function sidePanel(circuit, state, update, mark, about, rebuild) {
  const edges = circuit.edges;
  const slider = el("input", { id: "least", type: "range", min: 0, max: Math.max(edges.length - 1, 0), value: state.least,
    input: (e) => update({ least: +e.target.value }) });
  const above = el("output", { for: "least", id: "above" });
  const names = [...countEnds(edges).keys()].filter((n) => !isEnd(n)).sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const find = el("input", { id: "find", list: "nodes", placeholder: "a3.h1, 3.1, m4 …", autocomplete: "off", "aria-describedby": "missed",
    input: (e) => { const node = nodeNamed(names, e.target.value); if (node) update({ focus: oneNode(node) }); },
    change: (e) => {
      const node = nodeNamed(names, e.target.value);
      const typed = e.target.value.trim();
      update({ focus: node ? oneNode(node) : null });
      if (typed && !node) miss(typed);
    } });
  const missed = el("p", { id: "missed", class: "error" });
  const clear = el("button", { type: "button", id: "clear", click: () => update({ focus: null }) }, "Clear");
  const title = el("h2", { id: "edges-title" });
  const more = el("p", {});
  const rows = el("div", { class: "scroll" });
  const tick = (id, words, key) => el("label", {}, el("input", { type: "checkbox", id, checked: state[key], change: (e) => {
    rebuild({ [key]: e.target.checked });
    document.getElementById(id)?.focus();
  } }), ` ${words}`);
  const atSpans = state.columns === "spans";
  const folded = !atSpans && canFold(circuit) ? tick("fold", "fold what is empty", "fold") : null;
  const loose = !atSpans && circuit.loose.length ? tick("loose", `${plural(circuit.loose.length, "edge")} on no path from input to logits`, "loose") : null;
  const choose = (id, words, key, options) => el("span", {}, el("label", { for: id }, words), " ", el("select", { id, change: (e) => { rebuild({ [key]: e.target.value }); document.getElementById(id)?.focus(); } },
    options.map(([value, name]) => el("option", { value, selected: value === state[key] }, name))));
  const spans = circuit.spans.length ? el("div", { class: "row" },
    circuit.steps.length ? choose("columns", "Columns", "columns", [["spans", "spans"], ["heads", "heads"]]) : null,
    choose("span", "Read at", "span", [["", "all"], ...circuit.spans.map((name) => [name, name])])) : null;
  const element = el("div", { class: "side" },
    el("div", { class: "panel" },
      el("div", { class: "row" }, el("label", { for: "least" }, `Smallest |${measureOf(circuit)}|`), above), slider,
      el("div", { class: "row" }, el("label", { for: "find" }, "Head"), find, el("datalist", { id: "nodes" }, names.map((n) => el("option", { value: n }))), clear), missed,
      el("div", { class: "row" }, folded, loose), spans,
      groupChips(circuit, names, update), legend(circuit)),
    el("section", { class: "panel side", "aria-labelledby": "edges-title" }, title, more, rows));

  function miss(typed) {
    missed.textContent = `no ${typed} in this circuit`;
    say(missed.textContent);
  }
  function show(kept, near) {
    missed.textContent = "";
    const smallest = kept.length ? Math.abs(kept[kept.length - 1][2]) : null;
    above.textContent = `≥ ${shown(smallest)} · ${kept.length} of ${plural(edges.length, "edge")}`;
    slider.setAttribute("aria-valuetext", above.textContent);
    clear.disabled = !state.focus;
    const { name, nodes } = state.focus ?? { nodes: [] };
    const single = nodes.length === 1 && nodes[0] === name;
    const node = single && named(name).node;
    if (document.activeElement !== find) find.value = node || "";
    const into = near.filter(([, reader]) => named(reader).node === node).length;
    title.textContent = !name ? plural(near.length, "edge") : single ? `${name}: ${into} in, ${near.length - into} out` : `${name}: ${plural(near.length, "edge")}`;
    const place = single && about(node);
    more.replaceChildren(...(place ? [el("a", { href: place }, `What ${node} looks at and writes`)] : []));
    more.hidden = !place;
    rows.replaceChildren(edgeTable(near, mark, measureOf(circuit)));
  }
  return { element, show, miss };
}

// A button for each group that has a node here; it puts the group in focus.
function groupChips({ named: groups }, names, update) {
  const own = Object.entries(groups).filter(([, members]) => members.some((node) => names.includes(node)));
  if (!own.length) return null;
  return el("div", { class: "groups", role: "group", "aria-label": "Groups" }, own.map(([name, members]) => el("button", { type: "button", "data-group": name, click: () => update({ focus: { name, nodes: members } }) },
    el("span", { class: `key-dot ${groupLook(Object.keys(groups).indexOf(name))}`, "aria-hidden": "true" }), name)));
}

// The node of this name, in full ("a23.h1") or as it is drawn where there is little room ("23.1").
function nodeNamed(names, typed) {
  const wanted = typed.trim().toLowerCase();
  return names.find((name) => name === wanted || shortName(name) === wanted);
}

function edgeTable(near, mark, word) {
  const write = aligned(near.map((edge) => edge[2]));
  const rows = near.slice(0, ROWS).map((edge) => {
    const [writer, reader, effect] = edge;
    const row = el("tr", { "data-row": `${writer}->${reader}`, pointerenter: () => mark(edge, true), pointerleave: () => mark(edge, false) },
      el("td", {}, writer), el("td", {}, reader), el("td", { class: "n" }, write(effect)));
    return row;
  });
  const shownRows = el("table", { class: "edges" }, el("caption", { class: "unseen" }, "Edges that are shown, largest first"),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "from"), el("th", { scope: "col" }, "into"), el("th", { scope: "col", class: "n" }, word))),
    el("tbody", {}, rows));
  shownRows.whole = near;
  return el("div", {}, cutNote(Math.min(near.length, ROWS), near.length, "the largest first; the picture shows all"), shownRows);
}

function legend(circuit) {
  const line = (feeds, words) => el("span", { class: `key ${feeds}` },
    svg("svg", { width: 26, height: 8, "aria-hidden": "true" }, svg("path", { class: "line", d: "M0 4H26", "stroke-width": 2.6 })), words);
  const end = (kind, shape, words) => el("span", { class: "key l" }, svg("svg", { width: 12, height: 12, "aria-hidden": "true" }, shape), words);
  const some = ["q", "k", "v", "m", "l"].filter((f) => f !== "m" || circuit.mlp);
  return el("div", { class: "legend" }, some.map((f) => line(f, FEEDS[f][2])),
    end("plus", svg("path", { class: "plus", d: "M1 11h10l-5 -9z" }), "helps"),
    end("minus", svg("circle", { class: "minus", cx: 6, cy: 6, r: 4 }), "hurts"),
    circuit.score ? el("p", { class: "quiet" }, circuit.score) : null,
    circuit.skipped ? el("span", { class: "error" }, `${plural(circuit.skipped, "edge")} of the file not shown: unknown names, or too many`) : null);
}
