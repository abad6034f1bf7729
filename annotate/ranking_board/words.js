// Counting words; what two texts share, word by word, and what only one of them has; and a dialog that shows it.

const MAX_COMPARED = 4000;  // words in either text: the work grows with the product of the two
const UNSPACED = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}]/gu;
const PIECE = /\s+|[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}]\p{M}*|[\p{L}\p{N}_][\p{L}\p{M}\p{N}_'’]*|[^\s]/gu;

// How many words a text has; where words are written without spaces between them, each character counts as one.
function countWords(text) {
  return text.split(/\s+/).reduce((sum, word) => sum + (word ? Math.max(1, (word.match(UNSPACED) ?? []).length) : 0), 0);
}

const inWords = (count) => `${count.toLocaleString("en")} ${count === 1 ? "word" : "words"}`;

// Runs [kind, text] in reading order, kind one of same, del, ins; null when a text is too long. The texts of same and
// del make up `before`, those of same and ins make up `after`, but for spaces between words, which `after` decides.
function differences(before, after) {
  const [a, b] = [wordsOf(before), wordsOf(after)];
  if (a.length > MAX_COMPARED || b.length > MAX_COMPARED) return null;
  const numbers = new Map();
  const number = (words) => Int32Array.from(words, ({ word }) => numbers.get(word) ?? (numbers.set(word, numbers.size), numbers.size - 1));
  const keptA = new Uint8Array(a.length), keptB = new Uint8Array(b.length);
  align(number(a), 0, a.length, number(b), 0, b.length, keptA, keptB);
  return joined(settled(gathered(a, b, keptA, keptB)));
}

function wordsOf(text) {
  const words = [];
  let space = null;  // what stands before a word; nothing is known of it for the first
  for (const piece of text.match(PIECE) ?? []) {
    if (/^\s/.test(piece)) { if (words.length) space = piece; continue; }
    words.push({ space, word: piece });
    space = "";
  }
  return words;
}

// Marks a longest common subsequence of a[a0..a1) and b[b0..b1) in keptA and keptB, in linear space (Hirschberg 1975):
// halve a, find where the best split of b is, and do the same with both halves.
function align(a, a0, a1, b, b0, b1, keptA, keptB) {
  while (a0 < a1 && b0 < b1 && a[a0] === b[b0]) { keptA[a0++] = 1; keptB[b0++] = 1; }
  while (a0 < a1 && b0 < b1 && a[a1 - 1] === b[b1 - 1]) { keptA[--a1] = 1; keptB[--b1] = 1; }
  if (a0 === a1 || b0 === b1) return;
  if (a1 - a0 === 1) {
    const j = b.subarray(b0, b1).indexOf(a[a0]);
    if (j >= 0) { keptA[a0] = 1; keptB[b0 + j] = 1; }
    return;
  }
  const middle = (a0 + a1) >> 1, width = b1 - b0;
  const head = lengths(a, a0, middle - a0, b, b0, width, 1);
  const tail = lengths(a, a1 - 1, a1 - middle, b, b1 - 1, width, -1);
  let split = 0;
  for (let j = 1; j <= width; j += 1) if (head[j] + tail[width - j] > head[split] + tail[width - split]) split = j;
  align(a, a0, middle, b, b0, b0 + split, keptA, keptB);
  align(a, middle, a1, b, b0 + split, b1, keptA, keptB);
}

// Entry j: how long the longest common subsequence of `rows` words of a with j words of b is, j up to `width`; both are
// read from the given place, forwards or backwards.
function lengths(a, fromA, rows, b, fromB, width, step) {
  const row = new Int32Array(width + 1);
  for (let i = 0; i < rows; i += 1) {
    const word = a[fromA + i * step];
    let corner = 0;
    for (let j = 0; j < width; j += 1) {
      const above = row[j + 1];
      row[j + 1] = b[fromB + j * step] === word ? corner + 1 : Math.max(above, row[j]);
      corner = above;
    }
  }
  return row;
}

// Alternating stretches {same} and {del, ins}.
function gathered(a, b, keptA, keptB) {
  const stretches = [];
  const stretch = (kind) => {
    if (!(stretches.at(-1)?.[kind])) stretches.push(kind === "same" ? { same: [] } : { del: [], ins: [] });
    return stretches.at(-1)[kind];
  };
  for (let i = 0, j = 0; i < a.length || j < b.length;) {
    if (i < a.length && !keptA[i]) stretch("del").push(a[i++]);
    else if (j < b.length && !keptB[j]) stretch("ins").push(b[j++]);
    else { stretch("same").push(b[j++]); i += 1; }
  }
  return stretches;
}

// A comma or a short word alone between two changes is no common ground: it reads better as a part of both.
function settled(stretches) {
  const kept = [];
  for (let n = 0; n < stretches.length; n += 1) {
    const { same, del, ins } = stretches[n], last = kept.at(-1);
    const lone = same?.length === 1 && same[0].word.length <= 3 && last?.del && n + 1 < stretches.length;
    if (lone) { last.del.push(...same); last.ins.push(...same); }
    else if (del && last?.del) { last.del.push(...del); last.ins.push(...ins); }
    else kept.push(same ? { same } : { del: [...del], ins: [...ins] });
  }
  return kept;
}

function joined(stretches) {
  let begun = false;
  const text = (words) => words.map(({ space, word }) => {
    const before = space ?? (begun ? " " : "");
    begun = true;
    return before + word;
  }).join("");
  return stretches.flatMap(({ same, del, ins }) => (same ? [["same", text(same)]] : [["del", text(del)], ["ins", text(ins)]]))
    .filter(([, words]) => words);
}

// Show what changes from one text to the other; each is {name, text}. Calls `closed` at the end.
function showDifference(element, from, to, closed) {
  const runs = differences(from.text, to.text);
  const words = (text) => (text.match(PIECE) ?? []).filter((piece) => /[\p{L}\p{N}]/u.test(piece)).length;
  const count = (kind) => inWords(runs.filter(([of]) => of === kind).reduce((sum, [, text]) => sum + words(text), 0));
  const close = make("button", { type: "button", class: "pawl-button", onclick: () => dialog.close() }, "Close ", make("kbd", { text: "Esc" }));
  const body = runs === null
    ? make("p", { class: "pawl-note", text: `These texts are too long to compare word by word: one has more than ${MAX_COMPARED.toLocaleString("en")} words.` })
    : make("div", { class: "pawl-difference", dir: "auto", tabindex: 0, role: "region", "aria-label": "Differences" }, ...runs.flatMap(run));
  const legend = runs && make("p", { class: "pawl-legend" },
    make("del", { text: `only in ${from.name}` }), ` ${count("del")}`, make("ins", { text: `only in ${to.name}` }), ` ${count("ins")}`,
    make("span", { text: `in both ${count("same")}` }));
  const dialog = make("dialog", { class: "pawl-dialog pawl-compared", "aria-label": `${from.name} and ${to.name}` },
    make("h2", { text: `${from.name} and ${to.name}, word by word` }), legend || null, body, close);
  dialog.addEventListener("close", () => { dialog.remove(); closed?.(); });
  dialog.addEventListener("keydown", (event) => { if (event.key === "x") { event.preventDefault(); event.stopPropagation(); dialog.close(); } });
  element.append(dialog);
  dialog.showModal();
  (runs ? body : close).focus();
}

// The spaces before a run stand outside of its mark, so that no line is drawn under nothing.
function run([kind, text]) {
  if (kind === "same") return [text];
  const space = text.match(/^\s*/)[0];
  return [space, make(kind, { text: text.slice(space.length) })];
}
