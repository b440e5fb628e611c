// Which columns the table of runs has: ours, and any field of config or result.
"use strict";

// `known` gives the names of the runs' fields; `changed` is called when the columns are others.
function columnChoice(known, changed) {
  const chips = el("div", { class: "bar" });
  const names = el("datalist", { id: "fields" });
  const wrong = el("p", { class: "error" });
  const add = el("input", { id: "add-column", list: "fields", placeholder: "accuracy, task.length …", autocomplete: "off",
    change: () => {
      wrong.textContent = "";
      if (!add.value.trim()) return;
      try {
        put([...list.columns, fullName(add.value.trim(), known())]);
        add.value = "";
      } catch (error) {
        wrong.textContent = error.message;
        say(error.message);
      }
    } });
  const usual = el("button", { type: "button", click: () => put(USUAL) }, "As usual");
  const element = el("details", { class: "choice" }, el("summary", {}, "Columns"),
    el("div", { class: "panel" }, chips, el("div", { class: "bar" }, el("label", { for: "add-column" }, "Add"), add, names, usual), wrong,
      el("p", { class: "quiet" }, "This view is in the address: keep it as a bookmark, or send it.")));

  function put(columns) {
    list.columns = columns === USUAL ? USUAL : [...new Set(columns)];
    show();
    changed();
  }
  function show() {
    const moved = (i, by) => { const next = [...list.columns]; [next[i], next[i + by]] = [next[i + by], next[i]]; return next; };
    chips.replaceChildren(...list.columns.slice(1).map((name, at) => el("span", { class: "chip" },
      at ? el("button", { type: "button", "aria-label": `${name} further left`, "data-key": `left ${name}`, click: () => put(moved(at + 1, -1)) }, "‹") : null, name,
      el("button", { type: "button", "aria-label": `without ${name}`, "data-key": `without ${name}`, click: () => put(list.columns.filter((other) => other !== name)) }, "×"))));
    const offered = [...Object.keys(COLUMNS), ...known()].filter((name) => !list.columns.includes(name));
    names.replaceChildren(...offered.map((name) => el("option", { value: name })));
  }
  element.addEventListener("toggle", show); // what the runs have by then
  return { element };
}
