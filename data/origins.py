"""Where frozen and exported rows come from, and under which licence: counted as they pass, told on dataset cards.

Needs   pyarrow only
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

REWRITE = "rewrite"  # the source of demonstrations that labelers made of a response; their rows name the ranking too
# the licences that the Hugging Face Hub has a name for are SPDX identifiers in small letters, these among them
HUB_LICENCES = frozenset(
    "apache-2.0 mit openrail bigscience-openrail-m cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 "
    "cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 "
    "cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 "
    "epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc bsd "
    "bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 unlicense afl-3.0 artistic-2.0 c-uda ms-pl mpl-2.0 odc-by "
    "odbl pddl ofl-1.1 zlib osl-3.0 postgresql ncsa lppl-1.3c".split()
)
Listing = list[dict[str, Any]]


@dataclass(slots=True)
class Origins:
    """How many rows of each kind come from each source."""

    kinds: tuple[str, ...]
    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # by source, licence and kind

    def add(self, kind: str, rows: pa.RecordBatch) -> None:
        """Count the next rows."""
        table = pa.Table.from_batches([rows.select(["source", "licence"])]).group_by(["source", "licence"])
        for row in table.aggregate([([], "count_all")]).to_pylist():
            name = row["source"] or ""
            name = REWRITE if name.startswith(f"{REWRITE}:") else name
            self.counts[name, row["licence"] or "", kind] += row["count_all"]

    def listing(self) -> Listing:
        """By name: `name`, `licence` (None where nobody said), and how many rows of each kind."""
        found = sorted({(name, licence) for name, licence, _ in self.counts})
        return [
            {
                "name": name,
                "licence": licence or None,
                **{kind: self.counts[name, licence, kind] for kind in self.kinds},
            }
            for name, licence in found
        ]


def header_lines(sources: Listing, given: str | None) -> list[str]:
    """What the YAML of a card says: the licence given, else the one that every source has, else that it is another.

    Several licences, and one that the Hub has no name for, are `other`; the card's table has them all.
    """
    licences = {source["licence"] for source in sources}
    if given is not None:
        return [f"license: {given}"]
    if not licences - {None}:
        return ["license: unknown"]
    (licence, *more) = licences
    if more or not licence:
        return ["license: other"]
    name = "-".join(re.findall(r"[a-z0-9.]+", licence.lower()))
    return [f"license: {name}"] if name in HUB_LICENCES else ["license: other", f"license_name: {name or 'unnamed'}"]


def table_lines(sources: Listing, kinds: Sequence[str]) -> list[str]:
    """A table of the sources for a card, and what their licences mean together."""
    if not sources:
        return []
    lines = ["## Sources", "", f"| source | licence | {' | '.join(kinds)} |", f"|---|---|{'---|' * len(kinds)}"]
    for source in sources:
        numbers = " | ".join(str(source[kind]) for kind in kinds)
        lines.append(f"| {_cell(source['name'])} | {_cell(source['licence'] or 'not stated')} | {numbers} |")
    return [*lines, "", _together(sources), ""]


def _together(sources: Listing) -> str:
    licences = sorted({source["licence"] for source in sources} - {None})
    open_ones = sum(source["licence"] is None for source in sources)
    if not licences:
        return "No licence was stated: ask whoever collected the labels."
    text = f"All of it is under {_cell(licences[0])}." if len(licences) == 1 and not open_ones else ""
    if len(licences) > 1:
        text = f"The parts are under different licences: {', '.join(map(_cell, licences))}."
    if open_ones:
        text += " Of sources whose licence is not stated, ask whoever collected the labels."
    return text.strip()


def _cell(text: str) -> str:
    """Text that a file brought, as the content of one cell and nothing else."""
    plain = " ".join(text.split())
    return "".join(f"&#{ord(sign)};" if sign in "|<>&[]`*_\\!" else sign for sign in plain) or "(no name)"
