// Texts as people read them: Markdown and formulas, drawn from the trees that /api/v1/render makes of them (tree.js).
// Beside each plain text (.pawl-text) stands its formatted twin (.pawl-formatted); one of the two is hidden.

const KNOWN_TREES = 200;
// what formatting could change, and what cannot be seen; a text without any of it reads the same either way
const FORMATS = /[\\`*_~#>|$&[\n\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e0fff}]|^\s*([-+]|\d+[.)])(\s|$)|^ {4}|^\s*(={3,}|-{3,})\s*$/mu;

const reading = {
  formatted: (() => { try { return localStorage.getItem("pawl.formatted") !== "no"; } catch { return true; } })(),
  trees: new Map(),  // by text, the oldest first

  // The tree of each text. Raises Refused when the server does not give them.
  async of(texts) {
    const missing = [...new Set(texts)].filter((text) => !this.trees.has(text));
    if (missing.length) {
      const answer = await call("POST", "/render", { texts: missing });
      missing.forEach((text, i) => this.trees.set(text, answer.trees[i]));
    }
    const found = texts.map((text) => this.trees.get(text));
    for (const old of [...this.trees.keys()].slice(0, Math.max(0, this.trees.size - KNOWN_TREES))) this.trees.delete(old);
    return found;
  },

  // Give each plain text inside `root` its formatted twin. It shows when it is there; without it the plain text stays.
  async dress(root) {
    const bodies = [...root.querySelectorAll(".pawl-text:not(.pawl-empty)")].filter((body) => FORMATS.test(body.textContent));
    if (!bodies.length) return;
    try {
      const trees = await this.of(bodies.map((body) => body.textContent));
      bodies.forEach((body, i) => body.after(make("div", { class: "pawl-formatted" }, ...grow(trees[i]))));
    } catch (error) {
      if (!(error instanceof Refused || error instanceof TypeError)) throw error;
    }
    this.show(root);
  },

  show(root) {
    for (const twin of root.querySelectorAll(".pawl-formatted")) {
      const body = twin.previousElementSibling;
      if (!body?.matches(".pawl-text")) continue;
      twin.hidden = !this.formatted;
      body.hidden = this.formatted;
    }
  },

  toggle(root) {
    this.formatted = !this.formatted;
    try { localStorage.setItem("pawl.formatted", this.formatted ? "yes" : "no"); } catch { /* storage is off */ }
    this.show(root);
    return this.formatted ? "Texts are formatted." : "Texts are shown as they were written.";
  },
};
