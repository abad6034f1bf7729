// The head of every page: Pawl, the pages this person may open, the model in use, their name, and sign out.
// Reads /api/v1/me and, on researchers' pages, /api/v1/health. Asks the server function `progress` how the model in the making stands, shows it
// in a strip below, and tells the rest of the page by a `pawl-progress` event.

const get = (path) => fetch(path, { credentials: "same-origin", cache: "no-store" }).then((answer) => {
  if (answer.status === 401) location.assign("/sign-in");
  return answer.ok ? answer.json() : null;
}).catch(() => null);  // the head of the page can wait; the desk below speaks of a lost connection

const LABELING = [["Rank", "/"], ["Demonstrate", "/demonstrate"], ["Converse", "/converse"], ["History", "/history"]];
const REVIEW = [["Review", "/review"]];
const RESEARCH = [["People", "/people"], ["Datasets", "/datasets"], ["Training", "/training"], ["Checkpoints", "/checkpoints"], ["Project", "/project"]];
const here = location.pathname.replace(/\/+$/, "") || "/";

// Labels are blind: where people rank and write, no model is named, and none is asked for, whoever they are.
const blind = !RESEARCH.some(([, href]) => href === here);
const modelInUse = async () => (blind ? null : (await get("/api/v1/health"))?.model ?? null);

const link = ([text, href]) => make("a", { href, text, "aria-current": href === here ? "page" : null });
const nav = make("nav", { "aria-label": "Pages" }, ...LABELING.map(link));
const side = make("div", { class: "pawl-side" });
const strip = make("div", { class: "pawl-strip", hidden: "" });
const svg = (tag, attributes) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
};
const mark = svg("svg", { viewBox: "2 3 29 26", class: "pawl-mark", "aria-hidden": "true" });  // a pawl holding a ratchet wheel back
mark.append(svg("circle", { cx: 14, cy: 18, r: 9, "stroke-width": 5, "stroke-dasharray": "4.4 2.67" }),
  svg("circle", { cx: 14, cy: 18, r: 3, "stroke-width": 3 }), svg("path", { d: "M29 4 20 10l1.5 3L30 8z" }));
element.classList.add("pawl-header");
element.replaceChildren(make("header", {}, make("a", { href: "/", class: "pawl-name" }, mark, make("span", { text: "Pawl" })), nav, side), strip);

let me = null, model = null, making = null;

function drawSide() {
  if (!me) return;
  const out = make("button", { type: "button", class: "pawl-button pawl-quiet", text: "Sign out" });
  out.addEventListener("click", signOut);
  const named = ["researcher", "admin"].includes(me.role) && !blind;
  side.replaceChildren(
    ...(named ? [make("span", { class: "pawl-model", title: "The model whose responses are ranked", text: model ?? "no model yet" })] : []),
    make("a", { class: "pawl-person", href: "/sign-in/account", title: `Your account. You are signed in as ${me.role}.`, text: me.name }), out);
}

async function signOut() {
  await fetch("/sign-out", { method: "POST", credentials: "same-origin", redirect: "manual" }).catch(() => null);
  location.assign("/sign-in");
}

function drawStrip(progress) {
  strip.hidden = !progress?.words;
  if (strip.hidden) return;
  const percent = Math.round((progress.progress ?? 0) * 100);
  const bar = make("div", { class: "pawl-meter", role: "progressbar", "aria-label": progress.words, "aria-valuemin": "0", "aria-valuemax": "100",
    "aria-valuenow": String(percent) }, make("div", {}));
  bar.firstChild.style.width = `${percent}%`;
  const moving = progress.state === "first" || progress.state === "running";
  strip.replaceChildren(make("span", { text: moving ? `${progress.words} · ${percent} %` : progress.words }), ...(moving ? [bar] : []));
}

async function poll() {
  if (document.visibilityState === "visible") {
    const progress = await server.progress().catch(() => null);
    if (progress) {
      document.pawlProgress = progress;
      if (making && making !== progress.state) { model = await modelInUse(); drawSide(); }
      making = progress.state;
      drawStrip(progress);
      document.dispatchEvent(new CustomEvent("pawl-progress"));
    }
  }
  setTimeout(poll, { first: 2500, running: 6000 }[making] ?? 15000);
}

Promise.all([get("/api/v1/me"), modelInUse()]).then(([person, named]) => {
  me = person;
  model = named;
  if (me && me.role !== "labeler") nav.append(...REVIEW.map(link));
  if (["researcher", "admin"].includes(me?.role)) nav.append(...RESEARCH.map(link));
  nav.toggleAttribute("data-many", nav.children.length > 6);  // a row of their own
  drawSide();
});
poll();
