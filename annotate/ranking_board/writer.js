// The demonstration desk: a conversation, and the labeler's own ideal response to it.

function demonstrationView() {
  let task, desk, text, count;

  function draw(next, owner) {
    task = next;
    desk = owner;
    count = make("span", { class: "pawl-count" });
    text = make("textarea", { class: "pawl-input pawl-ideal", id: "pawl-ideal", rows: 9, maxlength: 100000, "aria-describedby": "pawl-ideal-count",
      oninput: () => { measure(); desk.changed(); } });
    count.id = "pawl-ideal-count";
    measure();
    return make("div", {}, conversation(task.prompt.messages),
      make("div", { class: "pawl-line" }, make("label", { class: "pawl-heading", for: "pawl-ideal", text: "Write the ideal response" }), count), text);
  }

  function measure() {
    const words = text.value.trim() ? text.value.trim().split(/\s+/).length : 0;
    count.textContent = `${[...text.value].length} characters, ${words} ${words === 1 ? "word" : "words"}`;
  }

  function idle(progress, done) {
    const thanks = done ? `You wrote ${done} ${done === 1 ? "response" : "responses"} just now. ` : "";
    if (progress?.state === "first") {
      return { title: "No prompt is waiting for a demonstration", links: [],
        text: `${thanks}The first model is still being made. As soon as it has written its first responses, you can rank them.` };
    }
    return { title: "No prompt is waiting for a demonstration", links: [["Rank responses", "/"]],
      text: `${thanks}New prompts appear here by themselves. Meanwhile you can rank what the model wrote.` };
  }

  return {
    draw, idle,
    read: () => ({ text: text.value }),
    write: (draft) => { text.value = draft.text ?? ""; measure(); },
    focus: () => text.focus({ preventScroll: true }),
    answer: () => (text.value.trim() ? { answer: { response: text.value.trim() } }
      : { problem: "Write a response first, or skip the task.", mend: () => text.focus() }),
    key: (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.repeat && (desk.submit(), true),
    submitKey: "Ctrl Enter",
    words: { fresh: () => "Answer as the model should have answered.", saved: "Saved. Here is the next prompt." },
    reasons: ["I do not know enough to answer this", "The prompt makes no sense", "No good response exists", "I would rather not read this"],
    keys: [["Ctrl Enter", "submit"], ["Esc", "leave the text field"], ["s", "skip, with a reason (outside the text field)"],
      ["b", "back to the response you sent last (outside the text field)"], ["?", "these keys (outside the text field)"]],
  };
}
