"""Rewards: what the responses of a policy are worth, by reward models, by functions of your own, and by their length.

Reads   reward checkpoints, and Python functions named `module:function`
Writes  nothing
Learns  nothing: all judges are frozen

A response is worth

    reward_weight * E(r_1, ..., r_k) + sum of weight * function(response) - length_penalty * max(0, length / target - 1)

where r_i is the score of model i in units of the reference's own responses (mean 0, standard deviation 1), since every
reward model comes out with a scale of its own, and E combines an ensemble (Coste et al. 2024, equations 3 to 5):
their mean, the worst of them, or their mean minus ensemble_penalty times their variance. The last two pay little for a
response that only some of the models like, which is what over-optimisation finds (Eisenstein et al. 2024).

A function takes the keyword arguments `prompts` (a list of conversations, each a list of messages with `role` and
`content`) and `responses` (a list of strings), and returns one number for each response:

    def no_apologies(prompts, responses):
        return [-1.0 if "sorry" in response.lower() else 0.0 for response in responses]

    python -m training ppo ... --reward reward-0001,reward-0002 --ensemble worst --reward-function mine:no_apologies=0.5
    python -m training ppo ... --reward reward-0001,mine:no_apologies=0.5     # the same, in one option
    python -m training ppo ... --reward mine:no_apologies                     # no reward model at all

Length is what a policy finds first (Singhal et al. 2023), so it can be made to cost: a response pays nothing up to the
target and then in a line, as in the soft overlong punishment of Yu et al. 2025, equation 13, but without its floor, so
that no length is free again. Nothing is gained by being short. The target is the mean length of the reference's own
responses unless you give one.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.errors import InvalidInput
from data.records import Prompt
from data.workspace import Workspace
from training import checkpoints, parallel, sharding, tokenizer
from training.model import load_scalar
from training.rollouts import scores

UNIT_RESPONSES = 64  # least number of the reference's own responses that the unit of scores is measured on
Ensemble = Literal["mean", "worst", "mean-minus-variance"]


@dataclass(frozen=True)
class ScoreUnit:
    """The mean and standard deviation of one model's scores of the reference's own responses."""

    mean: float
    std: float

    def convert(self, found: Tensor) -> Tensor:
        """Scores with the reference's mean at 0 and its standard deviation at 1."""
        return (found - self.mean) / self.std


@dataclass(frozen=True)
class Units:
    """What the reference's own responses are like. `dataclasses.asdict` makes JSON of it for a run's state."""

    models: tuple[ScoreUnit, ...]  # of each reward model, in their order
    length: float  # mean tokens of a response, its end-of-sequence token included

    @classmethod
    def of(cls, saved: Mapping[str, Any]) -> Self:
        """Back from JSON."""
        return cls(tuple(ScoreUnit(**unit) for unit in saved["models"]), saved["length"])


