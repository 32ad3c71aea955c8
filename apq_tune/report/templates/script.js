(() => {
  "use strict";
  const all = (selector, root = document) => Array.from(root.querySelectorAll(selector));

  // Tips of marks and layers: shown at the pointer, at the focus, and after a tap; text only.
  const tip = document.getElementById("tip");
  const show = (target, x, y) => {
    tip.textContent = target.dataset.tip;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = Math.min(Math.max(8, x + 14), window.innerWidth - box.width - 8);
    const below = y + 18 + box.height < window.innerHeight;
    tip.style.left = left + "px";
    tip.style.top = (below ? y + 18 : Math.max(8, y - box.height - 12)) + "px";
  };
  const hide = () => { tip.hidden = true; };
  for (const mark of all("svg.plot .mark, .layer[title]")) {
    const title = mark.querySelector("title"); // the browser's own tip, which is slow
    if (!title && !mark.title) continue;
    mark.dataset.tip = title ? title.textContent : mark.title;
    mark.setAttribute("aria-label", mark.dataset.tip);
    if (title) title.remove();
    mark.removeAttribute("title");
    mark.addEventListener("pointermove", (event) => show(mark, event.clientX, event.clientY));
    mark.addEventListener("pointerleave", hide);
    mark.addEventListener("focus", () => {
      const box = mark.getBoundingClientRect();
      show(mark, box.left + box.width / 2, box.bottom);
    });
    mark.addEventListener("blur", hide);
    mark.addEventListener("click", (event) => show(mark, event.clientX, event.clientY)); // a tap
    if (mark.dataset.name === undefined) continue;
    mark.addEventListener("dblclick", () => find(mark.dataset.name));
    mark.addEventListener("keydown", (event) => { if (event.key === "Enter") find(mark.dataset.name); });
  }
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  window.addEventListener("scroll", hide, { passive: true });

  // Kinds of marks that are switched off, in all drawings of the front.
  for (const box of all("[data-toggle]")) {
    box.addEventListener("change", () => {
      for (const twin of all("[data-toggle]")) if (twin.dataset.toggle === box.dataset.toggle) twin.checked = box.checked;
      for (const mark of all(".tabs [data-role]"))
        if (mark.dataset.role === box.dataset.toggle) mark.classList.toggle("off", !box.checked);
    });
  }

  // The table of candidates.
  const table = document.getElementById("all");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const form = document.querySelector(".filters");
  const [text, stage, fitting, count] = ["filter", "stage", "fitting", "count"].map((id) => document.getElementById(id));
  const words = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const filter = () => {
    const wanted = text.value.trim().toLowerCase();
    let n = 0;
    for (const row of rows) {
      const on = words.get(row).includes(wanted) && (!stage.value || row.cells[0].textContent === stage.value)
        && (!fitting.checked || row.cells[2].textContent === "yes");
      row.hidden = !on;
      n += on;
    }
    count.textContent = n + " of " + rows.length;
  };
  form.hidden = false;
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  const heads = all("thead th", table);
  heads.forEach((head, place) => head.firstElementChild.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    const numeric = head.firstElementChild.hasAttribute("data-numeric");
    const key = (row) => numeric ? parseFloat(row.cells[place].dataset.key) : row.cells[place].textContent;
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (!numeric) return (up ? 1 : -1) * x.localeCompare(y, undefined, { numeric: true });
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y); // absent ones last
      return up ? x - y : y - x;
    };
    for (const other of heads) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    body.append(...rows.sort(compare));
  }));
  const find = (name) => {
    const row = rows.find((own) => own.cells[1].textContent === name);
    if (!row) return;
    form.reset();
    filter();
    for (const other of rows) other.classList.toggle("found", other === row);
    row.scrollIntoView({ block: "center" });
  };
  filter();
  document.documentElement.dataset.ready = "yes";
})();
