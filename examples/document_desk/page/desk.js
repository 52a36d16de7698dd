"use strict";

const $ = (id) => document.getElementById(id);
const BADGES = {
  hit: "From the cache",
  similar: "From a similar question",
  shared: "Shared with another caller",
  fresh: "Asked the model",
};

/** Documents' size and the number of answers on the page; the desk holds to the first as well. */
const MAX_BYTES = 200_000;
const KEPT = 50;

/** The document in the editor: its name, text and version as saved; null for a new one. */
let current = null;
/** The question under way: its document, and whether its text was replaced since; null for none. */
let asking = null;
/** The document that was asked for last. */
let opening = "";
const totals = { asked: 0, model: 0, tokens: 0 };

// Talking to the service

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The desk does not answer. Is it running?");
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) {
    throw Object.assign(new Error(body.error || response.statusText), { status: response.status });
  }
  return body;
}

const address = (name) => `/documents/${encodeURIComponent(name)}`;

function put(name, body, condition) {
  return call(address(name), {
    method: "PUT",
    body,
    headers: { "Content-Type": "text/plain; charset=utf-8", ...condition },
  });
}

function say(place, message, bad = false) {
  const said = $(`said-${place}`);
  said.textContent = message;
  said.classList.toggle("bad", bad);
  return said;
}

/** An error, with a button that goes on in spite of it. */
function offer(place, message, label, go) {
  const before = document.activeElement;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = label;
  button.addEventListener("click", () => {
    before.focus();
    go();
  });
  say(place, message, true).append(button);
  button.focus();
}

// Documents

async function list() {
  const { documents } = await call("/documents");
  const shown = [...$("list").children].map((item) => item.textContent);
  if (String(shown) !== String(documents)) $("list").replaceChildren(...documents.map(entry));
  mark();
  return documents;
}

function entry(name) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = name;
  button.addEventListener("click", () => leave(() => open(name)));
  item.append(button);
  return item;
}

function mark() {
  for (const button of $("list").querySelectorAll("button")) {
    button.setAttribute("aria-current", String(button.textContent === current?.name));
  }
  $("about").textContent = current ? current.name : "";
  $("delete").disabled = !current;
  $("send").disabled = !current;
  changed();
}

/** Go elsewhere, but do not lose what is not saved. */
function leave(go) {
  if (isChanged()) {
    offer("list", "The text has changes that are not saved.", "Drop them", go);
  } else {
    go();
  }
}

async function open(name) {
  opening = name;
  try {
    const document = await call(address(name));
    if (opening === name) show(document);
  } catch (error) {
    say("list", error.message, true);
    await list();
  }
}

function show(document) {
  current = document;
  $("name").value = document?.name ?? "";
  $("text").value = document?.text ?? "";
  for (const place of ["list", "editor", "ask"]) say(place, "");
  mark();
}

const isChanged = () =>
  $("name").value !== (current?.name ?? "") || $("text").value !== (current?.text ?? "");

function changed() {
  const bytes = new Blob([$("text").value]).size.toLocaleString("en");
  $("size").textContent = isChanged() ? `${bytes} bytes, not saved` : `${bytes} bytes`;
}

async function save(condition) {
  const [name, text] = [$("name").value.trim(), $("text").value];
  const seen = current?.name === name ? { "If-Match": `"${current.version}"` } : { "If-None-Match": "*" };
  try {
    const saved = await put(name, text, condition ?? seen);
    await list();
    keep(saved, name, text);
    say("editor", `Saved. ${gone(saved.dropped)}`);
    outdate(saved.name);
  } catch (error) {
    if (error.status === 412) {
      offer("editor", error.message, "Save all the same", () => save({}));
    } else {
      say("editor", error.message, true);
    }
  }
}

/** Take over what was saved, unless the editor has gone on since, or elsewhere. */
function keep(saved, name, text) {
  if ($("name").value.trim() !== name) return;
  if ($("text").value === text) {
    show(saved);
  } else {
    current = saved;
    mark();
  }
}

const gone = (count) =>
  count ? `${count} ${count === 1 ? "answer" : "answers"} from the old text dropped.` : "";

