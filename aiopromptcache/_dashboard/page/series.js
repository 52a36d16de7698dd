// From counters by step of time to what the plots show.

const TIERS = ["blue", "sky", "green", "plum"];
const DELAY = 2;
const LATENCY_SECONDS = 30;
/** Points of a plot at least. */
const LEAST = 36;

/** Ends of the steps that are shown, the latest last; what is young fills the plot sooner. */
export function stepsOf(state, begun) {
  const { now, span, step } = state;
  const last = Math.ceil((Math.floor((now - DELAY) / 5) * 5) / step) * step;
  const known = Math.ceil((last - begun) / step) + 1;
  const count = Math.min(span / step, Math.max(known, LEAST));
  return Array.from({ length: count }, (_, index) => last - (count - 1 - index) * step);
}

/** A quantile from counts by bucket; within a bucket as if evenly spread on a scale of logs. */
export function quantile(counts, bounds, share) {
  const all = counts.reduce((sum, count) => sum + count, 0);
  if (!all) return null;
  let left = all * share;
  for (const [index, count] of counts.entries()) {
    if (count && left <= count) {
      if (index >= bounds.length) return bounds.at(-1);
      const high = bounds[index];
      const low = index ? bounds[index - 1] : high / 2;
      return low * (high / low) ** (left / count);
    }
    left -= count;
  }
  return bounds.at(-1);
}

export function bucketsOf(counts, name, bounds) {
  return Array.from({ length: bounds.length + 1 }, (_, index) => counts[`${name}/${index}`] ?? 0);
}

export function tiersOf(counts, known = []) {
  const named = Object.keys(counts).filter((name) => name.startsWith("hits/"));
  const names = [...known, ...named.map((name) => name.slice(5))];
  return [...new Set(names)].map((name, index) => ({ name, colour: TIERS[index % TIERS.length] }));
}

export const sum = (counts, names) =>
  names.reduce((total, name) => total + (counts[name] ?? 0), 0);

export const hitsOf = (counts) =>
  sum(counts, Object.keys(counts).filter((name) => name.startsWith("hits/")));

export function hitRate(counts) {
  const hits = hitsOf(counts);
  const requests = hits + sum(counts, ["miss", "collapsed"]);
  return requests ? hits / requests : null;
}

/** All plots' series, by plot. `points` maps the end of a step to its counts. */
export function seriesOf(state, points, begun) {
  const { step, bounds, now } = state;
  const times = stepsOf(state, begun);
  const whole = Math.floor((now - DELAY) / 5) * 5;
  const none = {};
  const at = times.map((time) => points.get(time) ?? (time > begun ? none : null));
  const seconds = times.map((time) => Math.min(step, Math.max(1, whole - (time - step))));
  const each = (make) => at.map((counts, index) => (counts ? make(counts, seconds[index]) : null));
  const perSecond = (...names) => each((counts, long) => sum(counts, names) / long);
  const grown = (name) => {
    let total = 0;
    return each((counts) => (total += counts[name] ?? 0));
  };
  const window = Math.max(1, Math.round(LATENCY_SECONDS / step));
  const took = (name, limits, share) => at.map((_, index) => {
    const recent = at.slice(Math.max(0, index - window + 1), index + 1).filter(Boolean);
    const counts = bucketsOf(none, name, limits);
    for (const one of recent) {
      for (let bucket = 0; bucket < counts.length; bucket += 1) {
        counts[bucket] += one[`${name}/${bucket}`] ?? 0;
      }
    }
    return quantile(counts, limits, share);
  });
  const tiers = tiersOf(state.counts, state.tiers.map((tier) => tier.name));
  const pair = (name, colour, key, limits) => [
    { name: `${name} p50`, colour, values: took(key, limits, 0.5) },
    { name: `${name} p99`, colour, dashed: true, values: took(key, limits, 0.99) },
  ];
  return {
    times,
    rate: [{ name: "hits of all requests", colour: "blue", values: each(hitRate) }],
    calls: [
      ...tiers.map(({ name, colour }) => ({
        name: `${name} hits`, colour, values: perSecond(`hits/${name}`) })),
      { name: "collapsed", colour: "plum", values: perSecond("collapsed") },
      { name: "misses", colour: "orange", values: perSecond("miss") },
      { name: "bypassed", colour: "grey", values: perSecond("bypass") },
    ],
    reads: tiers.flatMap(({ name, colour }) => pair(name, colour, `read/${name}`, bounds.tier)),
    took: pair("call", "orange", "upstream", bounds.upstream),
    upstream: [
      { name: "calls", colour: "orange", values: perSecond("calls") },
      { name: "of them failed", colour: "red", dashed: true, values: perSecond("failures") },
    ],
    money: [
      { name: "saved", colour: "green", values: grown("cost_saved") },
      { name: "spent", colour: "orange", dashed: true, values: grown("cost_spent") },
    ],
    tokens: [
      { name: "saved", colour: "green", values: grown("tokens_saved") },
      { name: "spent", colour: "orange", dashed: true, values: grown("tokens_spent") },
    ],
    faults: [
      { name: "all errors", colour: "red", values: grown("errors") },
      { name: "upstream calls", colour: "grey", dashed: true, values: grown("failures") },
    ],
    entries: [
      { name: "stored", colour: "blue", values: grown("stores") },
      { name: "evicted", colour: "orange", dashed: true, values: grown("evictions") },
      { name: "expired in memory", colour: "grey", dashed: true, values: grown("expirations") },
    ],
  };
}
