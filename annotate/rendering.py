r"""Texts as people read them: Markdown and formulas, as trees of plain JSON that a page draws without any HTML.

Reads   a text from a model or a person
Writes  a list of nodes; a node is a string, or [tag, attributes, children] with a tag of TAGS or of annotate.formulas

A text is hostile until shown: no tag, attribute or address of its own reaches a page. HTML in it stays text; links and
images become their words with the address behind them; what would reorder or hide letters is shown as its code point.
Whatever is too long or too deeply nested to format at once comes back plain, so that it is always all there to read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from annotate import formulas, markdown

if TYPE_CHECKING:
    from markdown_it.token import Token

Node = Any  # str | [tag, attributes, children]; a recursive type would help no reader

MAX_LENGTH = 20_000  # characters; longer texts stay plain
MAX_TOGETHER = 200_000  # characters formatted for one request: nine responses of the greatest length, and a prompt
MAX_FORMULAS = 200  # in one text; the rest is shown as its source
TAGS = {  # markdown-it's tags, and what they become: headings of a text stand below those of the page
    "h1": "h3",
    "h2": "h4",
    "h3": "h5",
    "h4": "h6",
    "h5": "h6",
    "h6": "h6",
} | {tag: tag for tag in "p ul ol li blockquote strong em s table thead tbody tr th td".split()}
# Characters that show nothing themselves: controls, directions, joiners, halves of pairs, tags, selectors
UNSEEN = re.compile(  # one of them, as often as it is repeated
    "([\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff])\\1*"
)
JOINERS = "\u200c\u200d"  # at home in emoji and in many scripts: shown only where they join nothing


def render_all(texts: Iterable[str]) -> list[list[Node]]:
    """A tree for each text; when they are long together, the last ones are plain."""
    trees, left = [], MAX_TOGETHER
    for text in texts:
        left -= len(text)
        trees.append(render(text) if left >= 0 else plain(text))
    return trees


def render(text: str) -> list[Node]:
    """The tree of this text. Never fails: what cannot be formatted is plain."""
    if len(text) > MAX_LENGTH:
        return plain(text)
    return _rendered(text)


def plain(text: str) -> list[Node]:
    """The text as it came, in one block."""
    return [["div", {"class": "plain", "dir": "auto"}, _seen(text)]]


@lru_cache(maxsize=256)  # several labelers read the same responses
def _rendered(text: str) -> list[Node]:
    tokens = markdown.tokens_of(text)
    return plain(text) if tokens is None else _Growing().grow(tokens)


class _Growing:
    """A tree being built from markdown-it's tokens."""

    def __init__(self) -> None:
        self._open: list[list[Node]] = [[]]  # children of the nodes that are open, the root's first
        self._addresses: list[str] = []
        self._formulas = 0

    def grow(self, tokens: list[Token]) -> list[Node]:
        for token in tokens:
            if token.type == "inline":
                self.grow(token.children or [])
            elif token.nesting > 0:
                self._enter(token)
            elif token.nesting < 0:
                self._leave(token)
            else:
                self._put(token)
        return self._open[0]

    def _enter(self, token: Token) -> None:
        if token.type == "link_open":
            self._addresses.append(_where(token, "href"))
        if token.hidden or token.type == "link_open":  # the paragraphs of a tight list; a link
            self._open.append(self._open[-1])
            return
        node: Node = [TAGS[token.tag], self._attributes(token), []]
        if token.tag == "table":  # it scrolls by itself
            self._open[-1].append(["div", {"class": "wide"} | self._direction(), [node]])
        else:
            self._open[-1].append(node)
        self._open.append(node[2])

    def _leave(self, token: Token) -> None:
        self._open.pop()
        if token.type == "link_close":
            self._address(self._addresses.pop())

    def _attributes(self, token: Token) -> dict[str, str]:
        attributes = {} if token.tag == "table" else self._direction()
        if token.tag == "ol" and token.attrGet("start") is not None:
            attributes["start"] = str(token.attrGet("start"))
        if token.tag in ("th", "td") and (style := token.attrGet("style")) in ("text-align:center", "text-align:right"):
            attributes["class"] = str(style).removeprefix("text-align:")
        return attributes

    def _direction(self) -> dict[str, str]:
        """Each outermost block finds its own direction; what is inside follows it."""
        return {"dir": "auto"} if len(self._open) == 1 else {}

    def _put(self, token: Token) -> None:
        children = self._open[-1]
        if _is_display(children) and token.type in ("text", "softbreak"):  # it stands on a line of its own already
            token.content = token.content.lstrip(" ")
            if not token.content:
                return
        if token.type in ("text", "text_special"):
            _say(children, token.content)
        elif token.type in ("softbreak", "hardbreak"):
            children.append(["br", {}, []])
        elif token.type == "hr":
            children.append(["hr", {}, []])
        elif token.type == "code_inline":
            children.append(["code", {}, _seen(token.content)])
        elif token.type in ("fence", "code_block"):
            self._code(token)
        elif token.type == "image":
            _say(children, token.content or "image")
            self._address(_where(token, "src"))
        elif token.type == "formula":
            self._formula(token)
        else:
            raise ValueError(f"markdown-it made a token {token.type!r}, which nothing here draws.")

    def _code(self, token: Token) -> None:
        if token.info.strip():
            self._open[-1].append(["div", {"class": "language"}, _seen(token.info.strip())])
        code = ["code", {}, _seen(token.content.removesuffix("\n"))]
        self._open[-1].append(["pre", {"dir": "ltr"}, [code]])

    def _address(self, address: str) -> None:
        children = self._open[-1]
        if address and not (children and children[-1] == address):
            children.append(["span", {"class": "address"}, _seen(f" ({address})")])

    def _formula(self, token: Token) -> None:
        children, opening = self._open[-1], token.markup
        self._formulas += 1
        tree = formulas.mathml(token.content, token.block) if self._formulas <= MAX_FORMULAS else None
        if tree is None:
            _say(children, opening + token.content + markdown.CLOSING[opening])
        elif len(self._open) == 1:
            children.append(["div", {"class": "wide", "dir": "ltr"}, [tree]])
        else:
            children.append(tree)


def _is_display(children: list[Node]) -> bool:
    return bool(children) and children[-1][0] == "math" and children[-1][1]["display"] == "block"


def _where(token: Token, name: str) -> str:
    """The address of a link or an image, and its title, which a page would show under the mouse alone."""
    return " ".join(str(token.attrs[part]) for part in (name, "title") if token.attrs.get(part))


def _say(children: list[Node], text: str) -> None:
    """Append a text, to the text before it where there is one."""
    for node in _seen(text):
        if children and isinstance(children[-1], str) and isinstance(node, str):
            children[-1] += node
        else:
            children.append(node)


def _seen(text: str) -> list[Node]:
    """The text, with a box for each character in it that would show nothing and change how the others are read."""
    nodes: list[Node] = []
    begin = 0
    for match in UNSEEN.finditer(text):
        if match[0] in JOINERS and _joins(text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]):
            continue
        if begin < match.start():
            nodes.append(text[begin : match.start()])
        times = f" × {len(match[0])}" if len(match[0]) > 1 else ""
        nodes.append(["span", {"class": "unseen"}, [f"U+{ord(match[1]):04X}{times}"]])
        begin = match.end()
    return nodes + [text[begin:]] if begin < len(text) else nodes


def _joins(before: str, after: str) -> bool:
    """Whether a joiner between these two characters is at home: none of them is ASCII or unseen."""
    return all(side > "\u02ff" and not UNSEEN.match(side) for side in (before, after))