async function upload(file, condition = { "If-None-Match": "*" }) {
  if (file.size > MAX_BYTES) {
    say("list", `A document has at most ${MAX_BYTES.toLocaleString("en")} bytes.`, true);
    return;
  }
  try {
    const saved = await put(file.name, file, condition);
    await list();
    show(saved);
    say("list", `${saved.name} is here. ${gone(saved.dropped)}`);
    outdate(saved.name);
    $("question").focus();
  } catch (error) {
    if (error.status === 412) {
      offer("list", error.message, "Replace it", () => upload(file, {}));
    } else {
      say("list", error.message, true);
    }
  }
}

async function remove() {
  const name = current.name;
  try {
    await call(address(name), { method: "DELETE" });
    outdate(name);
    show(null);
    await list();
    say("list", `${name} is deleted.`);
    $("new").focus();
  } catch (error) {
    say("editor", error.message, true);
  }
}

// Asking

async function ask(event) {
  event.preventDefault();
  if (asking) return;
  const name = current.name;
  busy({ name, outdated: false });
  say("ask", isChanged() ? "Answered from the saved text; there are changes not saved." : "");
  try {
    const reply = await call(`${address(name)}/questions`, {
      method: "POST",
      body: JSON.stringify({ question: $("question").value }),
      headers: { "Content-Type": "application/json" },
    });
    $("answers").prepend(answer(name, reply));
    if (asking.outdated) outdate(name);
    $("answers").children[KEPT]?.remove();
    count(reply);
    $("question").focus();
    $("question").select();
  } catch (error) {
    say("ask", error.message, true);
  }
  busy(null);
}

/** Not `disabled`: that would take the focus away from who asks by keyboard. */
function busy(question) {
  asking = question;
  $("send").setAttribute("aria-busy", String(question !== null));
}

function answer(name, reply) {
  const item = $("answer").content.firstElementChild.cloneNode(true);
  const set = (part, text) => {
    const found = item.querySelector(part);
    found.textContent = text;
    return found;
  };
  item.dataset.document = name;
  item.title = reply.status;
  set(".question", `${name}: ${reply.question}`);
  set(".text", reply.answer);
  const score = reply.similarity === null ? "" : ` (${reply.similarity.toFixed(2)})`;
  set(".badge", BADGES[reply.how] + score).classList.add(reply.how);
  set(".saved", facts(reply));
  set("summary", `${reply.passages.length} of ${reply.of} passages were sent`);
  item.querySelector(".passages").replaceChildren(...reply.passages.map(passage));
  return item;
}

function facts(reply) {
  const saved = reply.how === "fresh" ? "" : `${reply.tokens_saved} tokens saved · `;
  return `${saved}${Math.max(1, Math.round(reply.milliseconds))} ms · worker ${reply.worker}`;
}

function passage(given) {
  const item = document.createElement("li");
  item.textContent = `[${given.number}] ${given.text}`;
  item.classList.toggle("cited", given.cited);
  return item;
}

function count(reply) {
  totals.asked += 1;
  totals.model += reply.how === "fresh" ? 1 : 0;
  totals.tokens += reply.tokens_saved;
  $("totals").textContent =
    `${totals.asked} asked, ${totals.model} by the model, ${totals.tokens} tokens saved`;
}

/** Answers on the page, or on their way to it, that came from a text that is no more. */
function outdate(name) {
  if (asking?.name === name) asking.outdated = true;
  for (const item of $("answers").children) {
    if (item.dataset.document === name && !item.classList.contains("old")) {
      item.classList.add("old");
      item.querySelector(".saved").append(" · from the text before");
    }
  }
}

// Wiring

$("new").addEventListener("click", () =>
  leave(() => {
    show(null);
    $("name").focus();
  }),
);
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  if (file) leave(() => upload(file));
  $("file").value = "";
});
$("editor").addEventListener("submit", (event) => {
  event.preventDefault();
  save();
});
$("delete").addEventListener("click", remove);
$("ask").addEventListener("submit", ask);
for (const id of ["name", "text"]) $(id).addEventListener("input", changed);
document.addEventListener("keydown", (event) => {
  if (event.key === "s" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    $("editor").requestSubmit();
  }
});
window.addEventListener("beforeunload", (event) => {
  if (isChanged()) event.preventDefault();
});
window.addEventListener("focus", () => list().catch(() => {}));

list()
  .then((documents) => (documents.length ? open(documents[0]) : show(null)))
  .catch((error) => say("list", error.message, true));
