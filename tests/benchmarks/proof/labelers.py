"""Simulated labelers: they share a taste and disagree as people do, and they label through the product's own store.

Two models of noise. *Human-like*: a labeler ranks by taste / tau + their own small liking for length + Gumbel noise, so
of two responses the better wins with probability sigmoid(difference). tau is set so that two labelers agree on 72 % of
pairs, as people do (72.6 % in Ouyang et al. 2022). *Flips*: each comparison is right but for a coin that turns one in
four around (Dubois et al. 2023; Coste et al. 2024).

A label depends on the seed, the labeler and the texts alone, not on the order in which tasks were handed out.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean, pstdev

from data import interchange
from data.batches import Batch, BatchRow
from data.records import RankingAnswer
from data.store import Store
from proof.tastes import Taste

LABELERS = 8
AGREEMENT = 0.72  # wanted of two labelers on a pair
LENGTH_LIKING = (0.15, 0.15)  # mean and standard deviation over labelers, per standard deviation of length
FLIPPED = 0.25
GUIDELINE = "0" * 16  # simulated labelers were shown none


@dataclass(frozen=True, slots=True)
class Crowd:
    """Labelers of one taste."""

    taste: Taste
    tau: float  # the larger, the noisier
    length_liking: tuple[float, ...]  # of each labeler
    length_mean: float  # of the responses, in characters
    length_std: float
    seed: int

    def utility(self, labeler: int, text: str) -> float:
        """What the labeler would rank by, were there no noise."""
        length = (len(text) - self.length_mean) / self.length_std
        return self.taste(text) / self.tau + self.length_liking[labeler] * length

    def ranks(self, labeler: int, prompt: str, texts: Sequence[str]) -> list[int]:
        """The labeler's ranks of the texts, 1 is best; the same whatever order the texts are given in."""
        rng = random.Random(f"{self.seed}/{labeler}/{prompt}")
        noise = {text: gumbel(rng) for text in sorted(set(texts))}
        found = [self.utility(labeler, text) + noise[text] for text in texts]
        order = sorted(found, reverse=True)
        return [order.index(value) + 1 for value in found]

    def agreement(self, tasks: Sequence[Sequence[str]]) -> float:
        """How often two of the labelers agree about a pair of responses of one task, worked out, not sampled."""
        return fmean(self._agreement(task) for task in tasks)

    def _agreement(self, texts: Sequence[str]) -> float:
        utilities = [[self.utility(labeler, text) for text in texts] for labeler in range(len(self.length_liking))]
        agreed = []
        for first, second in combinations(range(len(texts)), 2):
            p = [sigmoid(row[first] - row[second]) for row in utilities]
            pairs = len(p) * (len(p) - 1)
            both = (sum(p) ** 2 - sum(q * q for q in p)) / pairs  # mean of p_a p_b over labelers a, b that differ
            agreed.append(1 - 2 * fmean(p) + 2 * both)  # p_a p_b + (1 - p_a)(1 - p_b)
        return fmean(agreed)

    def correctness(self, tasks: Sequence[Sequence[str]]) -> float:
        """How often one label of a pair that the taste decides is as the taste has it, worked out, not sampled."""
        found = []
        for texts in tasks:
            worth = [self.taste(text) for text in texts]
            for first, second in combinations(range(len(texts)), 2):
                if worth[first] == worth[second]:
                    continue
                better, worse = (first, second) if worth[first] > worth[second] else (second, first)
                for labeler in range(len(self.length_liking)):
                    gap = self.utility(labeler, texts[better]) - self.utility(labeler, texts[worse])
                    found.append(sigmoid(gap))
        return fmean(found)


def crowd(taste: Taste, tasks: Sequence[Sequence[str]], seed: int = 0) -> Crowd:
    """Labelers of this taste, as noisy about these tasks' responses as people are (tau by bisection)."""
    rng = random.Random(f"labelers/{seed}")
    liking = tuple(rng.gauss(*LENGTH_LIKING) for _ in range(LABELERS))
    lengths = [len(text) for texts in tasks for text in texts]
    low, high = 1e-3, 1e3
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        found = Crowd(taste, middle, liking, fmean(lengths), pstdev(lengths), seed)
        low, high = (middle, high) if found.agreement(tasks[:500]) > AGREEMENT else (low, middle)
    return found


def gumbel(rng: random.Random) -> float:
    """A standard Gumbel number: the difference of two is logistic."""
    return -math.log(-math.log(rng.random() or 1e-300))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def rank_all(store: Store, batch: Batch, people: Crowd, overlap: int) -> Iterator[int]:
    """Ask `overlap` of the labelers to rank each row of the batch, as the app would; yields after each label.

    The labelers take turns, in another order each round, so that all pairs of them meet: task by task through the
    queue, with leases, display orders and receipts.
    """
    store.add_batch(batch, overlap)
    users = {user.name for user in store.users()}
    names = [f"labeler-{number}" for number in range(LABELERS)]
    for name in names:
        if name not in users:
            store.add_user(name, "labeler")
    done, waiting, turns, order = 0, True, list(enumerate(names)), random.Random("turns")
    while waiting:
        waiting = False
        order.shuffle(turns)
        for number, name in turns:
            given = store.next_task(name, "ranking")
            if given is None:
                continue
            waiting = True
            texts = [response.text for response in given.responses]
            ranks = people.ranks(number, given.prompt.id, texts)
            answer = {response.id: rank for response, rank in zip(given.responses, ranks, strict=True)}
            store.submit_ranking(name, given.task.id, given.lease, RankingAnswer(answer), guideline=GUIDELINE)
            done += 1
            yield done


def import_flips(
    store: Store, file: Path, ranked: Sequence[BatchRow], prompts: dict[str, str], taste: Taste, seed: int
) -> float:
    """Every pair that the taste decides as a comparison, one in four turned around, imported from a file.

    `prompts` gives the text of each prompt id. Returns the share that was turned around.
    """
    rows, flipped = [], 0
    for row in ranked:
        for one, other in combinations([response.text for response in row.responses], 2):
            if taste(one) == taste(other):
                continue
            better, worse = (one, other) if taste(one) > taste(other) else (other, one)
            turned = random.Random(f"{seed}/{row.prompt_id}/{one}/{other}").random() < FLIPPED
            flipped += turned
            chosen, rejected = (worse, better) if turned else (better, worse)
            rows.append({"prompt": prompts[row.prompt_id], "chosen": chosen, "rejected": rejected, "labeler": "flips"})
    _import(store, "comparisons", file, rows)
    return flipped / len(rows)


def import_shuffled(store: Store, file: Path, ranked: Sequence[BatchRow], prompts: dict[str, str], seed: int) -> None:
    """A ranking of each row in an order drawn at random: labels that say nothing, of no taste."""
    rows = []
    for row in ranked:
        texts = [response.text for response in row.responses]
        ranks = random.Random(f"shuffled/{seed}/{row.prompt_id}").sample(range(1, len(texts) + 1), len(texts))
        rows.append({"prompt": prompts[row.prompt_id], "responses": texts, "ranks": ranks, "labeler": "nobody"})
    _import(store, "rankings", file, rows)


def _import(store: Store, kind: str, file: Path, rows: Sequence[dict]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = interchange.import_file(store, kind, file)
    if report.skipped or report.new != len(rows):
        raise RuntimeError("\n".join(report.lines()))
