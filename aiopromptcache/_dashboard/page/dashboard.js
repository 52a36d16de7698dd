// Asks for the state every two seconds while somebody can see it, and shows it. All that comes from
// the server is put in as text, never as markup.

import * as format from "./format.js";
import { element, Plot } from "./plot.js";
import { bucketsOf, hitRate, hitsOf, quantile, seriesOf, sum } from "./series.js";
import { table } from "./table.js";

const PAUSE = 2_000;
const PATIENCE = 10_000;
/** Seconds by which other processes may tell of something too late. */
const LATE = 30;
const SPAN_NAMES = { 900: "15 min", 3600: "1 h", 21600: "6 h", 86400: "24 h" };
const ALL = "all";
const find = (selector) => document.querySelector(selector);

const chosen = { cache: "0", process: ALL, span: "900" };
const held = { points: new Map(), begun: Infinity, state: null, asked: 0, timer: 0, paused: false };

const quiet = "Nothing in this time";
const PLOTS = {
  calls: { title: "Calls", unit: "per second", kind: "stack", format: format.rate, empty: quiet },
  rate: { title: "Hit rate", unit: "share of requests", format: format.percent,
    ticks: [0, 0.25, 0.5, 0.75, 1], empty: quiet },
  upstream: { title: "Upstream calls", unit: "per second", format: format.rate,
    empty: "No upstream calls in this time" },
  reads: { title: "Read latency by tier", unit: "log scale", scale: "log",
    format: format.duration, empty: "No reads measured in this time" },
  took: { title: "Upstream latency", unit: "log scale", scale: "log",
    format: format.duration, empty: "No upstream calls in this time" },
  faults: { title: "Errors", unit: "in the time shown", format: format.count,
    tick: format.compact, empty: "None in this time" },
  money: { title: "Money", unit: "US dollars, in the time shown", format: format.money,
    tick: (value) => (value < 1 ? format.money(value) : `$${format.compact(value)}`), empty: "No answers with a known price" },
  tokens: { title: "Tokens", unit: "in the time shown", format: format.count,
    tick: format.compact, empty: "No tokens in this time" },
  entries: { title: "Entries", unit: "in the time shown", format: format.count,
    tick: format.compact, empty: quiet },
};
const plots = Object.fromEntries(Object.entries(PLOTS).map(([name, spec]) => [name, new Plot(spec)]));
find("#plots").append(...Object.values(plots).map((plot) => plot.node));

// Asking

function ask() {
  clearTimeout(held.timer);
  if (document.hidden || held.paused) return;
  const number = (held.asked += 1);
  const since = held.points.size ? Math.max(...held.points.keys()) - LATE : 0;
  const query = new URLSearchParams({ ...chosen, since });
  fetch(`data.json?${query}`, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) })
    .then((answer) => {
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      return answer.json();
    })
    .then((state) => number === held.asked && take(state))
    .catch(() => number === held.asked && say("lost", "No answer"))
    .finally(() => {
      if (number === held.asked) held.timer = setTimeout(ask, PAUSE);
    });
}

function take(state) {
  if (state.process !== chosen.process) { // it has ended
    choose({ process: state.process });
    return;
  }
  for (const [time, counts] of state.points) held.points.set(time, counts);
  for (const time of held.points.keys()) {
    if (time < state.now - state.span - state.step) held.points.delete(time);
  }
  held.begun = Math.min(held.begun, state.begun);
  held.state = state;
  show();
  say("live", "Live");
}

function choose(change) {
  Object.assign(chosen, change);
  held.points.clear();
  held.begun = Infinity;
  ask();
}

function say(mood, words) {
  const button = find("#live");
  button.dataset.mood = mood;
  button.setAttribute("aria-pressed", String(!held.paused));
  button.title = held.paused ? "Go on" : "Pause";
  button.firstElementChild.textContent = words;
  document.body.classList.toggle("old", mood === "lost");
}

// Showing

function show() {
  const { state, points } = held;
  const now = [...points].filter(([time]) => time > state.now - state.span);
  const recent = {};
  for (const [, counts] of now) {
    for (const [name, value] of Object.entries(counts)) recent[name] = (recent[name] ?? 0) + value;
  }
  showChoices(state);
  showNotice(state);
  showTiles(state, recent);
  const { times, ...series } = seriesOf(state, points, held.begun);
  for (const [name, plot] of Object.entries(plots)) plot.draw(times, series[name]);
  showTables(state);
  document.documentElement.dataset.ready = "";
}

function options(select, values, value) {
  const wanted = JSON.stringify(values);
  if (select.dataset.values !== wanted) { // else an open list would close
    select.replaceChildren(...values.map(([key, name]) => element("option", { value: key }, name)));
    select.dataset.values = wanted;
  }
  select.value = value;
}

const processName = ({ id, name }) => `${name} (${id.slice(0, 4)})`;

function showChoices(state) {
  find("#cache-choice").hidden = state.caches.length < 2;
  options(find("#cache"), state.caches.map((name, index) => [String(index), name]), chosen.cache);
  const { processes } = state;
  find("#process-choice").hidden = processes.length < 2;
  const all = [ALL, `all ${processes.length}`];
  options(find("#process"), [all, ...processes.map((each) => [each.id, processName(each)])],
    chosen.process);
  find("#kept").textContent = state.shared
    ? "Those of a process that ends leave the totals, at the latest after a minute."
    : "Plots begin when this process first used the cache.";
}

