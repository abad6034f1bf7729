// The demonstration desk: a conversation, and the labeler's own ideal response to it, with a preview of how it reads.

const FEW_WORDS = 5, MANY_WORDS = 600;  // outside of these a note asks, gently
const PREVIEW_WAIT = 350;  // milliseconds after the last key

function demonstrationView() {
  let task, desk, page, text, count, note, preview, tools, from, confirmed, pending, drawn;
  let previewing = (() => { try { return localStorage.getItem("pawl.preview") === "yes"; } catch { return false; } })();

  const starts = () => task.drafts ?? [];
  const start = () => starts().find((response) => response.id === from);

  function draw(next, owner) {
    task = next;
    desk = owner;
    from = null;
    confirmed = false;
    drawn = null;
    count = make("span", { class: "pawl-count", id: "pawl-ideal-count" });
    note = make("p", { class: "pawl-hint", id: "pawl-ideal-note", "aria-live": "polite" });
    text = make("textarea", { class: "pawl-input pawl-ideal", id: "pawl-ideal", dir: "auto", rows: 9, maxlength: 100000, "aria-describedby": "pawl-ideal-count pawl-ideal-note",
      oninput: () => { confirmed = false; if (!text.value.trim()) from = null; measure(); desk.changed(); } });
    preview = make("section", { class: "pawl-preview", "aria-label": "Preview" });
    tools = toolbar();
    page = make("div", { class: "pawl-writing", tabindex: -1 }, conversation(task.prompt.messages),
      make("div", { class: "pawl-line pawl-over" }, make("label", { class: "pawl-heading", for: "pawl-ideal", text: "Write the ideal response" }), count), text, note, tools.node, preview);
    reading.dress(page);
    measure();
    return page;
  }

  function toolbar() {
    const tool = (key, words, title, onclick) => make("button", { type: "button", class: "pawl-button pawl-quiet pawl-tool", title, onclick }, `${words} `, make("kbd", { text: key }));
    const look = tool("p", "Preview", "How it will be read (p outside the text field)", togglePreview);
    const begin = tool("m", "Start from a model's response", "Improve what a model wrote (m outside the text field)", choose);
    const changes = tool("x", "What I changed", "Against the model's response (x outside the text field)", difference);
    begin.hidden = !starts().length;
    return { node: make("div", { class: "pawl-tools" }, look, begin, changes), look, changes };
  }

  // Bring everything that depends on the text in line with it.
  function measure() {
    const words = text.value.trim() ? text.value.trim().split(/\s+/).length : 0;
    count.textContent = `${[...text.value].length} characters, ${words} ${words === 1 ? "word" : "words"}`;
    note.textContent = hints(countWords(text.value)).join(" ");
    tools.changes.hidden = !start();
    tools.look.setAttribute("aria-pressed", String(previewing));
    preview.hidden = !previewing;
    clearTimeout(pending);
    if (previewing) pending = setTimeout(drawPreview, PREVIEW_WAIT);
  }

  function hints(words) {
    const said = [];
    if (words > 0 && words < FEW_WORDS) said.push("Very short: is this all that a good response says?");
    if (words > MANY_WORDS) said.push(`More than ${MANY_WORDS} words: would a reader be glad of fewer?`);
    const asked = scriptOf(task.prompt.messages.at(-1).content), mine = scriptOf(text.value);
    if (asked && mine && asked !== mine) said.push(`The prompt is written in ${asked} letters and this in ${mine}. If that is meant, leave it so.`);
    return said;
  }

  async function drawPreview() {
    const wanted = text.value;
    if (wanted === drawn) return;
    const plain = () => [make("div", { class: "pawl-text", dir: "auto", text: wanted })];
    let nodes = wanted.trim() ? plain() : [make("p", { class: "pawl-note", text: "What you write appears here as it will be read." })];
    try {
      if (FORMATS.test(wanted)) nodes = grow((await reading.of([wanted]))[0]);
    } catch (error) {
      if (!(error instanceof Refused || error instanceof TypeError)) throw error;
    }
    if (wanted !== text.value) return;  // a later one is on its way
    drawn = wanted;
    preview.replaceChildren(make("div", { class: "pawl-formatted" }, ...nodes));
  }

  function togglePreview() {
    previewing = !previewing;
    try { localStorage.setItem("pawl.preview", previewing ? "yes" : "no"); } catch { /* storage is off */ }
    measure();
    drawPreview();
    desk.say(previewing ? "The preview is below the text." : "The preview is hidden.");
  }

  async function choose() {
    if (!starts().length) return;
    const kept = text.value.trim() && text.value.trim() !== start()?.text.trim();
    const chosen = await chooseText(desk.element, "Start from which response?", kept ? "It takes the place of what you have written; Ctrl Z brings that back." : "", starts());
    text.focus();
    if (!chosen) return;
    text.select();
    // insertText can be undone by the browser's own keys; setting the value cannot
    if (!document.execCommand("insertText", false, chosen.text)) text.value = chosen.text;
    from = chosen.id;
    measure();
    desk.changed();
    text.setSelectionRange(0, 0);
    text.scrollTop = 0;
    desk.say("Improve it: what you send is the response the model should have written.");
  }

  function difference() {
    if (!start()) { desk.say("There is nothing to compare: you did not start from a model's response.", "warn"); return; }
    showDifference(desk.element, { name: "the model's response", text: start().text }, { name: "yours", text: text.value }, () => text.focus({ preventScroll: true }));
  }

  function answer() {
    const response = text.value.trim();
    if (!response) return { problem: "Write a response first, or skip the task.", mend: () => text.focus() };
    if (start() && response === start().text.trim() && !confirmed) {
      confirmed = true;
      return { problem: "This is the model's response as it was. If nothing could be better, submit once more." };
    }
    return { answer: { response, ...(start() && { from }) } };
  }

  function idle(progress, done) {
    const thanks = done ? `You wrote ${done} ${done === 1 ? "response" : "responses"} just now. ` : "";
    if (progress?.state === "first") {
      return { title: "No prompt is waiting for a demonstration", links: [],
        text: `${thanks}The first model is still being made. As soon as it has written its first responses, you can rank them.` };
    }
    return { title: "No prompt is waiting for a demonstration", links: [["Rank responses", "/"]],
      text: `${thanks}New prompts appear here by themselves. Meanwhile you can rank what the model wrote.` };
  }

  function key(event) {
    const inside = event.target instanceof Element ? event.target : document.body;
    if (event.key === "Escape" && typing(inside)) { page.focus({ preventScroll: true }); return true; }
    if (event.ctrlKey || event.metaKey) return event.key === "Enter" && !event.repeat && (desk.submit(), true);
    if (typing(inside)) return false;
    const action = { p: togglePreview, f: () => desk.say(reading.toggle(page)), m: choose, x: difference,
      Enter: inside.closest("button, a, summary") ? null : () => text.focus() }[event.key];
    if (action) action();
    return Boolean(action);
  }

  return {
    draw, idle, answer, key,
    read: () => ({ text: text.value, ...(start() && { from }) }),
    write: (draft) => { text.value = draft.text ?? ""; from = draft.from ?? null; measure(); },
    focus: () => text.focus({ preventScroll: true }),
    submitKey: "Ctrl Enter",
    words: { fresh: () => "Answer as the model should have answered.", saved: "Saved. Here is the next prompt." },
    reasons: ["I do not know enough to answer this", "The prompt makes no sense", "No good response exists", "I would rather not read this"],
    keys: [["Ctrl Enter", "submit"], ["Esc", "leave the text field; the keys below work outside of it"], ["Enter", "back into the text field"],
      ["p", "preview, on and off"], ["m", "start from a model's response, where there is one"], ["x", "what I changed of it, word by word"],
      ["f", "the conversation formatted, or as it was written"], ["s", "skip, with a reason"], ["z", "take back the response you sent last"],
      ["b", "change it, and leave it standing meanwhile"], ["?", "these keys"]],
  };
}

