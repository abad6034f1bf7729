"""What the choices of a freeze leave, what they say in the manifest, and that they are frozen again the same."""

import json
from datetime import UTC, datetime

import pytest

from data import datasets, owner, snapshots
from data.choices import Choices, place_of
from data.difference import difference, lines
from data.errors import DamagedSnapshot, InvalidInput
from data.records import Message, NewPrompt, NewRanking, NewResponse
from data.store import Store
from data.workspace import Workspace

pytestmark = pytest.mark.slow  # many small ones: together they take longer than `make check` has

MARCH = datetime(2026, 3, 1, 9, tzinfo=UTC)
APRIL = datetime(2026, 4, 1, 9, tzinfo=UTC)


class Clock:
    now = MARCH

    def __call__(self):
        return self.now


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Three prompts: on the first three labelers say 2:1 the same, on the others ana alone, on the last in April."""
    clock, workspace = Clock(), Workspace(tmp_path_factory.mktemp("ws"))
    with Store(None, now=clock) as store:
        asked = [
            ("Name a colour.", ("art", "lang:en")),
            ("Nenne eine Farbe.", ("lang:de",)),
            ("Name a fruit.", ("art", "food", "lang:en")),
        ]
        prompts = store.add_prompts([NewPrompt((Message("user", text),), tags, "train") for text, tags in asked])
        made = ((0, "ana", (1, 2, 3)), (0, "ben", (1, 3, 2)), (0, "cem", (2, 1, 3)), (1, "ana", (1, 2, 2)))
        ids = [rank(store, prompts[place], labeler, ranks) for place, labeler, ranks in made]
        clock.now = APRIL
        ids.append(rank(store, prompts[2], "ana", (3, 1, 2), checkpoint="ppo-0002"))
        store.add_demonstrations([(prompts[2], "A pear.")], labeler="ben", source="pears.jsonl")
        yield store, workspace, prompts, ids, pseudonyms(store)


def rank(store, prompt_id, labeler, ranks, checkpoint="sft-0001"):
    responses = tuple(NewResponse(f"Response {n}.", checkpoint) for n in range(len(ranks)))
    ratings = tuple({"helpful": 8 - rank} for rank in ranks)
    given = NewRanking(prompt_id, responses, ranks, labeler, ratings=ratings)
    return store.add_rankings([given], source="crowd.jsonl" if labeler == "cem" else "pilot.jsonl")[0]


def pseudonyms(store):
    """Of those who ranked, by their name in the file."""
    return {name.rpartition("/")[2]: pseudonym for name, pseudonym in store._live.outsiders.items() if "/" in name}


def frozen(world, **choices):
    return owner.freeze(world[0], world[1], Choices.of(choices))


def rankings(snapshot, split="train"):
    return {row["label_id"]: row for row in snapshot.rows("rankings", split)}


@pytest.mark.parametrize(
    ("choices", "kept", "left_out"),
    [
        ({"since": "2026-03-15"}, [4], {"since": 4}),
        ({"until": "2026-03-15T00:00:00Z"}, [0, 1, 2, 3], {"until": 2}),  # the demonstration too
        ({"source": ["!crowd.jsonl"]}, [0, 1, 3, 4], {"source": 1}),
        ({"source": ["crowd.jsonl"]}, [2], {"source": 5}),
        ({"checkpoint": ["ppo-0002"]}, [4], {"checkpoint": 4}),
        ({"checkpoint": ["!ppo-0002"]}, [0, 1, 2, 3], {"checkpoint": 1}),
        ({"tag": ["art", "!food"]}, [0, 1, 2], {"prompt": 3}),
        ({"language": ["de"], "since": "2026-02-01"}, [3], {"prompt": 5}),
        ({"min_agreement": 0.6}, [3, 4], {"min_agreement": 3}),  # 5 of 9 pairs of labels agree: .556
        ({"min_agreement": 0.5}, [0, 1, 2, 3, 4], {}),
    ],
    ids=str,
)
def test_a_choice_leaves_what_it_names_and_the_manifest_counts_the_rest(world, choices, kept, left_out):
    store, workspace, prompts, ids, _ = world

    snapshot = frozen(world, **choices)

    assert rankings(snapshot).keys() == {ids[place] for place in kept}
    assert snapshot.about["left_out"]["labels"] == left_out
    assert Choices.of(snapshot.about["choices"]) == Choices.of(choices)


def test_labelers_are_named_by_pseudonym_or_left_out(world):
    _, _, _, ids, named = world

    assert rankings(frozen(world, labeler=[named["ben"]])).keys() == {ids[1]}
    assert rankings(frozen(world, labeler=[f"!{named['ana']}"])).keys() == {ids[1], ids[2]}


def test_several_rankings_of_a_task_become_one_row_by_majority_or_mean_rank(world):
    _, _, _, ids, _ = world

    for method in ("majority", "mean-rank"):
        rows = rankings(frozen(world, aggregate=method))
        (made,) = [row for row in rows.values() if row["labeler"] == method]
        assert rows.keys() == {made["label_id"], ids[3], ids[4]}
        assert made["ranks"] == [1, 2, 3]
        # 8 - rank: first response 7, 7, 6; second 6, 5, 7; third 5, 6, 5
        means = [each["helpful"] for each in json.loads(made["ratings"]).values()]
        assert sorted(means) == pytest.approx([16 / 3, 6, 20 / 3])
        assert rows[ids[3]]["ranks"] == [1, 2, 2]  # ties are kept

    snapshot = frozen(world, aggregate="majority")
    assert snapshots.load(snapshot.path).about["left_out"] == {"prompts": {}, "labels": {}}
    assert [sorted(made) for made in snapshot.about["aggregated"].values()] == [sorted(ids[:3])]
    assert snapshot.hash in snapshots.tainted_snapshots(world[1].snapshots, [ids[1]])


def test_the_weights_of_labelers_are_in_the_name_and_reach_the_reward_model(tmp_path):
    workspace = Workspace(tmp_path)
    with Store(None) as store:
        prompts = store.add_prompts([NewPrompt((Message("user", f"Say {n}."),), split="train") for n in range(8)])
        for n, prompt_id in enumerate(prompts):  # 8 tasks of 6 pairs; dan contradicts the others in all of them
            said = [1, 2, 3, 4] if n % 2 else [4, 3, 2, 1]
            for labeler in ("ana", "ben", "cem"):
                rank(store, prompt_id, labeler, tuple(said))
            rank(store, prompt_id, "dan", tuple(5 - each for each in said))
        named = pseudonyms(store)

        plain = owner.freeze(store, workspace)
        weighed = owner.freeze(store, workspace, Choices.of({"weights": "reliability"}))

    assert plain.hash != weighed.hash and plain.about == {}
    assert rankings(plain) == rankings(weighed)
    found = {ranked.labeler: ranked.weight for ranked in datasets.rankings(weighed, "train")}
    assert found == {named["ana"]: 1.0, named["ben"]: 1.0, named["cem"]: 1.0, named["dan"]: 0.01}
    assert {ranked.weight for ranked in datasets.rankings(plain, "train")} == {1.0}
    edited = json.loads((weighed.path / "manifest.json").read_text())
    edited["about"]["weights"][named["dan"]] = 1.0
    weighed.path.joinpath("manifest.json").write_text(json.dumps(edited))
    with pytest.raises(DamagedSnapshot):
        snapshots.verify(weighed.path)


def test_held_out_labelers_only_measure(world):
    _, _, _, ids, named = world
    (first, out), (second, _) = sorted((place_of(name), name) for name in named.values())[:2]

    snapshot = frozen(world, hold_out_labelers=(first + second) / 2)

    theirs = {id for id, row in rankings(frozen(world)).items() if row["labeler"] == out}
    assert rankings(snapshot, "heldout").keys() == theirs
    assert rankings(snapshot).keys() == {*ids} - theirs
    assert snapshot.about["heldout_labelers"] == [out]


def test_the_agreement_of_a_snapshot_is_that_of_its_labels(world):
    _, _, _, _, named = world

    # of the three pairs of responses ana and cem say two alike; the ceiling of 2/3 is (1 + sqrt(1/3)) / 2
    agreement = frozen(world, labeler=[f"!{named['ben']}"]).manifest["agreement"]

    assert agreement["pairwise"] == pytest.approx(2 / 3)
    assert agreement["ceiling"] == pytest.approx(0.7887, abs=0.0001)


def test_choices_that_leave_nothing_or_make_no_sense_are_refused(world):
    with pytest.raises(InvalidInput, match="leave no label: until left out 6"):
        frozen(world, until="2020-01-01")
    with pytest.raises(InvalidInput, match="leave no prompt: tag left out 3"):
        frozen(world, tag=["nowhere"])
    with pytest.raises(InvalidInput, match="colour is no choice.*min_agreement is 2 and must be a number from 0 to 1"):
        Choices.of({"colour": 1, "min_agreement": 2})
    with pytest.raises(InvalidInput, match="since is 'soon' and must be a date"):
        Choices.of({"since": "soon"})


def test_a_difference_names_what_only_one_of_two_snapshots_has(world):
    _, _, prompts, ids, named = world
    one, other = frozen(world), frozen(world, labeler=[f"!{named['cem']}"], tag=["art"])

    found = difference(one, other)

    assert found["labels"] == [sorted([ids[2], ids[3]]), []]
    assert found["prompts"] == [[prompts[1]], []]
    assert found["labelers"] == [[named["cem"]], []]
    assert found["counts"]["rankings"] == [5, 3]
    assert found["choices"] == {"labeler": [None, [f"!{named['cem']}"]], "tag": [None, ["art"]]}
    said = "\n".join(lines(found))
    assert f"Only in {one.hash}: 2 labels" in said and "counts: rankings 5 -> 3" in said
    assert lines(difference(one, one)) == [f"{one.hash} is the same snapshot."]
