// What the table of runs shows and is filtered by: its columns, any field of config or result, and
// conditions on both ("threshold<0.1 task=ioi seed!=3 model~smol held out").
"use strict";

const COLUMNS = {
  // value to sort and filter by; what is shown, if not that; n for numbers; whether few are best
  run: { value: (r) => r.id },
  model: { value: (r) => r.model },
  task: { value: (r) => r.task, look: "words" },
  method: { value: (r) => r.method, look: "words" },
  metric: { value: (r) => r.metric },
  ablation: { value: (r) => r.ablation },
  threshold: { value: (r) => r.threshold, look: "n", few: true },
  n: { value: (r) => r.asked?.["task.n"], look: "n", means: "prompts of the search" },
  seed: { value: (r) => r.seed, look: "n" },
  edges: { value: (r) => r.n_edges, look: "n", few: true },
  faithfulness: { value: (r) => r.faithfulness, look: "n", text: percent, means: "on the prompts of the search" },
  "held-out": { value: (r) => r.found?.test_faithfulness, look: "n", text: percent, means: "faithfulness on prompts that the search did not see" },
  accuracy: { value: (r) => r.found?.test_accuracy, look: "n", text: percent, means: "of the circuit on its own, on prompts that the search did not see" },
  verdict: { value: (r) => r.verdict, look: "words" },
  value: { value: (r) => r.metric_circuit, look: "n", text: (v, r) => (v === null || v === undefined ? "–" : `${r.metric ?? ""} ${shown(v)}`), means: "the circuit's metric" },
  time: { value: (r) => r.seconds, look: "n", few: true, text: span },
  started: { value: (r) => r.started, text: (v) => (v ? v.slice(0, 16).replace("T", " ") : "–") },
  state: { value: (r) => r.state },
  tags: { value: (r) => r.tags?.join(" "), look: "words" },
  note: { value: (r) => r.note, look: "words" },
  hash: { value: (r) => fieldOf(r, "config_hash") },
  folder: { value: folderOf, look: "words" },
};
const USUAL = ["run", "model", "task", "method", "threshold", "edges", "faithfulness", "held-out", "accuracy", "verdict", "time", "started", "state"];
const TESTS = {
  "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b,
};

// A column, ours or one field of the runs.
function columnOf(name) {
  return COLUMNS[name] ?? { value: (r) => fieldOf(r, name), field: true };
}

// Of config and result; where both have one of the name, the result's counts.
function fieldOf(run, name) {
  return run.found?.[name] ?? run.asked?.[name];
}

function cellText(column, run) {
  const value = column.value(run) ?? null;
  if (column.text) return column.text(value, run);
  if (value === null || value === "") return "–";
  return typeof value === "number" ? shown(value) : String(value);
}

// Names that a condition or a column may have: ours, and those of the fields of these runs.
function fieldNames(runs) {
  const found = new Set();
  for (const { asked, found: results } of runs) for (const part of [asked, results]) for (const name in part) found.add(name);
  return [...found].filter((name) => !Object.hasOwn(COLUMNS, name)).sort();
}

// The full name of a field: as it stands, or the only one that ends so ("length" for "task.length").
function fullName(typed, known) {
  if (Object.hasOwn(COLUMNS, typed) || known.includes(typed)) return typed;
  const ends = known.filter((name) => name.endsWith(`.${typed}`));
  if (ends.length === 1) return ends[0];
  const near = (ends.length ? ends : [...Object.keys(COLUMNS), ...known].filter((name) => typed && name.includes(typed))).slice(0, 4);
  throw new Error(`${typed || "A condition without a field"}: ${ends.length ? "several fields end so" : "no run has this field"}${near.length ? `; there are ${near.join(", ")}` : ""}`);
}

// A test of a run. Words without a condition are looked for in its names, tags and note.
function parseFilter(typed, known) {
  const terms = typed.match(/(?:[^\s"]|"[^"]*"?)+/g) ?? [];
  const tests = terms.map((term) => {
    const [, name, sign, value] = /^([^<>=!~"]*)(<=|>=|!=|=|<|>|~)(.*)$/s.exec(term) ?? [];
    if (!sign) return textTest(term.replaceAll('"', "").toLowerCase());
    return condition(columnOf(fullName(name, known)).value, sign, value.replaceAll('"', ""));
  });
  return (run) => tests.every((test) => test(run));
}

function textTest(word) {
  const text = (r) => [r.id, r.model, r.task, r.method, r.state, r.metric, r.ablation, r.verdict, r.note, ...(r.tags ?? []), r.tracked && `W&B ${r.tracked.name} ${r.tracked.group}`].join(" ").toLowerCase();
  return (run) => text(run).includes(word);
}

// "80%" is .8; what a run does not have meets no condition but "field=" and "field!=3".
function condition(value, sign, typed) {
  const wanted = numberOf(typed);
  const words = typed.toLowerCase();
  const pattern = new RegExp(`^${words.split("*").map((part) => part.replace(/[\\^$.|?+()[\]{}]/g, "\\$&")).join(".*")}$`, "s");
  const same = (v) => (typeof v === "number" && wanted !== null ? v === wanted : pattern.test(String(v).toLowerCase()));
  return (run) => {
    const v = value(run) ?? null;
    const missing = v === null || v === "";
    if (sign === "!=") return words === "" ? !missing : missing || !same(v);
    if (sign === "=") return words === "" ? missing : !missing && same(v);
    if (missing || words === "") return words === "";
    if (sign === "~") return String(v).toLowerCase().includes(words);
    return typeof v === "number" ? wanted !== null && TESTS[sign](v, wanted) : TESTS[sign](String(v).toLowerCase(), words);
  };
}

function numberOf(typed) {
  const found = /^[-−+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?(%?)$/i.exec(typed.trim());
  if (!found) return null;
  return Number(found[0].replace("−", "-").replace("%", "")) / (found[3] ? 100 : 1);
}

// A run's parent folder, such as a sweep's.
function folderOf(run) {
  return run.id.split("/").slice(0, -1).join("/") || "top folder";
}

// By a column, what is missing last.
function sorted(runs, name, down) {
  const { value } = columnOf(name);
  const keys = new Map(runs.map((run) => [run, value(run) ?? null]));
  const sign = down ? -1 : 1;
  return [...runs].sort((a, b) => {
    const [x, y] = [keys.get(a), keys.get(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (typeof x === "number" && typeof y === "number" ? x - y : COLLATOR.compare(String(x), String(y)));
  });
}

const COLLATOR = new Intl.Collator("en", { numeric: true });
