"""How every page looks: system fonts, one accent, light and dark, nothing fetched from elsewhere.

Reads annotate/panels/colours.css, annotate/panels/panels.css and annotate/ranking_board/board.css.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from annotate import panels, ranking_board

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Liberation Sans", "sans-serif")
MONO = ("ui-monospace", "SF Mono", "Menlo", "Consolas", "Liberation Mono", "monospace")
SOURCES = {  # Gradio's variables that take our colours, which panels.css defines for light and dark
    "body_background_fill": "page",
    "body_text_color": "text",
    "body_text_color_subdued": "muted",
    "background_fill_primary": "surface",
    "background_fill_secondary": "page",
    "block_background_fill": "surface",
    "block_border_color": "line",
    "block_label_background_fill": "surface",
    "block_label_text_color": "muted",
    "block_title_text_color": "text",
    "block_info_text_color": "muted",
    "border_color_primary": "line",
    "border_color_accent": "accent",
    "color_accent_soft": "soft",
    "input_background_fill": "surface",
    "input_border_color": "line-strong",
    "input_border_color_focus": "accent",
    "input_placeholder_color": "muted",
    "checkbox_background_color": "surface",
    "checkbox_border_color": "line-strong",
    "checkbox_background_color_selected": "accent",
    "checkbox_border_color_selected": "accent",
    "checkbox_border_color_focus": "accent",
    "checkbox_label_background_fill": "surface",
    "checkbox_label_background_fill_hover": "sunken",
    "checkbox_label_background_fill_selected": "soft",
    "checkbox_label_border_color": "line-strong",
    "checkbox_label_border_color_selected": "accent",
    "checkbox_label_text_color": "text",
    "checkbox_label_text_color_selected": "text",
    "button_primary_background_fill": "accent",
    "button_primary_background_fill_hover": "accent",
    "button_primary_border_color": "accent",
    "button_primary_text_color": "on-accent",
    "button_secondary_background_fill": "surface",
    "button_secondary_background_fill_hover": "soft",
    "button_secondary_border_color": "line-strong",
    "button_secondary_text_color": "text",
    "link_text_color": "accent",
    "link_text_color_hover": "accent",
    "link_text_color_visited": "accent",
    "link_text_color_active": "accent",
    "panel_background_fill": "surface",
    "panel_border_color": "line",
}


SHAPES = {
    "block_radius": "10px",
    "block_shadow": "none",
    "block_label_shadow": "none",
    "button_border_width": "1px",
    "button_border_width_dark": "1px",
    "button_large_radius": "8px",
    "button_large_padding": "7px 16px",
    "button_large_text_size": "15px",
    "button_large_text_weight": "600",
    "button_primary_shadow": "none",
    "button_secondary_shadow": "none",
    "input_border_width": "1px",
    "input_border_width_dark": "1px",
    "input_radius": "8px",
}


def mount_options() -> dict[str, Any]:
    """Keyword arguments for gr.mount_gradio_app: theme and styles."""
    # in <head> and not as css=: Gradio prefixes every rule of css= and drops those it does not know
    # nested, so that our rules weigh more than Gradio's resets
    style = f"{panels.COLOURS}\n.gradio-container {{\n{panels.STYLE}{ranking_board.STYLE}}}"
    return {"theme": _theme(), "head": f"<style>{style}</style>"}


def _theme() -> gr.themes.Base:
    theme = gr.themes.Base(
        primary_hue="teal",
        neutral_hue="stone",
        radius_size="md",
        font=FONTS,
        font_mono=MONO,
    )
    colours = {name: f"var(--pawl-{source})" for name, source in SOURCES.items()}
    dark = {f"{name}_dark": colour for name, colour in colours.items()}
    return theme.set(**colours, **dark, **SHAPES)
