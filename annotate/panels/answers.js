// Tasks with the answer that is known or proposed for each: what panel.js draws for a block of the kind `answers`.

// block: items: [{id, title, prompt, answer: [{place, text}], actions}], empty
function answers(block) {
  if (!block.items.length) return make("p", { class: "pawl-note", text: block.empty });
  const line = ({ place, text }) => make("li", {}, make("span", { class: "pawl-answer-place", text: place }),
    make("span", { class: "pawl-text", dir: "auto", text: text || "(empty response)" }));
  return make("div", { class: "pawl-samples" }, ...block.items.map((item) => make("article", { class: "pawl-sample pawl-known" },
    make("div", { class: "pawl-who", text: item.title }), make("div", { class: "pawl-text pawl-sample-prompt", dir: "auto", text: item.prompt }),
    make("ol", { class: "pawl-answer" }, ...item.answer.map(line)),
    make("div", { class: "pawl-acts" }, ...item.actions.map((action) => actionButton(action, item.id))))));
}
