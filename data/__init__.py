"""Feedback at rest: records, the store, snapshots, and the ways in and out.

from data import load_snapshot, open_workspace
"""

TYPE_CHECKING = False  # as in typing, which takes longer to import than all of this
if TYPE_CHECKING:
    from data.opening import load_snapshot, open_workspace

__all__ = ["load_snapshot", "open_workspace"]


def __getattr__(name: str) -> object:
    """The two doors, imported when somebody comes."""
    if name not in __all__:
        raise AttributeError(f"module 'data' has no attribute {name!r}")
    from data import opening

    return getattr(opening, name)
