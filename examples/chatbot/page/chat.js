const find = (selector, within = document) => within.querySelector(selector);
const log = find("#log");
const scroller = find("main");
const text = find("#text");
const send = find("#send");

let asking = null; // the AbortController of the answer that is being written
let forgotten = null; // the deletion of the history, which the next question waits for
const totals = new Map(); // what each worker that answered here has saved, as it said last

// Turns

function addTurn(question, next = null) {
  find("#welcome").hidden = true;
  const turn = find("#turn").content.cloneNode(true).firstElementChild;
  find(".question", turn).textContent = question;
  find(".failure button", turn).addEventListener("click", () => {
    turn.remove();
    ask(question);
    text.focus(); // where it was has gone
  });
  log.insertBefore(turn, next);
  return turn;
}

function follow(change) {
  const near = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 80;
  change();
  if (near) scroller.scrollTop = scroller.scrollHeight;
}

const number = (value) => value.toLocaleString("en");
const seconds = (value) => `${value.toFixed(value < 10 ? 1 : 0)} s`;
const LABELS = { hit: "Hit", shared: "Shared", fresh: "Fresh", stopped: "Stopped" };

function describe(badge) {
  const saved = [];
  if (badge.saved_tokens) saved.push(`${number(badge.saved_tokens)} tokens`);
  if (badge.saved_seconds >= 0.05) saved.push(seconds(badge.saved_seconds));
  const gain = saved.length ? `, saved ${saved.join(" and ")}` : "";
  if (badge.kind === "hit") return `from the cache (${badge.tier})${gain}`;
  if (badge.kind === "shared") return `with somebody who asked the same${gain}`;
  if (badge.kind === "stopped") return "not kept in this conversation";
  return `${number(badge.tokens)} tokens, ${seconds(badge.seconds)}`;
}

function showBadge(turn, badge) {
  const place = find(".badge", turn);
  const label = document.createElement("b");
  label.textContent = LABELS[badge.kind];
  place.replaceChildren(label, describe(badge));
  place.dataset.kind = badge.kind;
  place.hidden = false;
}

function showFailure(turn, words) {
  const place = find(".failure", turn);
  find("span", place).textContent = words;
  place.hidden = false;
}

function showTotal(total) {
  totals.set(total.worker, total);
  const sum = (name) => [...totals.values()].reduce((all, each) => all + (each[name] ?? 0), 0);
  const style = { style: "currency", currency: "USD", maximumSignificantDigits: 2 };
  const cost = sum("cost");
  const money = cost ? ` and ${cost.toLocaleString("en", style)}` : "";
  find("#saved").textContent = `Saved ${number(sum("tokens"))} tokens${money}`;
  find("#saved").title = `By worker ${[...totals.keys()].join(" and worker ")}`;
}

// Asking

async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    yield* parts.map((part) => JSON.parse(part));
  }
}

async function failureOf(response) {
  const said = await response.json().catch(() => ({}));
  if (typeof said.error === "string") return said.error;
  if (response.status === 403) return "This page is out of date. Please load it again.";
  return "Something went wrong on our side.";
}

async function readAnswer(turn, response) {
  for await (const line of lines(response)) {
    if (line.text) follow(() => find(".words", turn).append(line.text));
    if (line.error) throw new Error(line.error);
    if (line.done) {
      follow(() => showBadge(turn, line.done));
      showTotal(line.total);
      return;
    }
  }
  throw new Error("The answer broke off.");
}

function busy(turn, controller) {
  asking = controller;
  document.body.classList.toggle("busy", controller !== null);
  send.setAttribute("aria-label", controller ? "Stop" : "Send");
  find(".answer", turn).setAttribute("aria-busy", String(controller !== null));
}

async function ask(question) {
  const turn = addTurn(question);
  const controller = new AbortController();
  busy(turn, controller);
  scroller.scrollTop = scroller.scrollHeight;
  try {
    await Promise.all([restored, forgotten]);
    const response = await fetch("api/ask", {
      method: "POST",
      headers: {
        "Content-Type": "application/json",
        ...(find("#private").checked && { "X-Private": "1" }),
      },
      body: JSON.stringify({ text: question }),
      signal: controller.signal,
    });
    if (!response.ok) throw new Error(await failureOf(response));
    await readAnswer(turn, response);
  } catch (error) {
    if (controller.signal.aborted) {
      follow(() => showBadge(turn, { kind: "stopped" }));
    } else {
      // A TypeError is the browser's own word for a network that failed.
      const words = error instanceof TypeError ? "The connection was lost." : error.message;
      follow(() => showFailure(turn, words));
    }
  } finally {
    busy(turn, null);
  }
}

// Typing

function grow() {
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight}px`;
}

function submit() {
  const question = text.value.trim();
  if (asking || !question) return;
  text.value = "";
  grow();
  ask(question);
}

text.addEventListener("input", grow);
text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    submit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") asking?.abort();
});
find("#composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (asking) asking.abort();
  else submit();
  text.focus();
});
find("#welcome").addEventListener("click", ({ target }) => {
  if (target.matches("button") && !asking) {
    ask(target.textContent);
    text.focus();
  }
});
find("#clear").addEventListener("click", () => {
  asking?.abort();
  forgotten = fetch("api/history", { method: "DELETE" }).catch(() => {});
  log.replaceChildren();
  find("#welcome").hidden = false;
  text.focus();
});

// What was said before

async function restore() {
  const response = await fetch("api/history").catch(() => null);
  const turns = response?.ok ? await response.json().catch(() => []) : [];
  if (forgotten) return;
  const next = log.firstElementChild; // what was asked meanwhile
  for (const { question, answer, badge } of turns) {
    const turn = addTurn(question, next);
    find(".words", turn).textContent = answer;
    showBadge(turn, badge);
  }
  scroller.scrollTop = scroller.scrollHeight;
}

const restored = restore();
await restored;
document.documentElement.dataset.ready = "";
