// What the ranking board and the demonstration desk share: the way of one task from hand-out to receipt.
// Reads   /api/v1: me, guideline, tasks/next (the present task, and the one after it ahead of time), tasks/{id}/mine
// Writes  labels, skips, undone labels and drafts through /api/v1; drafts to localStorage as well

const LOOK_SECONDS = 5;  // how often a desk without work looks for some
const SAVE_SECONDS = 2;  // how often a changed draft goes to the server

const QUALIFYING = { title: "Your first answers are in", links: [["Write demonstrations", "/demonstrate"]],
  text: "A researcher looks at them before you are given more to rank. This page goes on by itself." };

// The guideline as it reads now, until it is said to be read.
async function showGuideline(element) {
  const guideline = await call("GET", "/guideline");
  if (element.querySelector("dialog[open]")) return;
  const read = make("button", { type: "button", class: "pawl-button pawl-primary", text: "I have read this" });
  const text = make("div", { class: "pawl-formatted pawl-guideline", tabindex: 0 }, ...grow(guideline.tree));
  const dialog = make("dialog", { class: "pawl-dialog pawl-wide", "aria-label": "The guideline has changed" },
    make("h2", { text: "The guideline has changed" }), text, read);
  const done = () => {
    dialog.remove();
    call("POST", "/guideline/read", { hash: guideline.hash }).catch(() => null);  // refused: it changed again meanwhile
  };
  read.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", done);
  element.append(dialog);
  dialog.showModal();
  read.focus();
}

