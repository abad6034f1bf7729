// The ranking board: K responses, ranks 1 to K with ties, by keys, clicks or dragging. Starts unranked.

const LETTERS = "ABCDEFGHI";
const FOLD_CHARACTERS = 1200, FOLD_LINES = 18;  // longer responses show their beginning first

function rankingView() {
  let task, desk, page, list, tools, cards, slots, at, ranks, unrankable, said, asked, marked, columns, comment, commentBox, confirmed;

  const name = (i) => `Response ${LETTERS[i]}`;
  const id = (i) => task.responses[i].id;
  const undecided = () => task.responses.findIndex((response) => !(response.id in ranks) && !unrankable.has(response.id));

  function draw(next, owner) {
    task = next;
    desk = owner;
    at = 0;
    ranks = {};
    said = { ratings: {}, flags: {}, rewrite: null };
    asked = askedOf(task);
    unrankable = new Set();
    marked = new Set();
    columns = null;
    comment = "";
    confirmed = false;
    cards = task.responses.map((response, i) => card(response, i));
    commentBox = make("textarea", { class: "pawl-input", dir: "auto", rows: 2, maxlength: 100000, id: "pawl-comment",
      oninput: () => { comment = commentBox.value; desk.changed(); } });
    list = make("div", { class: "pawl-responses" }, ...cards.map((c) => c.node));
    tools = toolbar();
    page = make("div", {},
      conversation(task.prompt.messages),
      make("div", { class: "pawl-line pawl-over" }, make("h2", { class: "pawl-heading", text: `${task.responses.length} responses: which is best?` }), tools.node),
      list,
      ...(asked.comment ? [make("label", { class: "pawl-label", for: "pawl-comment", text: "Comment on this task (optional)" }), commentBox] : []));
    reading.dress(page);
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
    const fold = foldOf(response, i);
    const mine = make("button", { type: "button", class: "pawl-button pawl-quiet pawl-compare", tabindex: -1, "aria-pressed": "false",
      title: "Choose for side by side and for differences (m)", onclick: () => { focus(i); choose(i); }, text: "Compare" });
    const more = responseDetails(asked, said, response, name(i), changed, compare);
    const node = make("article", { class: "pawl-response", tabindex: 0, role: "group", onfocusin: () => { at = i; mark(); } },
      make("div", { class: "pawl-head" }, letter, state, make("div", { class: "pawl-ranks", role: "group", "aria-label": `Rank of ${name(i)}` }, ...buttons, out)),
      body, fold?.node ?? null, make("div", { class: "pawl-foot" }, more?.node ?? null, mine));
    if (fold) node.dataset.folded = "";
    drag(letter, i);
    return { node, buttons, out, state, more, fold, mine };
  }

  // A long response shows its beginning, and how long it is.
  function foldOf(response, i) {
    if (response.text.length <= FOLD_CHARACTERS && response.text.split("\n").length <= FOLD_LINES) return null;
    const words = make("span", { class: "pawl-count", text: inWords(countWords(response.text)) });
    const button = make("button", { type: "button", class: "pawl-button pawl-quiet", tabindex: -1, "aria-expanded": "false", title: "Show all of it, or its beginning (e)",
      onclick: () => { focus(i); foldAll([i]); }, text: "Show all" });
    return { node: make("div", { class: "pawl-fold-line" }, button, words), button };
  }

  // Unfold these responses, or fold them when all of them are unfolded.
  function foldAll(which) {
    const long = which.filter((i) => cards[i].fold);
    const open = long.some((i) => "folded" in cards[i].node.dataset);
    for (const i of long) {
      cards[i].node.toggleAttribute("data-folded", !open);
      cards[i].fold.button.textContent = open ? "Show less" : "Show all";
      cards[i].fold.button.setAttribute("aria-expanded", String(open));
    }
    if (!long.length) desk.say(which.length > 1 ? "All responses are shown in full." : `${name(at)} is shown in full.`);
    reveal(cards[at].node);
  }

  function toolbar() {
    const tool = (key, text, title, action) => make("button", { type: "button", class: "pawl-button pawl-quiet pawl-tool", "aria-pressed": "false", title,
      onclick: action }, `${text} `, make("kbd", { text: key }));
    const beside = tool("v", "Side by side", "The chosen responses in columns, or all of them", sideBySide);
    const differ = tool("x", "Differences", "Two responses, word by word", () => difference());
    const plain = tool("f", "Formatted", "Formatted, or as it was written", format);
    differ.removeAttribute("aria-pressed");
    plain.setAttribute("aria-pressed", String(reading.formatted));
    return { node: make("div", { class: "pawl-tools" }, beside, differ, plain), beside, plain };
  }

  function format() {
    desk.say(reading.toggle(page));
    tools.plain.setAttribute("aria-pressed", String(reading.formatted));
    reveal(cards[at].node);
  }

  function choose(i) {
    if (!marked.delete(i)) marked.add(i);
    mark();
    const chosen = [...marked].sort().map((n) => LETTERS[n]).join(", ");
    desk.say(chosen ? `Chosen: ${chosen}. v shows them side by side${marked.size === 2 ? ", x their differences" : ""}.` : "No response is chosen.");
  }

  // The chosen responses in columns, all of them when fewer than two are chosen; and back.
  function sideBySide() {
    columns = columns ? null : marked.size > 1 ? [...marked].sort() : cards.map((_, i) => i);
    cards.forEach((c, i) => { c.node.hidden = columns !== null && !columns.includes(i); });
    list.toggleAttribute("data-columns", columns !== null);
    tools.beside.setAttribute("aria-pressed", String(columns !== null));
    desk.say(columns ? `${columns.length} responses side by side; v ends it.` : "One below the other.");
    focus(columns && !columns.includes(at) ? columns[0] : at);
  }

  function difference() {
    const chosen = marked.size === 1 && !marked.has(at) ? [...marked, at] : cards.length === 2 ? [0, 1] : [...marked];
    if (chosen.length !== 2) { desk.say("Choose two responses first: m on each of them, then x.", "warn"); return; }
    const [from, to] = chosen.sort().map((i) => ({ name: name(i), text: task.responses[i].text }));
    compare(from, to, () => focus(at));
  }

  function compare(from, to, closed) {
    showDifference(desk.element, from, to, closed);
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
      c.mine.setAttribute("aria-pressed", String(marked.has(i)));
      c.more?.mark();
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

  function drag(handle, i) {
    dragLetter(handle, LETTERS[i], desk.element, (slot) => {
      focus(i);
      if (slot?.dataset.slot === "out") { if (!unrankable.has(id(i))) toggleOut(i); }
      else if (slot) rankAt(i, Number(slot.dataset.slot));
      else if (handle.classList.contains("pawl-chip")) clearAt(i);  // outside every place: it leaves the one it came from
    }, () => focus(i));
  }

  function focus(i = 0) {
    at = Math.max(0, Math.min(task.responses.length - 1, i));
    if (cards[at].node.hidden) { sideBySide(); return; }
    cards[at].node.focus({ preventScroll: true });
    reveal(cards[at].node);
    mark();
  }

  function step(by) {
    const shown = columns ?? cards.map((_, i) => i);
    focus(shown[Math.max(0, Math.min(shown.length - 1, shown.indexOf(at) + by))]);
  }

  // Scroll a card clear of the bar at the foot; one that is taller than the screen shows its beginning.
  function reveal(node) {
    const box = node.getBoundingClientRect();
    const floor = desk.element.querySelector(".pawl-bar").getBoundingClientRect().top - 12;
    if (box.top < 12) window.scrollBy(0, box.top - 12);
    else if (box.bottom > floor) window.scrollBy(0, Math.min(box.bottom - floor, box.top - 12));
    if (!columns) return;
    const frame = list.getBoundingClientRect();
    if (box.left < frame.left) list.scrollBy(box.left - frame.left - 8, 0);
    else if (box.right > frame.right) list.scrollBy(Math.min(box.right - frame.right, box.left - frame.left) + 8, 0);
  }

  function answer() {
    const missing = undecided();
    if (missing >= 0) {
      return { problem: `${name(missing)} has no rank yet: press 1 to ${task.responses.length}, or u if it cannot be ranked.`, mend: () => focus(missing) };
    }
    const given = task.responses.map((response) => ranks[response.id]);
    if (!confirmed && given.length > 2 && given.every((rank, i) => rank !== undefined && (i === 0 || rank > given[i - 1]))) {
      confirmed = true;
      return { problem: "This is the order in which they were shown. If you mean it, submit once more." };
    }
    const { ratings, flags, rewrite } = said;
    const original = task.responses.find((response) => response.id === rewrite?.response_id)?.text;
    const better = rewrite && rewrite.text.trim() && rewrite.text !== original ? rewrite : null;
    return { answer: { ranks, unrankable: [...unrankable], ratings, flags, comment: comment.trim(), ...(better && { rewrite: better }) } };
  }

  function read() {
    return { ranks, unrankable: [...unrankable], ...said, comment };
  }

  function write(draft) {
    const known = new Set(task.responses.map((response) => response.id));
    const keep = (given) => Object.fromEntries(Object.entries(given ?? {}).filter(([key]) => known.has(key)));
    const flags = new Set(asked.flags.flatMap(([, names]) => names.map(([name]) => name)));  // what is asked may have changed
    ranks = keep(draft.ranks);
    said.ratings = asked.ratings ? keep(draft.ratings) : {};
    said.flags = Object.fromEntries(Object.entries(keep(draft.flags)).map(([key, given]) => [key, given.filter((flag) => flags.has(flag))]).filter(([, given]) => given.length));
    said.rewrite = asked.rewrite && known.has(draft.rewrite?.response_id) ? draft.rewrite : null;
    unrankable = new Set((draft.unrankable ?? []).filter((key) => known.has(key)));
    comment = commentBox.value = asked.comment ? draft.comment ?? "" : "";
    mark();
  }

  function key(event) {
    const inside = event.target instanceof Element ? event.target : document.body;
    if (event.key === "Escape" && typing(inside)) { focus(at); return true; }
    if (event.ctrlKey || event.metaKey) return event.key === "Enter" && (desk.submit(), true);
    if (cards[at].more?.key(event)) return true;
    if (typing(inside)) return false;
    if (/^[0-9]$/.test(event.key)) {
      const rank = Number(event.key);
      if (rank === 0) clearAt(at);
      else if (rank <= task.responses.length) rankAt(at, rank);
      else desk.say(`There are ${task.responses.length} places here: press 1 to ${task.responses.length}.`, "warn");
      return true;
    }
    if (inside.closest("pre, .pawl-wide") && /^Arrow(Left|Right)$/.test(event.key)) return false;  // code scrolls sideways
    const action = { ArrowDown: () => step(1), ArrowRight: () => step(1), j: () => step(1), ArrowUp: () => step(-1), ArrowLeft: () => step(-1), k: () => step(-1),
      u: () => toggleOut(at), d: unfold, e: () => foldAll([at]), E: () => foldAll(columns ?? cards.map((_, i) => i)), m: () => choose(at),
      v: sideBySide, x: difference, f: format }[event.key];
    if (action) { action(); return true; }
    if (event.key === "Enter" && !inside.closest("button, a, summary")) { if (!event.repeat) desk.submit(); return true; }
    return false;
  }

  function unfold() {
    if (!cards[at].more) desk.say("This project asks for ranks alone.");
    else if (!cards[at].more.toggle()) focus(at);
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
      ["↑ ↓ ← →", "move between responses (also Tab)"], ["d", "ratings, flags, rewrite"], ["e", "show all of a long response; E of all of them"],
      ["m", "choose a response to compare"], ["v", "the chosen ones side by side, or all"], ["x", "the differences of two, word by word"],
      ["f", "formatted, or as it was written"], ["Enter", "submit (Ctrl Enter from a text field)"], ["s", "skip this task, with a reason"],
      ["z", "take back the answer you sent last"], ["b", "change it, and leave it standing meanwhile"], ["Esc", "leave a text field"], ["?", "these keys"]],
  };
}
