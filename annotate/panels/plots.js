// Plots drawn from plain values: columns over time or between edges, bars by row, shares with their intervals. Each says
// in text what it shows: rows carry their numbers, and columns have a table beside them. panel.js comes after this file.

const plain = (number) => (Number.isInteger(number) ? String(number) : number.toFixed(1));
const total = (values) => values.reduce((sum, value) => sum + value, 0);
const percent = (share) => `${Math.round(share * 100)}%`;
const colour = (series, place) => (series[place] === "others" ? "others" : String(place + 1));

const plot = (block, ...parts) => make("figure", { class: "pawl-plot" }, make("figcaption", { text: block.title }), ...parts);
const nothing = (block) => plot(block, make("p", { class: "pawl-note", text: block.empty }));

function legend(series) {
  if (series.length < 2) return "";
  return make("ul", { class: "pawl-legend" }, ...series.map((name, place) => make("li", {},
    make("span", { class: "pawl-swatch", "data-series": colour(series, place), "aria-hidden": "true" }), make("span", { text: name }))));
}

// The next round number: where an axis ends.
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= value);
}

// block: title, series, columns: [{label, values}], beside: the series stand beside each other, not on each other, empty
function columns(block) {
  const most = Math.max(0, ...block.columns.map((column) => (block.beside ? Math.max(...column.values) : total(column.values))));
  if (!most) return nothing(block);
  const top = roundUp(most);
  const short = block.columns.every((column) => column.label.length < 5);
  const every = Math.ceil(block.columns.length / (short ? 10 : 6));  // as many labels as fit a phone
  const bars = block.columns.map((column, n) => {
    const told = column.values.map((value, place) => `${block.series[place]} ${plain(value)}`).filter((_, place) => column.values[place]);
    const segments = column.values.map((value, place) => {
      const segment = make("div", { class: "pawl-segment", "data-series": colour(block.series, place) });
      segment.style.height = `${(100 * value) / top}%`;
      return segment;
    });
    return make("div", { class: "pawl-column", title: `${column.label}: ${told.join(", ") || "0"}` },
      make("div", { class: "pawl-stack", "data-beside": block.beside || null }, ...(block.beside ? segments : segments.reverse())), make("div", { class: "pawl-tick", text: n % every ? "" : column.label }));
  });
  const sum = total(block.columns.map((column) => total(column.values)));
  const summary = `${block.title}: ${plain(sum)} in all, at most ${plain(most)} in one ${block.beside ? "bar" : "column"}. The table below has the numbers.`;
  const area = make("div", { class: "pawl-columns", role: "img", "aria-label": summary },
    make("div", { class: "pawl-axis" }, make("span", { text: plain(top) }), make("span", { text: "0" })), make("div", { class: "pawl-area" }, ...bars));
  const rows = block.columns.filter((column) => total(column.values)).map((column) => [column.label, ...column.values.map(plain)]);
  return plot(block, area, legend(block.series), make("details", { class: "pawl-numbers" }, make("summary", { text: "As a table" }),
    table({ columns: ["", ...block.series], rows })));
}

// block: title, series, rows: [{label, values}], whole: each row is drawn to its own full length, empty
function bars(block) {
  if (!block.rows.length) return nothing(block);
  const longest = Math.max(...block.rows.map((row) => total(row.values)), 1);
  const items = block.rows.map((row) => {
    const full = block.whole ? Math.max(total(row.values), 1) : longest;
    const segments = row.values.map((value, place) => {
      const segment = make("div", { class: "pawl-segment", "data-series": colour(block.series, place) });
      segment.style.width = `${(100 * value) / full}%`;
      return segment;
    });
    const told = block.series.length < 2 ? plain(row.values[0]) : row.values.map((value, place) => `${plain(value)} ${block.series[place]}`).filter((_, place) => row.values[place]).join(", ") || "none";
    return make("li", {}, make("span", { class: "pawl-row-label", text: row.label, dir: "auto" }),
      make("div", { class: "pawl-length", "aria-hidden": "true" }, ...segments), make("span", { class: "pawl-row-note", text: told }));
  });
  return plot(block, make("ul", { class: "pawl-rows" }, ...items), legend(block.series));
}

