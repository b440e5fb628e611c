// Elements, numbers as text, and the tip beside the pointer. Whatever comes from a run's files
// becomes a text node or an attribute value, never markup.
"use strict";

function el(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) if (child !== null && child !== undefined) element.append(child);
  return element;
}

// A number for people: three digits, whole numbers whole, nothing as a dash.
function shown(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return (Math.abs(value) < 1e6 ? value.toLocaleString("en") : value.toExponential(2)).replace(/^-/, "−");
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e6) return value.toExponential(Math.max(digits - 2, 0)).replace(/^-/, "−");
  return String(Number(value.toPrecision(digits))).replace("-", "−");
}

// How to write the numbers of a column, so that their points stand below each other.
function aligned(values) {
  const most = Math.max(0, ...values.map((v) => Math.abs(v ?? 0)));
  const digits = most ? Math.min(Math.max(3 - Math.floor(Math.log10(most)), 0), 6) : 0;
  const least = 0.5 * 10 ** -digits; // what is smaller would look like nothing
  return (value) => (!value || Math.abs(value) < least ? shown(value) : value.toFixed(digits).replace("-", "−"));
}

function percent(value) {
  return value === null || value === undefined ? "–" : `${(100 * value).toFixed(1).replace(/^-(?!0\.0$)/, "−").replace("-", "")} %`;
}

function span(value) {
  if (value === null || value === undefined) return "–";
  if (value < 90) return `${shown(value)} s`;
  return value < 5400 ? `${Math.round(value / 60)} min` : `${(value / 3600).toFixed(1)} h`;
}

function plural(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}

// A long name that may be broken where its parts end.
function breakable(name) {
  return name.split(/(?<=[,/=_])/).flatMap((part) => [part, el("wbr")]).slice(0, -1);
}

// For screen readers only: what just changed.
function say(sentence) {
  document.getElementById("said").textContent = sentence;
}

function tip(lines, event) {
  const box = document.getElementById("tip");
  box.hidden = !lines;
  if (!lines) return;
  box.replaceChildren(...lines.map((line) => el("div", {}, line)));
  const { clientX: x, clientY: y } = event;
  box.style.left = `${Math.min(x + 14, innerWidth - box.offsetWidth - 8)}px`;
  box.style.top = `${Math.min(y + 14, innerHeight - box.offsetHeight - 8)}px`;
}

// Tips for everything inside `element` that `describe` has lines for; thin lines a little beside them.
function tipsIn(element, describe) {
  element.addEventListener("pointermove", (event) => tip(describe(event.target) ?? beside(event, element, describe), event));
  element.addEventListener("pointerleave", () => tip(null));
  return element;
}

const AROUND = [[0, 3], [0, -3], [3, 0], [-3, 0], [4, 4], [-4, 4], [4, -4], [-4, -4]]; // pixels

function beside({ clientX, clientY }, element, describe) {
  for (const [x, y] of AROUND) {
    const near = document.elementFromPoint(clientX + x, clientY + y);
    const lines = near?.closest(".edge") && element.contains(near) ? describe(near) : null;
    if (lines) return lines;
  }
  return null;
}

// Enter and space do what a click does, for elements that are no buttons of their own.
function pressable(element, act) {
  element.addEventListener("click", act);
  element.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    act(event);
  });
  return element;
}

function table(caption, heads, rows, look = "") {
  return el("table", { class: look },
    el("caption", { class: "unseen" }, caption),
    el("thead", {}, el("tr", {}, heads.map(([name, kind]) => el("th", { scope: "col", class: kind }, name)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell, i) => el("td", { class: heads[i][1], "data-name": typeof heads[i][0] === "string" ? heads[i][0] : null }, cell))))));
}

function panel(title, ...children) {
  return el("section", { class: "panel" }, el("h2", {}, title), children);
}

// What a table that was cut says; nothing where all is shown.
function cutNote(count, total, what = "the largest first") {
  return count < total ? el("p", { class: "quiet cut" }, `${count.toLocaleString("en")} of ${total.toLocaleString("en")} shown, ${what}`) : null;
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

// One stop of the tab key for many elements; arrows go to the nearest one in their direction.
function roving(group, elements) {
  const stop = (here) => elements.forEach((e) => e.setAttribute("tabindex", e === here ? 0 : -1));
  const middle = (e) => { const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; };
  stop(elements[0]);
  group.addEventListener("focusin", (event) => { if (elements.includes(event.target)) stop(event.target); });
  group.addEventListener("keydown", (event) => {
    const way = ARROWS[event.key];
    if (!way || !elements.includes(event.target)) return;
    event.preventDefault();
    const [x, y] = middle(event.target);
    let best = [Infinity, event.target];
    for (const other of elements) {
      const [dx, dy] = middle(other).map((v, i) => v - [x, y][i]);
      const along = dx * way[0] + dy * way[1];
      const cost = along + 3 * Math.abs(dx * way[1] + dy * way[0]);
      if (along > 1 && cost < best[0]) best = [cost, other];
    }
    best[1].focus();
  });
}

// Text of a picture that is shown smaller than it was drawn keeps its size on the screen; where
// names no longer fit their boxes they are shortened ("a3.h1" to "3.1"), then left out.
const growth = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const scale = target.getScreenCTM()?.a || 1;
    target.style.setProperty("--grow", Math.max(1, 1 / scale).toFixed(3));
    target.dataset.names = scale > 0.87 ? "full" : scale > 0.6 ? "short" : "none";
  }
});

function legible(picture) {
  growth.observe(picture);
  return picture;
}
