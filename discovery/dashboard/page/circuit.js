// One circuit: the picture, a slider over the effect, a head to focus, the table of what is shown.
"use strict";

const FIRST = 60; // edges at the start where there are many
const ROWS = 300; // of the table at a time

// `about` gives the address of a head's own view, or nothing.
function circuitView(circuit, options, about) {
  const edges = circuit.edges;
  const picture = drawCircuit(circuit, `Circuit of ${plural(edges.length, "edge")}`);
  const state = { least: edges.length > 150 ? edges.length - FIRST : 0, focus: null };
  const parts = { picture, edges, marks: edgeMarks(picture, edges.length), nodes: [...picture.querySelectorAll(".node")] };
  const box = pictureBox(picture, circuit, "Picture of the circuit");
  const side = sidePanel(circuit, state, update, box, about);
  const view = el("div", { class: "circuit" }, box, side.element);

  function update(change) {
    Object.assign(state, change);
    const kept = edges.slice(0, edges.length - state.least);
    const near = state.focus ? kept.filter((e) => touches(e, state.focus)) : kept;
    showOnly(parts, kept.length, state.focus);
    side.show(kept, near);
    say(`${plural(near.length, "edge")} shown`);
  }
  roving(picture, parts.nodes);
  for (const node of parts.nodes) {
    pressable(node, () => update({ focus: state.focus === node.dataset.id ? null : node.dataset.id }));
  }
  view.addEventListener("keydown", (e) => { if (e.key === "Escape" && state.focus) update({ focus: null }); });
  tipsIn(picture, (target) => describePart(target, edges, measureOf(circuit)));
  const asked = options?.get("head");
  const known = parts.nodes.some((n) => n.dataset.id === asked);
  update({ focus: known ? asked : null });
  if (asked && !known) side.miss(asked);
  return view;
}

// The place of a picture, as wide as the window allows; a tall one is scrolled.
function pictureBox(picture, circuit, title) {
  return el("div", { class: circuit.layers > 40 ? "picture" : "picture fit", tabindex: 0, role: "region", "aria-label": title }, picture);
}

// Drawn edges by their number.
function edgeMarks(picture, count) {
  const marks = new Array(count);
  for (const mark of picture.querySelectorAll(".edge")) marks[+mark.dataset.edge] = mark;
  return marks;
}

// A head's own queries, and the keys and values that it shares with its group, are told apart.
function touches([writer, reader], node) {
  return writer === node || named(reader).node === node;
}

function showOnly({ edges, marks, nodes }, count, focus) {
  const used = new Set(["input", "logits"]);
  const near = new Set([focus]);
  edges.forEach((edge, i) => {
    const [writer, reader] = edge;
    const on = i < count;
    const close = !focus || touches(edge, focus);
    marks[i].classList.toggle("off", !on);
    marks[i].classList.toggle("dim", !close);
    if (on) used.add(writer).add(named(reader).node);
    if (on && focus && close) near.add(writer).add(named(reader).node);
  });
  for (const node of nodes) {
    const id = node.dataset.id;
    node.classList.toggle("idle", !used.has(id));
    node.classList.toggle("dim", Boolean(focus) && !near.has(id));
    node.classList.toggle("focused", id === focus);
    node.setAttribute("aria-pressed", String(id === focus));
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

function sidePanel(circuit, state, update, box, about) {
  const edges = circuit.edges;
  const slider = el("input", { id: "least", type: "range", min: 0, max: Math.max(edges.length - 1, 0), value: state.least,
    input: (e) => update({ least: +e.target.value }) });
  const above = el("output", { for: "least", id: "above" });
  const names = [...countEnds(edges).keys()].filter((n) => !isEnd(n)).sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const find = el("input", { id: "find", list: "nodes", placeholder: "a3.h1, 3.1, m4 …", autocomplete: "off", "aria-describedby": "missed",
    input: (e) => { const node = nodeNamed(names, e.target.value); if (node) update({ focus: node }); },
    change: (e) => {
      const node = nodeNamed(names, e.target.value);
      const typed = e.target.value.trim();
      update({ focus: node ?? null });
      if (typed && !node) miss(typed);
    } });
  const missed = el("p", { id: "missed", class: "error" });
  const clear = el("button", { type: "button", id: "clear", click: () => update({ focus: null }) }, "Clear");
  const title = el("h2", { id: "edges-title" });
  const more = el("p", {});
  const rows = el("div", { class: "scroll" });
  const fit = el("button", { type: "button", title: "Fit the picture to the window", "aria-pressed": String(box.classList.contains("fit")), click: () => {
    fit.setAttribute("aria-pressed", String(box.classList.toggle("fit")));
  } }, "Fit");
  const element = el("div", { class: "side" },
    el("div", { class: "panel" },
      el("div", { class: "row" }, el("label", { for: "least" }, `Smallest |${measureOf(circuit)}|`), above), slider,
      el("div", { class: "row" }, el("label", { for: "find" }, "Head"), find, el("datalist", { id: "nodes" }, names.map((n) => el("option", { value: n }))), clear, fit), missed,
      legend(circuit)),
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
    if (document.activeElement !== find) find.value = state.focus ?? "";
    const into = near.filter(([, reader]) => named(reader).node === state.focus).length;
    title.textContent = state.focus ? `${state.focus}: ${into} in, ${near.length - into} out` : plural(near.length, "edge");
    const place = state.focus && about(state.focus);
    more.replaceChildren(...(place ? [el("a", { href: place }, `What ${state.focus} looks at and writes`)] : []));
    more.hidden = !place;
    rows.replaceChildren(edgeTable(near, edges, box, measureOf(circuit)));
  }
  return { element, show, miss };
}

// The node of this name, in full ("a23.h1") or as it is drawn where there is little room ("23.1").
function nodeNamed(names, typed) {
  const wanted = typed.trim().toLowerCase();
  return names.find((name) => name === wanted || shortName(name) === wanted);
}

function edgeTable(near, edges, box, word) {
  const number = new Map(edges.map((edge, i) => [edge, i]));
  const mark = (edge, on) => box.querySelector(`[data-edge="${number.get(edge)}"]`)?.classList.toggle("here", on);
  const write = aligned(near.map((edge) => edge[2]));
  const rows = near.slice(0, ROWS).map((edge) => {
    const [writer, reader, effect] = edge;
    const row = el("tr", { "data-row": `${writer}->${reader}`, pointerenter: () => mark(edge, true), pointerleave: () => mark(edge, false) },
      el("td", {}, writer), el("td", {}, reader), el("td", { class: "n" }, write(effect)));
    return row;
  });
  return el("div", {}, cutNote(Math.min(near.length, ROWS), near.length, "the largest first; the picture shows all"), el("table", { class: "edges" }, el("caption", { class: "unseen" }, "Edges that are shown, largest first"),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "from"), el("th", { scope: "col" }, "into"), el("th", { scope: "col", class: "n" }, word))),
    el("tbody", {}, rows)));
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
