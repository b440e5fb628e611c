// Every picture of a page as SVG or PNG, every table as CSV or on the clipboard.
"use strict";

const LOOKS = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-opacity", "opacity", "paint-order", "font-size", "font-family", "font-weight", "text-anchor", "dominant-baseline"];
const LARGEST_SIDE = 8000; // pixels of a PNG

function saveMenu() {
  const found = el("div", { class: "panel" });
  const menu = el("details", { class: "save" }, el("summary", {}, "Save"), found);
  menu.addEventListener("toggle", () => {
    if (!menu.open) return;
    found.replaceChildren(...[...picturesHere().map(pictureRow), ...tablesHere().map(tableRow)]);
    if (!found.childElementCount) found.append(el("p", { class: "quiet" }, "No picture and no table here."));
  });
  menu.addEventListener("keydown", (event) => { if (event.key === "Escape") { menu.open = false; menu.firstChild.focus(); } });
  return menu;
}

// What the page shows now: views put new ones in the place of the old.
function picturesHere() {
  return [...document.querySelectorAll("#main svg[aria-label]")].filter((picture) => picture.checkVisibility() && picture.viewBox.baseVal.width > 60);
}

function tablesHere() {
  return [...document.querySelectorAll("#main table")].filter((one) => one.caption && one.checkVisibility());
}

function row(name, ...buttons) {
  return el("div", { class: "row" }, el("span", {}, name), buttons.map(([text, act]) => el("button", { type: "button", "aria-label": `${text}: ${name}`, click: act }, text)));
}

function pictureRow(picture, i) {
  const name = picture.getAttribute("aria-label").slice(0, 80);
  return row(name, ["SVG", () => download(fileName(name, "svg"), "image/svg+xml", plainSvg(picturesHere()[i]))], ["PNG", () => downloadPng(name, picturesHere()[i])]);
}

function tableRow(one, i) {
  const name = one.caption.textContent;
  return row(name, ["CSV", () => download(fileName(name, "csv"), "text/csv", csv(cellsOf(tablesHere()[i])))],
    ["Copy", async () => {
      try {
        await navigator.clipboard.writeText(cellsOf(tablesHere()[i]).map((cells) => cells.join("\t")).join("\n"));
        say("Copied.");
      } catch {
        say("The browser does not let this page copy.");
      }
    }]);
}

// All rows, also those of a table that shows its first ones only.
function cellsOf(one) {
  const texts = [...one.rows].map((line) => [...line.cells].map((cell) => cell.textContent.trim()));
  return one.whole ? [texts[0], ...one.whole] : texts;
}

// Numbers as programs read them; what a spreadsheet would take for a formula stays a text.
function csv(rows) {
  const cell = (value) => {
    const text = String(value ?? "").replaceAll("−", "-");
    const number = text.replace(/(?<=\d),(?=\d{3}\b)/g, "");
    if (/^-?[\d.]+(e[-+]?\d+)?$/i.test(number)) return number;
    const safe = /^[=+@\t\r-]/.test(text) ? `'${text}` : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  return rows.map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n";
}

function fileName(name, kind) {
  return `${name.replace(/[^\w.-]+/g, "_").slice(0, 60)}.${kind}`;
}

function download(name, type, content) {
  const place = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  el("a", { href: place, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(place), 10_000);
}

// The picture by itself: its looks stand at each element, what is hidden is left out.
function plainSvg(picture) {
  const { width, height } = picture.viewBox.baseVal;
  const copy = plainPart(picture);
  for (const [name, value] of Object.entries({ xmlns: "http://www.w3.org/2000/svg", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": picture.getAttribute("aria-label") })) copy.setAttribute(name, value);
  const paper = getComputedStyle(document.documentElement).getPropertyValue("--paper");
  copy.prepend(svg("rect", { width, height, fill: paper }));
  return new XMLSerializer().serializeToString(copy);
}

function plainPart(part) {
  const copy = part.cloneNode(false);
  for (const { name } of [...copy.attributes]) if (/^(class|style|tabindex|role|aria-.*|data-.*|href)$/.test(name)) copy.removeAttribute(name);
  const style = getComputedStyle(part);
  for (const look of LOOKS) {
    const value = style.getPropertyValue(look);
    if (value && value !== "normal") copy.setAttribute(look, value);
  }
  for (const child of part.childNodes) {
    if (child.nodeType === Node.TEXT_NODE) copy.append(child.data);
    else if (child.nodeType === Node.ELEMENT_NODE && !(child.matches(".hit, .around, title") || getComputedStyle(child).display === "none")) copy.append(plainPart(child));
  }
  return copy;
}

async function downloadPng(name, picture) {
  const { width, height } = picture.viewBox.baseVal;
  const scale = Math.min(2, LARGEST_SIDE / Math.max(width, height));
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(plainSvg(picture))}`;
  await image.decode();
  const canvas = el("canvas", { width: Math.round(width * scale), height: Math.round(height * scale) });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  canvas.toBlob((blob) => download(fileName(name, "png"), "image/png", blob));
}
