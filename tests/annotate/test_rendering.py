"""Texts as trees: what Markdown and formulas become, and what hostile texts never do."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from annotate import formulas, rendering
from annotate.rendering import plain, render
from data.records import FLAGS

ROOT = Path(__file__).parents[2]
JSON = {"Content-Type": "application/json"}
AUTO = {"dir": "auto"}


def words_of(tree: list) -> str:
    return "".join(node if isinstance(node, str) else words_of(node[2]) for node in tree)


def paragraph(*children) -> list:
    return ["p", AUTO, list(children)]


def unseen(point: str) -> list:
    return ["span", {"class": "unseen"}, [f"U+{point}"]]


def test_emphasis_code_and_line_breaks():
    assert render("It *stops* a **`ratchet`**~~s~~.\n    Here.") == [
        paragraph(
            *("It ", ["em", {}, ["stops"]], " a ", ["strong", {}, [["code", {}, ["ratchet"]]]], ["s", {}, ["s"]], "."),
            *(["br", {}, []], "    Here."),
        )
    ]


def test_headings_stand_below_those_of_the_page():
    assert render("# One\n\n### Three\n\n---") == [
        ["h3", AUTO, ["One"]],
        ["h5", AUTO, ["Three"]],
        ["hr", {}, []],
    ]


def test_lists_and_quotes():
    assert render("3. first\n4. second\n   - inner\n\n> said") == [
        [
            "ol",
            AUTO | {"start": "3"},
            [["li", {}, ["first"]], ["li", {}, ["second", ["ul", {}, [["li", {}, ["inner"]]]]]]],
        ],
        ["blockquote", AUTO, [["p", {}, ["said"]]]],
    ]


def test_fenced_code_keeps_its_text_and_says_its_language():
    assert render('```python title="a"\nif a < b:\n    pass  # *no*\n```') == [
        ["div", {"class": "language"}, ['python title="a"']],
        ["pre", {"dir": "ltr"}, [["code", {}, ["if a < b:\n    pass  # *no*"]]]],
    ]


def test_a_table_scrolls_by_itself():
    assert render("| a | b |\n|---|--:|\n| 1 | 2 |") == [
        [
            "div",
            {"class": "wide", "dir": "auto"},
            [
                [
                    "table",
                    {},
                    [
                        ["thead", {}, [["tr", {}, [["th", {}, ["a"]], ["th", {"class": "right"}, ["b"]]]]]],
                        ["tbody", {}, [["tr", {}, [["td", {}, ["1"]], ["td", {"class": "right"}, ["2"]]]]]],
                    ],
                ]
            ],
        ]
    ]


def test_an_address_is_text_and_never_a_link_or_an_image():
    address = ["span", {"class": "address"}, [" (https://a.example/?q=ü)"]]
    assert render(
        "[go](https://a.example/?q=ü) ![x](https://a.example/?q=ü) <https://b.example> https://c.example"
    ) == [paragraph("go", address, " x", address, " <https://b.example> https://c.example")]
    assert render("[a](b 'c')\n\n[a]: http://d.example 'e'") == [
        paragraph("a", ["span", {"class": "address"}, [" (b c)"]]),
        paragraph("[a]: http://d.example 'e'"),
    ]


def test_html_and_scripts_stay_text():
    for text in ("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<!-- hidden -->", "${a} {{b}}"):
        assert render(text) == [paragraph(text)]
    assert render("<b>\n\n&lt;i&gt; [x](javascript:alert)") == [
        paragraph("<b>"),
        paragraph("<i> [x](javascript:alert)"),
    ]


def test_formulas_are_mathml():
    x_squared = ["msup", {}, [["mi", {}, ["x"]], ["mn", {}, ["2"]]]]
    inline = ["math", {"display": "inline"}, [["mrow", {}, [x_squared]]]]
    display = ["math", {"display": "block"}, [["mrow", {}, [x_squared]]]]

    assert render("So $x^2$ and \\(x^2\\).") == [paragraph("So ", inline, " and ", inline, ".")]
    for text in ("$$x^2$$", "$$\nx^2\n$$", "\\[\nx^2\\]"):
        assert render(text) == [["div", {"class": "wide", "dir": "ltr"}, [display]]]
    assert render("Here: $$x^2$$\nand \\[x^2\\] there") == [paragraph("Here: ", display, "and ", display, "there")]


def test_aligned_lines_are_a_table_without_invented_numbers():
    right, left = {"columnalign": "right"}, {"columnalign": "left"}

    tree = formulas.mathml("\\begin{align}a&=1\\\\b&=2\\end{align}", True)

    [[table, _, rows]] = tree[2][0][2]
    assert table == "mtable"
    cells = [[(cell[1], words_of(cell[2])) for cell in row[2]] for row in rows]
    assert cells == [[(right, "a"), (left, "=1")], [(right, "b"), (left, "=2")]]
    aligned = formulas.mathml("\\begin{aligned}a&=1\\\\b&=2\\end{aligned}", True)
    assert aligned == tree


@pytest.mark.parametrize(
    "text",
    [
        "It costs $5 and that $6.",
        "US$5-$6, $HOME/$USER, a$b$",
        "$ x $ and $$",
        "\\[open and \\(open and $$open",
        "$\\frac{1}$",  # cannot be read
        "$a & b$ $a \\\\ b$ $\\begin{tikzcd}a\\end{tikzcd}$",
        "$\\phantom{not said} 1$",  # would hide what it says
        "$\\color{white} no$",
        "$a % no$",
        "$\\mathchoice{a}{b}{c}{d}$",  # three of them would not be drawn
        "$\\def\\a{xx}\\a$",
        "$\\href{http://a.example}{b}$",
        "$" + "{" * 40 + "x" + "}" * 40 + "$",
        "$" + "\\sqrt" * 200 + "x$",
    ],
)
def test_what_is_no_readable_formula_stays_as_it_was_written(text):
    (node,) = render(text)

    assert node[0] == "p"
    assert '["math"' not in json.dumps(node)


def test_a_formula_brings_no_tag_and_no_colour_of_its_own():
    assert formulas.mathml("\\text{<script>a</script>}", False) == [
        "math",
        {"display": "inline"},
        [["mrow", {}, [["mtext", {}, ["<script>a</script>"]]]]],
    ]
    assert formulas.mathml("a<b", False)[2] == [["mrow", {}, [["mi", {}, ["a"]], ["mo", {}, ["<"]], ["mi", {}, ["b"]]]]]


def test_what_cannot_be_seen_is_shown_as_its_code_point():
    assert render("a\u202eb\u200bc") == [paragraph("a", unseen("202E"), "b", unseen("200B"), "c")]
    assert render("`\u2066`&#x202a;") == [paragraph(["code", {}, [unseen("2066")]], unseen("202A"))]
    assert render("\u200b\u200b\u200b") == [paragraph(unseen("200B × 3"))]
    assert plain("\ufeffa\U000e0041") == [["div", AUTO | {"class": "plain"}, [unseen("FEFF"), "a", unseen("E0041")]]]


def test_joiners_at_home_stay_and_others_are_shown():
    family, persian = "\U0001f468\u200d\U0001f469", "می\u200cخواهم"

    assert render(f"{family} {persian}") == [paragraph(f"{family} {persian}")]
    assert render("a\u200db") == [paragraph("a", unseen("200D"), "b")]


PIECES = [
    *"[*_>$`~|-#<!&\\(:\u202e",
    *[
        "![",
        "[a](",
        "[](",
        "](",
        "[a",
        "*a_ ",
        "**a",
        "*a **b ",
        "`a``",
        "> ",
        "- ",
        "1. ",
        "$a",
        "$x$ ",
        "\\(",
        "\\[\n",
    ],
    *["$$\n", "\\left(", "a\n\n", "\n    ", "|a|\n|-|\n", "<a ", "&a", "```\n", "~~~a\n", "\u200da\u202e"],
]


@pytest.mark.slow
@pytest.mark.parametrize("piece", PIECES)
def test_no_text_takes_long_and_none_is_lost(piece):
    text = (piece * rendering.MAX_LENGTH)[: rendering.MAX_LENGTH]
    rendering._rendered.cache_clear()
    begun = time.process_time()
    tree = render(text)

    assert time.process_time() - begun < 4  # a tenth of it on a machine at rest
    assert words_of(tree).count("a") == text.count("a")


@pytest.mark.parametrize("piece", "[*>$`\u202e")
def test_a_text_of_100_000_characters_is_plain(piece):
    begun = time.process_time()
    tree = render(piece * 100_000)

    assert time.process_time() - begun < 1
    assert tree == [
        ["div", AUTO | {"class": "plain"}, [unseen("202E × 100000") if piece == "\u202e" else piece * 100_000]]
    ]


def test_a_table_whose_rows_have_more_cells_than_its_head_stays_plain():
    text = "| a |\n|---|\n| 1 | not shown |"

    assert render(text) == plain(text)
    assert render("> | a |\r\n> |---|\r\n> | 1 |")[0][0] == "blockquote"


def test_what_is_nested_too_deeply_stays_plain():
    for text in ("> " * 30 + "deep", "".join("  " * n + "- a\n" for n in range(20)) + "  " * 20 + "deep"):
        assert render(text) == plain(text)
        assert "deep" in json.dumps(render(text))


def test_every_tag_and_attribute_is_one_that_the_page_knows():
    script = (ROOT / "annotate/panels/tree.js").read_text()

    def listed(name: str) -> set[str]:
        return set(re.search(rf'{name} = new Set\("([^"]+)"', script)[1].split())

    made_here = {"pre", "code", "hr", "br", "span", "div"}
    assert listed("TREE_TAGS") == {*rendering.TAGS.values()} | made_here
    assert listed("MATH_TAGS") == formulas.TAGS
    assert listed("MATH_ATTRIBUTES") == formulas.WORDS | formulas.LENGTHS | {"width"}


def test_every_flag_stands_on_the_board_once():
    script = (ROOT / "annotate/ranking_board/details.js").read_text()
    groups = script.split("const FLAGS = ")[1].split("];\n\n")[0]

    assert sorted(re.findall(r'\["([a-z_]+)", "', groups)) == sorted(FLAGS)


def test_what_is_too_much_at_once_stays_plain():
    long = "*a* " * 4_999

    first, *_, last = rendering.render_all([long] * 11)

    assert first == render(long)
    assert last == plain(long)


def test_the_route_gives_a_tree_for_each_text(world):
    answer = world.call("POST", "/render", "labeler", json={"texts": ["*a*", ""]})

    assert answer.json() == {"trees": [[paragraph(["em", {}, ["a"]])], []]}
    assert world.call("POST", "/render", "labeler", json={"texts": ["a"] * 65}).status_code == 422
    unpaired = world.call("POST", "/render", "labeler", content=b'{"texts": ["\\ud800"]}', headers=JSON)
    assert unpaired.json() == {"trees": [[paragraph(unseen("D800"))]]}
