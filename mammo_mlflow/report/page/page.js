"use strict";
// Tables sort by the column whose heading is pressed: numbers by their first number, the rest as text; empty cells last.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.parentElement;
    const body = heading.closest("table").tBodies[0];
    const column = heading.cellIndex;
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => row.cells[column].textContent.trim();
    const number = (text) => {
      const found = text.replace(/,/g, "").match(/^<?\s*([-+]?\d+(?:\.\d+)?)/);
      return found ? (text.startsWith("<") ? Number(found[1]) / 2 : Number(found[1])) : NaN;
    };
    const rows = [...body.rows];
    const numeric = rows.every((row) => value(row) === "" || !Number.isNaN(number(value(row))));
    rows.sort((first, second) => {
      const [a, b] = [value(first), value(second)];
      if ((a === "") !== (b === "")) return a === "" ? 1 : -1;
      const order = numeric ? number(a) - number(b) : a.localeCompare(b, "en", { numeric: true });
      return down ? -order : order;
    });
    body.append(...rows);
  });
}
const dialog = document.querySelector("dialog");
const enlarge = (image) => {
  const large = dialog.querySelector("img");
  large.src = image.src;
  large.alt = image.alt;
  dialog.showModal();
};
for (const figure of document.querySelectorAll("figure")) {
  const image = figure.querySelector("img");
  image.addEventListener("click", () => enlarge(image));
  figure.querySelector("button").addEventListener("click", () => enlarge(image));
}
dialog.addEventListener("click", () => dialog.close());
