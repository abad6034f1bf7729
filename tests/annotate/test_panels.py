"""Panels as Gradio holds them."""

from __future__ import annotations

import gradio as gr
import pytest

from annotate import ranking_board
from annotate.panels import panel

pytestmark = pytest.mark.slow  # Gradio takes seconds to import


def test_opening_a_page_searches_through_its_scripts_once_at_most(monkeypatch):
    searched = []
    search = gr.HTML.__getattr__

    def watched(part, name):
        searched.append(name)
        return search(part, name)

    parts = [panel(), ranking_board.ranking_board()]
    monkeypatch.setattr(gr.HTML, "__getattr__", watched)
    configs = [part.get_config() for part in parts]

    assert [config["name"] for config in configs] == ["html", "html"]
    assert searched == ["is_template", "is_template"]  # to have that one would change the part's name
