// Which of the best replies continues the conversation: the first as shown, or the one that was picked.

function continuing({ work, view, task, changed, say }) {
  let picked = null;

  // The ids of the replies that may continue, as they stand on the screen.
  function best() {
    const { ranks } = view.read();
    const ranked = task().responses.filter((reply) => reply.id in ranks && reply.text.trim());
    const least = Math.min(...ranked.map((reply) => ranks[reply.id]));
    return ranked.filter((reply) => ranks[reply.id] === least).map((reply) => reply.id);
  }

  function mark() {
    const found = best();
    if (!found.includes(picked)) picked = null;
    const chosen = picked ?? found[0];
    work.querySelectorAll(".pawl-responses > .pawl-response").forEach((card, i) => {
      card.querySelector(".pawl-continues")?.remove();
      const { id } = task().responses[i];
      if (id === chosen) card.append(make("div", { class: "pawl-continues", text: "↳ continues the conversation" }));
      else if (found.includes(id)) {
        card.append(make("button", { type: "button", class: "pawl-continues", tabindex: -1, title: "c", onclick: () => pick(id), text: "let this one continue" }));
      }
    });
  }

  function pickFocused() {
    const cards = [...work.querySelectorAll(".pawl-responses > .pawl-response")];
    const reply = task().responses[cards.findIndex((card) => card.contains(document.activeElement))];
    if (reply && best().includes(reply.id)) pick(reply.id);
    else say("Only one of the best can continue: rank it 1 first.", "warn");
  }

  function pick(id) {
    picked = id;
    changed();
    say("This one continues.");
  }

  return { mark, pickFocused, get picked() { return picked; }, set picked(id) { picked = id; } };
}
