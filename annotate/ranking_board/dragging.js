// Dragging a letter to a place (.pawl-slot) by pointer events: the same for mouse, pen and finger.

// Calls `dropped` with the place under the pointer, or null; `clicked` when the letter was not dragged after all.
function dragLetter(handle, letter, element, dropped, clicked) {
  // No gesture of the browser's own begins here: after a flick it would swallow the next tap.
  handle.addEventListener("touchstart", (touch) => touch.preventDefault(), { passive: false });
  handle.addEventListener("pointerdown", (down) => {
    if (down.button !== 0) return;
    down.preventDefault();
    let ghost = null, over = null;
    const move = (event) => {
      if (!ghost && Math.hypot(event.clientX - down.clientX, event.clientY - down.clientY) < 5) return;
      if (!ghost) { ghost = make("div", { class: "pawl-ghost", text: letter }); element.append(ghost); element.dataset.dragging = "yes"; }
      ghost.style.transform = `translate(${event.clientX}px, ${event.clientY}px)`;
      const found = document.elementFromPoint(event.clientX, event.clientY)?.closest?.(".pawl-slot") ?? null;
      if (found !== over) { over?.removeAttribute("data-over"); found?.setAttribute("data-over", ""); over = found; }
    };
    const stop = (event) => {
      for (const [type, listener] of [["pointermove", move], ["pointerup", stop], ["pointercancel", stop]]) window.removeEventListener(type, listener);
      ghost?.remove();
      over?.removeAttribute("data-over");
      delete element.dataset.dragging;
      if (ghost && event.type !== "pointercancel") dropped(over); else clicked();
    };
    window.addEventListener("pointermove", move);
    window.addEventListener("pointerup", stop);
    window.addEventListener("pointercancel", stop);
  });
}
