r"""Markdown as models write it, to markdown-it's tokens: CommonMark, tables, ~~deleted~~ text, and formulas.

Reads   a text
Writes  tokens; a formula is one of type "formula": content is its LaTeX, markup what opened it, block whether it stands
        on a line of its own
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt

from annotate import formulas

if TYPE_CHECKING:
    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token

MAX_NESTING = 24  # markdown-it leaves out what is nested deeper
MAX_FORMULA_LINES = 60
CLOSING = {"$": "$", "$$": "$$", "\\(": "\\)", "\\[": "\\]"}


def tokens_of(text: str) -> list[Token] | None:
    """The tokens of a text; None where some of it would be missing: nested too deeply, or in cells without a column."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    try:
        tokens = _PARSER.parse(text)
    except RecursionError:
        return None
    if any(token.level >= MAX_NESTING - 2 for token in tokens) or _drops_cells(text.split("\n"), tokens):
        return None
    return tokens


def _drops_cells(lines: list[str], tokens: list[Token]) -> bool:
    """Whether a row of a table has more cells than its head: markdown-it leaves them out."""
    there, shown = Counter[str](), Counter[str]()
    inside = False
    for token in tokens:
        if token.type == "table_open" and token.map:
            there.update("".join(lines[slice(*token.map)]))
        inside = (inside or token.type == "table_open") and token.type != "table_close"
        if inside and token.type == "inline":
            shown.update(token.content)
    return any(letter.isalnum() and there[letter] > shown[letter] for letter in there)


def _formula_inline(state: StateInline, silent: bool) -> bool:
    """$..$, $$..$$, \\(..\\) and \\[..\\] inside a paragraph."""
    opening = state.src[state.pos : state.pos + 2]
    if opening not in CLOSING:
        opening = opening[:1]
    if opening not in CLOSING:
        return False
    begin = state.pos + len(opening)
    limit = min(state.posMax, begin + formulas.MAX_LENGTH)
    end = _dollar(state.src, begin, limit) if opening == "$" else state.src.find(CLOSING[opening], begin, limit)
    if end <= begin or (opening == "$" and _is_word(state.src, state.pos - 1)):
        return False
    if not silent:
        token = state.push("formula", "", 0)
        token.content, token.markup, token.block = state.src[begin:end], opening, opening in ("$$", "\\[")
    state.pos = end + len(opening)
    return True


def _dollar(text: str, begin: int, limit: int) -> int:
    """Where the formula that begins here ends, or -1: "$5 and $6" are prices, "$x$" is a formula."""
    if text[begin : begin + 1].isspace():
        return -1
    end = text.find("$", begin, limit)
    while end > begin and text[end - 1] == "\\":
        end = text.find("$", end + 1, limit)
    if end <= begin or text[end - 1].isspace() or _is_word(text, end + 1):
        return -1
    return end


def _is_word(text: str, at: int) -> bool:
    return 0 <= at < len(text) and text[at].isalnum()


def _formula_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """$$..$$ and \\[..\\] that begin a line and end one, so that no line of theirs is taken for a list."""
    line = state.getLines(start, start + 1, state.blkIndent, False).strip()
    opening = line[:2]
    if opening not in ("$$", "\\[") or state.is_code_block(start):
        return False
    closing, parts = CLOSING[opening], [line[2:]]
    last = start
    while closing not in parts[-1]:
        last += 1
        if last >= min(end, start + MAX_FORMULA_LINES) or state.isEmpty(last) or state.sCount[last] < state.blkIndent:
            return False
        parts.append(state.getLines(last, last + 1, state.blkIndent, False))
        if parts[-1].lstrip().startswith("\\["):
            return False  # two that begin and none that ends
    content, _, rest = "\n".join(parts).rpartition(closing)
    if rest.strip() or closing in content:
        return False  # more than one formula, or words behind it: a paragraph
    if not silent:
        token = state.push("formula", "", 0)
        token.content, token.markup, token.block = content, opening, True
        state.line = last + 1
    return True


def _line_break(state: StateInline, silent: bool) -> bool:
    """Every line break is one, and the spaces behind it stay: models indent without a fence, people write verse."""
    if state.src[state.pos] != "\n":
        return False
    if not silent:
        state.push("softbreak", "br", 0)
    state.pos += 1
    return True


def _parser() -> MarkdownIt:
    markdown = MarkdownIt("commonmark", {"html": False, "maxNesting": MAX_NESTING}).enable(["table", "strikethrough"])
    # references and titles would be left out of what is shown; an address between < and > reads well as it is
    markdown.disable(["reference", "html_block", "html_inline", "autolink"])
    markdown.normalizeLink = lambda address: address  # type: ignore[method-assign]  # shown as it was written
    markdown.inline.ruler.before("escape", "formula", _formula_inline)
    markdown.inline.ruler.at("newline", _line_break)
    around = {"alt": ["paragraph", "blockquote", "list"]}
    markdown.block.ruler.before("fence", "formula", _formula_block, around)
    return markdown


_PARSER = _parser()
