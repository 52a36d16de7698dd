// Numbers as people read them. What is not known is a dash.

const NONE = "–";
const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const known = (value) => value !== null && value !== undefined && Number.isFinite(value);

/** Three digits, without zeros at their end. */
const digits = (value) => String(Number(value.toPrecision(3)));

/** A value in the largest unit in which it is one or more. */
function scaled(value, units) {
  const [size, name] = units.find(([size]) => value >= size * 0.9995) ?? units.at(-1);
  return `${digits(value / size)} ${name}`;
}

export const count = (value) => (known(value) ? whole.format(Math.round(value)) : NONE);

/** A count where there is room for nine characters. */
export const figure = (value) => (value < 1e7 ? count : compact)(value);

export const compact = (value) => (known(value) ? short.format(value) : NONE);

export function rate(value) {
  if (!known(value)) return NONE;
  return value >= 1000 ? short.format(value) : digits(value);
}

export function percent(value) {
  if (!known(value)) return NONE;
  const hundredths = value * 100;
  if (hundredths > 0 && hundredths < 0.1) return "< 0.1 %";
  // 99.96 % is not all.
  const floored = hundredths > 99 ? Math.floor(hundredths * 10) / 10 : hundredths;
  return `${Number(floored.toFixed(1))} %`;
}

export function duration(seconds) {
  if (!known(seconds)) return NONE;
  return seconds === 0 ? "0 s" : scaled(seconds, [[1, "s"], [1e-3, "ms"], [1e-6, "µs"]]);
}

export function bytes(value) {
  if (!known(value)) return NONE;
  return scaled(value, [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"], [1, "B"]]);
}

export function money(value) {
  if (!known(value)) return NONE;
  if (value === 0) return "$0";
  if (value < 0.01) return `$${value.toFixed(value < 1e-4 ? 6 : 4)}`;
  if (value >= 1e5) return `$${short.format(value)}`;
  return `$${value.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 })}`;
}

export function clock(seconds, withSeconds = false) {
  const options = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  if (withSeconds) options.second = "2-digit";
  return new Date(seconds * 1000).toLocaleTimeString("en-GB", options);
}

export function ago(seconds) {
  if (!known(seconds)) return NONE;
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const [size, name] = units.find(([size]) => seconds >= size) ?? [1, "s"];
  return `${Math.max(0, Math.floor(seconds / size))} ${name}`;
}
