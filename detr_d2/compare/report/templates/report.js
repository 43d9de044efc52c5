"use strict";

const byId = (id) => document.getElementById(id);

// Tables: a heading sorts by its column, again turns the order; rows without a value stay last.

const compare = (a, b) => {
  const numbers = [Number(a), Number(b)];
  return numbers.some(Number.isNaN) ? a.localeCompare(b) : numbers[0] - numbers[1];
};

const sortBy = (table, column, direction) => {
  const body = table.tBodies[0];
  const value = (row) => row.cells[column].dataset.sort;
  const rows = [...body.rows].sort((a, b) => {
    if (value(a) === "" || value(b) === "") return (value(a) === "") - (value(b) === "");
    return direction * compare(value(a), value(b));
  });
  body.append(...rows);
};

for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const sorted = heading.getAttribute("aria-sort");
      const first = column === 0 ? "ascending" : "descending";
      const other = column === 0 ? "descending" : "ascending";
      const order = sorted === first ? other : first;
      headings.forEach((other) => other.setAttribute("aria-sort", other === heading ? order : "none"));
      sortBy(table, column, order === "ascending" ? 1 : -1);
    });
  });
}

// Paper shows what is folded away.

let opened = [];
window.addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  opened.forEach((details) => { details.open = true; });
});
window.addEventListener("afterprint", () => {
  opened.forEach((details) => { details.open = false; });
});

// Contents: the section that is read is marked.

const links = [...document.querySelectorAll(".bar nav a")];
const mark = () => {
  const read = links.filter((link) => byId(link.hash.slice(1)).getBoundingClientRect().top < 120).pop() ?? links[0];
  links.forEach((link) => link.toggleAttribute("aria-current", link === read));
};
window.addEventListener("scroll", mark, { passive: true });
mark();
