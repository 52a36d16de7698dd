// One plot: SVG drawn here, a legend that reads it out, and the same as a table.

import { clock } from "./format.js";

const HEIGHT = 190;
const MARGIN = { left: 56, right: 14, top: 10, bottom: 24 };
const SVG = "http://www.w3.org/2000/svg";

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

const round = (value) => Math.round(value * 10) / 10;

/** Steps of 1, 2 or 5 times a power of ten. */
function ticksUpTo(top) {
  const raw = top / 4;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= raw * 0.999) * power;
  const last = Math.ceil(top / step - 1e-9);
  return Array.from({ length: last + 1 }, (_, index) => index * step);
}

/** Powers of ten around what there is, two at least; within a single one its parts as well. */
function decades(low, high) {
  const first = Math.floor(Math.log10(low) + 1e-9);
  if (high <= 10 ** (first + 1)) return [1, 2, 5, 10].map((part) => part * 10 ** first);
  const last = Math.max(first + 1, Math.ceil(Math.log10(high) - 1e-9));
  const every = Math.ceil((last - first) / 5);
  const found = [];
  for (let power = first; power < last + every; power += every) found.push(10 ** power);
  return found;
}

function timeTicks(from, to, room) {
  const steps = [60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200];
  const step = steps.find((each) => (to - from) / each <= room) ?? 86400;
  const shift = new Date(to * 1000).getTimezoneOffset() * 60;
  const ticks = [];
  for (let at = Math.ceil((from - shift) / step) * step + shift; at <= to; at += step) ticks.push(at);
  return ticks;
}

export class Plot {
  /**
   * spec: title, unit, kind ("line" or "stack"), scale ("linear" or "log"), format of a value,
   * tick (that of the axis; else the same), ticks (where they are given), empty (what to say then).
   */
  constructor(spec) {
    this.spec = { kind: "line", scale: "linear", ...spec };
    this.times = [];
    this.series = [];
    this.at = null;
    this.svg = shape("svg", { role: "img", tabindex: "0", height: HEIGHT, class: "plot" });
    this.legend = element("ul", { class: "legend" });
    this.when = element("span", { class: "when" });
    this.said = element("output", { class: "unseen", "aria-live": "polite" });
    this.table = element("div", { class: "scroll", tabindex: "0", role: "region",
      "aria-label": `${spec.title} as a table` });
    this.details = element("details", {}, element("summary", {}, "As a table"), this.table);
    const title = element("h2", {}, spec.title);
    const unit = element("span", { class: "unit" }, spec.unit);
    const caption = element("figcaption", {}, title, unit, this.when);
    this.node = element("figure", { class: "card" },
      caption, this.legend, this.svg, this.said, this.details);
    this.#listen();
  }

  #listen() {
    this.svg.addEventListener("pointermove", (event) => this.#point(event));
    this.svg.addEventListener("pointerdown", (event) => this.#point(event));
    this.svg.addEventListener("pointerleave", () => this.#move(null));
    this.svg.addEventListener("blur", () => this.#move(null));
    this.svg.addEventListener("keydown", (event) => this.#key(event));
    this.details.addEventListener("toggle", () => this.#fillTable());
    new ResizeObserver(() => this.#render()).observe(this.svg);
  }

  #point(event) {
    const box = this.svg.getBoundingClientRect();
    const share = (event.clientX - box.left - MARGIN.left) / this.#width;
    const index = Math.round(share * (this.times.length - 1));
    this.#move(Math.min(this.times.length - 1, Math.max(0, index)));
  }

  #key(event) {
    const last = this.times.length - 1;
    const now = this.at === null ? last : this.times.indexOf(this.at);
    const moves = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: last };
    if (event.key === "Escape") return this.#move(null);
    if (!(event.key in moves) || last < 0) return undefined;
    event.preventDefault();
    this.#move(Math.min(last, Math.max(0, moves[event.key])));
    const values = this.series.map((each) => `${each.name} ${this.#value(each, this.#index)}`);
    this.said.textContent = `${this.when.textContent}: ${values.join(", ")}`;
    return undefined;
  }

  #move(index) {
    this.at = index === null ? null : this.times[index] ?? null;
    this.#drawCursor();
    this.#readOut();
  }

  get #width() {
    return Math.max(80, this.svg.clientWidth - MARGIN.left - MARGIN.right);
  }

  get #index() {
    const found = this.at === null ? -1 : this.times.indexOf(this.at);
    return found < 0 ? null : found;
  }