// Runs one kind of task in `element`. The view says what a task looks like and what the answer is:
//   view.draw(task, desk) -> Node      view.read() -> draft      view.write(draft)      view.focus()
//   view.answer(draft) -> {answer} | {problem, mend}      view.key(event) -> handled?      view.keys, view.reasons, view.words
function runDesk(element, kind, view) {
  const watch = stopwatch();
  const status = make("div", { class: "pawl-status", role: "status", "aria-live": "polite" });
  const saved = make("div", { class: "pawl-saved" });
  const work = make("div", { class: "pawl-work" });
  const bar = make("div", { class: "pawl-bar" });
  element.classList.add("pawl-desk");
  element.replaceChildren(work, bar);
  let who = "", task = null, ahead = null, previous = null, revising = false;
  let busy = false, looking = false, renewing = false, saving = false, unsaved = false, touched = false, qualifying = false, cut = false, synced, renewed = 0, done = 0;

  const say = (text, tone = "") => { status.textContent = text; status.dataset.tone = tone; cut = false; };
  const trouble = () => { say("No connection. Your work is kept here and is sent as soon as the server answers.", "warn"); cut = true; };
  const desk = { say, changed, submit, skip, element };
  const returns = new URLSearchParams(location.search).get("task");  // the task whose answer is to be revised

  function changed() {
    keep();
    unsaved = touched = true;
    showSaved();
  }

  function keep() {
    if (task) drafts.write(who, task.task_id, { work: view.read(), seconds: watch.read(), synced, touched });
  }

  // What is on the screen, to the server: it comes back with the task on any computer. An answer that was sent already
  // has no draft there; its changes wait in this browser.
  async function save() {
    if (!unsaved || !task || revising || busy || saving) return;
    const mine = task;
    saving = true;
    unsaved = false;
    try {
      const answer = await once("PUT", `/tasks/${encodeURIComponent(mine.task_id)}/draft`, { lease: mine.lease, work: view.read(), seconds: watch.read() });
      if (task === mine) { synced = answer.saved_at; if (!unsaved) keep(); }
      if (cut) say("The connection is back.");
    } catch (error) {
      if (task === mine) unsaved = true;
      if (!(error instanceof Refused)) trouble();
    } finally {
      saving = false;
      showSaved();
    }
  }

  function showSaved() {
    const words = !task || (!unsaved && !synced) ? "" : !unsaved ? "Draft saved" : revising ? "Not sent yet: submit to keep the change" : "Draft kept here, saving…";
    if (saved.textContent !== words) saved.textContent = words;
    saved.dataset.state = unsaved ? "unsaved" : "saved";
  }

  function open(next, kept, message, again = false) {
    task = next;
    revising = again;
    renewed = Date.now();
    synced = kept?.synced;
    touched = Boolean(kept) && kept.touched !== false;
    unsaved = touched && !synced;
    const buttons = [
      again ? make("button", { type: "button", class: "pawl-button pawl-quiet", onclick: leave, text: "Leave as it was" }) : null,
      previous && !again ? make("button", { type: "button", class: "pawl-button pawl-quiet", onclick: undo, title: "Take back the answer you sent last (z)", text: "Undo" }) : null,
      make("button", { type: "button", class: "pawl-button pawl-quiet", onclick: () => showKeys(element, view.keys) }, "Keys"),
      again ? null : make("button", { type: "button", class: "pawl-button pawl-quiet", onclick: skip }, "Skip"),
      make("button", { type: "button", class: "pawl-button pawl-primary pawl-submit", onclick: submit }, "Submit ", make("kbd", { text: view.submitKey })),
    ];
    work.replaceChildren(view.draw(task, desk));
    bar.replaceChildren(...(view.bar ? [view.bar()] : []),
      make("div", { class: "pawl-actions" }, status, saved, make("div", { class: "pawl-buttons" }, ...buttons.filter(Boolean))));
    element.dataset.state = "task";
    element.dataset.task = task.task_id;
    if (kept) view.write(kept.work);
    watch.start(kept?.seconds ?? 0);
    say(message ?? (touched ? "Your draft is back." : view.words.fresh(task)));
    showSaved();
    window.scrollTo(0, 0);
    view.focus();
    if (again) return;
    prefetch();
    if (task.guideline?.read === false) showGuideline(element).catch(() => null);
  }

  // The task after this one, so that it is there at once. When it cannot be had now, it is asked for in its turn.
  async function prefetch() {
    const mine = task;
    ahead = null;
    try {
      const found = await once("POST", "/tasks/next", { kind, after: mine.task_id });
      if (task !== mine || !found || found.task_id === mine.task_id) return;
      ahead = found;
      if (mine.guideline?.read !== false && found.guideline?.read === false) {
        found.guideline.read = true;
        await showGuideline(element);
      }
    } catch { /* see above */ }
  }

  async function next(message) {
    if (looking) return;
    const following = ahead;
    ahead = null;
    if (following && Date.parse(following.lease_expires_at) > Date.now() + 60000) {
      open(following, drafts.latest(who, following), message);
      return;
    }
    looking = true;
    try {
      const found = await call("POST", "/tasks/next", { kind }, trouble);
      if (found) { open(found, drafts.latest(who, found), message); return; }
      qualifying = kind === "ranking" && (await call("GET", "/me", undefined, trouble)).qualifying === true;
      rest(message);
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
    const why = qualifying ? QUALIFYING : view.idle(document.pawlProgress ?? null, done);
    const shown = JSON.stringify(why);
    if (!arrived && work.dataset.why === shown && work.querySelector(".pawl-idle")) {
      if (cut) say("The connection is back.");
      return;
    }
    work.dataset.why = shown;
    const title = make("h1", { text: why.title, tabindex: -1 });
    const links = why.links.map(([text, href]) => make("a", { class: "pawl-button pawl-primary", href, text }));
    if (previous) {
      links.push(make("button", { type: "button", class: "pawl-button", onclick: back, title: "b", text: "Change my last answer" }),
        make("button", { type: "button", class: "pawl-button", onclick: undo, title: "z", text: "Take it back" }));
    }
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
    keep();
    busy = true;
    element.dataset.busy = "yes";
    say("Sending…");
    try {
      await send({ ...answer, seconds: watch.read() });
      drafts.drop(who, task.task_id);
      previous = { task, work: view.read(), seconds: watch.read() };
      done += 1;
      if (returns) { location.assign("/history"); return; }
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
    let found = await call("POST", "/tasks/next", { kind }, trouble);
    if (found && found.task_id !== task.task_id) found = await call("POST", "/tasks/next", { kind, after: found.task_id }, trouble);
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
    keep();
    const { task: last, work: kept, seconds } = previous;
    ahead = null;
    open(last, { work: kept, seconds }, "Your last answer. Change it and submit it again, or leave it as it was.", true);
    unsaved = false;
    showSaved();
  }

  function leave() {
    if (busy) return;
    drafts.drop(who, task.task_id);
    if (returns) location.assign("/history"); else next();
  }

  // Take the last answer back: it counts no more, and lies here again as it was.
  async function undo() {
    if (!previous || busy || revising) return;
    keep();
    busy = true;
    const { task: last, work: kept, seconds } = previous;
    try {
      const answer = await call("POST", `/tasks/${encodeURIComponent(last.task_id)}/undo`, { lease: last.lease }, trouble);
      previous = null;
      done = Math.max(0, done - 1);
      ahead = null;
      open({ ...last, lease_expires_at: answer.lease_expires_at }, { work: kept, seconds }, "Your last answer is taken back. Submit it again, changed or not; or skip it.");
      keep();
    } catch (error) {
      refused(error);
    } finally {
      busy = false;
    }
  }

  // An answer of long ago, opened from the list of one's own labels.
  async function reopen(id) {
    const { answer, seconds, ...mine } = await call("GET", `/tasks/${encodeURIComponent(id)}/mine`, undefined, trouble);
    const kept = answer.response === undefined ? answer : { text: answer.response, from: answer.from };
    open(mine, { work: kept, seconds: seconds ?? 0 }, "Your earlier answer. Change it and submit it again, or leave it as it was.", true);
    unsaved = false;
    showSaved();
  }

  async function renew() {
    if (!task || revising || busy || renewing || document.visibilityState !== "visible") return;
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
    const action = { "?": () => showKeys(element, view.keys), s: task && !revising && skip, b: previous && back, z: previous && undo }[event.key];
    if (action) { event.preventDefault(); action(); }
  });
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState !== "visible") { keep(); save(); } else if (task) renew(); else look();
  });
  document.addEventListener("pawl-progress", () => { if (element.dataset.state === "idle") rest(); });
  window.addEventListener("pagehide", keep);
  setInterval(save, SAVE_SECONDS * 1000);
  setInterval(renew, 60000);
  setInterval(look, LOOK_SECONDS * 1000);

  drafts.sweep();
  work.append(make("p", { class: "pawl-loading", text: "Loading…" }));
  call("GET", "/me").then((me) => { who = me.name; return returns ? reopen(returns) : next(); }).catch(refused);
}
