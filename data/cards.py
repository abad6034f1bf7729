"""The dataset card of a folder that leaves: what people, the Hub and `datasets.load_dataset` read first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from data.origins import Listing, header_lines, table_lines

MEANINGS = {
    "label_id": "id of the label",
    "ranking_id": "id of the ranking that this comes from",
    "revision": "the labeler's how-many-eth version of it",
    "task_id": "id of the task that the labeler was given",
    "prompt_id": "id of the prompt, made of its text",
    "prompt": "the conversation up to the response",
    "messages": "the conversation",
    "responses": "what was ranked, with the checkpoint that wrote it",
    "response": "the response that a person wrote",
    "ranks": "aligned with responses; 1 is best, equal is a tie, null could not be ranked",
    "rank": "the response's rank; 1 is best",
    "chosen": "the response ranked higher",
    "rejected": "the response ranked lower",
    "margin": "how many ranks lie between them",
    "completion": "the response",
    "completions": "the responses",
    "label": "true: ranked above more of the other responses than below; false: below more than above",
    "labeler": "pseudonym of whoever said so",
    "source": "where it comes from",
    "created_at": "when, in UTC",
    "seconds": "how long it took",
    "display_order": "response ids in the order that the labeler saw",
    "split": "train or heldout, of the prompt",
    "unrankable": "ids of the responses without a rank",
    "ratings": "JSON: ratings from 1 to 7 by response id",
    "flags": "JSON: flags by response id",
    "rewrite": "JSON: a better response that the labeler wrote",
    "comment": "the labeler's remark",
    "guideline": "hash of the instructions that the labeler had",
    "tags": "words that sort the prompts",
    "licence": "of the source; empty where nobody said",
    "client_at": "when the labeler gave it, by their own clock or the file's word; empty where neither says",
    "details": "JSON: what its file says of it besides, as a strength or ratings on another scale",
    "started_from": "id of the model's response that the labeler began with",
    "chosen_id": "id of the response ranked higher",
    "rejected_id": "id of the response ranked lower",
    "response_id": "id of the response",
}
Configs = Mapping[str, Mapping[str, str]]  # the files of each split of each configuration


def card(
    title: str,
    configs: Configs,
    schemas: Mapping[str, pa.Schema],
    counts: Mapping[str, Mapping[str, int]],
    *,
    created_at: str,
    labelers: int,
    agreement: Mapping[str, Any] | None,
    sources: Listing,
    counted: Sequence[str],
    licence: str | None = None,
    made: str,
) -> str:
    """README.md of the folder. Splits without rows are to be left out of `configs`: `datasets` cannot load them.

    `sources` says where the rows come from, with numbers for each of `counted`; a `licence` that is given is that of
    the whole.
    """
    lines = ["---", *header_lines(sources, licence), "tags:", "- human-feedback", "configs:"]
    for number, (name, files) in enumerate(configs.items()):
        lines += [f"- config_name: {name}", *(["  default: true"] if not number else []), "  data_files:"]
        lines += [line for split, path in files.items() for line in (f"  - split: {split}", f"    path: {path}")]
    lines += ["---", "", f"# {title}", "", made, ""]
    lines += ["| | split | rows |", "|---|---|---|"]
    lines += [f"| {name} | {split} | {rows} |" for name in counts for split, rows in counts[name].items()]
    lines += ["", f"Frozen on {created_at}, of {labelers} labelers, who go by pseudonyms. {_agreement(agreement)}", ""]
    lines += table_lines(sources, counted)
    for name, schema in schemas.items():
        lines += [f"## {name}", "", "| column | type | |", "|---|---|---|"]
        lines += [f"| `{field.name}` | {_type(field.type)} | {MEANINGS.get(field.name, '')} |" for field in schema]
        lines.append("")
    return "\n".join(lines)


def _agreement(agreement: Mapping[str, Any] | None) -> str:
    if not agreement or agreement.get("pairwise") is None:
        return "How far they agree is not known: no pair of responses was ranked by two of them."
    text = f"Two labelers agree on {agreement['pairwise']:.1%} of {agreement.get('pairs', 'the')} pairs of responses"
    if agreement.get("interval"):
        low, high = agreement["interval"]
        text += f" (95 % interval {low:.1%} to {high:.1%})"
    return f"{text}. Agreement is {agreement['definition']}." if agreement.get("definition") else f"{text}."


def _type(type: pa.DataType) -> str:
    if pa.types.is_list(type):
        return f"list of {_type(type.value_type)}"
    if pa.types.is_struct(type):
        return ", ".join(field.name for field in type)
    return "text" if pa.types.is_string(type) else str(type)
