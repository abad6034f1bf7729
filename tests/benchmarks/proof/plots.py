"""The plots of the proof: who wins, what the reward model knows, how far the policy went, and when it is too far.

Needs   matplotlib, one of the `dev` extra
Writes  <folder>/proof-*.png
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from statistics import fmean

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from proof import arm_results
from proof.arm_results import BEST_OF_KL
from proof.jobs import Result

INK, FAINT, RULE = "#1f2430", "#8a90a0", "#e3e5ea"
REAL, RANDOM, OTHER, GOLD, PROXY = "#0b7285", "#c2410c", "#7a8194", "#b7791f", "#0b7285"
TITLES = {"network": "Taste “network”: words of networks and processes", "music": "Taste “music”: sound and rhythm"}
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": RULE,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "figure.dpi": 160,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.15,
}


def draw_all(found: arm_results.Found, tastes: Sequence[str], seeds: int, folder: Path) -> None:
    """Every plot there are numbers for."""
    with plt.rc_context(STYLE):
        draw(folder / "proof-wins.png", wins, found, tastes, seeds)
        draw(folder / "proof-reward.png", reward_accuracy, found, tastes, seeds)
        draw(folder / "proof-kl.png", gold_over_kl, found, tastes, seeds)
        long = [taste for taste in tastes if f"policy/{taste}-flips/long-0" in found]
        if long:
            draw(folder / "proof-overoptimisation.png", overoptimisation, found, long, seeds)


def draw(path: Path, panel, found: arm_results.Found, tastes: Sequence[str], seeds: int) -> None:
    """One panel for each taste, side by side."""
    figure, axes = plt.subplots(1, len(tastes), figsize=(5.4 * len(tastes), 3.9), squeeze=False, sharey=True)
    for place, (axis, taste) in enumerate(zip(axes[0], tastes, strict=True)):
        axis.set_title(TITLES.get(taste, taste))
        panel(axis, found, taste, seeds, first=place == 0)
    figure.tight_layout(w_pad=3)
    figure.savefig(path)
    plt.close(figure)


def wins(axis: Axes, found: arm_results.Found, taste: str, seeds: int, *, first: bool) -> None:
    """The gold win rate against SFT: a point for each seed, with its 95 % interval over prompts."""
    arms: list[tuple[str, list[Result], str]] = [
        ("SFT\nagain", [found["sft"]["again"][taste]], OTHER),
        ("best\nof 16", [p["gold"][taste] for p in arm_results.best_of_points(found, taste, seeds)], OTHER),
    ]
    for title, arm, colour in (("DPO", "dpo", OTHER), ("PPO", "ppo", REAL), ("PPO\n+ ptx", "ptx", REAL)):
        arms.append((title, [p["gold"][taste] for p in arm_results.arm_points(found, taste, arm, seeds)], colour))
    arms.append(("random\nlabels", [p["gold"][taste] for p in arm_results.control_points(found)], RANDOM))
    arms = [arm for arm in arms if arm[1]]
    for place, (_, points, colour) in enumerate(arms):
        for number, point in enumerate(points):
            x = place + 0.16 * (number - (len(points) - 1) / 2)
            axis.plot([x, x], [point["low"], point["high"]], color=colour, linewidth=1.6, alpha=0.45)
            axis.plot(x, point["rate"], "o", color=colour, markersize=5.5)
    axis.axhline(0.5, color=FAINT, linewidth=1)
    axis.set_xticks(range(len(arms)), [title for title, _, _ in arms])
    axis.grid(axis="x", visible=False)
    axis.set_ylim(-0.02, 1.02)
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    if first:
        axis.set_ylabel("gold win rate against SFT")


def reward_accuracy(axis: Axes, found: arm_results.Found, taste: str, seeds: int, *, first: bool) -> None:
    """Accuracy against the taste over the number of comparisons; the labels' own accuracy is the ceiling of a label."""
    labels = found[f"labels/{taste}"]
    for labels_of, colour, words in ((taste, REAL, "human-like labels"), (f"{taste}-flips", GOLD, "25 % flips")):
        means = []
        for place, size in enumerate(("750", "3000", "12000")):
            gold = [one["gold"][taste]["accuracy"] for one in arm_results.rewards(found, labels_of, size)]
            if gold:
                means.append((place, fmean(gold)))
                axis.plot([place] * len(gold), gold, "o", color=colour, markersize=5.5, alpha=0.85)
        axis.plot(*zip(*means, strict=True), color=colour, linewidth=1.6)
        note(axis, means[-1][0] + 0.1, means[-1][1], words, colour)
    chance = [one["gold"][taste]["accuracy"] for one in arm_results.random_rewards(found)]
    axis.plot([2.0] * len(chance), chance, "o", color=RANDOM, markersize=5.5, alpha=0.85)
    note(axis, 2.1, fmean(chance), "random labels", RANDOM)
    for value, words in ((labels["label_vs_gold"], "one label"), (labels["agreement_true"], "two labels agree")):
        axis.axhline(value, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
        note(axis, -0.28, value + 0.006, words, FAINT, va="bottom")
    axis.axhline(0.5, color=FAINT, linewidth=1)
    axis.set_xticks(range(3), ["750", "3,000", "12,000"])
    axis.set_xlim(-0.3, 2.75)
    axis.set_ylim(0.38, 0.84)
    axis.grid(axis="x", visible=False)
    axis.set_xlabel("comparisons")
    if first:
        axis.set_ylabel("pairs ordered as the taste has them")


def note(axis: Axes, x: float, y: float, words: str, colour: str, va: str = "center") -> None:
    axis.text(x, y, words, color=colour, va=va, fontsize=8.5)


def gold_over_kl(axis: Axes, found: arm_results.Found, taste: str, seeds: int, *, first: bool) -> None:
    """The gold win rate over the distance from SFT, halfway and at the end of every run."""
    axis.plot(0, 0.5, "o", color=INK, markersize=5.5)
    note(axis, 0.08, 0.485, "SFT", INK, va="top")
    best = arm_results.best_of_points(found, taste, seeds)
    for point in best:
        axis.plot(sqrt(BEST_OF_KL), point["gold"][taste]["rate"], "D", color=OTHER, markersize=5)
    shown = (("ppo", "PPO", REAL, "-"), ("ptx", "PPO + ptx", GOLD, "-"), ("dpo", "DPO", OTHER, ":"))
    for arm, title, colour, line in shown:
        for seed in range(seeds):
            run = found.get(f"policy/{taste}/{arm}-{seed}")
            if run is None:
                continue
            x = [0.0] + [sqrt(max(0.0, point["kl"])) for point in run["points"]]
            y = [0.5] + [point["gold"][taste]["rate"] for point in run["points"]]
            axis.plot(x, y, "o", linestyle=line, color=colour, markersize=4.5, label=title if seed == 0 else None)
    for number, point in enumerate(arm_results.control_points(found)):
        label = "random labels" if number == 0 else None
        axis.plot(
            sqrt(max(0.0, point["kl"])), point["gold"][taste]["rate"], "o", color=RANDOM, markersize=5, label=label
        )
    if best:
        axis.plot([], [], "D", color=OTHER, markersize=5, label="best of 16")
    axis.axhline(0.5, color=FAINT, linewidth=1)
    axis.set_ylim(-0.02, 1.02)
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    axis.set_xlabel("√KL from SFT, nats per response")
    if first:
        axis.set_ylabel("gold win rate against SFT")
        axis.legend(loc="lower left", fontsize=8.5)


def overoptimisation(axis: Axes, found: arm_results.Found, taste: str, seeds: int, *, first: bool) -> None:
    """A long run at a KL coefficient of 0: what the reward model says, and what is true."""
    run = found[f"policy/{taste}-flips/long-0"]
    x = [0.0] + [sqrt(max(0.0, point["kl"])) for point in run["points"]]
    gold = [0.5] + [point["gold"][taste]["rate"] for point in run["points"]]
    proxy = [0.0] + [point["proxy"] for point in run["points"]]
    axis.plot(x, gold, "o-", color=GOLD, markersize=4.5)
    axis.axhline(0.5, color=FAINT, linewidth=1)
    axis.set_ylim(-0.02, 1.02)
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    axis.set_xlabel("√KL from SFT, nats per response")
    other = axis.twinx()
    other.plot(x, proxy, "s-", color=PROXY, markersize=4)
    other.grid(visible=False)
    other.set_ylim(-0.1, max(proxy) * 1.25)
    other.set_ylabel("reward model's score, in SFT's deviations", color=PROXY)
    alarms = [sqrt(max(0.0, point["kl"])) for point in run["points"] if point["alarm"]]
    for place in alarms:
        axis.axvline(place, color=RANDOM, linewidth=1, alpha=0.6)
    if alarms:
        note(axis, alarms[0] + 0.1, 0.04, "evaluate objects", RANDOM)
    if first:
        axis.set_ylabel("gold win rate against SFT", color=GOLD)