function showNotice(state) {
  const out = state.tiers.filter((tier) => tier.out);
  const names = out.map((tier) => tier.name).join(", ");
  const notice = find("#notice");
  const words = out.length ? `${names} does not answer. Calls go on without it.` : "";
  if (notice.textContent !== words) notice.textContent = words;
  notice.hidden = !out.length;
}

function showTiles(state, recent) {
  const { counts } = state;
  const lately = SPAN_NAMES[state.span];
  const more = (value, write) => `last ${lately}: ${write(value ?? 0)}`;
  const shorter = (value) => (value >= 1e5 ? format.compact(value) : format.count(value));
  const requests = (of) => hitsOf(of) + sum(of, ["miss", "collapsed", "bypass"]);
  const lastRate = hitRate(recent);
  const unpriced = counts.unpriced_saved ?? 0;
  const price = unpriced ? `${format.count(unpriced)} without a price`
    : more(recent.cost_saved, format.money);
  const tiles = [
    ["Hit rate", format.percent(hitRate(counts)),
      lastRate === null ? `last ${lately}: no calls` : more(lastRate, format.percent)],
    ["Calls", format.figure(requests(counts)), more(requests(recent), shorter)],
    ["Upstream calls", format.figure(counts.calls ?? 0), more(recent.calls, shorter)],
    ["Money saved", format.money(counts.cost_saved ?? (unpriced ? null : 0)), price],
    ["Tokens saved", format.figure(counts.tokens_saved ?? 0),
      more(recent.tokens_saved, shorter)],
    ["Errors", format.figure(counts.errors ?? 0), more(recent.errors, shorter)],
  ];
  const section = find("#tiles");
  if (!section.childElementCount) {
    section.append(...tiles.map(([name]) => element("div", { class: "card tile" },
      element("h2", {}, name), element("p", { class: "value" }), element("p", { class: "note" }))));
  }
  for (const [index, [, value, note]] of tiles.entries()) {
    const [, big, small] = section.children[index].children;
    if (big.textContent !== value) big.textContent = value;
    if (small.textContent !== note) small.textContent = note;
  }
}

function times(counts, name, bounds) {
  const buckets = bucketsOf(counts, name, bounds);
  return [0.5, 0.99].map((share) => format.duration(quantile(buckets, bounds, share)));
}

function breaker(tier) {
  if (tier.local) return element("span", { class: "soft" }, "none needed");
  const words = tier.out ? (tier.processes > 1 ? `open in ${tier.out} of ${tier.processes}` : "open")
    : "closed";
  return element("span", { class: `mark ${tier.out ? "bad" : "good"}` }, words);
}

function holds({ estimated }, value, most, write) {
  if (value === undefined) return "–";
  const words = `${estimated ? "≈ " : ""}${write(value)}`;
  return most === undefined ? words : `${words} of ${write(most)}`;
}

function showTables(state) {
  const { counts, bounds } = state;
  const rows = state.tiers.map((tier) => [
    tier.name, breaker(tier), format.count(counts[`hits/${tier.name}`] ?? 0),
    ...times(counts, `read/${tier.name}`, bounds.tier),
    ...times(counts, `write/${tier.name}`, bounds.tier),
    holds(tier, tier.entries, tier.max_entries, format.count),
    holds(tier, tier.bytes, tier.max_bytes, format.bytes),
  ]);
  table("#tiers", ["Tier", "Breaker", "Hits", "Read p50", "Read p99", "Write p50", "Write p99",
    "Entries", "Bytes"], rows, "No tiers", 2);
  table("#models", ["Model", "Tokens saved", "Tokens spent", "Saved", "Spent", "Endpoint"],
    state.models.map((row) => [row.model, format.count(row.saved_tokens),
      format.count(row.spent_tokens), format.money(row.saved_cost), format.money(row.spent_cost),
      row.endpoint]), "No model has answered yet.", 1);
  table("#errors", ["When", "What", "Where", "Error"], state.errors.map((error) => [
    `${format.ago(Date.now() / 1000 - error.time)} ago`, error.kind, error.where ?? "–",
    element("code", {}, error.error)]), "None so far.", 4);
  find("#processes").hidden = state.processes.length < 2;
  table("#processes", ["Process", "Running for"], state.processes.map((each) => [
    processName(each), format.ago(state.now - each.started)]), "None", 1);
  showSimilar(state);
}

function showSimilar({ similar, counts }) {
  find("#similar").hidden = !similar;
  if (!similar) return;
  const row = [format.count(counts.similar ?? 0), String(Number(similar.threshold.toFixed(3))),
    format.count(similar.false_hits), format.percent(similar.rate), format.percent(similar.bound)];
  table("#similar", ["Similar hits", "Threshold", "Known to be wrong", "Wrong, estimated",
    "Wrong, at most"], [row], "", 0);
}

// What people do

find("#cache").addEventListener("change", (event) =>
  choose({ cache: event.target.value, process: ALL }));
find("#process").addEventListener("change", (event) => choose({ process: event.target.value }));
find("#spans").addEventListener("change", (event) => choose({ span: event.target.value }));
find("#live").addEventListener("click", () => {
  held.paused = !held.paused;
  if (held.paused) {
    held.asked += 1; // what is on its way comes too late
    say("paused", "Paused");
  }
  ask();
});
document.addEventListener("visibilitychange", ask);
ask();
