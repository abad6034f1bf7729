// What every desk has: a conversation on the screen, and a look at who is typing.

const typing = (target) =>
  target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));

function conversation(messages) {
  const names = { system: "Instructions", user: "User", assistant: "Assistant" };
  const turns = messages.map((message) => make("div", { class: `pawl-turn pawl-turn-${message.role}` },
    make("div", { class: "pawl-who", text: names[message.role] ?? message.role }),
    make("div", { class: "pawl-text", dir: "auto", text: message.content })));
  return make("section", { class: "pawl-conversation", "aria-label": "Conversation" }, ...turns);
}
