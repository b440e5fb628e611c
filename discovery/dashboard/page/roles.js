// What a head does in words: on the task's own prompts first, on random tokens second.
"use strict";

const NOTED = 0.1; // mean attention below which no place is named

// Roles that scores suggest: those of the task's prompts, and those of random tokens alone.
function rolesOf(head, about) {
  const random = new Set(about.scores.filter(({ on }) => on === "random tokens").map(({ name }) => name));
  return { task: head.candidates.filter((role) => !random.has(role)), random: head.candidates.filter((role) => random.has(role)) };
}

// The marked tokens that it looks at, strongest first: at most two above the line, else the one.
function placesOf(head, about) {
  const sorted = Object.entries(head.attention).filter(([, value]) => value >= NOTED).sort((a, b) => b[1] - a[1]);
  const clear = sorted.filter(([, value]) => value >= (about.attends ?? 1));
  return (clear.length ? clear.slice(0, 2) : sorted.slice(0, 1)).map(([mark, value]) => ({ mark, value }));
}

// Whether it writes for the answer or against it, beyond doubt; else nothing.
function answerWords(head) {
  const effect = head.scores["direct effect"];
  if (!effect || (effect.low ?? 0) * (effect.high ?? 0) <= 0) return null;
  return `writes ${effect.value > 0 ? "for" : "against"} the answer (${effect.value > 0 ? "+" : ""}${shown(effect.value)} logits)`;
}

function taskWords(head, about) {
  const place = ({ mark, value }) => {
    const [from, to] = mark.split("->");
    return `${to === undefined ? `at the ${mark}` : `from ${from} to ${to}`} (${value.toFixed(2)})`;
  };
  const places = placesOf(head, about).map(place);
  const parts = [rolesOf(head, about).task.join(", "), places.length ? `looks ${places.join(", ")}` : "", answerWords(head)].filter(Boolean);
  return parts.join("; ") || "nothing clear on the task";
}

function randomWords(head, about) {
  const { random } = rolesOf(head, about);
  return random.length ? `On random tokens: ${random.join(", ")}` : "";
}

function roleMarks(head, about) {
  const { task, random } = rolesOf(head, about);
  const places = placesOf(head, about).map(({ mark, value }) => `${mark.replace("->", " → ")} ${value.toFixed(2)}`);
  return [el("div", {}, task.map((role) => [el("span", { class: "role" }, role), " "]), places.join(", ") || (task.length ? "" : el("span", { class: "quiet" }, "–"))),
    random.length ? el("div", { class: "quiet small-print" }, `random tokens: ${random.join(", ")}`) : null];
}