  /** times: seconds, evenly apart; series: name, colour (a class), dashed, values (null: none). */
  draw(times, series) {
    this.times = times;
    this.series = series;
    this.#render();
    this.#fillTable();
  }

  #render() {
    const { spec, times } = this;
    if (!times.length || !this.svg.clientWidth) return;
    const width = this.#width;
    const height = HEIGHT - MARGIN.top - MARGIN.bottom;
    const drawn = this.#stacked();
    const values = drawn.flatMap((each) => each.top).filter((value) => value !== null);
    const positive = values.filter((value) => value > 0);
    this.empty = !positive.length && !(spec.ticks && values.length);
    const ticks = spec.ticks ?? this.#ticks(positive);
    const [low, high] = [ticks[0], ticks.at(-1)];
    const share = spec.scale === "log"
      ? (value) => Math.log(Math.max(value, low) / low) / Math.log(high / low)
      : (value) => (value - low) / (high - low);
    this.x = (index) => MARGIN.left + (width * index) / Math.max(1, times.length - 1);
    this.y = (value) => MARGIN.top + height * (1 - share(value));
    this.drawn = drawn;
    this.svg.replaceChildren(...this.#axes(ticks, width, height));
    if (this.empty) {
      const middle = { x: MARGIN.left + width / 2, y: MARGIN.top + height / 2, class: "empty" };
      this.svg.append(shape("text", middle, spec.empty));
    } else {
      for (const each of [...drawn].reverse()) this.svg.append(...this.#marks(each));
    }
    this.cursor = shape("g", { class: "cursor" });
    this.svg.append(this.cursor);
    this.#drawCursor();
    this.#readOut();
  }

  #ticks(positive) {
    if (!positive.length) return this.spec.scale === "log" ? [1e-3, 1e-2, 1e-1, 1] : [0, 1];
    const high = Math.max(...positive);
    return this.spec.scale === "log" ? decades(Math.min(...positive), high) : ticksUpTo(high);
  }

