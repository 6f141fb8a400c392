// The page's only script: words as they come, and forms without leaving the page. All of it works without.

import { follow } from "./stream.js";
import { asJson, carry, load, replaceFrom, say, turn } from "./parts.js";

const main = document.getElementById("main");
const path = main.dataset.path;
const composer = document.getElementById("composer");
const message = composer?.elements.message;
const person = document.querySelector(".person")?.textContent; // a draft is nobody else's
const draft = `draft of ${person} for ${composer?.getAttribute("action")}`;

if (path) {
  scrollTo(0, document.documentElement.scrollHeight);
  if (main.dataset.newest === "yes") follow(path, main.dataset.version);
}
localTimes(document);
new MutationObserver((changes) => changes.forEach((c) => c.addedNodes.forEach((n) => n.querySelectorAll && localTimes(n))))
  .observe(document.body, { childList: true, subtree: true });

// --- times in the reader's own zone ------------------------------------------------------------------

function localTimes(root) {
  const now = new Date();
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    const near = at.toDateString() === now.toDateString();
    const date = at.getFullYear() === now.getFullYear() ? { day: "numeric", month: "short" } : { dateStyle: "medium" };
    const told = at.toLocaleString("en-GB", near ? { hour: "2-digit", minute: "2-digit" } : date);
    time.title = at.toLocaleString("en-GB", { dateStyle: "full", timeStyle: "short" });
    if (time.textContent !== told) time.textContent = told;
  }
}

// --- the composer: Enter sends, what was typed is kept until it has arrived --------------------------------

if (composer) {
  const wide = matchMedia("(min-width: 52rem)").matches; // else a keyboard would cover half of the screen
  if (wide && !document.getElementById("toast") && !location.search) message.focus();
  message.value ||= sessionStorage.getItem(draft) ?? "";
  message.addEventListener("input", () => sessionStorage.setItem(draft, message.value));
  message.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (message.value.trim()) composer.requestSubmit();
  });
}

async function ask(form) {
  const told = await carry(form);
  sessionStorage.removeItem(draft);
  if (!path) return location.assign(`/bi-chat/${told.dialogue_id}`);
  form.elements.message.value = "";
  form.elements.key.value = told.message_id; // ids are used once, so the next question has a key of its own
  await turn(path, told.message_id, told.version);
  document.getElementById(`turn-${told.message_id}`)?.scrollIntoView({ block: "end" });
}

// --- forms ------------------------------------------------------------------------------------------------

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (form.method === "get") return search(event, form);
  if ("plain" in form.dataset) return form.matches(".who") && sessionStorage.clear(); // signed out
  event.preventDefault();
  if (form.ariaBusy === "true") return;
  const told = form.querySelector(".refused");
  const buttons = form.querySelectorAll("button");
  form.ariaBusy = "true";
  buttons.forEach((button) => (button.disabled = true));
  if (told) told.hidden = true;
  try {
    await send(form);
  } catch (error) {
    if (told) Object.assign(told, { textContent: error.message, hidden: false });
    else say(error.message, true);
  } finally {
    form.ariaBusy = "false";
    buttons.forEach((button) => (button.disabled = false));
    if (form === composer) message.focus();
  }
});

async function send(form) {
  if (form.elements.message) return ask(form);
  const { turn: asked, then, delete: gone } = form.dataset;
  const told = gone ? await asJson(gone, { method: "DELETE" }) : await carry(form);
  if (then) return location.assign(then);
  if (asked) return turn(path, asked, told.version);
  if (form.closest("#rename")) return renamed(form);
  location.assign(`/bi-chat/${told.dialogue_id}`);
}

async function renamed(form) {
  await replaceFrom(location.href, ["top", "list"]);
  document.querySelector("#rename summary").focus();
  say("Renamed.");
}

// --- the list: searched and paged in place ------------------------------------------------------------------

let searching;
document.getElementById("q")?.addEventListener("input", (event) => {
  clearTimeout(searching);
  searching = setTimeout(() => event.target.form.requestSubmit(), 250);
});

async function search(event, form) {
  event.preventDefault();
  const address = new URL(form.action);
  for (const [name, value] of new FormData(form)) if (value) address.searchParams.set(name, value);
  if (!(await replaceFrom(address, ["list"]))) return;
  history.replaceState(null, "", address);
  const found = document.querySelectorAll(".lines li").length;
  say(found ? `${found} found` : "Nothing found");
}

document.addEventListener("click", async (event) => {
  const link = event.target.closest("a.more, a.earlier");
  if (!link || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  const found = await load(link.href);
  if (!found) return;
  if (link.matches(".more")) return append(link, found);
  const height = document.documentElement.scrollHeight;
  found.querySelector("#thread .pages:last-child:not(:first-child)")?.remove();
  link.parentElement.replaceWith(...found.getElementById("thread").childNodes);
  scrollBy(0, document.documentElement.scrollHeight - height);
});

function append(link, found) {
  const lines = [...found.querySelectorAll(".lines li")];
  document.querySelector(".lines").append(...lines);
  document.getElementById("list").dataset.more = "yes";
  link.parentElement.replaceWith(...found.querySelectorAll("#list .pages:has(.more)"));
  lines[0]?.querySelector("a").focus();
}

// --- keys and focus -------------------------------------------------------------------------------------

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.defaultPrevented) return;
  const open = document.querySelector("#rename[open]");
  if (open) {
    open.open = false;
    return open.querySelector("summary").focus();
  }
  document.querySelector(".stop")?.requestSubmit();
});
document.addEventListener("toggle", (event) => {
  if (event.target.matches?.("#rename[open]")) event.target.querySelector("#label").select();
}, true);

const toast = document.getElementById("toast");
if (toast) {
  document.getElementById("undo").focus();
  history.replaceState(null, "", "/bi-chat");
  setTimeout(() => say(`${toast.querySelector("p").textContent} Undo is possible.`), 300);
  toast.querySelector(".close").addEventListener("click", (event) => {
    event.preventDefault();
    toast.remove();
    message.focus();
  });
}

// A token in the fragment never reaches a server or a log by itself; the person still says yes to it.
// The link may also be opened in a tab that shows the page already: then the fragment alone changes.
function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!given) return;
  history.replaceState(null, "", location.pathname + location.search);
  const token = document.querySelector("#sign-in #token");
  if (!token) return;
  token.value = given;
  token.form.querySelector("button").focus();
}
takeToken();
addEventListener("hashchange", takeToken);
