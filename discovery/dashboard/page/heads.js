// What one head does: where it looks on a prompt, what it writes for, and which roles would fit.
"use strict";

function headsView(details, options) {
  const { about, prompts, heads } = details.heads;
  const { summary } = details;
  const strength = headStrength(details.circuit);
  const sorted = [...heads].sort((a, b) => (strength(b.name) - strength(a.name)) || a.name.localeCompare(b.name, "en", { numeric: true }));
  const place = el("div", { class: "stack" });
  const state = { prompt: 0, query: null };
  const rows = sorted.map((head) => headRow(head, about, strength(head.name), details.notes, () => choose(head)));
  const form = details.notes ? groupForm(summary, () => rows.filter((row) => row.querySelector("input").checked).map((row) => row.dataset.head), arrange) : null;
  const list = el("table", { class: "edges head-list" }, el("caption", { class: "unseen" }, "Heads of the circuit, strongest edge first"),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "head"), el("th", { scope: "col" }, "on the task"), el("th", { scope: "col", class: "n", title: "largest |effect| of an edge that it reads or writes" }, "effect"))));

  function arrange() {
    for (const body of [...list.tBodies]) body.remove();
    list.append(...groupedRows(summary.groups, rows, form));
  }
  function choose(head, moved = true) {
    for (const row of rows) {
      const mine = row.dataset.head === head.name;
      row.classList.toggle("here", mine);
      row.querySelector("button").setAttribute("aria-pressed", String(mine));
    }
    place.replaceChildren(...headParts(head, about, prompts, summary.id, details.routes?.length ?? 0, state));
    if (!moved) return;
    history.replaceState(null, "", headAddress(details)(head.name));
    say(`${head.name}: ${taskWords(head, about)}`);
  }
  arrange();
  choose(heads.find((h) => h.name === options.get("head")) ?? sorted[0], false);
  return el("div", {},
    el("p", { class: "quiet" }, "Of the clean run. A role is a candidate: where a head looks and what it writes is no evidence that it matters; the circuit's effects and the validation are."),
    el("div", { class: "heads" }, el("div", {}, form?.element, el("div", { class: "scroll" }, list)), place));
}

function headRow(head, about, strength, writable, choose) {
  return el("tr", { "data-head": head.name },
    el("th", { scope: "row" }, writable ? el("input", { type: "checkbox", "aria-label": `tick ${head.name}` }) : null, " ", el("button", { type: "button", class: "plain", click: choose }, head.name)),
    el("td", {}, roleMarks(head, about)), el("td", { class: "n" }, shown(strength)));
}

// A body for each of the reader's groups that has a head here, and one for the rest.
function groupedRows(groups, rows, form) {
  const own = Object.entries(groups ?? {}).map(([name, members]) => [name, members, rows.filter((row) => members.includes(row.dataset.head))]).filter(([, , some]) => some.length);
  const taken = new Set(own.flatMap(([, , some]) => some));
  const line = (name, members) => el("tr", { class: "group" }, el("th", { scope: "rowgroup", colspan: 3 }, el("span", { class: `key-dot ${groupLook(Object.keys(groups).indexOf(name))}`, "aria-hidden": "true" }), name,
    form ? [" ", el("button", { type: "button", class: "plain", "aria-label": `take ${name} apart`, click: () => form.dissolve(members) }, "take apart")] : null));
  for (const row of rows) if (row.querySelector("input")) row.querySelector("input").checked = false;
  return [...own.map(([name, members, some]) => el("tbody", {}, line(name, members), some)), el("tbody", {}, rows.filter((row) => !taken.has(row)))];
}

// The address of a head's view in this run; null for nodes that it does not describe.
function headAddress({ heads, summary }) {
  const known = new Set(heads?.heads.map((head) => head.name));
  return (name) => (known.has(name) ? `${address("run", summary.id, "heads")}?head=${encodeURIComponent(name)}` : null);
}

// The largest |effect| of a head's edges.
function headStrength(circuit) {
  const found = new Map();
  for (const edge of circuit?.edges ?? []) {
    for (const node of ends(edge)) found.set(node, Math.max(found.get(node) ?? 0, Math.abs(edge[2])));
  }
  return (name) => found.get(name) ?? 0;
}

