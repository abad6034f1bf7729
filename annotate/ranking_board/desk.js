// What the ranking board and the demonstration desk share: the way of one task from hand-out to receipt.
// Reads   /api/v1: tasks/next, tasks/{id}/label, tasks/{id}/skip, tasks/{id}/lease; me
// Writes  labels through /api/v1, and the draft of the present task to localStorage
// Every text that came from a person or a model reaches the screen through textContent, and no other way.

const API = "/api/v1";
const IDLE_SECONDS = 120;  // without a key or a move for so long, nobody is reading
const LOOK_SECONDS = 5;  // how often a desk without work looks for some
const DRAFT_DAYS = 14;

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

const typing = (target) =>
  target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));

const sleep = (milliseconds) => new Promise((wake) => {
  const timer = setTimeout(wake, milliseconds);
  window.addEventListener("online", () => { clearTimeout(timer); wake(); }, { once: true });
});

class Refused extends Error {
  constructor(status, problem) {
    super(typeof problem.detail === "string" ? problem.detail : `The server refused this (${status}).`);
    this.status = status;
  }
}

// One request, sent again until the server has answered it. Sending again is safe: the same body has the same answer.
async function call(method, path, body, onTrouble = () => {}) {
  const sent = body === undefined ? undefined : JSON.stringify(body);
  for (let attempt = 0; ; attempt += 1) {
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), 20000);
    try {
      const response = await fetch(API + path, {
        method, body: sent, signal: abort.signal, credentials: "same-origin", cache: "no-store",
        headers: { Accept: "application/json", ...(sent && { "Content-Type": "application/json" }) },
      });
      if (![429, 502, 503, 504].includes(response.status)) {
        const answer = response.status === 204 ? null : await response.json().catch(() => ({}));
        if (!response.ok) throw new Refused(response.status, answer);
        return answer;
      }
    } catch (error) {
      if (error instanceof Refused) throw error;  // anything else is the network: try again
    } finally {
      clearTimeout(timer);
    }
    onTrouble();
    await sleep(Math.min(500 * 2 ** attempt, 15000));
  }
}

function conversation(messages) {
  const names = { system: "Instructions", user: "User", assistant: "Assistant" };
  const turns = messages.map((message) => make("div", { class: `pawl-turn pawl-turn-${message.role}` },
    make("div", { class: "pawl-who", text: names[message.role] ?? message.role }),
    make("div", { class: "pawl-text", dir: "auto", text: message.content })));
  return make("section", { class: "pawl-conversation", "aria-label": "Conversation" }, ...turns);
}

// Drafts are kept per person and task, so that a shared computer never shows one labeler another's opinion.
const drafts = {
  key: (who, task) => `pawl.draft.${who}.${task}`,
  read(who, task) {
    try {
      return JSON.parse(localStorage.getItem(this.key(who, task)));
    } catch {
      return null;  // storage is off, or holds something older
    }
  },
  write(who, task, draft) {
    try {
      localStorage.setItem(this.key(who, task), JSON.stringify({ ...draft, saved: Date.now() }));
    } catch { /* storage is off or full: the work stays on the screen, and the server has the last word */ }
  },
  drop(who, task) {
    try { localStorage.removeItem(this.key(who, task)); } catch { /* storage is off */ }
  },
  sweep() {
    const old = Date.now() - DRAFT_DAYS * 86400000;
    try {
      for (const key of Object.keys(localStorage).filter((name) => name.startsWith("pawl.draft."))) {
        if (!(JSON.parse(localStorage.getItem(key))?.saved > old)) localStorage.removeItem(key);
      }
    } catch { /* storage is off */ }
  },
};

// Seconds somebody spent: the page visible, and a key or a move not longer ago than IDLE_SECONDS.
function stopwatch() {
  let seconds = 0, last = performance.now(), moved = last;
  const tick = () => {
    const now = performance.now();
    if (document.visibilityState === "visible" && now - moved < IDLE_SECONDS * 1000) seconds += Math.min(now - last, 5000) / 1000;
    last = now;
  };
  for (const event of ["keydown", "pointerdown", "pointermove", "wheel", "touchstart"]) {
    document.addEventListener(event, () => { moved = performance.now(); }, { passive: true });
  }
  setInterval(tick, 1000);
  return { start(from) { tick(); seconds = from; moved = performance.now(); }, read() { tick(); return Math.round(seconds * 10) / 10; } };
}

