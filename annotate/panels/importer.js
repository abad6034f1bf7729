// Brings a file in: choose it, look at its first rows as they would be stored, import it. What the file holds is only ever text.
// Sends the file as the body of POST /api/v1/import/{kind}, with dry_run first; at the end presses the page's own Refresh.

const KINDS = ["comparisons", "rankings", "demonstrations", "prompts"];
const SHOWN = 8;  // reasons on the screen; the answer of the API has them all

const field = (label, input, note) => make("label", { class: "pawl-field" }, make("span", { text: label }), input,
  ...(note ? [make("span", { class: "pawl-tile-note", text: note })] : []));
const kind = make("select", { class: "pawl-input" }, ...KINDS.map((name) => make("option", { value: name, text: name })));
const file = make("input", { class: "pawl-input", type: "file", accept: ".jsonl,.ndjson,.json,.csv,.parquet,.gz" });
const source = make("input", { class: "pawl-input", type: "text", placeholder: "the file's name", maxlength: 200 });
const licence = make("input", { class: "pawl-input", type: "text", placeholder: "CC-BY-4.0", maxlength: 200 });
const map = make("textarea", { class: "pawl-input", rows: 3, spellcheck: "false", placeholder: "prompt=request.text\nresponses=candidates.*.output\nranks=order" });
const look = make("button", { type: "button", class: "pawl-button", text: "Look at it first", disabled: "" });
const take = make("button", { type: "button", class: "pawl-button pawl-primary", text: "Import", disabled: "" });
const said = make("div", { class: "pawl-import-said", role: "status", "aria-live": "polite" });

