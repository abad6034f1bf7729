"""Converse: talk to the model and rank its replies, also to find out how it can be led astray."""

from __future__ import annotations

import gradio as gr

from annotate.context import Context
from annotate.panels import header
from annotate.ranking_board import conversation_desk


def layout(context: Context) -> None:
    """Draw the page into the Blocks that is open."""
    header(context)
    with gr.Accordion("Guidelines", open=False, elem_classes="pawl-fold"):
        gr.Markdown(context.guideline.text)
    conversation_desk()
