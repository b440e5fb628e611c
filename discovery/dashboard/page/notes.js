// A reviewer's note and tags on a run: shown always, written only if the dashboard lets it.
"use strict";

async function putNotes(id, notes) {
  const answer = await fetch(`api/notes?id=${encodeURIComponent(id)}`, { method: "PUT", headers: { "Content-Type": "application/json" }, body: JSON.stringify(notes) });
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error ?? `The server answered ${answer.status}.`);
  return value;
}

function tagMarks(tags) {
  return tags.map((tag) => [el("a", { class: "role", href: `#/?${new URLSearchParams({ filter: `tags~"${tag}"` })}` }, tag), " "]);
}

// Nothing where there are no notes and none can be written.
function notesPanel(summary, writable) {
  const { id, note, tags } = summary;
  if (tags === undefined || (!writable && !note && !tags.length)) return null;
  const shown = el("div", { class: "note" }, tagMarks(tags), el("span", { class: "prose" }, note));
  if (!writable) return el("section", { class: "panel notes", "aria-label": "Notes" }, shown);
  const text = el("textarea", { id: "note", rows: 2, maxlength: 4000 }, note);
  const words = el("input", { id: "tags", value: tags.join(", "), placeholder: "best, to check", autocomplete: "off" });
  const said = el("span", { class: "quiet", role: "status" });
  const save = el("button", { type: "button", click: async () => {
    try {
      const kept = await putNotes(id, { note: text.value, tags: words.value.split(",").map((tag) => tag.trim()).filter(Boolean), groups: summary.groups });
      Object.assign(summary, kept);
      said.textContent = "Saved.";
      shown.replaceChildren(...[tagMarks(kept.tags), el("span", { class: "prose" }, kept.note)].flat(Infinity));
    } catch (error) {
      said.textContent = `Not saved: ${error.message}`;
    }
  } }, "Save");
  return el("section", { class: "panel notes", "aria-label": "Notes" }, shown, el("details", {}, el("summary", {}, note || tags.length ? "Edit the note" : "Write a note"),
    el("div", { class: "bar" }, el("label", { for: "note" }, "Note"), text),
    el("div", { class: "bar" }, el("label", { for: "tags" }, "Tags"), words, save, said)));
}
