// The information flow route of one prompt: column = token, row = layer, bottom to top.
"use strict";

// A route, and of a run's prompts the choice which.
function routesView({ routes, summary }, options) {
  const place = el("div", {});
  const name = (route, i) => `${i + 1} ${promptWords(route)}`;
  const { bar, show } = promptChoice(routes.map(name), (i) => {
    place.replaceChildren(routeView(routes[i]));
    if (routes.length > 1) history.replaceState(null, "", routeAddress(summary.id, i));
  });
  show(Math.min(+(options.get("prompt") ?? 0) || 0, routes.length - 1));
  return routes.length > 1 ? el("div", {}, el("div", { class: "bar" }, bar), place) : place;
}

function routeAddress(id, prompt) {
  return `${address("run", id, "route")}?prompt=${prompt}`;
}

// A menu of prompts with a step to either side; `show` goes to one, which is drawn by `draw`.
function promptChoice(names, draw) {
  const choice = el("select", { id: "prompt", change: () => show(+choice.value) }, names.map((name, i) => el("option", { value: i }, name.slice(0, 62))));
  const step = (by, label, sign) => el("button", { type: "button", "aria-label": label, click: () => show((+choice.value + by + names.length) % names.length) }, sign);
  function show(i) {
    choice.value = i;
    draw(i);
  }
  return { bar: [el("label", { for: "prompt" }, "Prompt"), choice, step(-1, "Previous prompt", "‹"), step(1, "Next prompt", "›")], show };
}

// A prompt's tokens as they are read; ids, of a model without tokenizer, apart.
function promptWords({ tokens }) {
  const between = tokens.every((token) => /^\d+$/.test(token)) ? " " : "";
  return tokens.map(seenToken).join(between).replaceAll("·", " ").trim();
}

function routeView(route) {
  const edges = curves(route.edges);
  const picture = drawRoute(route, edges);
  const marks = [...picture.querySelectorAll("[data-flow]")];
  const above = el("output", { for: "flow" });
  const rows = el("div", { class: "scroll" });
  const slider = el("input", { id: "flow", type: "range", min: 0, max: Math.max(edges.length - 1, 0), value: 0, input: (e) => show(+e.target.value) });
  function show(hidden) {
    marks.forEach((mark) => mark.toggleAttribute("hidden", +mark.dataset.flow < hidden));
    const kept = edges.slice(hidden);
    above.textContent = `≥ ${shown(kept[0]?.flow)} · ${kept.length} of ${plural(edges.length, "curve")}`;
    slider.setAttribute("aria-valuetext", above.textContent);
    rows.replaceChildren(routeTable(route, kept.flatMap((e) => e.members)));
  }
  const box = el("div", { class: "picture", tabindex: 0, role: "region", "aria-label": "Picture of the route" }, picture);
  requestAnimationFrame(() => { box.scrollLeft = box.scrollWidth; }); // a route starts at the last token
  tipsIn(picture, (target) => (target.dataset?.flow ? describeFlow(route, edges[+target.dataset.flow]) : null));
  show(0);
  const target = route.start.target.length ? `the logit of ${route.start.target.map(quote).join(", ")}` : "a state";
  return el("div", {}, el("p", {}, `From ${target}`, route.start.position === null ? "" : ` at ${tokenAt(route, route.start.position)}`, `, threshold ${shown(route.threshold)}. Width is flow, what a state is made of; that is no effect.`),
    el("div", { class: "circuit" },
      box,
      el("div", { class: "side" },
        el("div", { class: "panel" }, el("div", { class: "row" }, el("label", { for: "flow" }, "Smallest flow"), above), slider,
          el("div", { class: "legend" }, ["head", "mlp"].map((kind) => el("span", {}, svg("svg", { width: 26, height: 8, "aria-hidden": "true" }, svg("path", { class: `flow ${kind}`, d: "M0 4H26", "stroke-width": 3 })), kind === "head" ? "attention" : "MLP")),
          el("span", { class: "quiet" }, "grey: around both"))),
        el("section", { class: "panel side" }, el("h2", {}, "Heads and MLPs"), rows))));
}

// Heads with one source, target and layer share a curve; its flow is their sum. Smallest first.
function curves(edges) {
  const found = new Map();
  for (const edge of edges) {
    const key = [edge.kind, edge.layer, edge.source, edge.target, edge.direct].join();
    const curve = found.get(key) ?? { ...edge, flow: 0, members: [] };
    curve.flow += edge.flow;
    curve.members.push(edge);
    found.set(key, curve);
  }
  return [...found.values()].sort((a, b) => a.flow - b.flow);
}

