// The ranking board: K responses, ranks 1 to K with ties, by keys, clicks or dragging. Starts unranked.

const LETTERS = "ABCDEFGHI";
const RATINGS = [["helpful", "Helpful"], ["harmless", "Harmless"], ["honest", "Honest"]];
const FLAGS = [["unsafe", "Unsafe"], ["pii", "Personal data"], ["refusal", "Refuses"], ["false", "False"], ["off_topic", "Off topic"]];

function rankingView() {
  let task, desk, cards, slots, at, ranks, unrankable, ratings, flags, rewrite, comment, commentBox, confirmed;

  const name = (i) => `Response ${LETTERS[i]}`;
  const id = (i) => task.responses[i].id;
  const undecided = () => task.responses.findIndex((response) => !(response.id in ranks) && !unrankable.has(response.id));

  function draw(next, owner) {
    task = next;
    desk = owner;
    at = 0;
    ranks = {}; ratings = {}; flags = {};
    unrankable = new Set();
    rewrite = null;
    comment = "";
    confirmed = false;
    cards = task.responses.map((response, i) => card(response, i));
    commentBox = make("textarea", { class: "pawl-input", rows: 2, maxlength: 100000, id: "pawl-comment",
      oninput: () => { comment = commentBox.value; desk.changed(); } });
    const page = make("div", {},
      conversation(task.prompt.messages),
      make("h2", { class: "pawl-heading", text: `${task.responses.length} responses: which is best?` }),
      make("div", { class: "pawl-responses" }, ...cards.map((c) => c.node)),
      make("label", { class: "pawl-label", for: "pawl-comment", text: "Comment on this task (optional)" }), commentBox);
    return page;
  }

  function card(response, i) {
    const count = task.responses.length;
    const pick = (rank) => make("button", { type: "button", class: "pawl-rank", tabindex: -1, "aria-pressed": "false",
      "aria-label": `Rank ${name(i)} ${rank} of ${count}`, onclick: () => { focus(i); rankAt(i, rank); }, text: String(rank) });
    const buttons = Array.from({ length: count }, (_, n) => pick(n + 1));
    const out = make("button", { type: "button", class: "pawl-rank pawl-out", tabindex: -1, "aria-pressed": "false",
      "aria-label": `Unrankable: ${name(i)} cannot be ranked`, title: "Cannot be ranked (u)", onclick: () => { focus(i); toggleOut(i); }, text: "Unrankable" });
    const letter = make("span", { class: "pawl-letter", title: "Drag to a place below", text: LETTERS[i] });
    const state = make("span", { class: "pawl-state" });
    const body = make("div", { class: "pawl-text", dir: "auto", text: response.text });
    if (!response.text.trim()) { body.textContent = "(empty response)"; body.classList.add("pawl-empty"); }
    const more = foldOut(response, i);
    const node = make("article", { class: "pawl-response", tabindex: 0, role: "group", onfocusin: () => { at = i; mark(); } },
      make("div", { class: "pawl-head" }, letter, state, make("div", { class: "pawl-ranks", role: "group", "aria-label": `Rank of ${name(i)}` }, ...buttons, out)),
      body, more.node);
    drag(letter, i);
    return { node, buttons, out, state, more };
  }

  // Ratings, flags and a rewrite of one response, folded away until they are wanted.
  function foldOut(response, i) {
    const radios = {}, boxes = {};
    const rows = RATINGS.map(([key, label]) => {
      radios[key] = Array.from({ length: 7 }, (_, n) => make("input", { type: "radio", name: `pawl-${i}-${key}`, value: n + 1,
        "aria-label": `${label}: ${n + 1} of 7`, onchange: () => rate(response.id, key, n + 1) }));
      const clear = make("button", { type: "button", class: "pawl-clear", "aria-label": `Clear ${label}`, onclick: () => rate(response.id, key, null), text: "×" });
      return make("div", { class: "pawl-rating", role: "radiogroup", "aria-label": `${label}, 1 to 7` }, make("span", { class: "pawl-rating-name", text: label }),
        ...radios[key].map((input, n) => make("label", { class: "pawl-dot" }, input, make("span", { text: String(n + 1) }))), clear);
    });
    const marks = FLAGS.map(([key, label]) => {
      boxes[key] = make("input", { type: "checkbox", onchange: (event) => flag(response.id, key, event.target.checked) });
      return make("label", { class: "pawl-flag" }, boxes[key], make("span", { text: label }));
    });
    const text = make("textarea", { class: "pawl-input", rows: 5, maxlength: 100000, "aria-label": `${name(i)}, rewritten`,
      oninput: () => { rewrite = { response_id: response.id, text: text.value }; changed(); } });
    const discard = make("button", { type: "button", class: "pawl-button pawl-quiet", text: "Discard the rewrite", onclick: () => { rewrite = null; changed(); } });
    const begin = make("button", { type: "button", class: "pawl-button pawl-quiet", text: "Rewrite it better", onclick: () => {
      rewrite = { response_id: response.id, text: response.text };
      changed();
      text.focus();
    } });
    const summary = make("summary", { tabindex: -1, text: "Ratings, flags, rewrite" });
    const node = make("details", { class: "pawl-more" }, summary,
      make("div", { class: "pawl-more-body" }, ...rows, make("div", { class: "pawl-flags", role: "group", "aria-label": "Flags" }, ...marks), begin, text, discard));
    return { node, radios, boxes, text, begin, discard, summary };
  }

  function rate(response, key, value) {
    const given = { ...ratings[response], [key]: value };
    if (value === null) delete given[key];
    ratings[response] = given;
    if (!Object.keys(given).length) delete ratings[response];
    changed();
  }

  function flag(response, key, on) {
    const given = new Set(flags[response] ?? []);
    if (on) given.add(key); else given.delete(key);
    if (given.size) flags[response] = [...given]; else delete flags[response];
    changed();
  }

  function rankAt(i, rank) {
    if (ranks[id(i)] === rank) return;
    ranks[id(i)] = rank;
    unrankable.delete(id(i));
    decided(`${name(i)}: rank ${rank}.`);
  }

  function clearAt(i) {
    delete ranks[id(i)];
    unrankable.delete(id(i));
    decided(`${name(i)}: no rank.`);
  }

  function toggleOut(i) {
    if (unrankable.has(id(i))) { clearAt(i); return; }
    delete ranks[id(i)];
    unrankable.add(id(i));
    decided(`${name(i)}: cannot be ranked.`);
  }

  function decided(message) {
    confirmed = false;
    changed();
    const left = task.responses.filter((r) => !(r.id in ranks) && !unrankable.has(r.id)).length;
    desk.say(left ? `${message} ${left} to go.` : `${message} All done: Enter submits.`);
  }

  function changed() {
    mark();
    desk.changed();
  }

  // Bring the screen in line with the answer so far.
  function mark() {
    cards.forEach((c, i) => {
      const response = id(i), rank = ranks[response], out = unrankable.has(response);
      const words = out ? "cannot be ranked" : rank ? `rank ${rank}` : "no rank yet";
      c.node.setAttribute("aria-label", `${name(i)}, ${words}`);
      c.node.dataset.rank = out ? "out" : rank ?? "";
      c.node.toggleAttribute("data-current", i === at);
      c.state.textContent = out || rank ? "" : "no rank yet";
      c.buttons.forEach((button, n) => button.setAttribute("aria-pressed", String(rank === n + 1)));
      c.out.setAttribute("aria-pressed", String(out));
      for (const [key] of RATINGS) c.more.radios[key].forEach((radio, n) => { radio.checked = ratings[response]?.[key] === n + 1; });
      for (const [key] of FLAGS) c.more.boxes[key].checked = flags[response]?.includes(key) ?? false;
      const mine = rewrite?.response_id === response;
      c.more.begin.hidden = mine;
      c.more.text.hidden = c.more.discard.hidden = !mine;
      if (mine && c.more.text.value !== rewrite.text) c.more.text.value = rewrite.text;
      const said = Object.keys(ratings[response] ?? {}).length + (flags[response]?.length ?? 0) + (mine ? 1 : 0);
      c.more.summary.textContent = said ? `Ratings, flags, rewrite (${said})` : "Ratings, flags, rewrite";
    });
    drawSlots();
  }

  // The places at the foot of the screen: what is ranked where, and where a letter can be dropped.
  function bar() {
    const count = task.responses.length;
    const slot = (key, title) => make("div", { class: "pawl-slot", "data-slot": key }, make("span", { class: "pawl-place", text: title }), make("span", { class: "pawl-chips" }));
    const places = Array.from({ length: count }, (_, n) => slot(String(n + 1), n === 0 ? "1 best" : n === count - 1 ? `${count} worst` : String(n + 1)));
    slots = [...places, slot("out", "unrankable")];
    mark();
    return make("div", { class: "pawl-slots", "data-count": count, "aria-hidden": "true" }, ...slots);
  }

  function drawSlots() {
    for (const slot of slots ?? []) {
      const key = slot.dataset.slot;
      const here = task.responses.map((_, i) => i).filter((i) => (key === "out" ? unrankable.has(id(i)) : String(ranks[id(i)]) === key));
      slot.lastChild.replaceChildren(...here.map((i) => {
        const chip = make("span", { class: "pawl-chip", text: LETTERS[i] });
        drag(chip, i);
        return chip;
      }));
      slot.toggleAttribute("data-filled", here.length > 0);
    }
  }

  // Dragging by pointer events works for mouse, pen and finger alike. A letter dropped outside every place loses its rank
  // only when it came from a place.
  function drag(handle, i) {
    handle.addEventListener("pointerdown", (down) => {
      if (down.button !== 0) return;
      down.preventDefault();
      let ghost = null, over = null;
      const move = (event) => {
        if (!ghost && Math.hypot(event.clientX - down.clientX, event.clientY - down.clientY) < 5) return;
        if (!ghost) { ghost = make("div", { class: "pawl-ghost", text: LETTERS[i] }); desk.element.append(ghost); desk.element.dataset.dragging = "yes"; }
        ghost.style.transform = `translate(${event.clientX}px, ${event.clientY}px)`;
        const found = document.elementFromPoint(event.clientX, event.clientY)?.closest?.(".pawl-slot") ?? null;
        if (found !== over) { over?.removeAttribute("data-over"); found?.setAttribute("data-over", ""); over = found; }
      };
      const stop = (event) => {
        for (const [type, listener] of [["pointermove", move], ["pointerup", stop], ["pointercancel", stop]]) window.removeEventListener(type, listener);
        ghost?.remove();
        over?.removeAttribute("data-over");
        delete desk.element.dataset.dragging;
        focus(i);
        if (!ghost || event.type === "pointercancel") return;
        if (over?.dataset.slot === "out") { if (!unrankable.has(id(i))) toggleOut(i); }
        else if (over) rankAt(i, Number(over.dataset.slot));
        else if (handle.classList.contains("pawl-chip")) clearAt(i);
      };
      window.addEventListener("pointermove", move);
      window.addEventListener("pointerup", stop);
      window.addEventListener("pointercancel", stop);
    });
  }

  function focus(i = 0) {
    at = Math.max(0, Math.min(task.responses.length - 1, i));
    cards[at].node.focus({ preventScroll: true });
    reveal(cards[at].node);
    mark();
  }

  // Scroll a card clear of the bar at the foot; one that is taller than the screen shows its beginning.
  function reveal(node) {
    const box = node.getBoundingClientRect();
    const floor = desk.element.querySelector(".pawl-bar").getBoundingClientRect().top - 12;
    if (box.top < 12) window.scrollBy(0, box.top - 12);
    else if (box.bottom > floor) window.scrollBy(0, Math.min(box.bottom - floor, box.top - 12));
  }

  function answer() {
    const missing = undecided();
    if (missing >= 0) {
      return { problem: `${name(missing)} has no rank yet: press 1 to ${task.responses.length}, or u if it cannot be ranked.`, mend: () => focus(missing) };
    }
    const given = task.responses.map((response) => ranks[response.id]);
    if (!confirmed && given.every((rank, i) => rank !== undefined && (i === 0 || rank > given[i - 1]))) {
      confirmed = true;
      return { problem: "This is the order in which they were shown. If you mean it, submit once more." };
    }
    const original = task.responses.find((response) => response.id === rewrite?.response_id)?.text;
    const better = rewrite && rewrite.text.trim() && rewrite.text !== original ? rewrite : null;
    return { answer: { ranks, unrankable: [...unrankable], ratings, flags, comment: comment.trim(), ...(better && { rewrite: better }) } };
  }

  function read() {
    return { ranks, unrankable: [...unrankable], ratings, flags, rewrite, comment };
  }

  function write(draft) {
    const known = new Set(task.responses.map((response) => response.id));
    const keep = (given) => Object.fromEntries(Object.entries(given ?? {}).filter(([key]) => known.has(key)));
    ranks = keep(draft.ranks);
    ratings = keep(draft.ratings);
    flags = keep(draft.flags);
    unrankable = new Set((draft.unrankable ?? []).filter((key) => known.has(key)));
    rewrite = known.has(draft.rewrite?.response_id) ? draft.rewrite : null;
    comment = commentBox.value = draft.comment ?? "";
    mark();
  }

  function key(event) {
    const inside = event.target instanceof Element ? event.target : document.body;
    if (event.key === "Escape" && typing(inside)) { focus(at); return true; }
    if (event.ctrlKey || event.metaKey) return event.key === "Enter" && (desk.submit(), true);
    if (inside instanceof HTMLInputElement && inside.type === "radio" && /^[1-7]$/.test(event.key)) {
      cards[at].more.radios[inside.name.split("-")[2]][Number(event.key) - 1].click();
      return true;
    }
    if (typing(inside)) return false;
    if (/^[0-9]$/.test(event.key)) {
      const rank = Number(event.key);
      if (rank === 0) clearAt(at);
      else if (rank <= task.responses.length) rankAt(at, rank);
      else desk.say(`There are ${task.responses.length} places here: press 1 to ${task.responses.length}.`, "warn");
      return true;
    }
    if (event.key === "ArrowDown" || event.key === "j") { focus(at + 1); return true; }
    if (event.key === "ArrowUp" || event.key === "k") { focus(at - 1); return true; }
    if (event.key === "u") { toggleOut(at); return true; }
    if (event.key === "d") { unfold(); return true; }
    if (event.key === "Enter" && !inside.closest("button, a, summary")) { if (!event.repeat) desk.submit(); return true; }
    return false;
  }

  function unfold() {
    const more = cards[at].more;
    more.node.open = !more.node.open;
    if (more.node.open) more.radios.helpful[0].focus();
    else focus(at);
  }

  function idle(progress, done) {
    const rested = done ? `You ranked ${done} ${done === 1 ? "task" : "tasks"} just now. ` : "";
    const write = [["Write demonstrations", "/demonstrate"]];
    if (progress?.state === "first") {
      return { title: "The first model is being made", links: write,
        text: "There is nothing to rank until it has written its first responses. Meanwhile, the best help is to write ideal responses yourself: it learns from them." };
    }
    if (progress?.state === "running") {
      return { title: "Everything is ranked", links: write,
        text: `${rested}A new model is being trained on what was ranked. Its responses appear here by themselves when it is ready.` };
    }
    if (!done && (progress?.state === "none" || progress?.state === "failed")) {
      return { title: "There is nothing to rank yet", links: write,
        text: `No model has written responses so far. They appear here by themselves; meanwhile you can write ideal responses, which it will learn from.` };
    }
    return { title: "Everything is ranked", links: write,
      text: `${rested}There is no task left for you. New ones appear here by themselves; meanwhile you can write ideal responses.` };
  }

  return {
    draw, bar, read, write, focus: () => focus(0), answer, key, idle,
    submitKey: "Enter",
    words: { fresh: (t) => `Give each response a rank: 1 to ${t.responses.length}, 1 is best, equal ranks are ties.`, saved: "Saved. Here is the next one." },
    reasons: ["I do not know enough to judge this", "The prompt makes no sense", "The responses are too alike to tell apart", "I would rather not read this"],
    keys: [["1 … 9", "rank the response you are on; equal ranks are a tie"], ["0", "take its rank away"], ["u", "cannot be ranked"],
      ["↑ ↓", "move between responses (also Tab)"], ["d", "ratings, flags, rewrite"], ["Enter", "submit (Ctrl Enter from a text field)"], ["s", "skip this task, with a reason"],
      ["b", "back to the answer you sent last"], ["Esc", "leave a text field"], ["?", "these keys"]],
  };
}

runDesk(element, "ranking", rankingView());