// A modal question; resolves to the chosen text, or null when it was closed.
function ask(element, title, choices, more) {
  return new Promise((answer) => {
    const other = make("input", { type: "text", class: "pawl-input", maxlength: 500, "aria-label": more, placeholder: more });
    const done = (value) => { dialog.close(); dialog.remove(); answer(value); };
    const buttons = choices.map((choice, i) => make("button", { type: "button", class: "pawl-choice", onclick: () => done(choice) },
      make("kbd", { text: String(i + 1) }), make("span", { text: choice })));
    const form = make("form", { class: "pawl-other", onsubmit: (event) => {
      event.preventDefault();
      if (other.value.trim()) done(other.value.trim()); else other.focus();
    } }, other, make("button", { class: "pawl-button", text: "Skip" }));
    const dialog = make("dialog", { class: "pawl-dialog", "aria-label": title },
      make("h2", { text: title }), ...buttons, form,
      make("button", { type: "button", class: "pawl-button pawl-quiet", onclick: () => done(null) }, "Go back ", make("kbd", { text: "Esc" })));
    dialog.addEventListener("cancel", (event) => { event.preventDefault(); done(null); });
    dialog.addEventListener("keydown", (event) => {
      const choice = choices[Number(event.key) - 1];
      if (choice && !typing(event.target)) { event.preventDefault(); done(choice); }
    });
    element.append(dialog);
    dialog.showModal();
    buttons[0].focus();
  });
}

function showKeys(element, keys) {
  const rows = keys.map(([key, meaning]) => make("div", { class: "pawl-key" },
    make("span", {}, ...key.split(" ").map((part) => make("kbd", { text: part }))), make("span", { text: meaning })));
  const close = make("button", { type: "button", class: "pawl-button", onclick: () => { dialog.close(); dialog.remove(); } }, "Close ", make("kbd", { text: "Esc" }));
  const dialog = make("dialog", { class: "pawl-dialog", "aria-label": "Keys" }, make("h2", { text: "Keys" }), ...rows, close);
  dialog.addEventListener("close", () => dialog.remove());
  element.append(dialog);
  dialog.showModal();
  close.focus();
}