function headParts(head, about, prompts, id, routes, state) {
  const link = el("a", { class: "button", href: `${address("run", id, "circuit")}?head=${encodeURIComponent(head.name)}` }, "Its edges");
  const route = el("a", { class: "button" }, "The prompt's route");
  const prompt = el("div", {});
  const { bar, show } = promptChoice(prompts.map((p, i) => `${i + 1} ${promptWords(p)}`), (i) => {
    state.prompt = i;
    route.href = routeAddress(id, i);
    route.hidden = i >= routes;
    prompt.replaceChildren(...promptParts(head, prompts[i], state));
  });
  if (prompts.length) show(Math.min(state.prompt, prompts.length - 1));
  return [el("section", { class: "panel", "aria-label": head.name },
      el("div", { class: "bar" }, el("h2", {}, `${head.name}: ${taskWords(head, about)}`, el("small", {}, randomWords(head, about))), bar, link, prompts.length ? route : null), prompt),
    el("div", { class: "two" }, scorePanel(head, about), attentionPanel(head))];
}

// The prompt's tokens, darker the more the chosen query looks at them; pressing one makes it the query.
function tokenLine(prompt, pattern, pick) {
  const line = el("div", { class: "tokens", role: "group", "aria-label": "Tokens of the prompt" });
  const tokens = prompt.tokens.map((word, i) => el("button", { type: "button", "aria-label": `${quote(word)}${markOf(prompt, i)}, position ${i}`, title: `${i}${markOf(prompt, i)}`, click: () => pick(i) }, el("span", { class: "shade", "aria-hidden": "true" }), el("span", {}, seenToken(word))));
  line.append(...tokens);
  roving(line, tokens);
  line.show = (query) => tokens.forEach((token, j) => {
    token.setAttribute("aria-pressed", String(j === query));
    token.firstChild.style.opacity = pattern && j <= query ? Math.min(pattern[query][j] ?? 0, 1).toFixed(2) : 0;
  });
  return line;
}

// The pattern beside what the chosen query looks at and what the head writes there.
function promptParts(head, prompt, state) {
  const pattern = head.patterns[state.prompt];
  const writes = head.writes[state.prompt] ?? [];
  const last = prompt.tokens.length - 1;
  const query = el("select", { id: "query", change: () => choose(+query.value) },
    prompt.tokens.map((word, i) => el("option", { value: i }, `${i} ${quote(word)}${markOf(prompt, i)}`)));
  const words = el("div", {});
  const picture = pattern ? drawPattern(head.name, pattern, prompt, (i) => choose(i)) : null;
  const line = tokenLine(prompt, pattern, (i) => choose(i));

  function choose(i) {
    state.query = i === last ? null : i;
    query.value = i;
    line.show(i);
    picture?.querySelectorAll(".query").forEach((row) => row.classList.toggle("here", +row.dataset.query === i));
    const looks = pattern ? pattern[i].map((v, j) => [j, v]).sort((a, b) => b[1] - a[1]).slice(0, 5).filter(([, v]) => v >= 0.01) : [];
    const written = writes.find((w) => w.position === i);
    const places = writes.map((w) => w.position).join(", ");
    words.replaceChildren(
      looks.length ? table("Where this query looks most", [["looks at", ""], ["attention", "n"]], looks.map(([j, v]) => [`${quote(prompt.tokens[j])}${markOf(prompt, j)}`, v.toFixed(3)]), "edges") : "",
      written ? writesTable(written) : el("p", { class: "quiet" }, places ? `What it writes is kept at the marked positions and the answer's: ${places}.` : "What it writes is kept for the first prompts only."));
  }
  choose(Math.min(state.query ?? last, last));
  return [line, el("p", {}, "Answer ", prompt.answers.map(quote).join(", ") || "–", prompt.wrong.length ? `, wrong ${prompt.wrong.map(quote).join(", ")}` : ""),
    el("div", { class: "head-prompt" },
      picture ? el("div", { class: "picture flat", tabindex: 0, role: "region", "aria-label": `Attention pattern of ${head.name}` }, picture)
        : el("p", { class: "quiet" }, "No pattern is kept for this head: the circuit has too many heads, or the prompts are too long."),
      el("div", {}, el("div", { class: "bar" }, el("label", { for: "query" }, "From"), query), words))];
}

function markOf(prompt, position) {
  const names = Object.entries(prompt.marks).filter(([, at]) => at === position).map(([name]) => name);
  return names.length ? ` (${names.join(", ")})` : "";
}

function writesTable(written) {
  const rows = written.for.map(([word, logit], i) => [quote(word), shown(logit), written.against[i] ? quote(written.against[i][0]) : "", written.against[i] ? shown(written.against[i][1]) : ""]);
  return table("Tokens whose logits the head raises and lowers most there, directly", [["writes for", ""], ["logits", "n"], ["against", ""], ["logits", "n"]], rows, "edges writes");
}

