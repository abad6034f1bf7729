"""What is withdrawn leaves no trace in what is frozen afterwards; what was made of it is named, and frozen anew."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data import owner, snapshots
from data.choices import Choices
from data.contents import KINDS, SPLITS
from data.errors import InvalidInput, NotFound
from data.records import DemonstrationAnswer, Message, NewPrompt, NewRanking, NewResponse
from data.store import Store
from data.workspace import Workspace

pytestmark = pytest.mark.slow  # many small ones: together they take longer than `make check` has

NAMES = ("ana", "ben", "cem")


def everything_in(snapshot):
    """All that a reader of the snapshot can find, as one text."""
    rows = (row for kind in KINDS for split in SPLITS for row in snapshot.rows(kind, split))
    files = (file.read_text() for file in snapshot.path.iterdir() if file.is_file())
    return "\n".join([*files, *(json.dumps(row) for row in rows)])


def filled(store, prompts, rankings):
    """Prompts asked by number, and who ranked which with what comment: the label ids and the words of each."""
    ids = store.add_prompts([NewPrompt((Message("user", f"prompt-{n}-words, please?"),)) for n in range(prompts)])
    words = {}
    for place, name in rankings:
        prompt, comment = ids[place % prompts], f"comment-{place}-{name}"
        texts = tuple(NewResponse(f"response-{place % prompts}-{n}", "sft-0001") for n in range(2))
        (label,) = store.add_rankings([NewRanking(prompt, texts, (1, 2), name, comment=comment)]) or (None,)
        if label:
            words[label] = (prompt, name, comment)
    store.add_demonstrations([(id, f"demonstration of {id}") for id in ids], labeler="ana", source="made.jsonl")
    return ids, words


@settings(
    max_examples=8,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    prompts=st.integers(1, 4),
    rankings=st.lists(st.tuples(st.integers(0, 7), st.sampled_from(NAMES)), min_size=1, max_size=6, unique=True),
    by=st.sampled_from(["label", "labeler", "prompt"]),
    data=st.data(),
)
def test_what_is_withdrawn_leaves_no_trace_and_no_prompt_moves(tmp_path_factory, prompts, rankings, by, data):
    with Store(None) as store:
        ids, words = filled(store, prompts, rankings)
        sides = {prompt.id: prompt.split for prompt in store.prompts()}
        target = data.draw(st.sampled_from(sorted(words)))
        prompt, name, comment = words[target]
        if by == "label":
            store.withdraw(label_id=target)
            gone = [target, comment]
        elif by == "labeler":
            pseudonym = store._live.outsiders[f"import/{name}"]
            gone = [*store.withdraw(labeler=pseudonym), pseudonym, f"-{name}"]
        else:
            _, labels = store.withdraw_prompt(prompt)
            number = ids.index(prompt)
            gone = [prompt, *labels, f"prompt-{number}-", f"response-{number}-", f"demonstration of {prompt}"]
            filled(store, prompts, [*rankings, (number, "eve")])  # brought in again, it stays away
        left = {prompt.id: prompt.split for prompt in store.prompts()}
        assert left.items() <= sides.items() and len(left) == len(ids) - (by == "prompt")
        if left:
            text = everything_in(owner.freeze(store, Workspace(tmp_path_factory.mktemp("ws"))))
            assert not [word for word in gone if word in text]
            assert all(words[label][2] in text for label in words if label in text)


def test_a_withdrawn_prompt_is_offered_no_more_and_its_snapshots_are_frozen_anew(tmp_path):
    workspace = Workspace(tmp_path / "ws")
    with Store(tmp_path / "store.duckdb") as store:
        for name in NAMES:
            store.add_user(name, "labeler")
        ids, _ = filled(store, 2, [(0, "ana"), (1, "ana"), (1, "cem")])
        plain = owner.freeze(store, workspace)
        chosen = owner.freeze(store, workspace, Choices.of({"aggregate": "majority"}))
        other = owner.freeze(store, workspace, Choices.of({"labeler": [store._live.outsiders["import/cem"]]}))
        store.add_demonstration_tasks(ids, overlap=2)
        held = store.next_task("ben", "demonstration")

        found = owner.withdraw(store, workspace, prompt_id=ids[0], refreeze=True)

        assert found["prompt_ids"] == [ids[0]] and len(found["label_ids"]) == 2
        assert found["snapshots"] == sorted([plain.hash, chosen.hash, other.hash], key=found["snapshots"].index)
        assert owner.withdraw(store, workspace, prompt_id=ids[0])["label_ids"] == found["label_ids"]  # again
        for old in (plain, chosen, other):
            new = snapshots.load(workspace.snapshots / found["replacements"][old.hash])
            assert ids[0] not in everything_in(new)
            assert new.about.get("choices") == old.about.get("choices")
        if held.task.prompt_id == ids[0]:  # who had it open may still hand it in, and it is hidden
            answer = DemonstrationAnswer("late words")
            store.submit_demonstration("ben", held.task.id, held.lease, answer, guideline="")
        assert store.next_task("cem", "demonstration").task.prompt_id == ids[1]
        store.add_ranking_task(ids[0], [NewResponse("a", "x"), NewResponse("b", "x")], 1)
        assert store.next_task("cem", "ranking") is None
    with Store(tmp_path / "store.duckdb") as store:
        assert store.next_task("ana", "ranking") is None
        assert store.next_task("ana", "demonstration").task.prompt_id == ids[1]
        assert [prompt.id for prompt in store.prompts()] == [ids[1]]
        assert "late words" not in json.dumps(list(store.demonstration_rows()))
        assert store.stats()["prompts"]["train"] + store.stats()["prompts"]["heldout"] == 1


def test_a_withdrawal_names_one_thing_that_there_is(tmp_path):
    with Store(None) as store:
        with pytest.raises(InvalidInput, match="Give one of"):
            owner.withdraw(store, Workspace(tmp_path), label_id="l-1", prompt_id="p-1")
        with pytest.raises(NotFound, match="no prompt 'p-1'"):
            owner.withdraw(store, Workspace(tmp_path), prompt_id="p-1")
