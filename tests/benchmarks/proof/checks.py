"""What must hold before the proof counts: each check is a rule with its numbers, and one that fails says which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from proof.jobs import Result

CONTROLS = 5  # reward models trained on labels in random order
KL_BUDGET = (1.0, 15.0)  # nats per response


@dataclass(frozen=True, slots=True)
class Check:
    """One rule: whether it holds, and the numbers."""

    name: str
    passed: bool
    numbers: str

    def line(self) -> str:
        return f"{'pass' if self.passed else 'FAIL'}  {self.name}: {self.numbers}"


def labelers_are_like_people(labels: Result) -> list[Check]:
    """Two labelers agree as often as people do, and the product measures it right."""
    true, app, error = (labels[f"agreement_{name}"] for name in ("true", "app", "error"))
    right = labels["label_vs_gold"]
    return [
        Check("two labelers agree .68-.76", 0.68 <= true <= 0.76, f"{true:.3f}"),
        Check("one label is right .75-.85", 0.75 <= right <= 0.85, f"{right:.3f}"),
        Check("the agreement printed is the true one", abs(app - true) <= 2 * error, f"{app:.3f} ± {error:.3f}"),
    ]


def taste_is_no_single_feature(labels: Result) -> list[Check]:
    """Neither length nor any other surface feature stands for the taste."""
    lengths = [abs(labels["surface"][name]["correlation"]) for name in ("characters", "words")]
    best = max(labels["surface"], key=lambda name: labels["surface"][name]["accuracy"])
    accuracy = labels["surface"][best]["accuracy"]
    return [
        Check("the taste is neutral about length (abs corr ≤ .1)", max(lengths) <= 0.1, f"{max(lengths):.3f}"),
        Check("no surface feature orders .65 of the pairs", accuracy <= 0.65, f"{accuracy:.3f} ({best})"),
    ]


def reward_model_learned(
    taste: str,
    labels: Result,
    real: Sequence[Result],
    small: Sequence[Result],
    pairs: Sequence[Result],
    random: Sequence[Result],
) -> list[Check]:
    """Accuracy against the taste and against single labels, length, more data, random labels."""
    gold = [found["gold"][taste]["accuracy"] for found in real]
    mean = fmean(gold)
    single = fmean(found["stage"]["heldout_accuracy"] for found in real)
    error = fmean(found["stage"]["heldout_accuracy_error"] for found in real)
    ceiling = labels["label_vs_gold"]
    share, most = (single - 0.5) / (ceiling - 0.5), ceiling + 3 * error
    longer = real[0]["longer"][taste]["accuracy"]
    bias = max(abs(found["length_correlation"]) for found in real)
    less = fmean(found["gold"][taste]["accuracy"] for found in small)
    apart = [found["gold"][taste]["accuracy"] for found in pairs]
    chance = [found["gold"][taste]["accuracy"] for found in random]
    shuffled = (
        [Check("pairs shuffled apart are no better", max(apart) <= max(gold) + 0.01, listed(apart))] if apart else []
    )
    return [
        Check("reward model against the taste ≥ .66", mean >= 0.66, listed(gold)),
        Check("against single labels ≥ .55 of what can be had", share >= 0.55, f"{single:.3f}, {share:.2f}"),
        Check("and not above it (leakage)", single <= most, f"{single:.3f}, at most {most:.3f}"),
        Check("5 points better than picking the longer", mean >= longer + 0.05, f"{mean:.3f}, {longer:.3f}"),
        Check("its score hardly follows length (≤ .2)", bias <= 0.2, f"{bias:.3f}"),
        Check("16 times the labels: ≥ .05 better", mean - less >= 0.05, f"{less:.3f} to {mean:.3f}"),
        *shuffled,
        Check("random labels: chance on average (.45-.55)", 0.45 <= fmean(chance) <= 0.55, listed(chance)),
        Check("every real one above every random one", min(gold) > max(chance), f"{min(gold):.3f}, {max(chance):.3f}"),
    ]


def best_of_n_wins(found: Sequence[Result]) -> list[Check]:
    """If best-of-n does not win, no policy can."""
    rates, lows = [f["rate"] for f in found], [f["low"] for f in found]
    return [
        Check("best of 16 wins ≥ .65", fmean(rates) >= 0.65, listed(rates)),
        Check("lower bound > .60", min(lows) > 0.60, listed(lows)),
    ]


def policy_wins(real: Sequence[Result], random: Sequence[Result], *, mean: float = 0.68) -> list[Check]:
    """Every seed wins, and every real seed wins more than every seed on random labels."""
    rates, lows, chance = ([f[key] for f in side] for side, key in ((real, "rate"), (real, "low"), (random, "rate")))
    return [
        Check("PPO: every seed's lower bound > .55", min(lows) > 0.55, listed(lows)),
        Check(f"mean win rate ≥ {mean:.2f}", fmean(rates) >= mean, listed(rates)),
        Check("every real seed above every random one", min(rates) > max(chance), f"random {listed(chance)}"),
    ]


def policy_stayed_near(points: Sequence[Result], budget: tuple[float, float] = KL_BUDGET) -> list[Check]:
    """The KL from SFT is within its budget, and the run's own log said so."""
    (least, most), measured, logged = budget, [p["kl"] for p in points], [p["logged_kl"] for p in points]
    gaps = [abs(a - b) / max(a, 1.0) for a, b in zip(measured, logged, strict=True)]
    return [
        Check(f"{least:g}-{most:g} nats", least <= min(measured) and max(measured) <= most, listed(measured)),
        Check("the KL logged is the KL measured (within a third)", max(gaps) <= 1 / 3, listed(logged)),
    ]


