"""Review: where labelers disagree, a reviewer decides. The component does all of it, by /api/v1."""

from __future__ import annotations

from annotate.context import Context
from annotate.panels import guideline, header
from annotate.ranking_board import review_desk


def layout(context: Context) -> None:
    """Draw the page into the Blocks that is open."""
    header(context)
    guideline(context)
    review_desk()
