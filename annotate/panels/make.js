// An element of a page: its tag, its attributes (`text` is its text, `onclick` and the like listen), its children.
// What is null, undefined or false is left out. Every text that came from a person or a model reaches the screen through
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
