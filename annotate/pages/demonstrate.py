"""Demonstrate: write the ideal response. While the first model is being made, this is the work on offer."""

from __future__ import annotations

import gradio as gr

from annotate.context import Context
from annotate.panels import guideline, header
from annotate.ranking_board import demonstration_desk


def layout(context: Context) -> None:
    """Draw the page into the Blocks that is open: the guideline beside the desk, or below it on a narrow screen."""
    header(context)
    with gr.Row(elem_classes="pawl-beside"):
        with gr.Column(scale=5):
            demonstration_desk()
        with gr.Column(scale=3):
            guideline(context, open=True)
