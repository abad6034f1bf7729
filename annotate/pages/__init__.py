"""What people see. Each page is layout and one-line handlers; what labelers press all day is annotate.ranking_board.

Every page has its own address, and every event handler begins by asking annotate.auth whether this person may do it:
Gradio hides handlers from its documentation, but anyone signed in can call them.
"""

from __future__ import annotations

import warnings

import gradio as gr

from annotate.context import Context
from annotate.pages import (
    checkpoints,
    converse,
    datasets,
    demonstrate,
    history,
    people,
    project,
    rank,
    review,
    training,
)

PAGES = (
    ("Demonstrate", demonstrate),
    ("Converse", converse),
    ("History", history),
    ("Review", review),
    ("People", people),
    ("Datasets", datasets),
    ("Training", training),
    ("Checkpoints", checkpoints),
    ("Project", project),
)


def build(context: Context) -> gr.Blocks:
    """All pages: ranking at the root, each of the others at its own name."""
    with gr.Blocks(title="Pawl", analytics_enabled=False) as pages:
        rank.layout(context)
    for name, page in PAGES:
        # out of Gradio's own bar of links, which is the same for everyone; the header shows each person theirs
        with pages.route(name, f"/{name.lower()}", show_in_navbar=False):
            page.layout(context)
    # Gradio says this of every mounted app of several pages, also of one that asks for no server-side rendering
    warnings.filterwarnings("ignore", message="SSR mode is not supported with multi-page apps", category=UserWarning)
    return pages
