// What is kept of work that is not sent yet: drafts in localStorage, and the seconds spent.

const IDLE_SECONDS = 120;  // without a key or a move for so long, nobody is reading
const DRAFT_DAYS = 14;

// Drafts are kept per person and task, so that a shared computer never shows one labeler another's opinion. A draft
// remembers the one on the server that it goes beyond (`synced`), so that of two the later can be told without clocks.
const drafts = {
  key: (who, task) => `pawl.draft.${who}.${task}`,
  read(who, task) {
    try {
      return JSON.parse(localStorage.getItem(this.key(who, task)));
    } catch {
      return null;  // storage is off, or holds something older
    }
  },
  write(who, task, draft) {
    try {
      localStorage.setItem(this.key(who, task), JSON.stringify({ ...draft, saved: Date.now() }));
    } catch { /* storage is off or full: the work stays on the screen, and the server has the last word */ }
  },
  // The later of the draft in this browser and the one that came with the task.
  latest(who, task) {
    const here = this.read(who, task.task_id), there = task.draft;
    if (!there) return here;
    if (here && (here.synced === there.saved_at || here.saved > Date.parse(there.saved_at))) return here;
    return { work: there.work, seconds: there.seconds ?? 0, synced: there.saved_at };
  },
  drop(who, task) {
    try { localStorage.removeItem(this.key(who, task)); } catch { /* storage is off */ }
  },
  sweep() {
    const old = Date.now() - DRAFT_DAYS * 86400000;
    try {
      for (const key of Object.keys(localStorage).filter((name) => name.startsWith("pawl.draft."))) {
        if (!(JSON.parse(localStorage.getItem(key))?.saved > old)) localStorage.removeItem(key);
      }
    } catch { /* storage is off */ }
  },
};

// Seconds somebody spent: the page visible, and a key or a move not longer ago than IDLE_SECONDS.
function stopwatch() {
  let seconds = 0, last = performance.now(), moved = last;
  const tick = () => {
    const now = performance.now();
    if (document.visibilityState === "visible" && now - moved < IDLE_SECONDS * 1000) seconds += Math.min(now - last, 5000) / 1000;
    last = now;
  };
  for (const event of ["keydown", "pointerdown", "pointermove", "wheel", "touchstart"]) {
    document.addEventListener(event, () => { moved = performance.now(); }, { passive: true });
  }
  setInterval(tick, 1000);
  return { start(from) { tick(); seconds = from; moved = performance.now(); }, read() { tick(); return Math.round(seconds * 10) / 10; } };
}
