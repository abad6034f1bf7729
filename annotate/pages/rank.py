"""Rank: the labeler's first page. The board does all of it, by /api/v1; Gradio only carries it here."""

from __future__ import annotations

from annotate.context import Context
from annotate.panels import guideline, header
from annotate.ranking_board import ranking_board


def layout(context: Context) -> None:
    """Draw the page into the Blocks that is open."""
    header(context)
    guideline(context)
    ranking_board()
