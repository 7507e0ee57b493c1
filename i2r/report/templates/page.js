// Sorts tables: by the numbers with which the cells begin, else by their text; the third click restores the order.
const value = (row, at) => row.cells[at]?.textContent.trim() ?? "";
const SECONDS = { h: 3600, min: 60, s: 1 };
const number = text => // also of a time, 1 h 2 min
  /^(\d+ (h|min|s) ?)+$/.test(text)
    ? [...text.matchAll(/(\d+) (h|min|s)/g)].reduce((sum, [, count, unit]) => sum + count * SECONDS[unit], 0)
    : parseFloat(text);
const compare = (a, b) => {
  const [x, y] = [number(a), number(b)];
  if (isNaN(x) !== isNaN(y)) return isNaN(x) ? 1 : -1; // numbers first
  return isNaN(x) ? a.localeCompare(b) : y - x;
};
for (const body of document.querySelectorAll("table.grid > tbody")) {
  const head = body.parentElement.tHead.rows, rows = [...body.rows], names = [...head[head.length - 1].cells];
  if (rows.length > 1) for (const [at, name] of names.entries()) {
    name.tabIndex = 0;
    name.classList.add("sortable");
    name.onkeydown = event => { if (event.key === "Enter") name.click(); };
    name.onclick = () => {
      const next = name.ariaSort === null ? "descending" : name.ariaSort === "descending" ? "ascending" : null;
      for (const other of names) other.removeAttribute("aria-sort");
      if (next) name.ariaSort = next;
      const sign = next === "ascending" ? -1 : 1;
      body.append(...(next ? [...rows].sort((a, b) => sign * compare(value(a, at), value(b, at))) : rows));
    };
  }
}
// Enlarges a picture; a click or Escape closes it.
const dialog = document.querySelector("dialog");
for (const button of document.querySelectorAll(".enlarge")) button.onclick = () => {
  const image = button.firstElementChild.cloneNode();
  image.removeAttribute("width");
  dialog.replaceChildren(image);
  dialog.showModal();
};
dialog.onclick = () => dialog.close();
// Marks the section that is read among the contents.
const links = [...document.querySelectorAll("nav a")];
const mark = () => {
  const above = links.filter(link => document.querySelector(link.hash).getBoundingClientRect().top < innerHeight / 3);
  for (const link of links) link.ariaCurrent = link === (above.at(-1) ?? links[0]) ? "location" : null;
};
addEventListener("scroll", mark, { passive: true });
mark();
// Prints what is folded, too.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(part => { part.open = true; }));
