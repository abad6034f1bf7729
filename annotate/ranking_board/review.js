// Review: a task on which labelers disagree, their answers side by side with their reasons, and the reviewer's own.
// Reads   /api/v1: me, reviews, reviews/{task}
// Writes  reviews/{task}; reviews/{task}/gold

const side = make("nav", { class: "pawl-review-list", "aria-label": "Tasks to review" });
const stage = make("div", { class: "pawl-review-stage" });
const status = make("div", { class: "pawl-status", role: "status", "aria-live": "polite" });
const bar = make("div", { class: "pawl-bar" });
let me = null, tasks = [], task = null, view = null, busy = false;

const say = (text, tone = "") => { status.textContent = text; status.dataset.tone = tone; };
const desk = { say, submit, element, changed() {}, skip() {} };
const percent = (share) => `${Math.round(share * 100)} %`;

function drawList() {
  const open = tasks.filter((one) => !one.reviewed).length;
  const entry = (one) => make("button", { type: "button", class: "pawl-review-task", "aria-pressed": String(one.task_id === task?.task_id), onclick: () => show(one.task_id) },
    make("span", { text: `${percent(one.agreement)} agreement` }), make("span", { class: "pawl-tile-note", text: `${one.labels} labels${one.reviewed ? ", reviewed" : ""}` }));
  side.replaceChildren(make("h2", { class: "pawl-heading", text: open ? `${open} to review` : "Nothing to review" }), ...tasks.map(entry));
}

// Rows are responses, columns the people: who said what of which, at a glance.
function answers() {
  const people = task.labels.filter((label) => label.source !== "review");
  const letters = new Map(task.responses.map((response, i) => [response.id, LETTERS[i]]));
  const cell = (label, place) => make("td", { text: label.ranks[place] === null ? "unrankable" : String(label.ranks[place]) });
  const flags = (label, id) => Object.entries(label.flags ?? {}).filter(([key]) => key === id).flatMap(([, given]) => given);
  const rows = task.responses.map((response, place) => make("tr", {}, make("th", { scope: "row", text: letters.get(response.id) }), ...people.map((label) => {
    const node = cell(label, place), marks = flags(label, response.id);
    if (marks.length) node.append(make("div", { class: "pawl-tile-note", text: marks.join(", ") }));
    return node;
  })));
  const head = make("tr", {}, make("th", { scope: "col", text: "" }), ...people.map((label) => make("th", { scope: "col", text: label.labeler })));
  const reasons = people.map((label) => make("tr", {}, make("th", { scope: "row", text: label.labeler }), make("td", { dir: "auto", text: label.comment || "no reason given" }),
    make("td", { text: label.seconds === null ? "" : `${Math.round(label.seconds)} s` })));
  return make("section", { "aria-label": "What labelers said" }, make("h2", { class: "pawl-heading", text: "What labelers said" }),
    make("div", { class: "pawl-table" }, make("table", { class: "pawl-answers" }, make("thead", {}, head), make("tbody", {}, ...rows))),
    make("div", { class: "pawl-table pawl-reasons" }, make("table", {}, make("tbody", {}, ...reasons))));
}

async function show(id) {
  if (busy) return;
  try {
    task = await call("GET", `/reviews/${encodeURIComponent(id)}`);
  } catch (error) { say(error.message, "bad"); return; }
  task.asks = { ratings: false, flags: [], rewrite: false, comment: true };
  view = rankingView();
  const drawn = view.draw(task, desk);
  drawn.querySelector(".pawl-conversation").after(answers());
  stage.replaceChildren(drawn);
  const mine = task.labels.find((label) => label.source === "review");
  const gold = mine && ["researcher", "admin"].includes(me.role)
    ? make("button", { type: "button", class: "pawl-button pawl-quiet", onclick: useAsGold, title: "Give this task to every labeler, silently, to see how well they judge", text: "Use as gold" }) : null;
  bar.replaceChildren(view.bar(), make("div", { class: "pawl-actions" }, status,
    make("div", { class: "pawl-buttons" }, ...[gold, make("button", { type: "button", class: "pawl-button pawl-quiet", onclick: () => showKeys(element, KEYS) }, "Keys"),
      make("button", { type: "button", class: "pawl-button pawl-primary pawl-submit", onclick: submit }, "Submit ", make("kbd", { text: "Enter" }))].filter(Boolean))));
  if (mine) {
    const ranks = Object.fromEntries(task.responses.map((response, i) => [response.id, mine.ranks[i]]).filter(([, rank]) => rank !== null));
    view.write({ ranks, unrankable: task.responses.map((response) => response.id).filter((key) => !(key in ranks)), comment: mine.comment });
  }
  element.dataset.state = "task";
  element.dataset.task = task.task_id;
  say(mine ? "Reviewed. Change it and submit it again if you see it differently now." : "Rank the responses as they should be ranked, and say why in the comment.");
  drawList();
  window.scrollTo(0, 0);
  view.focus();
}

async function submit() {
  if (busy || !task) return;
  const { answer, problem, mend } = view.answer();
  if (problem) { say(problem, "warn"); mend?.(); return; }
  busy = true;
  try {
    await call("PUT", `/reviews/${encodeURIComponent(task.task_id)}`, { ranks: answer.ranks, unrankable: answer.unrankable, comment: answer.comment });
    busy = false;
    await load();
  } catch (error) {
    say(error.message, "bad");
  } finally {
    busy = false;
  }
}

async function useAsGold() {
  try {
    await call("POST", `/reviews/${encodeURIComponent(task.task_id)}/gold`);
    say("Every labeler is given this task from now on, silently; your answer is what is expected.");
  } catch (error) { say(error.message, "bad"); }
}

async function load() {
  try {
    tasks = await call("GET", "/reviews");
  } catch (error) {
    stage.replaceChildren(make("p", { class: "pawl-note", "data-tone": "warn", text: error.message }));
    element.dataset.state = "closed";
    return;
  }
  const next = tasks.find((one) => !one.reviewed);
  task = null;
  drawList();
  if (next) { await show(next.task_id); return; }
  element.dataset.state = "idle";
  bar.replaceChildren();
  stage.replaceChildren(make("section", { class: "pawl-idle" }, make("h1", { text: "Labelers agree" }),
    make("p", { text: tasks.length ? "Every task on which they disagreed is reviewed. Pick one at the side to look at it again." : "Tasks come here when two or more people ranked them and their answers differ a lot." })));
}

const KEYS = [["1 … 9", "rank the response you are on; equal ranks are a tie"], ["0", "take its rank away"], ["u", "cannot be ranked"],
  ["↑ ↓", "move between responses (also Tab)"], ["Enter", "submit (Ctrl Enter from the comment)"], ["Esc", "leave the comment"], ["?", "these keys"]];
document.addEventListener("keydown", (event) => {
  if (event.isComposing || event.altKey || element.querySelector("dialog[open]") || !view || !task) return;
  if (side.contains(event.target)) return;
  if (view.key(event)) { event.preventDefault(); return; }
  if (event.key === "?" && !typing(event.target)) { event.preventDefault(); showKeys(element, KEYS); }
});
element.classList.add("pawl-desk", "pawl-review");
element.replaceChildren(make("div", { class: "pawl-review-body" }, side, stage), bar);
call("GET", "/me").then((person) => { me = person; return load(); }).catch((error) => say(error.message, "bad"));