// block: title, reference: a share that chance gives, rows: [{label, value, interval, note, warning}], empty
function intervals(block) {
  if (!block.rows.length) return nothing(block);
  const items = block.rows.map((row) => {
    const track = make("div", { class: "pawl-track", "aria-hidden": "true" });
    const place = (name, left, width) => {
      const part = make("div", { class: name });
      part.style.left = `${100 * left}%`;
      if (width !== undefined) part.style.width = `${100 * width}%`;
      track.append(part);
    };
    if (block.reference !== undefined) place("pawl-reference", block.reference);
    let told = row.note;
    if (row.value !== null) {
      const [low, high] = row.interval;
      place("pawl-whisker", low, high - low);
      place("pawl-point", row.value);
      told = `${percent(row.value)} (${Math.round(low * 100)} to ${Math.round(high * 100)}), ${row.note}`;
    }
    if (row.warning) told += `: ${row.warning}`;
    return make("li", { "data-warning": row.warning ? "" : null }, make("span", { class: "pawl-row-label", text: row.label }), track,
      make("span", { class: "pawl-row-note", text: told }));
  });
  const scale = make("div", { class: "pawl-scale", "aria-hidden": "true" }, ...["0", "50%", "100%"].map((text) => make("span", { text })));
  return plot(block, make("ul", { class: "pawl-rows" }, ...items, make("li", { class: "pawl-scale-row", "aria-hidden": "true" }, make("span", {}), scale, make("span", {}))));
}

// block: title, across and up: what the axes count, points: [{x, value, interval, label}] with shares for values, levels:
// [{label, value}] as lines across, columns and rows of the table beside it, empty
function points(block) {
  if (!block.points.length) return nothing(block);
  const right = roundUp(Math.max(...block.points.map((point) => point.x)));
  const lowest = Math.min(0.5, ...block.points.map((point) => (point.interval ?? [point.value])[0]));
  const bottom = Math.floor(10 * lowest) / 10;
  const place = (name, style, more = {}) => {
    const part = make("div", { class: name, ...more });
    Object.assign(part.style, style);
    return part;
  };
  const up = (share) => `${(100 * (share - bottom)) / (1 - bottom)}%`;
  const marks = block.points.flatMap(({ x, value, interval, label }) => {
    const left = `${(100 * x) / right}%`, title = `${label}: ${percent(value)}, ${x} ${block.across}`;
    const reach = interval && place("pawl-reach", { left, bottom: up(interval[0]), height: `${(100 * (interval[1] - interval[0])) / (1 - bottom)}%` });
    return [reach, place("pawl-spot", { left, bottom: up(value) }, { title })].filter(Boolean);
  });
  const levels = block.levels.map(({ value }, n) => place("pawl-level", { bottom: up(value) }, { "data-series": String(n + 2) }));
  const told = block.levels.map(({ label, value }) => `${label} ${percent(value)}`);
  const summary = `${block.title} ${block.points.length} points: ${block.up}, by ${block.across}. ${told.join(", ")}. The table below has the numbers.`;
  const axis = [1, (1 + bottom) / 2, bottom].map((share) => make("span", { text: percent(share) }));
  const field = make("div", { class: "pawl-columns", role: "img", "aria-label": summary }, make("div", { class: "pawl-axis pawl-tall" }, ...axis),
    make("div", { class: "pawl-scatter pawl-tall" }, ...levels, ...marks), make("span", {}),
    make("div", { class: "pawl-across" }, ...["0", block.across, plain(right)].map((text) => make("span", { text }))));
  const lines = told.map((text, n) => make("li", {}, make("span", { class: "pawl-dash", "data-series": String(n + 2), "aria-hidden": "true" }), make("span", { text })));
  return plot(block, field, make("ul", { class: "pawl-legend" }, make("li", {}, make("span", { class: "pawl-swatch pawl-round", "aria-hidden": "true" }), make("span", { text: block.up })), ...lines),
    make("details", { class: "pawl-numbers" }, make("summary", { text: "As a table" }), table({ columns: block.columns, rows: block.rows })));
}

// block: label, path: of this site, shown whole, to be copied
function copy(block) {
  const address = new URL(block.path, location.origin).href;
  const box = make("input", { class: "pawl-input", readonly: "", value: address, "aria-label": block.label });
  const button = make("button", { type: "button", class: "pawl-button", text: "Copy" });
  const said = make("span", { class: "pawl-note", role: "status" });
  box.addEventListener("focus", () => box.select());
  button.addEventListener("click", async () => {
    box.select();
    const copied = await navigator.clipboard?.writeText(address).then(() => true, () => false);  // only where the page is trusted
    said.textContent = copied ? "Copied." : "Selected: copy it with your keyboard.";
  });
  return make("div", { class: "pawl-copy" }, box, button, said);
}
