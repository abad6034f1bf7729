"""Proof that the loop learns what labelers want, and not by luck.

Two tastes that the trainer never sees, labels as noisy as people's, prompts that no stage saw before, three seeds, and
the same again on labels in random order: the product learns if every real seed wins more than every random one.
Everything goes the product's own way: its store, its snapshots, its stages. What came out: docs/proof.md.

Writes  a folder (var/proof) with workspaces, results/*.json (kept: a proof that was stopped goes on), plots, proof.json
Exits   1 when a check fails

    python tests/benchmarks/prove.py --quick           # two CPU cores: about 25 minutes
    python tests/benchmarks/prove.py                   # DPO too, three seeds with text, more sizes of labels
    python tests/benchmarks/prove.py --overoptimise    # also the long run at a KL coefficient of 0
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import libraries_first  # noqa: F401

os.environ |= {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}

from proof import arms, checks, report
from proof.jobs import Job, run_all
from proof.tastes import TASTES

STEPS = 50  # batches of rollouts
EARLY = 36  # steps after which each policy is looked at as well
LONG = 60  # steps of the run that goes too far


def jobs_of(tastes: list[str], seeds: int, *, quick: bool, long: bool) -> list[Job]:
    """All jobs, those that others wait for first. Quick: the arms that the checks need."""
    controls = [f"control-{seed}" for seed in range(checks.CONTROLS)]
    jobs = [Job("model", arms.make_model)]
    jobs += [
        Job(f"responses/{split}", arms.sample_responses, {"split": split}, ("model",)) for split in ("train", "test")
    ]
    jobs += [Job("sft", arms.speak_as_sft, {}, ("model",))]
    sampled = ("responses/train", "responses/test", "sft")
    for taste in tastes:
        jobs.append(Job(f"labels/{taste}", arms.label, {"taste": taste}, sampled))
        jobs.append(Job(f"labels/{taste}-flips", arms.label_with_flips, {"taste": taste}, sampled))
    jobs += [
        Job(f"labels/{labels}", arms.label_at_random, {"seed": seed}, sampled) for seed, labels in enumerate(controls)
    ]
    for taste in tastes:
        jobs.append(reward_job(f"{taste}-flips", "3000"))
        jobs += [reward_job(taste, "12000", seed) for seed in range(seeds)]
        jobs += [Job(f"best-of/{taste}/{seed}", arms.best_of, {"taste": taste, "seed": seed},
                     (f"reward/{taste}/12000-{seed}",)) for seed in range(seeds)]  # fmt: skip
        ppo = (*arms.PPO, "--steps", STEPS, "--save-every", EARLY)
        jobs += [policy_job(taste, "ppo", seed, (*ppo, "--ptx-coef", 0), (EARLY,)) for seed in range(seeds)]
        for seed in range(1 if quick else seeds):
            jobs.append(policy_job(taste, "ptx", seed, (*ppo, "--ptx-coef", arms.PTX), (EARLY,)))
    jobs += [reward_job(labels, "12000") for labels in controls]
    ppo = (*arms.PPO, "--steps", STEPS, "--save-every", EARLY, "--ptx-coef", 0)
    jobs += [policy_job(labels, "ppo", 0, ppo, ()) for labels in controls[: max(3, seeds)]]
    for taste in tastes:
        jobs += [reward_job(taste, "750", seed) for seed in range(seeds)]
        jobs += [] if quick else thorough_jobs(taste, seeds)
        jobs += long_jobs(taste) if long else []
    return jobs


def thorough_jobs(taste: str, seeds: int) -> list[Job]:
    """What a quick proof leaves out: DPO, a third size of labels, all flips, and pairs that stand alone."""
    pairs = Job(f"labels/{taste}-pairs", arms.label_pairs, {"taste": taste}, (f"labels/{taste}",))
    rewards = [reward_job(taste, "3000", seed) for seed in range(seeds)]
    rewards += [reward_job(f"{taste}-flips", "12000"), reward_job(f"{taste}-pairs", "12000")]
    return [pairs, *rewards, *(policy_job(taste, "dpo", seed, arms.DPO, ()) for seed in range(seeds))]


def reward_job(labels: str, size: str, seed: int = 0) -> Job:
    """A reward model on those labels."""
    options = {"labels": labels, "size": size, "seed": seed, "tastes": sorted(TASTES)}
    return Job(f"reward/{labels}/{size}-{seed}", arms.train_reward, options, (f"labels/{labels}",))


def policy_job(labels: str, arm: str, seed: int, options: tuple, keep: tuple[int, ...]) -> Job:
    """A policy on those labels, with the reward model of its seed."""
    judge = f"reward/{labels}/12000-{seed}"
    given = {"labels": labels, "arm": arm, "seed": seed, "judge": judge, "options": options, "keep": keep}
    needs = (judge, f"reward/{labels}-flips/3000-0") if labels in TASTES else (judge,)
    return Job(f"policy/{labels}/{arm}-{seed}", arms.train_policy, given | {"tastes": sorted(TASTES)}, needs)


def long_jobs(taste: str) -> list[Job]:
    """The run that goes too far."""
    keep = tuple(range(10, LONG, 10))
    options = (
        *arms.PPO, "--ptx-coef", 0, "--kl-coef", 0, "--kl-target", None, "--steps", LONG, "--save-every", 10,
        "--lr-schedule", "constant", "--minibatch-size", 64,
    )  # fmt: skip
    given = {"taste": taste, "options": options, "keep": keep}
    needs = (f"reward/{taste}-flips/3000-0", f"reward/{taste}/12000-0")
    return [Job(f"policy/{taste}-flips/long-0", arms.optimise_too_far, given, needs)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="no DPO, one seed with text, fewer reward models")
    parser.add_argument("--seeds", type=int, default=3, help="of each arm")
    parser.add_argument("--taste", choices=sorted(TASTES), help="this one only")
    parser.add_argument("--overoptimise", action="store_true", help="also the long run at a KL coefficient of 0")
    parser.add_argument("--to", type=Path, default=Path("var/proof"), help="where everything goes")
    parser.add_argument("--processes", type=int, default=2, help="jobs at once, one thread each")
    given = parser.parse_args()
    root = given.to.resolve()
    root.mkdir(parents=True, exist_ok=True)
    tastes = [given.taste] if given.taste else sorted(TASTES)
    jobs = jobs_of(tastes, given.seeds, quick=given.quick, long=given.overoptimise)
    found = run_all(jobs, root, given.processes)
    return report.say(found, tastes, given.seeds, root)


if __name__ == "__main__":
    sys.exit(main())
