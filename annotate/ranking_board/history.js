// What one said before: the latest first, each with a way to change it, and how one does in numbers.
// Reads /api/v1: labels/mine.

const PAGE = 50;
const list = make("div", { class: "pawl-history" });
const more = make("button", { type: "button", class: "pawl-button", text: "Show earlier ones", hidden: true, onclick: () => load(last) });
let last = null;

const when = (time) => new Date(time).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });

function said(label) {
  if (label.kind === "demonstration") return label.answer.response;
  const ranks = Object.values(label.answer.ranks).sort((a, b) => a - b).join(" · ");
  const out = label.answer.unrankable.length;
  return `Ranks ${ranks || "none"}${out ? `, ${out} unrankable` : ""}${label.answer.comment ? `. ${label.answer.comment}` : ""}`;
}

function row(label) {
  const page = label.kind === "ranking" ? "/" : "/demonstrate";
  const facts = [label.kind === "ranking" ? "Ranking" : "Demonstration", when(label.created_at)];
  if (label.seconds !== null) facts.push(`${Math.round(label.seconds)} s`);
  if (label.revision > 1) facts.push(`revision ${label.revision}`);
  return make("article", { class: "pawl-entry", "data-task": label.task_id },
    make("div", { class: "pawl-entry-words" }, make("div", { class: "pawl-who", text: facts.join(" · ") }),
      make("div", { class: "pawl-text pawl-entry-prompt", dir: "auto", text: label.excerpt }),
      make("div", { class: "pawl-text pawl-entry-said", dir: "auto", text: said(label) })),
    make("a", { class: "pawl-button", href: `${page}?task=${encodeURIComponent(label.task_id)}`, text: "Change", "aria-label": `Change: ${label.excerpt.slice(0, 80)}` }));
}

async function load(before) {
  more.disabled = true;
  const query = before ? `&before=${encodeURIComponent(before)}` : "";
  try {
    const labels = await call("GET", `/labels/mine?limit=${PAGE}${query}`);
    list.append(...labels.map(row));
    if (!list.children.length) list.append(make("p", { class: "pawl-note", text: "You have not labeled anything yet. What you send is listed here, and can be changed at any time." }));
    last = labels.at(-1)?.created_at ?? last;
    more.hidden = labels.length < PAGE;
  } catch (error) {
    list.append(make("p", { class: "pawl-note", "data-tone": "bad", role: "alert", text: error.message }));
  }
  more.disabled = false;
  element.dataset.state = "ready";
}

element.classList.add("pawl-desk");
element.replaceChildren(make("h1", { class: "pawl-heading", text: "What you said" }),
  make("p", { class: "pawl-note", text: "Changing an answer makes a new revision; the earlier one is kept, and the latest counts." }), list, more);
load(null);
