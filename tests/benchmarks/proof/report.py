"""Tables, checks and the last JSON line, from what the jobs found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, pstdev

import numpy as np

from proof import checks, plots
from proof.arm_results import (
    BEST_OF_KL,
    Found,
    arm_points,
    best_of_points,
    control_points,
    random_rewards,
    rates,
    rewards,
)
from proof.checks import Check
from proof.jobs import Result
from proof.significance import bradley_terry, bradley_terry_interval


def say(found: Found, tastes: Sequence[str], seeds: int, root: Path) -> int:
    """Print everything, draw the plots, write proof.json; 1 when a check failed."""
    failed = 0
    for taste in tastes:
        print(f"\n== {taste}\n")
        for line in (
            *reward_table(found, taste),
            "",
            *policy_table(found, taste, seeds),
            "",
            *strengths(found, taste, seeds),
        ):
            print(line)
        print()
        for check in checks_of(found, taste, seeds):
            failed += not check.passed
            print(check.line())
    plots.draw_all(found, tastes, seeds, root)
    last = {
        "wins": {taste: rates(arm_points(found, taste, "ppo", seeds), taste) for taste in tastes},
        "controls": {taste: rates(control_points(found), taste) for taste in tastes},
        "perplexity_ratio_ptx": ptx_ratio(found, tastes, seeds),
    }
    (root / "proof.json").write_text(json.dumps(last, indent=1))
    print(f"\n{failed} checks failed" if failed else "\nevery check passed")
    print(json.dumps(last))
    return 1 if failed else 0


def ptx_ratio(found: Found, tastes: Sequence[str], seeds: int) -> float | None:
    """The largest perplexity of a PPO + ptx policy on held-out text, over SFT's."""
    points = [point for taste in tastes for point in arm_points(found, taste, "ptx", seeds)]
    return round(max(p["perplexity"] for p in points) / found["model"]["perplexity_sft"], 3) if points else None


def checks_of(found: Found, taste: str, seeds: int) -> list[Check]:
    """All checks of one taste; those of arms that were not run are left out."""
    labels, controls = found[f"labels/{taste}"], control_points(found)
    real = rewards(found, taste)
    result = checks.labelers_are_like_people(labels) + checks.taste_is_no_single_feature(labels)
    result += checks.reward_model_learned(
        taste, labels, real, rewards(found, taste, "750"), rewards(found, f"{taste}-pairs"), random_rewards(found)
    )
    result += checks.best_of_n_wins([point["gold"][taste] for point in best_of_points(found, taste, seeds)])
    points = arm_points(found, taste, "ppo", seeds)
    result += checks.policy_wins([p["gold"][taste] for p in points], [p["gold"][taste] for p in controls])
    result += checks.policy_stayed_near(points)
    result += checks.policy_speaks_well(taste, points, found["sft"])
    if with_ptx := arm_points(found, taste, "ptx", seeds):
        result += checks.tax_is_paid_back(with_ptx, points, found["model"]["perplexity_sft"])
    if long := found.get(f"policy/{taste}-flips/long-0"):
        result += checks.overoptimisation_is_seen(long["points"], taste)
    return result


def reward_table(found: Found, taste: str) -> list[str]:
    """The reward models: accuracy against the taste and against single labels, and the ceiling of the latter."""
    labels = found[f"labels/{taste}"]
    lines = [
        f"two labelers agree {labels['agreement_true']:.3f} (printed {labels['agreement_app']:.3f} ± "
        f"{labels['agreement_error']:.3f}), one label is right {labels['label_vs_gold']:.3f}, tau {labels['tau']:.3f}",
        "correlation with the taste, and pairs ordered right: "
        + ", ".join(f"{name} {f['correlation']:+.2f} {f['accuracy']:.3f}" for name, f in labels["surface"].items()),
        "",
        f"{'labels':<26}{'vs taste':>18}{'vs label':>10}{'corr length':>13}",
    ]
    kinds = [(f"human-like, {size}", taste, size) for size in ("750", "3000", "12000")]
    kinds += [("the same as pairs", f"{taste}-pairs", "12000")]
    kinds += [(f"25 % flips, {size}", f"{taste}-flips", size) for size in ("3000", "12000")]
    for title, name, size in kinds:
        if real := rewards(found, name, size):
            lines.append(reward_line(title, real, taste))
    return [*lines, reward_line("random, 12000", random_rewards(found), taste)]