// Rows are queries, columns what they look at; a cell's darkness is the attention.
function drawPattern(name, pattern, prompt, pick) {
  const n = pattern.length;
  const cell = Math.min(Math.max(Math.floor(340 / n), 5), 24);
  const step = Math.max(1, Math.ceil(12 / cell)); // names that there is room for
  const word = (i) => { const w = seenToken(prompt.tokens[i]); return w.length > 10 ? `${w.slice(0, 9)}…` : w; };
  const [left, top] = [92, 74];
  const named = Array.from({ length: n }, (_, i) => i).filter((i) => i % step === 0 || i === n - 1);
  const labels = named.map((i) => [
    svg("text", { x: left - 6, y: top + (i + 0.5) * cell + 4, "font-size": 11, "text-anchor": "end" }, word(i)),
    svg("text", { x: 0, y: 0, "font-size": 11, transform: `translate(${left + (i + 0.5) * cell + 3} ${top - 6}) rotate(-55)` }, word(i))]).flat();
  const rows = pattern.map((values, i) => svg("g", { class: "query", "data-query": i, click: () => pick(i) },
    svg("rect", { class: "cells", x: left, y: top + i * cell, width: (i + 1) * cell, height: cell }),
    values.map((v, j) => (v >= 0.02 ? svg("rect", { class: "cell", "data-key": j, x: left + j * cell, y: top + i * cell, width: cell, height: cell, opacity: Math.min(v, 1).toFixed(2) }) : null)),
    svg("rect", { class: "around", x: left, y: top + i * cell, width: (i + 1) * cell, height: cell })));
  const strongest = pattern.map((values, i) => [i, values.indexOf(Math.max(...values)), Math.max(...values)]).filter(([i, j]) => i > 0 && j >= 0).sort((a, b) => b[2] - a[2])[0];
  const said = strongest ? `; strongest from ${quote(prompt.tokens[strongest[0]])} to ${quote(prompt.tokens[strongest[1]])}, ${strongest[2].toFixed(2)}` : "";
  const picture = svg("svg", { class: "pattern", viewBox: `0 0 ${left + n * cell + 40} ${top + n * cell + 8}`, width: left + n * cell + 40, height: top + n * cell + 8,
    role: "img", "aria-label": `Attention of ${name} over ${n} tokens, rows are queries${said}` }, labels, rows);
  return tipsIn(picture, (target) => {
    const row = target.closest?.(".query");
    const j = target.dataset?.key;
    if (!row) return null;
    const i = +row.dataset.query;
    return j === undefined ? [`from ${quote(prompt.tokens[i])}`] : [`${quote(prompt.tokens[i])} → ${quote(prompt.tokens[+j])}`, `attention ${pattern[i][+j].toFixed(3)}`];
  });
}

function scorePanel(head, about) {
  const found = about.scores.filter(({ name }) => Object.hasOwn(head.scores, name)).map((said) => ({ ...said, ...head.scores[said.name] }));
  const shares = found.filter((score) => score.unit === "share"); // on one scale
  const effects = found.filter((score) => score.unit !== "share").map(({ name, unit, means, value, low, high }) => {
    const range = low === null || high === null ? "" : `[${shown(low)}, ${shown(high)}]`;
    return [el("span", { title: means }, name), shown(value), range, unit ?? "–"];
  });
  const line = about.attends;
  return el("section", { class: "panel" }, el("h2", {}, "Role scores"),
    shares.length ? intervals(`Role scores of ${head.name}`, shares, line === null ? "" : `the line is ${line}: it looks there`, [0, line, 1].filter((level) => level !== null), 140) : el("p", { class: "quiet" }, "None in the file."),
    effects.length ? table("Effects and correlations", [["score", ""], ["value", "n"], ["95 %", "n"], ["unit", ""]], effects, "edges") : null,
    el("details", {}, el("summary", {}, "What the scores are"),
      el("dl", { class: "terms" }, about.scores.map(({ name, means }) => el("div", {}, el("dt", {}, name), el("dd", {}, means))))));
}

function attentionPanel(head) {
  const rows = Object.entries(head.attention).sort((a, b) => b[1] - a[1]);
  return el("section", { class: "panel" }, el("h2", {}, "Attention between marked tokens"),
    rows.length ? el("div", { class: "scroll flat" }, el("table", { class: "heat" }, el("caption", { class: "unseen" }, `Mean attention of ${head.name} over the prompts`),
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "from → to"), el("th", { scope: "col", class: "n" }, "mean"))),
      el("tbody", {}, rows.map(([mark, value]) => el("tr", {}, el("th", { scope: "row" }, mark.replace("->", " → ")), heatCell(value))))))
      : el("p", { class: "quiet" }, "The task marks no tokens."));
}

function heatCell(value) {
  const bar = el("div", { class: "fillbar", "aria-hidden": "true" });
  bar.style.width = `calc(${Math.min(Math.max(value, 0), 1)} * (100% - 3.2rem))`;
  return el("td", {}, bar, el("span", {}, value.toFixed(2)));
}
