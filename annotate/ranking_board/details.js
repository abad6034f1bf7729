// What can be said of a response beside its rank: ratings, flags, a rewrite. A project asks for all of it or for some.

const RATINGS = [["helpful", "Helpful"], ["harmless", "Harmless"], ["honest", "Honest"]];
const FLAGS = [  // data.records.FLAGS, in groups
  ["Task", [["off_topic", "Off topic"], ["fails_instruction", "Not what was asked"], ["ignores_constraint", "Ignores a condition"], ["refusal", "Refuses"]]],
  ["Truth", [["false", "False"], ["hallucination", "Made up"]]],
  ["Harm", [["unsafe", "Unsafe"], ["pii", "Personal data"], ["harmful_advice", "Harmful advice"], ["encourages_harm", "Encourages harm"], ["violent", "Violent"], ["sexual", "Sexual"], ["denigrates", "Denigrates a group"]]],
  ["Manner", [["inappropriate", "Unfit for an assistant"], ["opinion", "Gives an opinion"], ["moral_judgment", "Judges morally"]]],
];

// What this task asks for; a server that does not say asks for everything.
function askedOf(task) {
  const asks = task.asks ?? {}, flags = asks.flags ?? true;
  const asked = (name) => flags === true || (Array.isArray(flags) && flags.includes(name));
  return {
    ratings: asks.ratings ?? true,
    flags: FLAGS.map(([group, names]) => [group, names.filter(([name]) => asked(name))]).filter(([, names]) => names.length),
    rewrite: asks.rewrite ?? true,
    comment: asks.comment ?? true,
  };
}

// The fold-out of one response: {node, mark, key, toggle}, or null when nothing of it is asked for.
// `said` is what the labeler says of all responses, {ratings, flags, rewrite}: changed here, then `changed` is called.
function responseDetails(asked, said, response, name, changed, compare) {
  const parts = [asked.ratings && "ratings", asked.flags.length && "flags", asked.rewrite && "rewrite"].filter(Boolean);
  if (!parts.length) return null;
  const label = parts.join(", ").replace(/^./, (first) => first.toUpperCase());
  const rows = [asked.ratings && ratingRows(said, response, changed), asked.flags.length && flagRows(asked.flags, said, response, changed),
    asked.rewrite && rewriteBox(said, response, name, changed, compare)].filter(Boolean);
  const summary = make("summary", { tabindex: -1, text: label });
  const node = make("details", { class: "pawl-more" }, summary, make("div", { class: "pawl-more-body" }, ...rows.flatMap((row) => row.nodes)));
  return {
    node,
    mark() {
      const count = rows.reduce((sum, row) => sum + row.mark(), 0);
      summary.textContent = count ? `${label} (${count})` : label;
    },
    key: (event) => rows.some((row) => row.key?.(event)),
    toggle() {
      node.open = !node.open;
      if (node.open) node.querySelector("input, button").focus();
      return node.open;
    },
  };
}

function ratingRows(said, response, changed) {
  const radios = {};
  const rate = (key, value) => {
    const given = { ...said.ratings[response.id], [key]: value };
    if (value === null) delete given[key];
    if (Object.keys(given).length) said.ratings[response.id] = given; else delete said.ratings[response.id];
    changed();
  };
  const nodes = RATINGS.map(([key, label]) => {
    radios[key] = Array.from({ length: 7 }, (_, n) => make("input", { type: "radio", name: `pawl-${response.id}-${key}`, value: n + 1,
      "aria-label": `${label}: ${n + 1} of 7`, onchange: () => rate(key, n + 1) }));
    const clear = make("button", { type: "button", class: "pawl-clear", "aria-label": `Clear ${label}`, onclick: () => rate(key, null), text: "×" });
    return make("div", { class: "pawl-rating", role: "radiogroup", "aria-label": `${label}, 1 to 7` }, make("span", { class: "pawl-rating-name", text: label }),
      ...radios[key].map((input, n) => make("label", { class: "pawl-dot" }, input, make("span", { text: String(n + 1) }))), clear);
  });
  return {
    nodes,
    mark() {
      const given = said.ratings[response.id] ?? {};
      for (const [key] of RATINGS) radios[key].forEach((radio, n) => { radio.checked = given[key] === n + 1; });
      return Object.keys(given).length;
    },
    key(event) {
      const row = Object.values(radios).find((each) => each.includes(event.target));
      if (!row || !/^[1-7]$/.test(event.key)) return false;
      row[Number(event.key) - 1].click();
      return true;
    },
  };
}

function flagRows(groups, said, response, changed) {
  const boxes = {};
  const flag = (key, on) => {
    const given = new Set(said.flags[response.id] ?? []);
    if (on) given.add(key); else given.delete(key);
    if (given.size) said.flags[response.id] = [...given]; else delete said.flags[response.id];
    changed();
  };
  const nodes = groups.map(([group, names]) => make("div", { class: "pawl-flags", role: "group", "aria-label": `Flags: ${group}` },
    make("span", { class: "pawl-rating-name", text: group }),
    make("div", { class: "pawl-flag-list" }, ...names.map(([key, label]) => {
      boxes[key] = make("input", { type: "checkbox", onchange: (event) => flag(key, event.target.checked) });
      return make("label", { class: "pawl-flag" }, boxes[key], make("span", { text: label }));
    }))));
  return {
    nodes,
    mark() {
      const given = said.flags[response.id] ?? [];
      for (const [key, box] of Object.entries(boxes)) box.checked = given.includes(key);
      return given.length;
    },
  };
}

function rewriteBox(said, response, name, changed, compare) {
  const text = make("textarea", { class: "pawl-input", dir: "auto", rows: 5, maxlength: 100000, "aria-label": `${name}, rewritten`,
    oninput: () => { said.rewrite = { response_id: response.id, text: text.value }; changed(); } });
  const begin = make("button", { type: "button", class: "pawl-button pawl-quiet", text: "Rewrite it better", onclick: () => {
    said.rewrite = { response_id: response.id, text: response.text };
    changed();
    text.focus();
  } });
  const shown = make("button", { type: "button", class: "pawl-button pawl-quiet", text: "What I changed",
    onclick: () => compare({ name, text: response.text }, { name: "your rewrite", text: text.value }, () => shown.focus()) });
  const discard = make("button", { type: "button", class: "pawl-button pawl-quiet", text: "Discard the rewrite", onclick: () => { said.rewrite = null; changed(); } });
  return {
    nodes: [begin, text, make("div", { class: "pawl-buttons" }, shown, discard)],
    mark() {
      const mine = said.rewrite?.response_id === response.id;
      begin.hidden = mine;
      text.hidden = shown.hidden = discard.hidden = !mine;
      if (mine && text.value !== said.rewrite.text) text.value = said.rewrite.text;
      return mine ? 1 : 0;
    },
  };
}
