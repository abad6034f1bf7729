// Converse: the labeler says something, several replies stream in side by side, they are ranked as on the ranking board,
// and the best continues. How answers stream is in streaming.js, which reply continues in continuing.js, attacks in
// attack.js; a turn that waits to be ranked is shown by board.js.
// Reads and writes /api/v1/conversations; rankings go by tasks/{id}/label. What is being typed is kept in localStorage.

const REPLIES = [2, 3, 4];

function runConversation(element) {
  const view = rankingView();
  const watch = stopwatch();
  const desk = { say, changed, submit, skip, element };
  const status = make("div", { class: "pawl-status", role: "status", "aria-live": "polite" });
  const past = make("div", { class: "pawl-past" });
  const work = make("div", { class: "pawl-work" });
  const bar = make("div", { class: "pawl-bar" });
  element.classList.add("pawl-desk", "pawl-converse");
  element.replaceChildren(past, work, bar);
  let who = "", mine = [], unavailable = null, current = null, box = null, busy = false, renewed = 0;

  function say(text, tone = "") { status.textContent = text; status.dataset.tone = tone; }
  const trouble = () => say("No connection. What you wrote is kept here and is sent as soon as the server answers.", "warn");
  const place = () => `converse.${current?.conversation_id ?? "new"}`;
  const newKey = () => Date.now().toString(36) + Math.random().toString(36).slice(2);
  const button = (text, onclick, more = {}) => make("button", { type: "button", class: "pawl-button pawl-quiet", onclick, text, ...more });
  const actions = (...buttons) => make("div", { class: "pawl-actions" }, status, make("div", { class: "pawl-buttons" }, ...buttons.filter(Boolean)));
  const path = (rest = "") => `/conversations/${encodeURIComponent(current.conversation_id)}${rest}`;
  const task = () => current?.open ?? null;
  const choice = continuing({ work, view, task, changed, say });

  // ---- what is on the screen

  // Show a conversation as it stands; null is one that has not begun.
  async function show(conversation, message) {
    current = conversation;
    drafts.write(who, "converse.current", { id: current?.conversation_id ?? null });
    element.dataset.conversation = current?.conversation_id ?? "";
    drawPast();
    if (current?.speaking) await answer(current.speaking);
    else if (current?.open) rank(message);
    else if (current?.stands === "ranked" && !current.ended) await proceed(message, drafts.read(who, current.task_id)?.picked);
    else compose(message);
  }

  function drawPast() {
    const row = (each) => {
      const words = `${each.turns} ${each.turns === 1 ? "turn" : "turns"}${each.attack ? `, attack ${each.attack} of 5` : ""}${each.ended ? ", ended" : ""}`;
      return make("button", { type: "button", class: "pawl-choice", "aria-current": each.conversation_id === current?.conversation_id ? "true" : null,
        onclick: () => visit(each.conversation_id) },
      make("span", { class: "pawl-opening", dir: "auto", text: each.opening || "(nothing said yet)" }), make("span", { class: "pawl-count", text: words }));
    };
    const open = past.querySelector("details")?.open ?? false;
    const list = make("details", { class: "pawl-more", open }, make("summary", { text: `My conversations (${mine.length})` }), ...mine.map(row));
    past.replaceChildren(make("div", { class: "pawl-past-line" }, mine.length ? list : make("span"),
      make("div", { class: "pawl-buttons" }, current && !current.ended ? button("End", end, { title: "Say no more in this conversation" }) : null,
        current ? button("New conversation", begin, { title: "n" }) : null)));
  }

  function compose(message) {
    const kept = drafts.read(who, place());
    const ended = current?.ended;
    element.dataset.state = ended ? "ended" : "compose";
    const intro = make("section", { class: "pawl-idle" }, make("h1", { text: "Talk to the model" }), make("p", {
      text: "Say something. Several replies come side by side, from models you do not know; rank them, and the best one continues the conversation." }));
    work.replaceChildren(...(unavailable ? [make("p", { class: "pawl-note", "data-tone": "warn", text: unavailable })] : []),
      current?.messages.length ? conversation(current.messages) : intro, ...attackMarks(current, mark));
    if (ended) {
      bar.replaceChildren(actions(button("New conversation", begin, { class: "pawl-button pawl-primary" })));
      say(message ?? "This conversation has ended.");
      return;
    }
    const count = make("select", { class: "pawl-input pawl-replies", "aria-label": "How many replies", onchange: keep },
      ...REPLIES.map((n) => make("option", { value: n, text: `${n} replies`, selected: n === (kept?.replies ?? replies()) })));
    box = make("textarea", { class: "pawl-input pawl-message", rows: 3, maxlength: 100000, "aria-label": "Your message",
      placeholder: current?.messages.length ? "Say something more" : "Say something", oninput: keep });
    box.value = kept?.text ?? "";
    bar.replaceChildren(box, actions(count, button("Keys", keys), make("button", { type: "button", class: "pawl-button pawl-primary pawl-submit", onclick: send }, "Send ", make("kbd", { text: "Ctrl Enter" }))));
    say(message ?? (kept?.text ? "Your draft is back." : ""));
    box.focus({ preventScroll: true });
    window.scrollTo(0, document.body.scrollHeight);
    if (kept?.key && kept.text?.trim()) send();  // the page was left while the model was answering
  }

  function replies() { return drafts.read(who, "converse.replies")?.count ?? REPLIES[0]; }

  function keep() {
    const count = Number(bar.querySelector(".pawl-replies").value);
    drafts.write(who, "converse.replies", { count });
    drafts.write(who, place(), { text: box.value, replies: count });
  }

  async function mark(success) {
    try {
      const marked = await call("PUT", path("/attack"), { success }, trouble);
      current.attack = marked.attack;
      say(success === null ? "No attack." : `Marked as an attack: ${success} of 5.`);
      await list();
    } catch (error) { refused(error); }
  }

  // ---- saying something

  async function send() {
    if (busy || !box) return;
    const text = box.value, count = Number(bar.querySelector(".pawl-replies").value);
    if (!text.trim()) { say("Write something first.", "warn"); box.focus(); return; }
    const kept = drafts.read(who, place());
    const spoken = { key: (kept?.text === text && kept.key) || newKey(), text, replies: count };
    busy = true;
    try {
      if (unavailable) await list();
      if (unavailable) { say(unavailable, "bad"); return; }
      if (!current) {
        const begun = kept?.begun ?? newKey();
        drafts.write(who, place(), { ...spoken, key: undefined, begun });
        current = await call("POST", "/conversations", { key: begun }, trouble);
        drafts.drop(who, "converse.new");
        drafts.write(who, "converse.current", { id: current.conversation_id });
      }
      drafts.write(who, place(), spoken);
    } catch (error) {
      refused(error);
      return;
    } finally {
      busy = false;
    }
    await answer(spoken);
  }

  // Follow the answer to what was said, from its beginning, until it is whole; over again when the connection is lost.
  async function answer(spoken) {
    if (busy) return;
    busy = true;
    try {
      const turn = await followAnswer(path("/turns"), spoken, { draw: () => drawAnswer(spoken), say, trouble });
      drafts.drop(who, place());
      busy = false;
      await list();
      await show(turn);
    } catch (error) {
      busy = false;
      if (!(error instanceof Refused)) throw error;
      drafts.write(who, place(), { text: spoken.text, replies: spoken.replies });  // nothing was stored under its key
      if (error.status !== 401) current = { ...current, speaking: null };
      compose();
      refused(error);
    }
  }

  function drawAnswer(spoken) {
    element.dataset.state = "waiting";
    element.dataset.replies = spoken.replies;
    const { nodes, texts } = comingReplies([...(current?.messages ?? []), { role: "user", content: spoken.text }], spoken.replies);
    work.replaceChildren(...nodes);
    bar.replaceChildren(actions());
    box = null;
    say("Waiting for the model…");
    work.querySelector(".pawl-responses").scrollIntoView({ block: "nearest" });
    return texts;
  }

  // ---- ranking the replies

  function rank(message) {
    const kept = drafts.read(who, task().task_id);
    element.dataset.state = "task";
    element.dataset.replies = task().responses.length;
    box = null;
    choice.picked = kept?.picked ?? null;
    renewed = Date.now();
    work.replaceChildren(view.draw(task(), desk), ...attackMarks(current, mark));
    bar.replaceChildren(view.bar(), actions(button("Keys", keys), button("Skip", skip),
      make("button", { type: "button", class: "pawl-button pawl-primary pawl-submit", onclick: submit }, "Submit ", make("kbd", { text: "Enter" }))));
    if (kept) view.write(kept.work);
    watch.start(kept?.seconds ?? 0);
    choice.mark();
    say(message ?? "Rank the replies: 1 is best, equal ranks are ties. The best one continues.");
    view.focus();
  }

  function changed() {
    if (!task()) return;
    drafts.write(who, task().task_id, { work: view.read(), seconds: watch.read(), picked: choice.picked });
    choice.mark();
  }

  async function submit() {
    if (!task() || busy) return;
    const { answer: ranking, problem, mend } = view.answer();
    if (problem) { say(problem, "warn"); mend?.(); return; }
    changed();
    busy = true;
    element.dataset.busy = "yes";
    say("Sending…");
    const ranked = task().task_id;
    try {
      await label({ ...ranking, seconds: watch.read() });
      current = { ...current, open: null };
      busy = false;
      await proceed("Saved.", choice.picked);
      drafts.drop(who, ranked);
    } catch (error) {
      refused(error);
    } finally {
      busy = false;
      delete element.dataset.busy;
    }
  }

  // A lease that ran out costs nothing: nobody else may have the task, so it is opened again and the same answer sent.
  async function label(answer) {
    const to = `/tasks/${encodeURIComponent(task().task_id)}/label`;
    try {
      await call("PUT", to, { lease: task().lease, ...answer }, trouble);
    } catch (error) {
      if (error.status !== 409) throw error;
      const again = await call("GET", path(), undefined, trouble);
      if (again.open?.task_id !== task().task_id) throw error;
      current = again;
      await call("PUT", to, { lease: again.open.lease, ...answer }, trouble);
    }
  }

  // Go on with the reply that was picked, or with the first of the best.
  async function proceed(message, reply = null) {
    try {
      const next = await call("PUT", path("/continuation"), { response_id: reply }, trouble);
      await list();
      await show(next, message);
    } catch (error) {
      if (error.status === 422 && reply) { await proceed(message); return; }  // picked before the ranks were changed
      if (error.status !== 409) { refused(error); return; }
      const next = await call("GET", path(), undefined, trouble);
      current = { ...next, stands: null };  // none of them can continue: the same conversation, and something else to say
      compose(error.message);
    }
  }

  async function skip() {
    if (!task() || busy) return;
    const reason = await ask(element, "Why do you skip these replies?", view.reasons, "Another reason");
    if (!reason) { view.focus(); return; }
    try {
      await call("POST", `/tasks/${encodeURIComponent(task().task_id)}/skip`, { lease: task().lease, reason }, trouble);
      await show(await call("GET", path(), undefined, trouble), "Skipped. Say something else, or end the conversation.");
    } catch (error) { refused(error); }
  }

  async function renew() {
    if (!task() || busy || document.visibilityState !== "visible" || Date.now() - renewed < 60000) return;
    renewed = Date.now();
    const mine = task();
    try {
      const answer = await call("POST", `/tasks/${encodeURIComponent(mine.task_id)}/lease`, { lease: mine.lease });
      if (answer?.lease_expires_at) mine.lease_expires_at = answer.lease_expires_at;
    } catch (error) {
      if (error.status === 401) refused(error);  // any other refusal waits for the submission, which opens the turn again
    }
  }

  // ---- conversations

  async function list() {
    ({ conversations: mine, unavailable } = await call("GET", "/conversations", undefined, trouble));
    drawPast();
  }

  async function visit(id) {
    if (busy) { say("The model is still answering. Wait for it.", "warn"); return; }
    changed();
    try {
      await show(await call("GET", `/conversations/${encodeURIComponent(id)}`, undefined, trouble));
    } catch (error) { refused(error); }
  }

  async function begin() {
    if (busy) return;
    changed();
    await show(null);
  }

  async function end() {
    if (busy) return;
    try {
      const ended = await call("POST", path("/end"), undefined, trouble);
      await list();
      await show(ended);
    } catch (error) { refused(error); }
  }

  function refused(error) {
    if (!(error instanceof Refused)) throw error;
    if (error.status === 401) say("You are signed out. What you wrote is kept in this browser: sign in again to go on.", "bad");
    else say(error.message, "bad");
  }

  function keys() {
    showKeys(element, [["Ctrl Enter", "send your message"], ["1 … 4", "rank the reply you are on; equal ranks are a tie"], ["0", "take its rank away"],
      ["u", "cannot be ranked"], ["← → ↑ ↓", "move between replies (also Tab)"], ["c", "this one of the best continues"], ["d", "ratings, flags, rewrite"],
      ["Enter", "submit the ranking"], ["s", "skip these replies, with a reason"], ["a", "mark an attack, 0 to 5"], ["n", "new conversation"],
      ["Esc", "leave a text field"], ["?", "these keys (outside a text field)"]]);
  }

  function key(event) {
    const inside = event.target instanceof Element ? event.target : document.body;
    if (inside.closest(".pawl-attack")) { if (keyInAttack(event, work, () => (task() ? view.focus() : box?.focus()))) return true; }
    else if (inside === box) {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { if (!event.repeat) send(); return true; }
      if (event.key === "Escape") { box.blur(); return true; }
      return false;
    } else if (task()) {
      const turned = { ArrowRight: "ArrowDown", ArrowLeft: "ArrowUp" }[event.key];
      if (view.key(turned && !typing(inside) ? { key: turned, target: inside } : event)) return true;
    }
    if (event.ctrlKey || event.metaKey || (typing(inside) && !inside.closest(".pawl-attack"))) return false;
    const action = { "?": keys, n: begin, c: task() && choice.pickFocused, s: task() && skip, a: () => work.querySelector("[name=pawl-attack]:checked")?.focus() }[event.key];
    if (!action) return false;
    action();
    return true;
  }

  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.altKey || element.querySelector("dialog[open]")) return;
    if (key(event)) event.preventDefault();
  });
  document.addEventListener("visibilitychange", () => { if (document.visibilityState !== "visible") changed(); else renew(); });
  document.addEventListener("pawl-progress", async () => {
    if (!unavailable) return;
    await list();
    if (!unavailable && element.dataset.state === "compose") { work.querySelector("[data-tone=warn]")?.remove(); say("The model is there."); }
  });
  window.addEventListener("pagehide", changed);
  setInterval(renew, 60000);

  async function start() {
    drafts.sweep();
    work.append(make("p", { class: "pawl-loading", text: "Loading…" }));
    who = (await call("GET", "/me")).name;
    await list();
    const last = drafts.read(who, "converse.current");
    const found = last ? mine.find((each) => each.conversation_id === last.id) : mine.find((each) => !each.ended);
    await show(found ? await call("GET", `/conversations/${encodeURIComponent(found.conversation_id)}`, undefined, trouble) : null);
  }
  start().catch(refused);
}