@dataclass(frozen=True)
class Function:
    """A function of the user's own that scores responses."""

    name: str  # module:function
    weight: float
    call: Callable[..., Sequence[float]]

    def __call__(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
        """One finite number per response, before the weight.

        Raises:
            InvalidInput: it returned something else. What it raises itself passes, with its name added.
        """
        asked = [[{"role": m.role, "content": m.content} for m in prompt.messages] for prompt in prompts]
        try:
            returned = self.call(prompts=asked, responses=list(texts))
        except Exception as error:
            error.add_note(f"It was raised in the reward function {self.name}; nothing of this batch was learned.")
            raise
        return _numbers(self.name, returned, texts)


@dataclass(frozen=True)
class Rewards:
    """The judges of a run, and how their verdicts become one score. Made by `load`."""

    models: Mapping[str, PreTrainedModel]  # reward models by the names they were given; frozen
    functions: tuple[Function, ...]
    tokens: PreTrainedTokenizerBase  # the policy's, which all reward models share
    device: torch.device  # where the models are and the scores come out
    reward_weight: float
    ensemble: Ensemble
    ensemble_penalty: float
    length_penalty: float
    length_target: float | None
    units: Units | None = None  # `measured` or `in_units` sets them, before the first score

    def measured(self, prompt_ids: Sequence[Sequence[int]], texts: Sequence[str], *, microbatch: int) -> Rewards:
        """The same judges in units of these responses, which the reference gave to these prompts."""
        raw = self.raw_scores(prompt_ids, texts, microbatch=microbatch)
        return self.in_units(units_of(raw, self.lengths(texts)))

    def in_units(self, units: Units) -> Rewards:
        """The same judges in units that were measured before. Raises InvalidInput when there is not one per model."""
        if len(units.models) != len(self.models):
            raise InvalidInput(
                f"The run was started with {len(units.models)} reward models and now has {len(self.models)}: "
                f"{', '.join(self.models) or 'none'}. Start a new run to change them."
            )
        return replace(self, units=units)

    def score(
        self, prompts: Sequence[Prompt], prompt_ids: Sequence[Sequence[int]], texts: Sequence[str], *, microbatch: int
    ) -> Tensor:
        """(B,) what each response text to its prompt is worth; on the reward models' device, without gradient."""
        return self.parts(prompts, prompt_ids, texts, microbatch=microbatch)["reward"]

    def parts(
        self, prompts: Sequence[Prompt], prompt_ids: Sequence[Sequence[int]], texts: Sequence[str], *, microbatch: int
    ) -> dict[str, Tensor]:
        """What each response is worth and why, by name, each (B,); their means are a step's metrics.

        reward                  the whole: what `score` gives
        score                   mean of the models' scores as they come, not in units
        score_<model>           one model's, where there are several
        ensemble_disagreement   standard deviation between the models, in units, where there are several
        function_<name>         what a function returned, before its weight
        length_penalty          what was taken off for length, where length costs
        """
        if self.units is None:
            raise ValueError("These rewards have no units yet: call `measured` or `in_units` first.")
        raw = self.raw_scores(prompt_ids, texts, microbatch=microbatch)
        total = raw.new_zeros(len(texts))
        found: dict[str, Tensor] = {}
        if self.models:
            in_units = torch.stack([unit.convert(row) for unit, row in zip(self.units.models, raw, strict=True)])
            total = total + self.reward_weight * combined(in_units, self.ensemble, self.ensemble_penalty)
            found["score"] = raw.mean(0)
            if len(self.models) > 1:
                found |= {f"score_{name}": row for name, row in zip(self.models, raw, strict=True)}
                found["ensemble_disagreement"] = in_units.std(0, correction=0)
        for function in self.functions:
            answered = function(prompts, texts) if parallel.is_main() else []  # it need not give the same twice
            values = torch.tensor(parallel.same(answered), device=self.device)
            total = total + function.weight * values
            found[f"function_{function.name}"] = values
        if self.length_penalty:
            target = self.units.length if self.length_target is None else self.length_target
            too_long = length_excess(self.lengths(texts), target)
            found["length_penalty"] = self.length_penalty * too_long
            total = total - found["length_penalty"]
        return {"reward": total, **found}

    def raw_scores(self, prompt_ids: Sequence[Sequence[int]], texts: Sequence[str], *, microbatch: int) -> Tensor:
        """(models, B) the scores as the models give them."""
        if not self.models:
            return torch.zeros(0, len(texts), device=self.device)
        return torch.stack(
            [scores(model, self.tokens, prompt_ids, texts, microbatch=microbatch) for model in self.models.values()]
        )

    def lengths(self, texts: Sequence[str]) -> Tensor:
        """(B,) tokens of each response's text with its end-of-sequence token, as a reward model reads it."""
        lengths = [len(tokenizer.response_ids(self.tokens, text)) for text in texts]
        return torch.tensor(lengths, dtype=torch.float32, device=self.device)


def load(
    reward: str | Sequence[str],
    workspace: Workspace,
    tokens: PreTrainedTokenizerBase,
    device: torch.device,
    *,
    reward_weight: float = 1.0,
    reward_function: Sequence[str] = (),
    ensemble: Ensemble = "mean",
    ensemble_penalty: float = 0.1,
    length_penalty: float = 0.0,
    length_target: float | None = None,
) -> Rewards:
    """The judges by their names, the models frozen on the device. `tokens` is the policy's tokenizer.

    Raises:
        InvalidInput: there is no judge, an option cannot be, a model has another vocabulary than the policy, or a
            function cannot be found.
        NotFound: there is no such checkpoint.
    """
    if ensemble not in get_args(Ensemble):
        raise InvalidInput(f"ensemble is {ensemble!r}; it is one of {', '.join(get_args(Ensemble))}.")
    for name, value in (
        ("reward_weight", reward_weight),
        ("ensemble_penalty", ensemble_penalty),
        ("length_penalty", length_penalty),
    ):
        if not 0 <= value < math.inf:
            raise InvalidInput(f"{name} is {value}; it must be 0 or more.")
    if length_target is not None and not 0 < length_target < math.inf:
        raise InvalidInput(f"length_target is {length_target}; it must be more than 0 tokens.")
    names = names_of(reward) if reward_weight else ()
    specs = [*functions_of(reward), *reward_function]
    functions = tuple(load_function(spec) for spec in specs)
    if len({function.name for function in functions}) < len(functions):
        raise InvalidInput(f"A reward function is given twice in {', '.join(specs)}: give it one weight.")
    if not names and not functions:
        raise InvalidInput(
            "Nothing would judge the responses: --reward names reward models and functions (module:function), and "
            "reward_weight, which multiplies the models' score, must be above 0."
        )
    return Rewards(
        models={name: sharding.place(load_judge(name, workspace, tokens), device) for name in names},
        functions=functions,
        tokens=tokens,
        device=device,
        reward_weight=reward_weight,
        ensemble=ensemble,
        ensemble_penalty=ensemble_penalty,
        length_penalty=length_penalty,
        length_target=length_target,
    )


def names_of(reward: str | Sequence[str]) -> tuple[str, ...]:
    """The checkpoints among what `--reward` names. Raises InvalidInput when one comes twice."""
    names = tuple(part for part in parts_of(reward) if not is_function(part))
    for name in names:
        if names.count(name) > 1:
            raise InvalidInput(f"The reward model {name} is named twice; an ensemble needs different models.")
    return names


def functions_of(reward: str | Sequence[str]) -> tuple[str, ...]:
    """The functions among what `--reward` names: `module:function` or `module:function=weight`."""
    return tuple(filter(is_function, parts_of(reward)))


def parts_of(reward: str | Sequence[str]) -> tuple[str, ...]:
    """The parts of a comma-separated string or a sequence."""
    parts = reward.split(",") if isinstance(reward, str) else reward
    return tuple(part.strip() for part in parts if part.strip())


def is_function(part: str) -> bool:
    """Whether it names a function, and no folder: checkpoint ids have no colon."""
    return ":" in part and not Path(part).exists()


def load_judge(name: str, workspace: Workspace, tokens: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A frozen reward model. Raises InvalidInput when the policy's token ids would mean something else to it."""
    path = checkpoints.resolve(name, workspace)
    tokenizer.require_shared(tokens, path, "reward model")
    return load_scalar(path).eval().requires_grad_(False)


def load_function(spec: str) -> Function:
    """The function that `module:function` or `module:function=weight` names; without a weight it weighs 1.

    The module is found as by `python -m`: in the current directory too.

    Raises:
        InvalidInput: it is spelled otherwise, or there is no such module or function.
    """
    name, equals, given = spec.partition("=")
    module_name, _, attribute = name.partition(":")
    weight = _float(given) if equals else 1.0
    if not (module_name and attribute) or module_name.startswith(".") or weight is None:
        raise InvalidInput(f"--reward-function {spec!r} is not module:function or module:function=weight.")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it imports is not
        raise InvalidInput(
            f"There is no module {module_name!r} for --reward-function {spec}, neither installed nor in {os.getcwd()}."
        ) from error
    found = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise InvalidInput(f"The module {module_name!r} has no function {attribute!r} for --reward-function {spec}.")
    return Function(name, weight, found)


def units_of(raw: Tensor, lengths: Tensor) -> Units:
    """The units of scores (models, B) and lengths (B,) of the reference's own responses."""
    models = tuple(ScoreUnit(row.mean().item(), max(row.std(correction=0).item(), 1e-6)) for row in raw)
    return Units(models, lengths.mean().item())


def combined(in_units: Tensor, ensemble: Ensemble, penalty: float) -> Tensor:
    """(B,) one score from those of (models, B): their mean, the worst, or mean - penalty * variance.

    Coste et al. 2024, equations 3, 4 and 5; the variance is that of the models at hand, divided by their number.
    """
    if ensemble == "worst":
        return in_units.amin(0)
    mean = in_units.mean(0)
    return mean if ensemble == "mean" else mean - penalty * in_units.var(0, correction=0)


def length_excess(lengths: Tensor, target: float) -> Tensor:
    """(B,) by what share of the target each response is too long; 0 where it is not."""
    return (lengths / target - 1).clamp(min=0)


def _numbers(name: str, returned: Any, texts: Sequence[str]) -> list[float]:
    """What a function returned as floats, checked."""
    what = f"The reward function {name} must return one finite number for each of the {len(texts)} responses"
    kept = "Nothing of this batch was learned; mend the function and resume the run."
    try:
        values = list(returned)
    except TypeError:
        raise InvalidInput(f"{what}, but returned {returned!r:.80}. {kept}") from None
    if len(values) != len(texts) or isinstance(returned, (str, Mapping)):
        raise InvalidInput(f"{what}, but returned {len(values)} in a {type(returned).__name__}. {kept}")
    numbers = [_float(value) for value in values]
    if None in numbers:
        place = numbers.index(None)
        raise InvalidInput(
            f"{what}, but gave {values[place]!r:.80} for response {place + 1}: {texts[place]!r:.200}. {kept}"
        )
    return [number for number in numbers if number is not None]


def _float(value: Any) -> float | None:
    """The finite number that a value is, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
