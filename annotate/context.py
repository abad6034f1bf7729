"""What every page and route works with, gathered in one frozen record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from annotate.auth import Auth
    from annotate.cycles import Cycles
    from annotate.talks import Talks
    from data.store import Store
    from data.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Context:
    """The app's parts. Pages and routes get this one object and keep no state of their own."""

    store: Store
    workspace: Workspace
    cycles: Cycles
    auth: Auth
    talks: Talks
