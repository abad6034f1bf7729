"""History: what a labeler said, and how to change it. The component does all of it, by /api/v1."""

from __future__ import annotations

from annotate.context import Context
from annotate.panels import header
from annotate.ranking_board import own_history


def layout(context: Context) -> None:
    """Draw the page into the Blocks that is open."""
    header(context)
    own_history()
