"""Demonstrate: write the ideal response. While the first model is being made, this is the work on offer."""

from __future__ import annotations

from annotate.context import Context
from annotate.panels import guideline, header
from annotate.ranking_board import demonstration_desk


def layout(context: Context) -> None:
    """Draw the page into the Blocks that is open."""
    header(context)
    guideline(context)
    demonstration_desk()
