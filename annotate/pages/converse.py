"""Converse: talk to the model and rank its replies, also to find out how it can be led astray."""

from __future__ import annotations

from annotate.context import Context
from annotate.panels import guideline, header
from annotate.ranking_board import conversation_desk


def layout(context: Context) -> None:
    """Draw the page into the Blocks that is open."""
    header(context)
    guideline(context)
    conversation_desk()
