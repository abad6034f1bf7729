r"""Formulas: LaTeX to the nodes of MathML that browsers draw, as plain JSON.

Reads   one formula's LaTeX, without its dollars or brackets
Writes  a node as annotate.rendering describes it, or None: then the formula is shown as its source

A formula comes from a model and must not hide anything: what it says is drawn, black on white and where it stands.
So colours, invisible boxes, comments, shifts and links are not read at all, nor are macros, which could grow a line of
text into gigabytes.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from functools import lru_cache
from typing import Any
from xml.etree.ElementTree import Element

from latex2mathml.converter import Converter

MAX_LENGTH = 1_000  # characters of LaTeX
MAX_DEPTH = 12  # braces, \left and \begin inside each other: the converter calls itself for each
# latex2mathml would draw these, but not where everyone can see them
UNREADABLE = re.compile(
    r"(?<!\\)%|\\(?:def|newcommand|renewcommand|newenvironment|let|href|class|style|color|[a-z]?colorbox|textcolor|[hv]?phantom|"
    r"[hv]space|hskip|[mk]ern|mskip|rule|[lrc]lap|math[lrc]lap|smash|raise|lower|moveleft|moveright|skew|verb|require|"
    r"tiny|Tiny|scriptsize|mmlToken|unicode)(?![a-zA-Z])"
)
ENVIRONMENT = re.compile(r"\\(begin|end)\s*\{([a-zA-Z]+\*?)\}")
ENVIRONMENTS = {  # those that can be read, by the name that the converter has for them; numbers are not invented
    **dict.fromkeys("align align* aligned split eqnarray eqnarray*".split(), "align*"),
    **dict.fromkeys("gather gather* gathered multline multline*".split(), "matrix"),
    **dict.fromkeys("equation equation* displaymath math".split(), ""),
    **{name: name for name in "matrix pmatrix bmatrix Bmatrix vmatrix Vmatrix smallmatrix cases array".split()},
}
COMMANDS = re.compile(  # what is no text: names, the columns of an array, the space below a line
    r"\\(?:begin|end)\s*\{[a-zA-Z]*\*?\}(?:(?<=\{array\})\s*\{[lcr|\s]*\})?|\\[a-zA-Z]+|\\\\\s*\[[\d.\s]*(?:pt|em|ex|mm|cm)\]"
)
OPENING = re.compile(r"(?<!\\)\{|\\left(?![a-zA-Z])|\\begin(?![a-zA-Z])")
CLOSING = re.compile(r"(?<!\\)\}|\\right(?![a-zA-Z])|\\end(?![a-zA-Z])")
STACKED = re.compile(r"\\[a-zA-Z]+\s*(?=\\[a-zA-Z])|[_^]\s*(?=\\)")  # \sqrt\sqrt\sqrt nests without braces
TAGS = frozenset(
    "math mrow mi mn mo mtext mspace msub msup msubsup munder mover munderover mfrac msqrt mroot mtable mtr mtd mstyle "
    "menclose mpadded mmultiscripts mprescripts".split()
)
PARTS = {"mfrac": 2, "mroot": 2, "msub": 2, "msup": 2, "munder": 2, "mover": 2, "msubsup": 3, "munderover": 3}
WORDS = frozenset(  # attributes that take a word
    "display displaystyle scriptlevel mathvariant stretchy fence form separator accent accentunder largeop symmetric "
    "movablelimits columnalign columnlines rowlines notation".split()
)
LENGTHS = frozenset("lspace rspace minsize maxsize linethickness rowspacing columnspacing".split())
WORD = re.compile(r"[a-z0-9-]{1,24}(?: [a-z0-9-]{1,24}){0,11}")
LENGTH = re.compile(r"[0-3]?(?:\.\d{1,4})?(?:em|ex)|\d{1,2}(?:\.\d{1,4})?(?:pt|px|mu)|0|0?\.\d{1,3}")


@lru_cache(maxsize=512)
def mathml(latex: str, display: bool) -> list[Any] | None:
    """The formula as a tree that begins with `math`; None where it cannot be read."""
    if len(latex) > MAX_LENGTH or not latex.isprintable() and not _lines_only(latex) or UNREADABLE.search(latex):
        return None
    if not latex.strip() or _depth(latex) > MAX_DEPTH:
        return None
    try:
        readable = ENVIRONMENT.sub(_environment, latex)
        tree = _node(Converter(display="block" if display else "inline").convert_to_element(readable))
    except Exception:  # the converter's errors have no class in common, and each means the same: not readable
        return None
    return tree if _says_all(readable, tree) else None


def _says_all(latex: str, tree: list[Any]) -> bool:
    """Whether each letter and digit of the source, but for the names of commands, stands in the tree."""
    return not Counter(_letters(COMMANDS.sub("", latex))) - Counter(_letters(_text(tree)))


def _letters(text: str) -> list[str]:
    return [letter for letter in unicodedata.normalize("NFKC", text) if letter.isalnum()]  # a bold x is an x


def _text(node: Any) -> str:
    return node if isinstance(node, str) else "".join(_text(child) for child in node[2])


def _environment(match: re.Match[str]) -> str:
    """The converter's word for where an environment begins or ends. Raises KeyError for one that it does not know."""
    name = ENVIRONMENTS[match[2]]
    return rf"\{match[1]}{{{name}}}" if name else ""


def _lines_only(latex: str) -> bool:
    return latex.translate({10: None, 9: None}).isprintable()


def _depth(latex: str) -> int:
    """How far the converter would call itself, at most."""
    changes = [(match.start(), 1) for match in OPENING.finditer(latex)]
    changes += [(match.start(), -1) for match in CLOSING.finditer(latex)]
    depth = deepest = 0
    for _, change in sorted(changes):
        depth += change
        deepest = max(deepest, depth)
    return deepest + len(STACKED.findall(latex)) // 8


def _node(element: Element) -> list[Any]:
    """This element with all of its text. Raises ValueError for one that is not of TAGS, lacks a part, or is a column or
    a line outside of every table: it would vanish, or stand there as a character.
    """
    if element.tag not in TAGS or len(element) != PARTS.get(element.tag, len(element)):
        raise ValueError(element.tag)
    if "linebreak" in element.attrib or (element.text or "") in ("&", "&amp;"):
        raise ValueError(element.tag)
    children: list[Any] = []
    if element.text:
        children.append(html.unescape(element.text))
    children += [_node(child) for child in element]
    kept = {name: value for name, value in element.attrib.items() if _is_plain(element.tag, name, value)}
    return [element.tag, kept, children]


def _is_plain(tag: str, name: str, value: str) -> bool:
    if name in WORDS:
        return WORD.fullmatch(value) is not None
    sized = name in LENGTHS or (tag == "mspace" and name == "width")  # a box of a given size could cover its neighbours
    return sized and LENGTH.fullmatch(value) is not None