def reward_line(title: str, real: Sequence[Result], taste: str) -> str:
    gold = [one["gold"][taste]["accuracy"] for one in real]
    single = [one["stage"]["heldout_accuracy"] for one in real]
    bias = [one["length_correlation"] for one in real]
    spread = f"{min(gold):.3f}-{max(gold):.3f}" if len(gold) > 1 else ""
    return f"{title:<26}{fmean(gold):>6.3f} {spread:>11}{fmean(single):>10.3f}{fmean(bias):>+13.2f}"


COLUMNS = ("win", "±", "p", "gold", "proxy", "second", "KL", "length", "in bins", "ended", "dist-2", "unique", "ppl")


def policy_table(found: Found, taste: str, seeds: int) -> list[str]:
    """Each seed of each arm: its gold win rate against SFT with its error over prompts, and what it cost."""
    lines = [f"{'arm':<16}" + "".join(f"{name:>8}" for name in COLUMNS)]
    lines.append(won_line("SFT again", found["sft"]["again"][taste]))
    for seed, point in enumerate(best_of_points(found, taste, seeds)):
        gold = point["gold"][taste]
        line = won_line(f"best-of-16 {seed}", gold)
        lines.append(f"{line}{'':>16}{BEST_OF_KL:>8.2f}{gold['word_ratio']:>8.2f}{gold['within_length']:>8.2f}")
    for arm in ("dpo", "ppo", "ptx"):
        points = arm_points(found, taste, arm, seeds)
        lines += [policy_line(f"{arm} {seed}", point, taste, found) for seed, point in enumerate(points)]
        if len(points) > 1:
            wins = rates(points, taste)
            lines.append(
                f"{'':<16}{fmean(wins):>8.3f} mean of {len(wins)} seeds, standard deviation {pstdev(wins):.3f}"
            )
    lines += [policy_line(f"random {n}", point, taste, found) for n, point in enumerate(control_points(found))]
    return lines


def won_line(title: str, gold: Result) -> str:
    """The beginning of a line: the win rate, its error and p-value, and the mean of gold."""
    return f"{title:<16}{gold['rate']:>8.3f}{gold['error']:>8.3f}{gold['p_value']:>8.2g}{gold['mean']:>8.2f}"


def policy_line(title: str, point: Result, taste: str, found: Found) -> str:
    gold = point["gold"][taste]
    second = f"{point['second']:>8.2f}" if point["second"] is not None else f"{'':>8}"
    return (
        f"{won_line(title, gold)}"
        f"{point['proxy']:>8.2f}{second}{point['kl']:>8.2f}{point['length_ratio']:>8.2f}{gold['within_length']:>8.2f}"
        f"{point['ended']:>8.3f}{point['distinct_2']:>8.3f}{point['unique']:>8.3f}"
        f"{point['perplexity'] / found['model']['perplexity_sft']:>8.2f}"
    )


def strengths(found: Found, taste: str, seeds: int) -> list[str]:
    """Bradley-Terry strengths of seed 0 of every arm, in nats, with intervals over prompts."""
    arms = {"SFT again": found["sft"]["again"][taste]["worth"]}
    if best := best_of_points(found, taste, seeds):
        arms["best-of-16"] = best[0]["gold"][taste]["worth"]
    for arm in ("dpo", "ppo", "ptx"):
        if points := arm_points(found, taste, arm, 1):
            arms[arm] = points[0]["gold"][taste]["worth"]
    for number, point in enumerate(control_points(found)):
        arms[f"random {number}"] = point["gold"][taste]["worth"]
    worths = np.array(list(arms.values()))
    values, (low, high) = bradley_terry(worths), bradley_terry_interval(worths)
    listed = [f"{name} {v:+.2f} [{a:+.2f}, {b:+.2f}]" for name, v, a, b in zip(arms, values, low, high, strict=True)]
    return ["Bradley-Terry, nats (seed 0 of each arm): " + ", ".join(listed)]
