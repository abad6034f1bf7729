"""Demonstrate: write the ideal response. While the first model is being made, this is the work on offer."""

from __future__ import annotations

import gradio as gr

from annotate.context import Context
from annotate.panels import header, panel
from annotate.ranking_board import demonstration_desk


def layout(context: Context) -> None:
    """Draw the page into the Blocks that is open."""
    header(context)
    with gr.Accordion("Guidelines", open=False, elem_classes="pawl-fold"):
        panel([{"kind": "prose", "text": context.guideline.text}])
    demonstration_desk()
