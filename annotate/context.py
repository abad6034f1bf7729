"""What every page and route works with, gathered in one frozen record.

Reads   annotate/guidelines.md, whose hash is stored with each label
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from annotate.auth import Auth
    from annotate.cycles import Cycles
    from annotate.talks import Talks
    from data.store import Store
    from data.workspace import Workspace

GUIDELINES = Path(__file__).with_name("guidelines.md")


@dataclass(frozen=True, slots=True)
class Guideline:
    """What labelers are asked to do. `hash` names this wording in every label given under it."""

    text: str
    hash: str

    @classmethod
    def read(cls, path: Path = GUIDELINES) -> Guideline:
        """The guideline in the file at `path`; the hash is the first 16 hex digits of its text's sha256."""
        text = path.read_text(encoding="utf-8")
        return cls(text, hashlib.sha256(text.encode()).hexdigest()[:16])


@dataclass(frozen=True, slots=True)
class Context:
    """The app's parts. Pages and routes get this one object and keep no state of their own."""

    store: Store
    workspace: Workspace
    cycles: Cycles
    auth: Auth
    guideline: Guideline
    talks: Talks
