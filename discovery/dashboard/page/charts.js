// Axes and marks that the views share. A chart is an SVG of a fixed size that scales with its panel.
"use strict";

const MARKS = [ // shapes of one size around (0, 0), so that colour is not needed
  "M0-6a6 6 0 1 0 .01 0z", "M-5.5-5.5h11v11h-11z", "M0-7L6.5 5h-13z", "M0-7L7 0 0 7-7 0z",
  "M-6-2h4v-4h4v4h4v4h-4v4h-4v-4h-4z", "M0 7L-6.5-5h13z", "M-6-4l2-2 4 4 4-4 2 2-4 4 4 4-2 2-4-4-4 4-2-2 4-4z",
  "M-6-6h12l-4.5 6 4.5 6h-12l4.5-6z",
];

// Places of values between `from` and `to`; with `log`, of their logarithms.
function makeScale(values, from, to, log = false) {
  const kept = values.filter((v) => v !== null && v !== undefined && (!log || v > 0));
  let low = Math.min(...kept, ...(kept.length ? [] : [1]));
  let high = Math.max(...kept, ...(kept.length ? [] : [2]));
  if (low === high) [low, high] = log ? [low / 2, high * 2] : [low - (Math.abs(low) / 2 || 0.5), high + (Math.abs(high) / 2 || 0.5)];
  const f = log ? Math.log10 : (v) => v;
  const pad = 0.05 * (f(high) - f(low));
  const [a, b] = [f(low) - pad, f(high) + pad];
  const scale = (value) => from + ((f(value) - a) / (b - a)) * (to - from);
  scale.ticks = log ? logTicks(10 ** a, 10 ** b) : ticks(a, b);
  return scale;
}

function ticks(low, high) {
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough) ?? rough;
  const out = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) out.push(Number((i * step).toPrecision(12)));
  return out;
}

function logTicks(low, high) {
  const out = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
    for (const m of [1, 2, 5]) if (m * 10 ** e >= low && m * 10 ** e <= high) out.push(Number((m * 10 ** e).toPrecision(6)));
  }
  if (out.length < 2) return ticks(low, high).filter(Number.isInteger);
  return out.length > 8 ? out.filter((v) => /^10*$|^0\.0*1$/.test(String(v))) : out;
}

// Whether values span so much that only their logarithms can be told apart.
function decades(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return values.length > 1 && low > 0 && high / low >= 30;
}

// Numbers as texts, with as many digits as it takes to tell them apart.
function toldApart(values, digits = 3) {
  const texts = values.map((v) => shown(v, digits));
  return digits > 9 || new Set(texts).size === new Set(values).size ? texts : toldApart(values, digits + 1);
}

// Frame, ticks and names of the axes; `area` is [left, top, right, bottom].
function axes([left, top, right, bottom], x, y, xName, yName, percents = false) {
  const digits = percents && y.ticks.length > 1 && y.ticks[1] - y.ticks[0] < 0.01 ? 1 : 0;
  const plain = toldApart(y.ticks);
  const text = (value, i) => (percents ? `${(100 * value).toFixed(digits).replace("-", "−")} %` : plain[i]);
  return svg("g", { "aria-hidden": "true" },
    y.ticks.map((v, i) => [svg("line", { class: "rule", x1: left, x2: right, y1: y(v), y2: y(v) }),
      svg("text", { class: "small", x: left - 8, y: y(v) + 4, "text-anchor": "end" }, text(v, i))]).flat(),
    x.ticks.map((v) => svg("text", { class: "small", x: x(v), y: bottom + 16, "text-anchor": "middle" }, shown(v))),
    svg("path", { class: "axis", d: `M${left} ${top}V${bottom}H${right}` }),
    svg("text", { class: "small", x: right, y: bottom + 32, "text-anchor": "end" }, xName),
    svg("text", { class: "small", x: left, y: top - 8 }, yName));
}

function chart(width, height, title, ...children) {
  return legible(svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title, class: "chart" }, children));
}

function polyline(points, look) {
  return svg("path", { class: look, d: points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("") });
}

const WIDEST = 38; // letters of a line beside a chart

// Lines of at most so many letters, broken between words where it can be.
function wrapped(words) {
  return words.match(new RegExp(`\\S{${WIDEST}}|\\S.{0,${WIDEST - 1}}(?=\\s|$)`, "g")) ?? [words];
}

// A row a value with its interval: [{name, value, low, high, mark}], on one shared axis.
function intervals(title, rows, xName, levels, left = 262) {
  const lines = rows.map((row) => (row.name.length > WIDEST ? row.name.split("; ").flatMap(wrapped) : [row.name]));
  const [right, top, step] = [left + 178, 12, Math.max(27, 6 + 14 * Math.max(0, ...lines.map((words) => words.length)))];
  const bottom = top + step * rows.length;
  const x = makeScale([...levels, ...rows.flatMap((r) => [r.value, r.low, r.high])], left, right);
  return chart(left + 328, bottom + 40, title,
    levels.map((v) => svg("line", { class: "axis", x1: x(v), x2: x(v), y1: top, y2: bottom })),
    x.ticks.map((v) => svg("text", { class: "small", x: x(v), y: bottom + 16, "text-anchor": "middle" }, shown(v))),
    svg("text", { class: "small", x: right, y: bottom + 32, "text-anchor": "end" }, xName),
    rows.map((row, i) => {
      const y = top + (i + 0.5) * step;
      const two = (value) => value.toFixed(2).replace("-", "−");
      const words = two(row.value) + (row.low === null || row.high === null ? "" : ` [${two(row.low)}, ${two(row.high)}]`);
      return svg("g", {}, svg("title", {}, `${row.name}: ${words}`),
        svg("line", { class: "rule", x1: left, x2: right, y1: y, y2: y }),
        svg("text", { class: "small", x: right + 14, y: y + 4 }, words),
        lines[i].map((words, n) => svg("text", { x: left - 12, y: y + 4 + 14 * (n - (lines[i].length - 1) / 2), "text-anchor": "end" }, words)),
        row.low === null || row.high === null ? null : svg("line", { class: "whisker", x1: x(row.low), x2: x(row.high), y1: y, y2: y }),
        svg("path", { class: `s${row.mark ?? 0} mark-point`, d: MARKS[row.mark ?? 0], transform: `translate(${x(row.value).toFixed(1)} ${y})` }));
    }));
}
