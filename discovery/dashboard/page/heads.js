// What the circuit's heads attend to, between the tokens that the task marks.
"use strict";

function headsView(heads, id) {
  const names = Object.keys(heads).sort((a, b) => b.localeCompare(a, "en", { numeric: true }));
  const marks = [...new Set(names.flatMap((n) => Object.keys(heads[n])))];
  const strongest = (head) => Object.entries(heads[head]).sort((a, b) => b[1] - a[1])[0];
  const head = [el("th", { scope: "col" }, "head"), el("th", { scope: "col" }, "looks most"), ...marks.map((m) => el("th", { scope: "col", class: "n" }, m.replace("->", " → ")))];
  const rows = names.map((name) => {
    const best = strongest(name);
    return el("tr", { "data-head": name },
      el("th", { scope: "row" }, el("a", { href: `${address("run", id, "circuit")}?head=${encodeURIComponent(name)}` }, name)),
      el("td", { class: "words" }, best && best[1] >= 0.4 ? best[0].replace("->", " → ") : "nowhere clearly"),
      marks.map((mark) => heatCell(heads[name][mark])));
  });
  return el("div", {},
    el("p", { class: "quiet" }, "Mean attention from one marked token to another, over the prompts. It helps to recognise a head and is no evidence that the head matters."),
    el("div", { class: "scroll" }, el("table", { class: "heat" }, el("caption", { class: "unseen" }, "Attention of the circuit's heads between marked tokens"),
      el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows))));
}

function heatCell(value) {
  if (value === undefined) return el("td", { class: "quiet" }, "–");
  const bar = el("div", { class: "fillbar", "aria-hidden": "true" });
  bar.style.width = `calc(${Math.min(Math.max(value, 0), 1)} * (100% - 3.2rem))`;
  return el("td", {}, bar, el("span", {}, value.toFixed(2)));
}