  /** Each series with its upper and lower edge. */
  #stacked() {
    if (this.spec.kind !== "stack") {
      return this.series.map((each) => ({ ...each, top: each.values, base: null }));
    }
    let base = this.times.map(() => 0);
    return this.series.map((each) => {
      const top = each.values.map((value, index) => (value === null ? null : base[index] + value));
      const made = { ...each, top, base };
      base = top.map((value, index) => value ?? base[index]);
      return made;
    });
  }

  #axes(ticks, width, height) {
    const { spec, times } = this;
    const marks = [];
    for (const [index, tick] of ticks.entries()) {
      const y = round(this.y(tick)) + 0.5;
      const name = index ? "grid" : "ground";
      marks.push(shape("line", { x1: MARGIN.left, x2: MARGIN.left + width, y1: y, y2: y, class: name }));
      if (this.empty && !spec.ticks) continue; // there is no scale yet
      const place = { x: MARGIN.left - 8, y: y + 3.5, class: "tick end" };
      marks.push(shape("text", place, (spec.tick ?? spec.format)(tick)));
    }
    const [from, to] = [times[0], times.at(-1)];
    for (const at of timeTicks(from, to, Math.max(2, width / 80))) {
      const x = round(MARGIN.left + (width * (at - from)) / (to - from));
      const y = MARGIN.top + height;
      marks.push(shape("line", { x1: x, x2: x, y1: y, y2: y + 4, class: "ground" }));
      const edge = x > MARGIN.left + width - 16 ? "end" : "middle";
      marks.push(shape("text", { x, y: HEIGHT - 6, class: `tick ${edge}` }, clock(at)));
    }
    return marks;
  }

  /** Lines have gaps where there is no value; a value alone is a dot. */
  #marks(each) {
    const runs = [];
    let run = null;
    for (const [index, value] of each.top.entries()) {
      if (value === null) run = null;
      else if (run) run.push(index);
      else runs.push((run = [index]));
    }
    const at = (edge) => (index) => `${round(this.x(index))} ${round(this.y(edge[index]))}`;
    const line = runs.map((one) => `M${one.map(at(each.top)).join("L")}${one[1] ? "" : "h.1"}`);
    const marks = [];
    if (each.base) {
      const back = (one) => [...one].reverse().map((index) => this.#step(each.base, index, -1));
      const forth = (one) => one.map((index) => this.#step(each.top, index, 1));
      const area = runs.map((one) => `M${[...forth(one), ...back(one)].join("L")}Z`).join("");
      marks.push(shape("path", { d: area, class: `area ${each.colour}` }));
    } else {
      const dashed = each.dashed ? " dashed" : "";
      marks.push(shape("path", { d: line.join(""), class: `line ${each.colour}${dashed}` }));
    }
    return marks;
  }

  /** The edge of one step, which is as wide as the way to the next. */
  #step(edge, index, direction) {
    const [left, right] = [this.x(0), this.x(this.times.length - 1)];
    const [from, to] = [index - direction / 2, index + direction / 2].map(
      (at) => round(Math.min(right, Math.max(left, this.x(at)))));
    const y = round(this.y(edge[index]));
    return `${from} ${y}L${to} ${y}`;
  }

  #drawCursor() {
    if (!this.cursor) return;
    this.cursor.replaceChildren();
    const index = this.#index;
    if (index === null) return;
    const x = round(this.x(index));
    const [y1, y2] = [MARGIN.top, HEIGHT - MARGIN.bottom];
    this.cursor.append(shape("line", { x1: x, x2: x, y1, y2 }));
    for (const each of this.empty ? [] : this.drawn) {
      const value = each.top[index];
      if (value !== null && each.values[index] !== 0) {
        this.cursor.append(
          shape("circle", { cx: x, cy: round(this.y(value)), r: 3.5, class: each.colour }));
      }
    }
  }

  #value(each, index) {
    const last = each.values.findLast((value) => value !== null);
    return this.spec.format(index === null ? last : each.values[index]);
  }

  /** The legend tells the values at the cursor, or else the latest. */
  #readOut() {
    const index = this.#index;
    this.when.textContent = index === null ? "" : clock(this.times[index], true);
    const items = this.series.map((each) => {
      const swatch = element("i", { class: `swatch ${each.colour}${each.dashed ? " dashed" : ""}` });
      return element("li", {}, swatch, each.name, element("b", {}, this.#value(each, index)));
    });
    this.legend.replaceChildren(...items);
    const { title, unit, empty } = this.spec;
    const told = this.series.map((each) => `${each.name} ${this.#value(each, null)}`).join(", ");
    const label = this.empty ? empty : `latest: ${told}`;
    this.svg.setAttribute("aria-label", `${title}, ${unit}. ${label}. Arrow keys read it out.`);
  }

  #fillTable() {
    if (!this.details.open) return;
    const head = element("tr", {}, element("th", { scope: "col" }, "Time"));
    for (const each of this.series) head.append(element("th", { scope: "col" }, each.name));
    const body = element("tbody");
    for (let index = this.times.length - 1; index >= 0; index -= 1) {
      if (this.series.every((each) => !each.values[index])) continue;
      const row = element("tr", {}, element("th", { scope: "row" }, clock(this.times[index], true)));
      for (const each of this.series) row.append(element("td", {}, this.#value(each, index)));
      body.append(row);
    }
    const filled = body.childElementCount
      ? element("table", {}, element("thead", {}, head), body)
      : element("p", { class: "none" }, this.spec.empty);
    this.table.replaceChildren(filled);
  }
}
