"""What tasks show, in memory for whoever is given them next.

Reads   prompts and responses: of a ranking task and of those numbered after it at once, since those are handed out next
Writes  nothing

Several labelers are shown the same task, in turn, and reading sixteen tasks takes hardly longer than reading one. Rows
are only ever appended, so what was read stays true.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from data import exports
from data.live import Live
from data.records import Prompt, Response

Shown = tuple[Prompt, dict[str, Response]]  # the responses by id

HELD = 512  # tasks
AHEAD = 16  # tasks read at once
STARTS = 3  # responses of models that a demonstration may begin with
_RESPONSES = f"SELECT task_number, {exports.RESPONSE} FROM responses WHERE "


class Texts:
    """See the module. Safe to call from any thread."""

    def __init__(
        self, read: Callable[[str, Sequence[object]], list[tuple[Any, ...]]], live: Callable[[], Live]
    ) -> None:
        self._read, self._live = read, live
        self._held: dict[int | str, Shown] = {}  # rankings by number, demonstrations by task id; last used last
        self._lock = threading.Lock()
        self._reading = threading.Lock()  # two who want the same tasks read them once

    def held(self, task_id: str) -> Shown | None:
        """What the task shows, from memory; None when that must be read. Raises NotFound."""
        key = self._key(task_id)
        with self._lock:
            shown = self._held.pop(key, None)
            if shown is not None:
                self._held[key] = shown
        return shown

    def of(self, task_id: str) -> Shown:
        """What the task shows: its prompt, and its responses; for a demonstration, some that models wrote.

        Raises NotFound.
        """
        shown = self.held(task_id)
        if shown is None:
            with self._reading:
                shown = self.held(task_id)
                if shown is None:
                    shown = self._fetch(task_id)
        return shown

    def prompts(self, ids: Sequence[str]) -> dict[str, Prompt]:
        """The prompts with these ids, by id. Raises NotFound."""
        numbers = [self._live().prompt_number(id) for id in ids]
        sql = f"SELECT {exports.PROMPT} FROM prompts WHERE number BETWEEN ? AND ? AND number IN (SELECT unnest(?))"
        found = map(exports.prompt_of, self._read(sql, [min(numbers), max(numbers), numbers]))
        return {prompt.id: prompt for prompt in found}

    def _key(self, task_id: str) -> int | str:
        live = self._live().task(task_id)
        return live.number if live.task.kind == "ranking" else task_id

    def _fetch(self, task_id: str) -> Shown:
        key, prompt_id = self._key(task_id), self._live().task(task_id).task.prompt_id
        if isinstance(key, int):
            rows = self._read(_RESPONSES + "task_number BETWEEN ? AND ?", [key, key + AHEAD - 1])
        else:
            latest = f"prompt_id = ? ORDER BY task_number DESC, position LIMIT {STARTS}"
            rows = [(key, *row[1:]) for row in self._read(_RESPONSES + latest, [prompt_id])]
        responses: dict[int | str, dict[str, Response]] = {key: {}}
        wanted = {key: prompt_id}
        for place, *row in rows:
            response = exports.response_of(tuple(row))
            responses.setdefault(place, {})[response.id] = response
            wanted.setdefault(place, response.prompt_id)
        prompts = self.prompts(list(set(wanted.values())))
        with self._lock:
            for place, prompt in wanted.items():
                self._held[place] = (prompts[prompt], responses[place])
            for place in list(self._held)[: max(0, len(self._held) - HELD)]:
                del self._held[place]
            return self._held[key]
