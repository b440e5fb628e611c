// Nodes that the reader put together under a name: kept in the run's notes, shown wherever it is.
"use strict";

// The groups after these nodes were put under `name`, or under none; a node is in one group at most,
// and a group without nodes is gone.
function regrouped(groups, nodes, name) {
  const left = Object.entries(groups ?? {}).map(([other, members]) => [other, members.filter((node) => !nodes.includes(node))]);
  if (name && !left.some(([other]) => other === name)) left.push([name, []]);
  return Object.fromEntries(left.map(([other, members]) => [other, other === name ? [...members, ...nodes] : members]).filter(([, members]) => members.length));
}

// Puts the nodes that `ticked` gives under a name; `changed` is called when the server has kept it.
function groupForm(summary, ticked, changed) {
  const name = el("input", { id: "group-name", list: "group-names", maxlength: 40, placeholder: "name movers", autocomplete: "off" });
  const names = el("datalist", { id: "group-names" });
  const said = el("span", { class: "quiet", role: "status" });
  const put = el("button", { type: "button", click: () => keep(ticked(), name.value.trim()) }, "Put together");
  name.addEventListener("keydown", (event) => { if (event.key === "Enter") put.click(); });

  async function keep(nodes, under) {
    if (!nodes.length || under === "") {
      said.textContent = nodes.length ? "Name them first." : "Tick heads first.";
      return;
    }
    try {
      const { note, tags, groups } = summary;
      Object.assign(summary, await putNotes(summary.id, { note, tags, groups: regrouped(groups, nodes, under) }));
      name.value = "";
      said.textContent = "Saved.";
      show();
      changed();
    } catch (error) {
      said.textContent = `Not saved: ${error.message}`;
    }
  }
  function show() {
    names.replaceChildren(...Object.keys(summary.groups ?? {}).map((value) => el("option", { value })));
  }
  show();
  return { element: el("div", { class: "bar group-form" }, el("label", { for: "group-name" }, "Ticked are"), name, names, put, said), dissolve: (members) => keep(members, null) };
}