// A token as it is: blanks at its ends are marked, and what would break the line.
function quote(word) {
  return `“${seenToken(word)}”`;
}

function seenToken(word) {
  return word.replace(/^ +| +$/g, (blanks) => "·".repeat(blanks.length)).replaceAll("\n", "↵").replaceAll("\t", "⇥") || "␣";
}

// A token and where it stands: the same word may stand in several places.
function tokenAt(route, position) {
  return `${quote(route.tokens[position])} (${position})`;
}

function flowName(edge) {
  return edge.kind === "head" ? `a${edge.layer}.h${edge.head ?? "?"}` : edge.kind === "mlp" ? `m${edge.layer}` : `${edge.kind} ${edge.layer}`;
}

function describeFlow(route, edge) {
  const names = edge.members.map((e) => `${flowName(e)} ${shown(e.flow)}`);
  return [`flow ${shown(edge.flow)}: ${names.join(", ")}`, `${tokenAt(route, edge.source)} → ${edge.direct ? "the logit" : tokenAt(route, edge.target)}`];
}

function drawRoute(route, edges) {
  const column = Math.min(Math.max(730 / route.tokens.length, 48), 110);
  const row = Math.min(Math.max(490 / route.layers, 16), 120);
  const [left, top] = [56, 26];
  const width = left + column * route.tokens.length + 20;
  const base = top + row * route.layers;
  const x = (token) => left + (token + 0.4) * column;
  const y = (layer) => base - layer * row;
  const strongest = Math.max(...edges.map((e) => e.flow), 0) || 1;
  const at = { x, y, layers: route.layers, middle: edges.some((e) => e.kind === "skip") ? 0.5 : 0 };
  const most = Math.floor(column / 6); // letters of a token
  const texts = route.tokens.map((word, i) => svg("text", { x: x(i), y: base + 22, "text-anchor": "middle" }, word.length > most ? `${word.slice(0, most - 1)}…` : word));
  const streams = route.tokens.map((_, i) => svg("line", { class: "stream", x1: x(i), x2: x(i), y1: base, y2: top }));
  const layers = Array.from({ length: route.layers }, (_, l) => svg("text", { class: "small", x: left - 22, y: y(l + 0.5) + 4, "text-anchor": "end" }, String(l)));
  return legible(svg("svg", { viewBox: `0 0 ${width} ${base + 40}`, width, height: base + 40, role: "img", "aria-label": `Route over ${route.tokens.length} tokens and ${route.layers} layers; the table holds its edges` },
    streams, layers, edges.map((edge, i) => svg("path", { class: `flow ${["head", "mlp"].includes(edge.kind) ? edge.kind : "skip"}`, "data-flow": i, "stroke-width": (1 + 8 * (edge.flow / strongest)).toFixed(2), d: flowPath(edge, at, column) })), texts));
}

// Attention rises from token to token, or bulges right to itself; an MLP bulges left, after
// attention where the model has that step; what goes around them is the token's own line.
function flowPath(edge, at, column) {
  const late = edge.kind === "mlp" || edge.kind === "skip";
  const [x0, x1] = [at.x(edge.source), at.x(edge.target)];
  const y0 = at.y(edge.layer + (late ? at.middle : 0));
  const y1 = edge.direct ? at.y(at.layers) - 8 : at.y(edge.layer + (late ? 1 : at.middle || 1));
  if (edge.kind === "skip" || edge.kind === "residual") return `M${x0} ${y0}V${y1}`;
  if (edge.source !== edge.target) return `M${x0} ${y0}C${x0} ${y0 + 0.6 * (y1 - y0)} ${x1} ${y1 - 0.6 * (y1 - y0)} ${x1} ${y1}`;
  const bulge = edge.kind === "mlp" ? -0.3 * column : 0.3 * column;
  return `M${x0} ${y0}C${x0 + bulge} ${y0} ${x0 + bulge} ${y1} ${x0} ${y1}`;
}

function routeTable(route, edges) {
  const kept = edges.filter((e) => e.kind === "head" || e.kind === "mlp").sort((a, b) => b.flow - a.flow);
  const write = aligned(kept.map((e) => e.flow));
  const note = cutNote(Math.min(kept.length, ROWS), kept.length);
  return el("div", {}, note, table("Heads and MLPs on the route, largest flow first", [["what", ""], ["from", ""], ["to", ""], ["flow", "n"]],
    kept.slice(0, ROWS).map((e) => [flowName(e), tokenAt(route, e.source), e.direct ? "logit" : tokenAt(route, e.target), write(e.flow)]), "edges"));
}
