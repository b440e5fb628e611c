// Parallel coordinates: an axis for each setting in which the runs differ and for each result, a
// line for each run.
"use strict";

const RESULT_AXES = ["edges", "faithfulness", "held-out", "accuracy", "value"];
const MOST_AXES = 9;

function parallelPanel(runs, methods) {
  const axes = axesOf(runs);
  if (runs.length < 2 || axes.length < 2) return null;
  const [top, bottom, left] = [44, 300, 70];
  const step = 1080 / (axes.length - 1 || 1);
  const xs = axes.map((_, i) => left + i * step);
  const places = axes.map((axis) => axisScale(axis, runs, bottom, top));
  const lines = runs.map((r) => {
    const at = axes.map((axis, i) => [xs[i], places[i](axis.value(r) ?? null)]).filter(([, y]) => y !== null);
    return pressRuns(svg("a", { href: address("run", r.id), "data-line": r.id, "aria-label": `${r.id}: ${axes.map((axis) => `${axis.name} ${axis.text(axis.value(r), r)}`).join(", ")}` },
      polyline(at, "hit"), polyline(at, `series s${methods.indexOf(r.method) % MARKS.length}`)), [r]);
  });
  const picture = chart(1220, 330, `Settings against results of ${plural(runs.length, "run")}`, lines, axes.map((axis, i) => axisPicture(axis, places[i], xs[i], top, bottom, i)));
  picture.setAttribute("role", "group");
  tipsIn(picture, (target) => target.closest?.("[data-line]")?.getAttribute("aria-label").split(/: |, (?=[\w.-]+ )/) ?? null);
  return panel("Settings against results", el("div", { class: "picture flat wide", tabindex: 0, role: "region", "aria-label": "Settings against results" }, picture));
}

function axesOf(runs) {
  const settings = settingsApart(runs).names.map((name) => ({ name, value: (r) => r.asked?.[name], text: (v) => (typeof v === "number" ? shown(v) : String(v ?? "–")) }));
  const results = RESULT_AXES.map((name) => ({ name: name === "value" ? runs[0].metric ?? "metric" : name, value: COLUMNS[name].value, text: (v, r) => cellText(COLUMNS[name], r) }))
    .filter((axis) => new Set(runs.map(axis.value)).size > 1);
  return [...settings.slice(0, MOST_AXES - results.length), ...results];
}

// Numbers by size, by their logarithms where they span decades; names one below the other.
function axisScale(axis, runs, bottom, top) {
  const values = runs.map(axis.value).filter((v) => v !== null && v !== undefined);
  if (values.every((v) => typeof v === "number")) {
    const scale = makeScale(values, bottom, top, decades(values));
    const place = (v) => (v === null ? null : scale(v));
    const percents = ["faithfulness", "held-out", "accuracy"].includes(axis.name);
    place.ticks = scale.ticks.map((v) => [scale(v), percents ? `${shown(100 * v)} %` : shown(v)]);
    return place;
  }
  const names = [...new Set(values.map(String))].sort(COLLATOR.compare);
  const at = (i) => bottom - ((i + 0.5) / names.length) * (bottom - top);
  const place = (v) => (v === null ? null : at(names.indexOf(String(v))));
  place.ticks = names.length > 12 ? [] : names.map((name, i) => [at(i), name.length > 14 ? `${name.slice(0, 13)}…` : name]);
  return place;
}

function axisPicture(axis, place, x, top, bottom, i) {
  const short = axis.name.replace(/^(method|task|model)\./, "");
  return svg("g", { "aria-hidden": "true" }, svg("line", { class: "axis", x1: x, x2: x, y1: top, y2: bottom }),
    svg("text", { x, y: i % 2 ? 14 : 30, "text-anchor": "middle" }, short),
    place.ticks.map(([y, text]) => svg("text", { class: "small over", x: x - 6, y: y + 4, "text-anchor": "end" }, text)));
}