// Runs one kind of task in `element`. The view says what a task looks like and what the answer is:
//   view.draw(task, desk) -> Node      view.read() -> draft      view.write(draft)      view.focus()
//   view.answer(draft) -> {answer} | {problem, mend}      view.key(event) -> handled?      view.keys, view.reasons, view.words
function runDesk(element, kind, view) {
  const watch = stopwatch();
  const status = make("div", { class: "pawl-status", role: "status", "aria-live": "polite" });
  const work = make("div", { class: "pawl-work" });
  const bar = make("div", { class: "pawl-bar" });
  element.classList.add("pawl-desk");
  element.replaceChildren(work, bar);
  let who = "", task = null, previous = null, busy = false, looking = false, renewing = false, renewed = 0, done = 0;

  const say = (text, tone = "") => { status.textContent = text; status.dataset.tone = tone; };
  const trouble = () => say("No connection. Your work is kept here and is sent as soon as the server answers.", "warn");
  const desk = { say, changed, submit, skip, element };

  function changed() {
    if (task) drafts.write(who, task.task_id, { work: view.read(), seconds: watch.read() });
  }

  function open(next, kept, message) {
    task = next;
    renewed = Date.now();
    const again = previous?.task.task_id === task.task_id;
    const buttons = [
      again ? make("button", { type: "button", class: "pawl-button pawl-quiet", onclick: leave, text: "Leave as it was" }) : null,
      previous && !again ? make("button", { type: "button", class: "pawl-button pawl-quiet", onclick: back, title: "Change the answer you sent last (b)", text: "Back" }) : null,
      make("button", { type: "button", class: "pawl-button pawl-quiet", onclick: () => showKeys(element, view.keys) }, "Keys"),
      make("button", { type: "button", class: "pawl-button pawl-quiet", onclick: skip }, "Skip"),
      make("button", { type: "button", class: "pawl-button pawl-primary pawl-submit", onclick: submit }, "Submit ", make("kbd", { text: view.submitKey })),
    ];
    work.replaceChildren(view.draw(task, desk));
    bar.replaceChildren(...(view.bar ? [view.bar()] : []),
      make("div", { class: "pawl-actions" }, status, make("div", { class: "pawl-buttons" }, ...buttons.filter(Boolean))));
    element.dataset.state = "task";
    element.dataset.task = task.task_id;
    if (kept) view.write(kept.work);
    watch.start(kept?.seconds ?? 0);
    say(message ?? (kept ? "Your draft is back." : view.words.fresh(task)));
    window.scrollTo(0, 0);
    view.focus();
  }

  async function next(message) {
    if (looking) return;
    looking = true;
    try {
      const found = await call("POST", "/tasks/next", { kind }, trouble);
      if (found) open(found, drafts.read(who, found.task_id), message);
      else rest(message);
    } catch (error) {
      task = null;
      refused(error);
    } finally {
      looking = false;
    }
  }

  // Nothing to do: say why, and offer the other kind of work. The desk looks again every few seconds.
  function rest(message) {
    const arrived = task !== null;
    task = null;
    element.dataset.state = "idle";
    delete element.dataset.task;
    const why = view.idle(document.pawlProgress ?? null, done);
    const shown = JSON.stringify(why);
    if (!arrived && work.dataset.why === shown && work.querySelector(".pawl-idle")) return;
    work.dataset.why = shown;
    const title = make("h1", { text: why.title, tabindex: -1 });
    const links = why.links.map(([text, href]) => make("a", { class: "pawl-button pawl-primary", href, text }));
    if (previous) links.push(make("button", { type: "button", class: "pawl-button", onclick: back, title: "b", text: "Change my last answer" }));
    work.replaceChildren(make("section", { class: "pawl-idle" }, title, make("p", { text: why.text }), make("div", { class: "pawl-links" }, ...links)));
    bar.replaceChildren(make("div", { class: "pawl-actions" }, status));
    say(message && !message.startsWith("Saved") ? message : "");
    if (arrived) title.focus();
  }

  function refused(error) {
    if (!(error instanceof Refused)) throw error;
    if (error.status === 401) {
      say("You are signed out. Your draft is kept in this browser: sign in again to go on.", "bad");
      if (!task) location.assign("/");
    } else if (task) {
      say(error.message, "bad");
    } else {
      element.dataset.state = "idle";
      work.replaceChildren(make("section", { class: "pawl-idle" }, make("h1", { text: "This did not work" }), make("p", { text: error.message })));
      bar.replaceChildren();
    }
  }

  async function submit() {
    if (!task || busy) return;
    const { answer, problem, mend } = view.answer();
    if (problem) { say(problem, "warn"); mend?.(); return; }
    changed();
    busy = true;
    element.dataset.busy = "yes";
    say("Sending…");
    try {
      await send({ ...answer, seconds: watch.read() });
      drafts.drop(who, task.task_id);
      previous = { task, work: view.read(), seconds: watch.read() };
      done += 1;
      await next(view.words.saved);
    } catch (error) {
      if (error.status === 404 || error.status === 409) await next(error.message); else refused(error);
    } finally {
      busy = false;
      delete element.dataset.busy;
    }
  }

  // A lease that ran out is no reason to lose work: when the task is still free, take it again and send the same answer.
  async function send(answer) {
    try {
      await call("PUT", `/tasks/${encodeURIComponent(task.task_id)}/label`, { lease: task.lease, ...answer }, trouble);
    } catch (error) {
      if (error.status !== 409 || !(await reclaim())) throw error;
      await call("PUT", `/tasks/${encodeURIComponent(task.task_id)}/label`, { lease: task.lease, ...answer }, trouble);
    }
  }

  async function reclaim() {
    const found = await call("POST", "/tasks/next", { kind }, trouble);
    if (found?.task_id !== task.task_id) return false;
    task = { ...task, lease: found.lease, lease_expires_at: found.lease_expires_at };
    return true;
  }

  async function skip() {
    if (!task || busy) return;
    const reason = await ask(element, "Why do you skip this task?", view.reasons, "Another reason");
    if (!reason) { view.focus(); return; }
    busy = true;
    try {
      await call("POST", `/tasks/${encodeURIComponent(task.task_id)}/skip`, { lease: task.lease, reason }, trouble);
      drafts.drop(who, task.task_id);
      await next("Skipped. Someone else will see it.");
    } catch (error) {
      if (error.status === 404 || error.status === 409) await next(error.message); else refused(error);
    } finally {
      busy = false;
    }
  }

  function back() {
    if (!previous || busy || previous.task.task_id === task?.task_id) return;
    changed();
    const { task: last, work: kept, seconds } = previous;
    open(last, { work: kept, seconds }, "Your last answer. Change it and submit it again, or leave it as it was.");
  }

  function leave() {
    if (busy) return;
    drafts.drop(who, task.task_id);
    next();
  }

  async function renew() {
    if (!task || busy || renewing || document.visibilityState !== "visible") return;
    const left = Date.parse(task.lease_expires_at) - Date.now();
    if (Date.now() - renewed < 60000 && left > 120000) return;
    renewed = Date.now();
    renewing = true;
    const mine = task;
    try {
      const answer = await call("POST", `/tasks/${encodeURIComponent(task.task_id)}/lease`, { lease: task.lease });
      if (task === mine && answer?.lease_expires_at) task.lease_expires_at = answer.lease_expires_at;
    } catch (error) {
      if (error instanceof Refused && error.status === 401) refused(error);
      // Any other refusal waits for the submission, which takes the task again or says what happened.
    } finally {
      renewing = false;
    }
  }

  function look() {
    if (element.dataset.state === "idle" && !busy && document.visibilityState === "visible") next();
  }

  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.altKey || element.querySelector("dialog[open]")) return;
    if (task && view.key(event)) { event.preventDefault(); return; }
    if (event.ctrlKey || event.metaKey || typing(event.target)) return;
    const action = { "?": () => showKeys(element, view.keys), s: task && skip, b: previous && back }[event.key];
    if (action) { event.preventDefault(); action(); }
  });
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState !== "visible") changed(); else if (task) renew(); else look();
  });
  document.addEventListener("pawl-progress", () => { if (element.dataset.state === "idle") rest(); });
  window.addEventListener("pagehide", changed);
  setInterval(renew, 60000);
  setInterval(look, LOOK_SECONDS * 1000);

  drafts.sweep();
  work.append(make("p", { class: "pawl-loading", text: "Loading…" }));
  call("GET", "/me").then((me) => { who = me.name; return next(); }).catch(refused);
}
