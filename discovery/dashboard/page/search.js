// The search again, reader by reader: the metric and the edges that were left, and what was decided.
"use strict";

const STEP_TIME = 90; // milliseconds of a reader in the replay

function searchView(rows, summary) {
  const name = summary.metric ?? "metric";
  const last = rows.length - 1;
  const charts = [
    searchChart(rows, (r) => r.metric, `${name} of what is left`, 640, 390),
    searchChart(rows, (r) => r.n_edges, "edges left", 430, 200),
    searchChart(rows, (r) => r.n_kept, "edges kept so far", 430, 200),
  ];
  const facts = el("dl", { role: "status" });
  const slider = el("input", { id: "step", type: "range", min: 0, max: last, value: last, input: () => show(+slider.value) });
  const play = el("button", { type: "button", click: () => (timer ? stop() : start()) }, "Replay");
  let timer = null;

  function show(i) {
    const row = rows[i];
    slider.value = i;
    slider.setAttribute("aria-valuetext", `reader ${i + 1} of ${rows.length}, ${row.reader}`);
    for (const one of charts) one.point(i);
    const texts = [["reader", `${row.reader ?? "–"}`], ["", `${i + 1} of ${rows.length}`], ["reason", row.reason ?? "–"], [name, shown(row.metric)],
      ["edges left", shown(row.n_edges)], ["kept", shown(row.n_kept)], ["tests", shown(row.n_tests)], ["passes", shown(row.n_passes)], ["time", span(row.seconds)]];
    facts.replaceChildren(...texts.map(([key, text]) => el("div", {}, el("dt", {}, key || "step"), el("dd", {}, text))));
  }
  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Replay";
  }
  function start() {
    const jump = Math.max(1, Math.round(rows.length / 120)); // a long search takes no longer to watch
    let i = +slider.value >= last ? 0 : +slider.value;
    play.textContent = "Stop";
    timer = setInterval(() => {
      if (!slider.isConnected) return stop();
      show(i);
      if (i >= last) return stop();
      i = Math.min(i + jump, last);
    }, STEP_TIME);
  }
  show(last);
  return el("div", {},
    el("div", { class: "panel replay" }, el("div", { class: "bar" }, play, el("label", { for: "step" }, "Step"), slider), facts),
    el("div", { class: "three" }, charts.map((one) => el("section", { class: "panel" }, one.picture))));
}

function searchChart(rows, value, name, width, height) {
  const area = [58, 28, width - 20, height - 42];
  const all = rows.map(value);
  const x = makeScale([0, rows.length], area[0], area[2]);
  const y = makeScale(all, area[3], area[1]);
  const points = all.map((v, i) => [x(i + 1), v === null ? null : y(v)]).filter((p) => p[1] !== null);
  const cursor = svg("line", { class: "cursor", y1: area[1], y2: area[3] });
  const dot = svg("circle", { class: "point", r: 5 });
  const picture = chart(width, height, `${name}, from ${shown(all[0])} to ${shown(all[all.length - 1])}`,
    axes(area, x, y, "readers settled", name), polyline(points, "stroke"), cursor, dot);
  function point(i) {
    cursor.setAttribute("x1", x(i + 1));
    cursor.setAttribute("x2", x(i + 1));
    dot.setAttribute("cx", x(i + 1));
    dot.setAttribute("cy", all[i] === null ? -20 : y(all[i]));
  }
  return { picture, point };
}
