// The model's answer as it comes: the events of /api/v1/conversations/{id}/turns, and the replies that fill up with them.

// The events of one answer, from its beginning. Ends early when the connection does, or when nothing came for long: the
// server sends a comment every 15 seconds.
async function* eventsOf(path, body) {
  const abort = new AbortController();
  const wait = () => setTimeout(() => abort.abort(), 45000);
  let timer = wait();
  try {
    const answer = await fetch(API + path, {
      method: "POST", body: JSON.stringify(body), credentials: "same-origin", cache: "no-store", signal: abort.signal,
      headers: { Accept: "text/event-stream", "Content-Type": "application/json" },
    });
    if ([429, 502, 503, 504].includes(answer.status)) return;
    if (!answer.ok) throw new Refused(answer.status, await answer.json().catch(() => ({})));
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let kept = ""; ;) {
      const { value, done } = await reader.read();
      clearTimeout(timer);
      if (done) return;
      timer = wait();
      const blocks = (kept + value).split("\n\n");
      kept = blocks.pop();
      for (const block of blocks.filter((text) => text.startsWith("event: "))) {
        const [first, ...rest] = block.split("\n");
        yield [first.slice(7), JSON.parse(rest.join("\n").slice(6))];
      }
    }
  } finally {
    clearTimeout(timer);
  }
}

// Follow the answer to what was said until it is whole, over again when the connection is lost. `draw` gives the nodes that
// its replies fill. Throws Refused.
async function followAnswer(path, spoken, { draw, say, trouble }) {
  for (let attempt = 0; ; attempt += 1) {
    const texts = draw();
    try {
      for await (const [event, data] of eventsOf(path, spoken)) {
        if (event === "waiting") say(data.words);
        if (event === "delta" && texts[data.index]) {
          say("The model is answering…");
          texts[data.index].textContent += data.text;
        }
        if (event === "problem") throw new Refused(data.status, data);
        if (event === "turn") return data;
      }
    } catch (error) {
      if (error instanceof Refused) throw error;  // anything else is the network
    }
    trouble();
    await sleep(Math.min(500 * 2 ** attempt, 15000));
  }
}

// What was said, and below it the replies to come: {nodes, texts}.
function comingReplies(messages, count) {
  const texts = Array.from({ length: count }, () => make("div", { class: "pawl-text pawl-coming", dir: "auto" }));
  const cards = texts.map((text, i) => make("article", { class: "pawl-response", "data-rank": "" },
    make("div", { class: "pawl-head" }, make("span", { class: "pawl-letter", text: LETTERS[i] })), text));
  return { texts, nodes: [conversation(messages), make("h2", { class: "pawl-heading", text: `${count} responses` }),
    make("div", { class: "pawl-responses", "aria-busy": "true" }, ...cards)] };
}
