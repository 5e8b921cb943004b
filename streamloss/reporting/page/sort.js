for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  if (body.rows.length < 3) continue;
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, i) => {
    const cell = row.cells[i], whole = Object.values(cell.dataset)[0];
    if (whole === undefined && cell.className) return cell.textContent;
    const number = whole === undefined ? parseFloat(cell.textContent) : Number(whole.replace("inf", "Infinity"));
    return Number.isNaN(number) ? -Infinity : number;
  };
  const order = (a, b) => typeof a === "string" || typeof b === "string"
    ? String(a).localeCompare(String(b), undefined, { numeric: true }) : a - b;
  heads.forEach((head, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign < 0 ? "descending" : "ascending");
      body.append(...[...body.rows].sort((a, b) => sign * order(value(a, i), value(b, i))));
    });
  });
}
