// The parts that every desk's page is made of. Every text that came from a person or a model reaches the screen through
// textContent, and no other way.

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

const typing = (target) =>
  target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));

function conversation(messages) {
  const names = { system: "Instructions", user: "User", assistant: "Assistant" };
  const turns = messages.map((message) => make("div", { class: `pawl-turn pawl-turn-${message.role}` },
    make("div", { class: "pawl-who", text: names[message.role] ?? message.role }),
    make("div", { class: "pawl-text", dir: "auto", text: message.content })));
  return make("section", { class: "pawl-conversation", "aria-label": "Conversation" }, ...turns);
}
