// Questions in front of a desk: why a task is skipped, and which keys there are.

// A modal question; resolves to the chosen text, or null when it was closed.
function ask(element, title, choices, more) {
  return new Promise((answer) => {
    const other = make("input", { type: "text", class: "pawl-input", maxlength: 500, "aria-label": more, placeholder: more });
    const done = (value) => { dialog.close(); dialog.remove(); answer(value); };
    const buttons = choices.map((choice, i) => make("button", { type: "button", class: "pawl-choice", onclick: () => done(choice) },
      make("kbd", { text: String(i + 1) }), make("span", { text: choice })));
    const form = make("form", { class: "pawl-other", onsubmit: (event) => {
      event.preventDefault();
      if (other.value.trim()) done(other.value.trim()); else other.focus();
    } }, other, make("button", { class: "pawl-button", text: "Skip" }));
    const dialog = make("dialog", { class: "pawl-dialog", "aria-label": title },
      make("h2", { text: title }), ...buttons, form,
      make("button", { type: "button", class: "pawl-button pawl-quiet", onclick: () => done(null) }, "Go back ", make("kbd", { text: "Esc" })));
    dialog.addEventListener("cancel", (event) => { event.preventDefault(); done(null); });
    dialog.addEventListener("keydown", (event) => {
      const choice = choices[Number(event.key) - 1];
      if (choice && !typing(event.target)) { event.preventDefault(); done(choice); }
    });
    element.append(dialog);
    dialog.showModal();
    buttons[0].focus();
  });
}

function showKeys(element, keys) {
  const rows = keys.map(([key, meaning]) => make("div", { class: "pawl-key" },
    make("span", {}, ...key.split(" ").map((part) => make("kbd", { text: part }))), make("span", { text: meaning })));
  const close = make("button", { type: "button", class: "pawl-button", onclick: () => { dialog.close(); dialog.remove(); } }, "Close ", make("kbd", { text: "Esc" }));
  const dialog = make("dialog", { class: "pawl-dialog", "aria-label": "Keys" }, make("h2", { text: "Keys" }), ...rows, close);
  dialog.addEventListener("close", () => dialog.remove());
  element.append(dialog);
  dialog.showModal();
  close.focus();
}
