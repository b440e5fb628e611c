// Run in a page by test_dashboard_legible.py: whatever is too faint, too small or cut off, as
// sentences.
() => {
  const numbers = (colour) => {
    const found = (colour.match(/[\d.]+/g) ?? []).map(Number);
    return [...found.slice(0, 3), found.length > 3 ? found[3] : 1];
  };
  const over = (top, below) => top.slice(0, 3).map((v, i) => v * top[3] + below[i] * (1 - top[3])).concat(1);
  const light = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => {
    const [low, high] = [light(a), light(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  const chain = (element) => { const all = []; for (let e = element; e; e = e.parentElement) all.push(e); return all; };
  const opacity = (element) => chain(element).reduce((all, e) => all * Number(getComputedStyle(e).opacity), 1);
  const canvas = matchMedia("(prefers-color-scheme: dark)").matches ? [0, 0, 0, 1] : [255, 255, 255, 1];
  const ground = (element) => {
    const box = element.closest(".node, .settling")?.querySelector("rect");
    const fills = box && box !== element ? [numbers(getComputedStyle(box).fill)] : [];
    const layers = chain(element).map((e) => numbers(getComputedStyle(e).backgroundColor));
    return [...fills, ...layers].reverse().reduce((below, top) => over(top, below), canvas);
  };
  const seen = (element) => element.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true }) && !element.closest(".unseen, .skip, option, datalist");
  const turned = (m) => Math.sqrt(Math.abs(m.a * m.d - m.b * m.c)); // rotation is no shrinking
  const scale = (element) => (element.ownerSVGElement ? turned(element.getScreenCTM()) : 1);
  const problems = [];
  const told = (element, words) => problems.push(`${element.tagName.toLowerCase()}.${element.getAttribute("class") ?? ""} “${(element.textContent || element.placeholder || "").slice(0, 30)}” ${words}`);

  const judge = (element, colour, style) => {
    const size = parseFloat(style.fontSize) * scale(element);
    const wanted = size >= 24 || (size >= 18.6 && style.fontWeight >= 700) ? 3 : 4.5;
    const below = ground(element);
    const ink = [...colour.slice(0, 3), colour[3] * opacity(element)];
    const found = contrast(over(ink, below), below);
    if (found < wanted && !element.closest(":disabled")) told(element, `has contrast ${found.toFixed(2)}`);
    if (size < 10.95) told(element, `has ${size.toFixed(1)} px`);
  };
  let texts = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || /^(SCRIPT|STYLE)$/.test(element.tagName) || !seen(element)) continue;
    const style = getComputedStyle(element);
    judge(element, numbers(element.ownerSVGElement ? style.fill : style.color), style);
    texts++;
  }
  for (const field of document.querySelectorAll("input[placeholder]")) judge(field, numbers(getComputedStyle(field, "::placeholder").color), getComputedStyle(field));

  // Of the heat map the cells are left out: a faint cell is a small value, and the table has it.
  const meaning = ".edge:not(.dim) .line, .edge:not(.dim) .tip, .key .line, .key path, .key circle, .stroke, .series, .front, .level, .whisker, .cursor, .point, .mark-point, .flow, .named, .settling rect, .node:not(.idle, .dim) rect";
  let marks = 0;
  for (const mark of document.querySelectorAll(meaning)) {
    if (!seen(mark)) continue;
    const style = getComputedStyle(mark);
    const below = ground(mark);
    const inks = [[style.stroke, style.strokeOpacity], [style.fill, style.fillOpacity]].filter(([paint]) => paint.startsWith("rgb"));
    const best = Math.max(...inks.map(([paint, part]) => {
      const ink = numbers(paint);
      return contrast(over([...ink.slice(0, 3), ink[3] * part * opacity(mark)], below), below);
    }));
    if (!(best >= 3)) told(mark, `has contrast ${best.toFixed(2)}`);
    marks++;
  }
  for (const box of document.querySelectorAll(".scroll")) if (box.scrollWidth > box.clientWidth + 1) told(box, `is ${box.scrollWidth - box.clientWidth} px wider than its place`);
  for (const picture of document.querySelectorAll("main svg")) {
    const frame = picture.getBoundingClientRect();
    const words = [...picture.querySelectorAll("text")].filter(seen).map((text) => [text, text.getBoundingClientRect()]);
    for (const [text, b] of words) if (b.left < frame.left - 1 || b.right > frame.right + 1 || b.top < frame.top - 2 || b.bottom > frame.bottom + 2) told(text, "is cut off by its picture");
    const labels = words.filter(([text]) => text.matches(".small"));
    labels.forEach(([text, a], i) => {
      for (const [other, b] of labels.slice(i + 1)) {
        const [across, down] = [Math.min(a.right, b.right) - Math.max(a.left, b.left), Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top)];
        if (across > 1 && down > 5) told(text, `lies over “${other.textContent}”`);
      }
    });
  }
  const page = document.scrollingElement;
  if (page.scrollWidth > innerWidth) problems.push(`The page is ${page.scrollWidth} px wide.`);
  const body = parseFloat(getComputedStyle(document.body).fontSize);
  if (body < 15) problems.push(`The body text has ${body} px.`);
  return { texts, marks, problems: [...new Set(problems)] };
}
