"""Panels as Gradio holds them, and their style sheets, which share one page."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

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


def test_no_class_of_one_part_is_also_styled_by_another():
    sheets = list((Path(__file__).parents[2] / "annotate").rglob("*.css"))

    begun = Counter(name for sheet in sheets for name in re.findall(r"^\.([\w-]+) \{", sheet.read_text(), re.M))

    assert len(begun) > 50
    assert [name for name, times in begun.items() if times > 1] == []
