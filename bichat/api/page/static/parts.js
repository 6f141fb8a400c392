// Pieces of the page that are fetched and put in the place of older ones, and what is said aloud.

const csrf = document.querySelector("meta[name=csrf]").content;
export const words = new Map(); // of replies being written, by question: they outlive what they stand in

// Raises an Error that tells a person what to do.
export async function asJson(address, options = {}) {
  const headers = { Accept: "application/json", "X-CSRF-Token": csrf };
  let answer;
  try {
    answer = await fetch(address, { ...options, headers });
  } catch {
    throw new Error("The server cannot be reached. What you typed is kept: try again.");
  }
  if (answer.ok) return answer.json();
  if (answer.status === 401) location.reload(); // signing in, and back here
  const told = await answer.json().catch(() => ({ detail: "Something went wrong." }));
  const [wrong] = told.errors ?? [];
  throw new Error(wrong ? `The ${wrong.field} ${wrong.reason}.` : told.detail);
}

export function carry(form) {
  return asJson(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)) });
}

// A page, or a piece of one, as a document; null when there is none. A server that is busy is asked again.
export async function load(address, tries = 5) {
  const answer = await fetch(address, { headers: { Accept: "text/html" } }).catch(() => null);
  if (answer?.status === 401) location.reload();
  if (answer?.ok) return new DOMParser().parseFromString(await answer.text(), "text/html");
  if (tries <= 1 || (answer && answer.status !== 429 && answer.status < 500)) return null;
  const wait = Math.min(Number(answer?.headers.get("Retry-After")) || 1, 20);
  await new Promise((go) => setTimeout(go, 1000 * wait));
  return load(address, tries - 1);
}

export async function replaceFrom(address, ids) {
  const found = await load(address);
  for (const id of found ? ids : []) swap(document.getElementById(id), found.getElementById(id));
  if (found) document.title = found.title;
  return found !== null;
}

// One question with its reply, read anew; at the end of the thread if it was not there. Null: it is none.
const reads = new Map(); // by question, counted: an answer that was overtaken by a later one is old
export async function turn(path, id, version = 0) {
  const mine = (reads.get(id) ?? 0) + 1;
  reads.set(id, mine);
  const found = await load(`${path}/messages/${id}?version=${version}`);
  const now = found?.querySelector(".turn");
  if (reads.get(id) !== mine) return undefined;
  if (!now) return null;
  const old = document.getElementById(now.id);
  if (old) swap(old, now);
  else document.getElementById("thread").append(now);
  return now;
}

function swap(old, now) {
  if (!old || !now) return;
  const focused = old.contains(document.activeElement) ? document.activeElement : null;
  for (const card of old.querySelectorAll(".card[open]")) {
    now.querySelector(`.card[data-call="${CSS.escape(card.dataset.call)}"]`)?.setAttribute("open", "");
  }
  const { scrollTop } = old;
  old.replaceWith(now);
  now.scrollTop = scrollTop;
  for (const [id, told] of words) {
    const place = document.getElementById(`words-${id}`);
    if (place && now.contains(place)) place.textContent = told;
  }
  if (!focused) return;
  const again = (focused.id && document.getElementById(focused.id)) || now.querySelector("summary:focus");
  (again || document.getElementById("message") || document.getElementById("main")).focus();
}

// The list as it is now, unless somebody has paged down in it.
export function list() {
  return document.querySelector("#list[data-more]") ? [] : ["list"];
}

export function say(text, trouble = false) {
  document.getElementById("said").textContent = text;
  if (trouble) tell(text, 8000);
}

let telling;
export function tell(text, forMs = 0) {
  const place = document.getElementById("trouble");
  clearTimeout(telling);
  Object.assign(place, { textContent: text, hidden: !text });
  if (forMs) telling = setTimeout(() => (place.hidden = true), forMs);
}
