"""Rank: the labeler's first page. The board does all of it, by /api/v1; Gradio only carries it here."""

from __future__ import annotations

import gradio as gr

from annotate.context import Context
from annotate.panels import header, panel
from annotate.ranking_board import ranking_board


def layout(context: Context) -> None:
    """Draw the page into the Blocks that is open."""
    header(context)
    with gr.Accordion("Guidelines", open=False, elem_classes="pawl-fold"):
        panel([{"kind": "prose", "text": context.guideline.text}])
    ranking_board()