// A modal choice of one of these texts, by click or number; resolves to null when it was closed.
function chooseText(element, title, warning, texts) {
  return new Promise((resolve) => {
    const done = (chosen) => { dialog.close(); dialog.remove(); resolve(chosen); };
    const buttons = texts.map((each, i) => make("button", { type: "button", class: "pawl-choice", onclick: () => done(each) },
      make("kbd", { text: String(i + 1) }), make("span", { class: "pawl-excerpt", dir: "auto", text: each.text }), make("span", { class: "pawl-count", text: inWords(countWords(each.text)) })));
    const dialog = make("dialog", { class: "pawl-dialog pawl-compared", "aria-label": title }, make("h2", { text: title }),
      warning ? make("p", { class: "pawl-note", text: warning }) : null, ...buttons,
      make("button", { type: "button", class: "pawl-button pawl-quiet", onclick: () => done(null) }, "Go back ", make("kbd", { text: "Esc" })));
    dialog.addEventListener("cancel", (event) => { event.preventDefault(); done(null); });
    dialog.addEventListener("keydown", (event) => {
      const chosen = texts[Number(event.key) - 1];
      if (chosen) { event.preventDefault(); done(chosen); }
    });
    element.append(dialog);
    dialog.showModal();
    buttons[0].focus();
  });
}

// The letters that most of a text is written in, outside of code; null when there are too few to tell.
const SCRIPTS = [["Latin", /\p{Script=Latin}/gu], ["Cyrillic", /\p{Script=Cyrillic}/gu], ["Greek", /\p{Script=Greek}/gu], ["Arabic", /\p{Script=Arabic}/gu],
  ["Hebrew", /\p{Script=Hebrew}/gu], ["Devanagari", /\p{Script=Devanagari}/gu], ["Bengali", /\p{Script=Bengali}/gu], ["Tamil", /\p{Script=Tamil}/gu],
  ["Telugu", /\p{Script=Telugu}/gu], ["Thai", /\p{Script=Thai}/gu], ["Georgian", /\p{Script=Georgian}/gu], ["Armenian", /\p{Script=Armenian}/gu],
  ["Ethiopic", /\p{Script=Ethiopic}/gu], ["Korean", /\p{Script=Hangul}/gu], ["Chinese or Japanese", /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}]/gu]];

function scriptOf(text) {
  const prose = text.slice(0, 5000).replace(/```[^]*?(```|$)|`[^`\n]*`|\$\$[^]*?\$\$|\$[^$\n]*\$|https?:\S+/g, " ");
  const counts = SCRIPTS.map(([name, letters]) => [name, (prose.match(letters) ?? []).length]).sort((one, other) => other[1] - one[1]);
  const all = counts.reduce((sum, [, found]) => sum + found, 0), [name, most] = counts[0];
  return most >= (name === "Chinese or Japanese" || name === "Korean" ? 4 : 12) && most > 0.7 * all ? name : null;
}
