// Follows a dialogue: words go where they belong, and whatever is committed is read anew from the server.

import { list, load, replaceFrom, say, tell, turn, words } from "./parts.js";

const KINDS = [
  "message.added", "dialogue.changed", "reply.started", "reply.delta", "reply.superseded", "tool.called",
  "tool.returned", "reply.completed", "reply.failed", "reply.cancelled", "page.stale",
];
const LONGEST_SAID = 1500;
let source, path, last = "", version = 0, again;

export function follow(of, at) {
  [path, version] = [of, at];
  open();
  // A browser has few connections for one server: a tab that nobody sees gives its own back.
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) return source || open();
    if (!document.querySelector(".turn[aria-busy]")) close();
  });
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => event.persisted && open());
}

function open() {
  clearTimeout(again);
  const from = last ? `starting_after=${encodeURIComponent(last)}` : `version=${version}`;
  source?.close();
  source = new EventSource(`${path}/stream?${from}`);
  for (const kind of KINDS) source.addEventListener(kind, hear);
  source.onopen = () => tell("");
  source.onerror = lost;
}

function close() {
  clearTimeout(again);
  source?.close();
  source = null;
}

function lost() {
  if (!source) return;
  again ||= setTimeout(() => tell("The connection is lost; trying to get it back."), 3000);
  const opened = source.onopen;
  source.onopen = () => { clearTimeout(again); again = 0; opened(); };
  if (source.readyState !== EventSource.CLOSED) return;
  // The server refused. If that is because nobody is signed in any more, this asks for it.
  setTimeout(async () => { if (source && (await load(location.href))) { again = 0; open(); } else if (source) lost(); }, 2000);
}

async function hear(event) {
  if (event.lastEventId) last = event.lastEventId;
  const told = JSON.parse(event.data);
  const id = told.message_id;
  switch (event.type) {
    case "page.stale":
      return refresh();
    case "dialogue.changed":
      return setTimeout(refresh, 300); // the list is a read model of its own
    case "reply.delta":
      return write(id, (words.get(id) ?? "") + told.text);
    case "reply.started":
      words.set(id, "");
      return turn(path, id);
    case "reply.superseded":
      return write(id, "");
    case "message.added":
      // What asks nothing is read with the rest.
      return (await turn(path, told.message.id)) === null && refresh();
    case "tool.called":
    case "tool.returned":
      return turn(path, id);
  }
  await ended(event.type, id, told.version);
}

function write(id, text) {
  words.set(id, text);
  const place = document.getElementById(`words-${id}`);
  if (!place) return;
  const atEnd = innerHeight + scrollY > document.documentElement.scrollHeight - 120;
  place.textContent = text;
  if (atEnd) scrollTo(0, document.documentElement.scrollHeight);
}

async function ended(kind, id, at) {
  const atEnd = innerHeight + scrollY > document.documentElement.scrollHeight - 120;
  const now = await turn(path, id, at);
  words.delete(id);
  if (atEnd) scrollTo(0, document.documentElement.scrollHeight);
  const answer = now?.querySelector(".answer, .hint")?.textContent.trim() ?? "";
  const how = { "reply.completed": "The answer", "reply.failed": "No answer", "reply.cancelled": "Stopped" };
  say(`${how[kind]}: ${answer.slice(0, LONGEST_SAID)}`); // once, at the end: not every word
  setTimeout(() => replaceFrom(location.href, list()), 300);
}

function refresh() {
  const state = document.getElementById("top").dataset.state;
  return replaceFrom(location.href, ["top", "thread", ...list()]).then(() => {
    if (document.getElementById("top").dataset.state !== state) location.reload(); // in another tab it was put away
  });
}
