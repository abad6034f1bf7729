// Requests to /api/v1, sent again while the server cannot be reached.

const API = "/api/v1";

const sleep = (milliseconds) => new Promise((wake) => {
  const timer = setTimeout(wake, milliseconds);
  window.addEventListener("online", () => { clearTimeout(timer); wake(); }, { once: true });
});

class Refused extends Error {
  constructor(status, problem) {
    super(typeof problem.detail === "string" ? problem.detail : `The server refused this (${status}).`);
    this.status = status;
  }
}

// One request: the answer, null for none. Throws Refused, or anything else when the server cannot be reached.
async function once(method, path, body) {
  const sent = body === undefined ? undefined : JSON.stringify(body);
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), 20000);
  try {
    const response = await fetch(API + path, {
      method, body: sent, signal: abort.signal, credentials: "same-origin", cache: "no-store",
      headers: { Accept: "application/json", ...(sent && { "Content-Type": "application/json" }) },
    });
    if ([429, 502, 503, 504].includes(response.status)) throw new Error(`The server is busy (${response.status}).`);
    const answer = response.status === 204 ? null : await response.json().catch(() => ({}));
    if (!response.ok) throw new Refused(response.status, answer);
    return answer;
  } finally {
    clearTimeout(timer);
  }
}

// The same, sent again until the server has answered it. Sending again is safe: the same body has the same answer.
async function call(method, path, body, onTrouble = () => {}) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await once(method, path, body);
    } catch (error) {
      if (error instanceof Refused) throw error;
    }
    onTrouble();
    await sleep(Math.min(500 * 2 ** attempt, 15000));
  }
}
