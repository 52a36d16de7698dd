// Tables that change in place: what did not change keeps its selection and focus.

import { element } from "./plot.js";

/** Fill the table of an article; the first `texts` columns are text, the others numbers. */
export function table(selector, names, rows, empty, texts) {
  const article = document.querySelector(selector);
  const shown = JSON.stringify([names, rows.map((row) => row.map((cell) => cell.outerHTML ?? cell))]);
  if (article.dataset.shown === shown) return;
  article.dataset.shown = shown;
  const kind = (index) => (index < texts ? "text" : "number");
  let filled = element("p", { class: "none" }, empty);
  if (rows.length) {
    const head = names.map((name, index) =>
      element("th", { scope: "col", class: kind(index) }, name));
    const body = rows.map((row) => element("tr", {}, ...row.map((cell, index) =>
      element(index ? "td" : "th", index ? { class: kind(index) }
        : { class: kind(index), scope: "row" }, cell))));
    const whole = element("table", {}, element("thead", {}, element("tr", {}, ...head)),
      element("tbody", {}, ...body));
    const label = article.querySelector("h2").textContent;
    filled = element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
      whole);
  }
  article.querySelector(".scroll, .none")?.remove();
  article.append(filled);
}
