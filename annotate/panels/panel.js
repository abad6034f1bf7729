// A read-only part of a page, drawn from its value: a list of blocks, each {"kind": ..., ...}. Text is only ever text.
//   heading {text}   text {text, tone}   code {text}   tiles {items: [{label, value, note}]}   facts {rows: [[name, value]]}
//   table {columns, rows, ids, picked, empty, wide: columns to hide on a phone}   meter {label, value}   stages {items: [{name, state, progress, note}]}
//   prose {tree: a formatted text, see tree.js}
//   samples {items: [{title, prompt, response}]}   links {rows: [{name, note, links: [[text, href]]}]}
//   columns, bars, intervals, points, copy: see plots.js   answers: see answers.js   leaves: see leaves.js
//   acts {key, actions}: buttons as in a table
//   grid {blocks: [...]}: beside each other where there is room
// Clicking a row of a table that has ids triggers "pick" with {id}. A table with keys has buttons in its rows, actions:
// [[{text, act, sure}]], each of which triggers "act" with {id: the row's key, act}; answers have such buttons, too.

const DRAW = {
  heading: (block) => make("h2", { class: "pawl-heading", text: block.text }),
  text: (block) => make("p", { class: "pawl-note", "data-tone": block.tone ?? "", text: block.text, role: block.tone ? "status" : null }),
  code: (block) => make("pre", { class: "pawl-code", text: block.text, tabindex: 0 }),
  tiles: (block) => make("div", { class: "pawl-tiles" }, ...block.items.map((item) => make("div", { class: "pawl-tile" },
    make("div", { class: "pawl-tile-label", text: item.label }), make("div", { class: "pawl-tile-value", text: item.value }),
    make("div", { class: "pawl-tile-note", text: item.note ?? "" })))),
  facts: (block) => make("dl", { class: "pawl-facts" }, ...block.rows.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: value })])),
  meter: (block) => {
    const percent = Math.round(block.value * 100);
    const bar = make("div", { class: "pawl-meter", role: "progressbar", "aria-label": block.label, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": percent },
      make("div", {}));
    bar.firstChild.style.width = `${percent}%`;
    return make("div", { class: "pawl-meter-line" }, make("span", { text: block.label }), bar, make("span", { class: "pawl-percent", text: `${percent} %` }));
  },
  stages: (block) => make("ol", { class: "pawl-stages" }, ...block.items.map((item) => make("li", { "data-state": item.state },
    make("span", { class: "pawl-stage-dot", "aria-hidden": "true" }), make("span", { class: "pawl-stage-name", text: item.name }),
    make("span", { class: "pawl-stage-note", text: item.note ?? "" })))),
  answers, points, leaves,
  acts: (block) => make("div", { class: "pawl-acts" }, ...block.actions.map((action) => actionButton(action, block.key))),
  grid: (block) => make("div", { class: "pawl-grid" }, ...block.blocks.map((each) => DRAW[each.kind](each))),
  samples: (block) => make("div", { class: "pawl-samples" }, ...block.items.map((item) => make("article", { class: "pawl-sample" },
    make("div", { class: "pawl-who", text: item.title }), make("div", { class: "pawl-text pawl-sample-prompt", dir: "auto", text: item.prompt }),
    make("div", { class: "pawl-text", dir: "auto", text: item.response })))),
  links: (block) => make("div", { class: "pawl-exports" }, ...block.rows.map((row) => make("div", { class: "pawl-export" },
    make("div", {}, make("strong", { text: row.name }), make("div", { class: "pawl-tile-note", text: row.note })),
    make("div", { class: "pawl-export-links" }, ...row.links.map(([text, href]) =>
      make("a", { class: "pawl-button", href, download: "", text, "aria-label": `${row.name} as ${text}` })))))),
  prose: (block) => make("div", { class: "pawl-formatted pawl-prose" }, ...grow(block.tree)),
  table, columns, bars, intervals, copy,
};

function table(block) {
  if (!block.rows.length) return make("p", { class: "pawl-note", text: block.empty });
  const wide = (name) => (block.wide?.includes(name) ? "" : null);
  const head = make("tr", {}, ...block.columns.map((name) => make("th", { scope: "col", "data-wide": wide(name), text: name })));
  if (block.actions) head.append(make("th", { scope: "col", text: "" }));
  const body = block.rows.map((row, i) => {
    const cells = row.map((value, n) => make("td", { "data-column": block.columns[n], "data-wide": wide(block.columns[n]), text: value }));
    const line = make("tr", {}, ...cells);
    if (block.ids) {
      const id = block.ids[i];
      const button = make("button", { type: "button", class: "pawl-pick", text: row[0], "aria-pressed": String(id === block.picked) });
      cells[0].replaceChildren(button);
      line.classList.add("pawl-row");
      line.toggleAttribute("data-picked", id === block.picked);
      line.addEventListener("click", () => {
        for (const other of line.parentNode.children) {
          other.toggleAttribute("data-picked", other === line);
          other.querySelector(".pawl-pick").setAttribute("aria-pressed", String(other === line));
        }
        trigger("pick", { id });
      });
    }
    if (block.actions) line.append(make("td", {}, make("div", { class: "pawl-acts" }, ...block.actions[i].map((action) => actionButton(action, block.keys[i])))));
    return line;
  });
  return make("div", { class: "pawl-table" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
}

// What cannot be taken back is asked twice: the first press asks, the second does it.
function actionButton({ text, act, sure }, id) {
  const button = make("button", { type: "button", class: "pawl-button", text, "aria-label": `${text}: ${id}` });
  let asked = !sure;
  button.addEventListener("click", () => {
    if (asked) { trigger("act", { id, act }); return; }
    asked = true;
    button.textContent = sure;
    button.setAttribute("aria-label", `${sure} ${id}`);
  });
  if (sure) button.addEventListener("blur", () => {
    asked = false;
    button.textContent = text;
    button.setAttribute("aria-label", `${text}: ${id}`);
  });
  return button;
}

let drawn = null;
function draw() {
  const blocks = Array.isArray(props.value) ? props.value : [];  // Gradio gives "" for nothing
  const text = JSON.stringify(blocks);
  if (text === drawn) return;
  drawn = text;
  element.replaceChildren(...blocks.map((block) => DRAW[block.kind](block)));
}
element.classList.add("pawl-panel");
watch("value", draw);
draw();
