// Labels to leaf through: what panel.js draws for a block of the kind `leaves`. The buttons turn the page, and left and
// right do, from within or where nothing has the focus. Long texts are folded, and every text is only text.

const FOLD = 600, FOLD_LINES = 8;  // characters and lines of a text that are shown at once: more than leaves.css leaves of one
let keys = null;  // ends listening for them
let turned = null;  // what had the focus when a page was turned: it gets it back once the next one is drawn

// block: label, keys, tabs: [{text, id, picked}], where, previous, next: ids to pick or null, empty, items: [{title,
// facts: [text], turns: [{who, text}], levels: [{place, tied, answers: [{text, note, marks: [text]}]}], notes: [{who, text}]}]
function leaves(block) {
  const turn = (id, from) => { if (id && !turned) { turned = from; setTimeout(() => { turned = null; }, 3000); trigger("pick", { id }); } };
  const button = (name, text, id) => make("button", { type: "button", class: "pawl-button", "data-turn": name, disabled: !id, text, onclick: () => turn(id, name) });
  const tabs = block.tabs.map(({ text, id, picked }, n) => make("button", { type: "button", class: "pawl-button", "data-turn": `tab ${n}`,
    "aria-pressed": String(picked), text, onclick: () => turn(id, `tab ${n}`) }));
  const bar = make("div", { class: "pawl-leaf-bar" }, make("div", { class: "pawl-acts" }, ...tabs),
    make("span", { class: "pawl-note", role: "status", text: block.where }),
    make("div", { class: "pawl-acts" }, button("previous", "← Previous", block.previous), button("next", "Next →", block.next)));
  const inside = block.items.length ? block.items.map(leaf) : [make("p", { class: "pawl-note", text: block.empty })];
  const section = make("section", { class: "pawl-leaves", tabindex: 0, "data-turn": "leaves", "aria-label": block.label }, bar, ...inside);
  keys?.abort();
  keys = new AbortController();
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const id = { ArrowLeft: block.previous, ArrowRight: block.next }[event.key];
    const { top, bottom } = section.getBoundingClientRect();
    const seen = event.target === document.body && top < innerHeight / 2 && bottom > 0;
    if (id === undefined || !(seen || section.contains(event.target))) return;
    event.preventDefault();
    turn(id, event.target.dataset.turn ?? "leaves");
  }, { signal: keys.signal });
  if (turned) requestAnimationFrame(() => {
    const before = section.querySelector(`[data-turn="${turned}"]:not(:disabled)`) ?? section;
    turned = null;
    before.focus({ preventScroll: true });
    if (section.getBoundingClientRect().top < 0) section.scrollIntoView();
  });
  return section;
}

function leaf(item) {
  const said = ({ who, text }) => make("div", {}, make("div", { class: "pawl-who", text: who }), ...folded(text, "pawl-sample-prompt"));
  const earlier = item.turns.slice(0, -1);
  const before = earlier.length > 1 ? [make("details", { class: "pawl-numbers" },
    make("summary", { text: `${earlier.length} earlier turns` }), ...earlier.map(said))] : earlier.map(said);
  return make("article", { class: "pawl-sample pawl-leaf" }, make("header", {}, make("strong", { text: item.title }),
    ...item.facts.map((text) => make("span", { class: "pawl-row-note", text }))),
    ...before, ...item.turns.slice(-1).map(said),
    make("ol", { class: "pawl-levels" }, ...item.levels.map((level) => make("li", { "data-tied": level.tied || null },
      make("span", { class: "pawl-answer-place", text: level.place }), make("div", { class: "pawl-level-answers" }, ...level.answers.map(answer))))),
    ...item.notes.map(said));
}

function answer({ text, note, marks }) {
  return make("div", { class: "pawl-leaf-answer" }, ...folded(text || "(empty response)", ""),
    make("div", { class: "pawl-leaf-note" }, ...marks.map((mark) => make("span", { class: "pawl-flagged", text: mark })), make("span", { class: "pawl-row-note", text: note })));
}

// A text, and for a long one the button that shows all of it.
function folded(text, more) {
  const body = make("div", { class: `pawl-text ${more}`, dir: "auto", text });
  if (text.length <= FOLD && text.split("\n").length <= FOLD_LINES) return [body];
  body.classList.add("pawl-folded");
  const all = `Show all ${text.length.toLocaleString("en")} characters`;
  const button = make("button", { type: "button", class: "pawl-button pawl-quiet pawl-unfold", "aria-expanded": "false", text: all, onclick: () => {
    const folds = body.classList.toggle("pawl-folded");
    button.textContent = folds ? all : "Show less";
    button.setAttribute("aria-expanded", String(!folds));
  } });
  return [body, button];
}