def policy_speaks_well(taste: str, points: Sequence[Result], sft: Result) -> list[Check]:
    """No length hacking, no collapse."""
    lengths, within = [p["length_ratio"] for p in points], [p["gold"][taste]["within_length"] for p in points]
    variety, ended, unique = ([p[key] for p in points] for key in ("distinct_2", "ended", "unique"))
    of_sft = sft["distinct_2"]
    return [
        Check("length ratio .7-1.3", 0.7 <= min(lengths) and max(lengths) <= 1.3, listed(lengths)),
        Check("gain within like length ≥ .5", min(within) >= 0.5, listed(within)),
        Check("distinct-2 ≥ .85 × SFT", min(variety) >= 0.85 * of_sft, f"{listed(variety)}, SFT {of_sft:.3f}"),
        Check("ended ≥ SFT", min(ended) >= sft["ended"], f"{listed(ended)}, SFT {sft['ended']:.3f}"),
        Check("unique ≥ .98", min(unique) >= 0.98, listed(unique)),
    ]


def tax_is_paid_back(with_ptx: Sequence[Result], without: Sequence[Result], sft: float) -> list[Check]:
    """With pretraining text mixed in, held-out perplexity is no more than 1.1 times SFT's."""
    ratios, plain = [p["perplexity"] / sft for p in with_ptx], [p["perplexity"] / sft for p in without]
    return [Check("perplexity with ptx ≤ 1.1 × SFT", max(ratios) <= 1.1, f"{listed(ratios)}, without {listed(plain)}")]


def overoptimisation_is_seen(points: Sequence[Result], taste: str) -> list[Check]:
    """At a KL coefficient of 0 the proxy does not fall, gold does, and an alarm came before gold was under SFT's."""
    rates, proxy = [p["gold"][taste]["rate"] for p in points], [p["proxy"] for p in points]
    best = rates.index(max(rates))
    under = next((n for n, rate in enumerate(rates) if n > best and rate < 0.5), len(points))
    alarm = next((n for n, point in enumerate(points) if point["alarm"]), len(points))
    fall = max(rates) - min(rates[best:])
    return [
        Check("the proxy does not fall", proxy[-1] >= proxy[best] - 0.1, f"{proxy[best]:.2f} to {proxy[-1]:.2f}"),
        Check("gold falls by ≥ .2", fall >= 0.2, f"{max(rates):.3f} to {min(rates[best:]):.3f}"),
        Check("the alarm came first", alarm < under, f"alarm at {at(points, alarm)}, under SFT at {at(points, under)}"),
    ]


def at(points: Sequence[Result], number: int) -> str:
    """When that was."""
    if number == len(points):
        return "no point"
    return f"step {points[number]['step']}" if points[number]["step"] else "the end"


def listed(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)