const note = (text, tone) => make("p", { class: "pawl-note", "data-tone": tone ?? null, text });
const counted = (number, word) => `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;

function changed() {
  look.disabled = !file.files.length;
  take.disabled = true;  // only what was looked at is imported
  said.replaceChildren();
}
for (const input of [kind, file, source, licence, map]) input.addEventListener("change", changed);

function send(dry) {
  const chosen = file.files[0];
  const query = new URLSearchParams({ name: chosen.name });
  if (source.value.trim()) query.set("source", source.value.trim());
  if (licence.value.trim()) query.set("licence", licence.value.trim());
  for (const line of map.value.split("\n")) if (line.trim()) query.append("map", line.trim());
  if (dry) query.set("dry_run", "true");
  const words = make("span", { text: "Sending the file" });
  const bar = make("div", { class: "pawl-meter", role: "progressbar", "aria-label": "Sending the file", "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": 0 }, make("div", {}));
  said.replaceChildren(make("div", { class: "pawl-meter-line" }, words, bar));
  look.disabled = take.disabled = true;
  return new Promise((resolve) => {
    const request = new XMLHttpRequest();  // fetch does not tell how much of a body is sent
    request.open("POST", `/api/v1/import/${kind.value}?${query}`);
    request.upload.addEventListener("progress", (event) => {
      const percent = event.total ? Math.round(100 * event.loaded / event.total) : 0;
      bar.firstChild.style.width = `${percent}%`;
      bar.setAttribute("aria-valuenow", String(percent));
      if (percent === 100) words.textContent = dry ? "Reading its first rows" : "Importing";
    });
    request.addEventListener("loadend", () => {
      let answer = null;
      try { answer = JSON.parse(request.responseText); } catch { /* no answer of ours */ }
      look.disabled = false;
      resolve(request.status === 200 ? { answer } : { problem: answer?.detail ?? "The app did not answer. Importing the same file again is safe." });
    });
    request.send(chosen);
  });
}

function reasons(title, rows, count, counts = {}) {
  if (!count) return [];
  const places = new Map();
  for (const row of rows) places.set(row.why, [...(places.get(row.why) ?? []), row.place]);
  let rest = count;
  const lines = [...places].slice(0, SHOWN).map(([why, where]) => {
    const number = counts[why] ?? where.length;
    rest -= number;
    const more = number > 3 ? ` and ${(number - 3).toLocaleString("en")} more` : "";
    return make("li", {}, make("b", { text: where.slice(0, 3).join(", ") + more }), ` ${why}`);
  });
  if (rest > 0) lines.push(make("li", { text: `and ${rest.toLocaleString("en")} more` }));
  return [make("p", { class: "pawl-note", text: title }), make("ul", { class: "pawl-refusals" }, ...lines)];
}

function shape(answer) {
  const names = Object.keys(answer.shapes);
  return names.length ? `Recognised: ${names.join(", ")}.` : "None of its rows is of a known shape: name its columns below.";
}

const short = (text) => (text.length > 600 ? `${text.slice(0, 600)} …` : text);
function example(row) {
  const turns = row.prompt.map((turn) => make("div", { class: "pawl-text pawl-sample-prompt", dir: "auto", text: short(turn.content) }));
  const texts = row.responses ?? (row.response ? [{ text: row.response }] : []);
  const shown = texts.map((each, i) => make("div", { class: "pawl-import-response" },
    ...(row.ranks ? [make("b", { class: "pawl-import-rank", text: row.ranks[i] ?? "-", title: "rank" })] : []),
    make("div", { class: "pawl-text", dir: "auto", text: short(each.text) })));
  const rest = Object.entries(row).filter(([name]) => !["prompt", "responses", "response", "ranks", "place"].includes(name))
    .map(([name, value]) => `${name} ${typeof value === "string" ? value : JSON.stringify(value)}`).join(" · ");
  return make("article", { class: "pawl-sample" }, make("div", { class: "pawl-who", text: row.place }), ...turns, ...shown,
    make("div", { class: "pawl-tile-note", text: short(rest) }));
}

look.addEventListener("click", async () => {
  const { answer, problem } = await send(true);
  if (problem) { said.replaceChildren(note(problem, "warn")); return; }
  take.disabled = !answer.taken;
  said.replaceChildren(
    note(shape(answer), answer.taken ? "good" : "warn"),
    ...reasons(`Of the first ${counted(answer.rows, "row")}, ${answer.skips.toLocaleString("en")} would be skipped:`, answer.skipped, answer.skips, answer.reasons),
    ...reasons("Taken otherwise than they stand, or in part:", answer.parts, answer.partly),
    ...(answer.stored.length ? [make("p", { class: "pawl-note", text: "The first, as they would be stored:" })] : []),
    make("div", { class: "pawl-samples" }, ...answer.stored.map(example)));
  if (!take.disabled) take.focus();
});

take.addEventListener("click", async () => {
  const { answer, problem } = await send(false);
  if (problem) { said.replaceChildren(note(problem, "warn")); return; }
  said.replaceChildren(note(answer.said, answer.taken ? "good" : "warn"), note(shape(answer)),
    ...reasons(`${counted(answer.skips, "row")} skipped:`, answer.skipped, answer.skips, answer.reasons),
    ...reasons("Taken otherwise than they stand, or in part:", answer.parts, answer.partly));
  document.querySelector("#pawl-refresh")?.click();
});

element.classList.add("pawl-panel");
element.replaceChildren(
  make("h2", { class: "pawl-heading", text: "Bring it in" }),
  make("div", { class: "pawl-import" },
    field("A file", file, "JSONL, JSON, CSV or Parquet, each also gzipped; in the shape of TRL, Alpaca, ShareGPT, OpenAssistant, UltraFeedback, Label Studio, Argilla and others"),
    field("It holds", kind),
    field("Source", source),
    field("Licence", licence),
    make("details", { class: "pawl-import-map" }, make("summary", { text: "Its columns have other names" }),
      field("One field=path a line", map, "prompt, response, chosen, rejected, responses, ranks, ratings, preference, best, best_from_0, labeler, seconds, labeled_at, comment, tags, split"))),
  make("div", { class: "pawl-import-acts" }, look, take), said);
