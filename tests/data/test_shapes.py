"""Each known shape is recognised by its columns and says what its rows say: who, when, in which order, how surely."""

import copy
import random
from datetime import UTC, datetime

import pytest

from data import shapes
from data.errors import InvalidInput
from data.records import Message
from data.shapes import Mapping, Misfit
from data.shapes.choices import weak_order
from data.shapes.trees import gathered

ASKED = {"role": "user", "content": "Name a colour."}
QUESTION = (Message("user", "Name a colour."),)


def read(kind, row, **more):
    reading = shapes.read(kind, row, "file", **more)
    return reading.shape, [said.label for said in reading.said], reading.left_out


def ranked(label):
    """Each response's text with its rank, in the order listed."""
    return dict(zip([response.text for response in label.responses], label.ranks, strict=True))


def test_several_labels_of_a_pair_are_as_many_rankings_with_their_labelers():
    label = {"value": "a2", "worker": "w1", "hit_seconds": 30.0, "reason": "Clearer.", "competence": 0.5}
    row = {"debate": "Water", "stance": "Ban it", "a1": "One.", "a2": "Two.", "a1_id": "x1", "a2_id": "x2"}
    labels = [label, {**label, "value": "equal", "worker": "w2"}, {**label, "value": "both"}]

    shape, (first, second), left_out = read("rankings", {**row, "labels": labels, "strict_gold": "a1"})

    assert shape == "UKPConvArg pairs with several labels"
    assert [response.source for response in first.responses] == ["x1", "x2"]
    assert (first.ranks, second.ranks) == ((2, 1), (1, 1))
    assert (first.labeler, first.seconds, first.comment, second.labeler) == ("w1", 30.0, "Clearer.", "w2")
    assert first.display_order == (0, 1)
    assert first.details == {"strict_gold": "a1", "competence": 0.5}
    assert left_out == ["label 3 has the value 'both': it is a1, a2 or equal"]


def test_a_preference_in_five_levels_keeps_its_strength_its_time_and_the_order_shown():
    row = {"prompt": "Name a colour.", "model_a": "tulu", "model_b": "gpt", "completion_a": "Blue.", "evaluator": "yo"}
    row |= {"completion_b": "Fish.", "completion_a_is_acceptable": "yes", "timestamp": "2023-05-19T13:11:45"}

    shape, (label,), _ = read("comparisons", {**row, "preference": "b-is-slightly-better"})

    assert shape == "Tülu evaluation, preference in five levels"
    assert ranked(label) == {"Blue.": 2, "Fish.": 1}
    assert label.details == {"strength": 1, "completion_a_is_acceptable": "yes"}
    assert (label.labeler, label.display_order) == ("yo", (0, 1))
    assert label.labeled_at == datetime(2023, 5, 19, 13, 11, 45, tzinfo=UTC)


@pytest.mark.parametrize(("number", "ranks"), [(0, (1, 2)), (1, (2, 1)), (2, (1, 1))])
def test_auto_js_labels_count_from_nought_and_two_is_a_tie(number, ranks):
    row = {"scenario": "colours", "prompt": "Name a colour.", "response 1": "Blue.", "response 2": "", "label": number}

    _, (label,), _ = read("comparisons", row)

    assert label.ranks == ranks
    assert [response.text for response in label.responses] == ["Blue.", ""]


@pytest.mark.parametrize(
    ("choices", "ranks"),
    [
        ([1, 1, 1], (1, 2, 3)),  # 1 before 2 before 3
        ([0, 1, 1], (1, 1, 2)),
        ([2, 0, 1], (2, 1, 2)),
        ([0, 0, 0], (1, 1, 1)),
        ([1, 2, 1], None),  # 1 before 2 before 3 before 1
        ([0, 1, 0], None),  # 1 equals 2 equals 3, yet 1 before 3
    ],
)
def test_pairwise_choices_of_three_are_one_order_or_none(choices, ranks):
    assert weak_order(3, choices) == ranks


def test_choices_that_are_no_order_are_said_and_kept_as_pairs():
    row = {"question": "Name a colour.", **{f"prediction {n}": f"Colour {n}." for n in (1, 2, 3)}}

    shape, (label,), _ = read("rankings", {**row, "preference": [1, 1, 0]})
    assert shape == "QA-Feedback, a choice in each pair"
    assert ranked(label) == {"Colour 1.": 1, "Colour 2.": 2, "Colour 3.": 2}
    assert (label.display_order, label.details) == ((0, 1, 2), {"choices": [1, 1, 0]})

    _, pairs, (why,) = read("rankings", {**row, "preference": [1, 2, 1]})
    assert [ranked(pair) for pair in pairs] == [
        {"Colour 1.": 1, "Colour 2.": 2},
        {"Colour 1.": 2, "Colour 3.": 1},
        {"Colour 2.": 1, "Colour 3.": 2},
    ]
    assert "1 is better than 2 and 2 is better than 3, but 1 is worse than 3" in why


def test_ratings_become_a_ranking_with_ties_and_are_kept():
    def completion(text, *ratings):
        aspects = ("helpfulness", "honesty")
        said = {name: {"Rating": rating} for name, rating in zip(aspects, ratings, strict=True)}
        return {"model": f"m-{text}", "response": text, "annotations": said, "overall_score": 7.0}

    row = {
        "instruction": "Name a colour.",
        "completions": [completion("Blue.", "4", "5"), completion("Fish.", "1", "2")],
    }
    row["completions"].append(completion("Red.", "5", "N/A"))  # the mean of what is rated: 5; of Blue 4.5, of Fish 1.5

    shape, (label,), _ = read("rankings", row)

    assert shape == "UltraFeedback ratings"
    assert ranked(label) == {"Blue.": 2, "Fish.": 3, "Red.": 1}
    assert label.details["ratings"][0] == {"helpfulness": 4.0, "honesty": 5.0}
    assert [response.source for response in label.responses] == ["m-Blue.", "m-Fish.", "m-Red."]
    scores = {"prompt": "Name a colour.", "responses": ["a", "b", "c"], "ratings": [3, 5, 5]}
    assert ranked(read("rankings", scores)[1][0]) == {"a": 2, "b": 1, "c": 1}


TREE = {
    "message_tree_id": "t",
    "prompt": {
        "message_id": "1",
        "role": "prompter",
        "text": "Name a colour.",
        "lang": "en",
        "replies": [
            {"message_id": "2", "role": "assistant", "text": "Fish.", "rank": 1, "replies": [], "user_id": "u2"},
            {
                "message_id": "3",
                "role": "assistant",
                "text": "Blue.",
                "rank": 0,
                "user_id": "u3",
                "created_date": "2023-02-05T14:23:50+00:00",
                "replies": [{"message_id": "4", "role": "prompter", "text": "Another?", "replies": []}],
            },
            {"message_id": "5", "role": "assistant", "text": "Spam.", "rank": 2, "deleted": True, "replies": []},
        ],
    },
}


def rows_of_tree(node, parent=None):
    yield {**{k: v for k, v in node.items() if k != "replies"}, "parent_id": parent, "message_tree_id": "t"}
    for reply in node["replies"]:
        yield from rows_of_tree(reply, node["message_id"])


def test_a_tree_holds_rankings_demonstrations_and_prompts_nested_or_in_rows():
    other = {"prompt": "Hi."}
    flat = [("line 1", other), *((f"line {n}", row) for n, row in enumerate(rows_of_tree(TREE["prompt"]), 2))]
    (_, _, plain), (place, count, joined) = gathered(flat)
    assert (plain, place, count) == (other, "line 2", 5)

    for tree in (TREE, joined):
        shape, (ranking,), left_out = read("rankings", tree)
        assert shape == "OpenAssistant trees"
        assert ranked(ranking) == {"Fish.": 2, "Blue.": 1}  # ranks there count from 0
        assert left_out == ["message 5 was deleted or refused: it is left out, with what answers it"]
        _, written, _ = read("demonstrations", tree)
        assert [(label.response, label.labeler) for label in written] == [("Fish.", "u2"), ("Blue.", "u3")]
        assert written[1].labeled_at == datetime(2023, 2, 5, 14, 23, 50, tzinfo=UTC)
        asked = [said.prompt for said in shapes.read("prompts", tree, "file").said]
        assert [prompt.messages[-1].content for prompt in asked] == ["Name a colour.", "Another?"]
        assert (len(asked[1].messages), asked[0].tags) == (3, ("lang:en",))


def test_each_reply_of_a_conversation_is_a_demonstration():
    turns = [("human", "Hi."), ("gpt", "Hello."), ("human", "A colour?"), ("gpt", "Blue.")]
    share = {"conversations": [{"from": who, "value": text} for who, text in turns]}
    trl = {"messages": [{"role": "user" if who == "human" else "assistant", "content": text} for who, text in turns]}

    for row, name in ((share, "ShareGPT"), (trl, "messages")):
        shape, labels, _ = read("demonstrations", row)
        assert (shape, [label.response for label in labels]) == (name, ["Hello.", "Blue."])
        (prompt,) = (said.prompt for said in shapes.read("prompts", row, "file").said)
        assert len(prompt.messages) == 3


def test_the_turns_after_the_first_of_questions_without_answers_are_left_out_and_said():
    reading = shapes.read("prompts", {"question_id": 1, "category": "writing", "turns": ["Write.", "Again."]}, "file")

    assert (reading.said[0].prompt.messages[0].content, reading.said[0].prompt.tags) == ("Write.", ("writing",))
    assert "turns 2 to 2" in reading.left_out[0]


def test_an_arena_battle_ends_in_one_reply_each():
    row = {"model_a": "a", "model_b": "b", "winner": "tie (bothbad)", "judge": "j1", "tstamp": 1682351591.1}
    row |= {f"conversation_{side}": [ASKED, {"role": "assistant", "content": side}] for side in "ab"}

    shape, (label,), _ = read("comparisons", row)

    assert (shape, ranked(label), label.labeler) == ("Chatbot Arena battles", {"a": 1, "b": 1}, "j1")
    assert label.labeled_at.year == 2023


def test_label_studio_annotations_are_labels_of_those_who_made_them():
    def annotation(*results, **more):
        result = [{"type": kind, "value": value, "from_name": "x", "to_name": to} for kind, value, to in results]
        return {"completed_by": 7, "lead_time": 12.5, "created_at": "2024-01-02T03:04:05Z", "result": result, **more}

    data = {"prompt": "Name a colour.", "answer1": "Blue.", "answer2": "Fish."}
    chosen = annotation(("pairwise", {"selected": "right"}, ["answer1", "answer2"]))
    cancelled = annotation(("pairwise", {"selected": "left"}, []), was_cancelled=True)
    row = {"id": 1, "data": data, "annotations": [chosen, cancelled]}

    shape, (label,), left_out = read("comparisons", row)
    assert (shape, ranked(label)) == ("Label Studio export", {"Blue.": 2, "Fish.": 1})
    assert (label.labeler, label.seconds, label.labeled_at.day) == ("7", 12.5, 2)
    assert left_out == ["annotation 2 was skipped or is empty"]

    items = [{"id": name, "body": f"{name}."} for name in ("A", "B", "C")]
    row = {"data": {"prompt": "Name a colour.", "items": items}}
    order = annotation(("ranker", {"ranker": {"rank": ["C", "A", "B"]}}, "items"))
    _, (label,), _ = read("rankings", {**row, "annotations": [order]})
    assert ranked(label) == {"A.": 2, "B.": 3, "C.": 1}

    written = annotation(("textarea", {"text": ["Green."]}, "prompt"), completed_by={"id": 1, "email": "a@b.c"})
    _, (label,), _ = read("demonstrations", {"data": data, "annotations": [written]})
    assert (label.response, label.labeler) == ("Green.", "a@b.c")


def test_argilla_records_are_read_in_all_three_forms():
    columns = {"prompt": "Name a colour.", "response-1": "Blue.", "response-2": "Fish."}
    order = [{"rank": 1, "value": "response-2"}, {"rank": 2, "value": "response-1"}]
    first = {**columns, "rank": [{"user_id": "u1", "value": order, "status": "submitted"}]}
    flat = {**columns, "rank.responses": [["response_2", "response_1"]], "rank.responses.users": ["u1"]}
    whole = {"fields": columns, "responses": {"rank": [{"user_id": "u1", "value": order}]}}

    for row in (first, flat, whole):
        shape, (label,), _ = read("rankings", row)
        assert (shape, ranked(label), label.labeler) == ("Argilla export", {"Blue.": 2, "Fish.": 1}, "u1")

    answers = {
        "better": [{"user_id": "u1", "value": "response-1", "status": "submitted"}],
        "own": [{"user_id": "u2", "value": "Green.", "status": "submitted"}],
        "more": [{"user_id": "u3", "value": "Red.", "status": "draft"}],
    }
    _, (label,), _ = read("comparisons", {"fields": columns, "responses": answers})
    assert ranked(label) == {"Blue.": 1, "Fish.": 2}
    _, (label,), left_out = read("demonstrations", {"fields": columns, "responses": answers})
    assert (label.response, label.labeler) == ("Green.", "u2")
    assert left_out == ["the answer of u3 to 'more' is draft"]


WMT = {
    "pair": "deu-eng",
    "segment": "581",
    "judge": "j0",
    "seconds": 35.3,
    "systems": list("abcd"),
    "ranks": [3, 5, 2, 5],
}
WMT_MAP = "prompt=pair prompt=segment responses=systems ranks=ranks labeler=judge seconds=seconds"


def test_a_completion_that_is_not_wanted_is_no_demonstration():
    row = {"prompt": "Name a colour.", "completion": "Fish."}

    assert read("demonstrations", {**row, "label": True})[0] == "TRL unpaired preference"
    with pytest.raises(Misfit, match="not wanted"):
        read("demonstrations", {**row, "label": False})


def test_systems_without_texts_are_taken_only_when_a_map_says_so():
    with pytest.raises(Misfit, match="no text of theirs.*--map responses=systems"):
        read("rankings", WMT)
    with pytest.raises(Misfit, match="names no system"):
        read("rankings", {**WMT, "systems": [], "ranks": []})

    shape, (label,), _ = read("rankings", WMT, mapping=Mapping.parse(WMT_MAP.split()))

    assert shape == "columns named by --map"
    assert ranked(label) == {"a": 2, "b": 3, "c": 1, "d": 3}  # 2 before 3 before the two 5s, of four
    assert (label.labeler, label.seconds) == ("j0", 35.3)


def test_a_map_goes_down_dotted_paths_and_lists():
    row = {"q": {"text": "Name a colour."}, "out": [{"t": "Blue."}, {"t": "Fish."}], "best": "A", "by": [{"id": 3}]}
    given = ["prompt=q.text", "responses=out.*.t", "preference=best", "labeler=by.0.id"]

    _, (label,), _ = read("rankings", row, mapping=Mapping.parse(given))

    assert (ranked(label), label.labeler) == ({"Blue.": 1, "Fish.": 2}, "3")
    apart = Mapping.parse(["prompt=q.text", "responses=out.1.t,out.0.t", "preference=best"])
    assert ranked(read("rankings", row, mapping=apart)[1][0]) == {"Fish.": 1, "Blue.": 2}
    for path, value, ranks in (("best", 2, (2, 1)), ("best_from_0", 0.0, (1, 2))):
        mapping = Mapping.parse(["prompt=q.text", "responses=out.*.t", f"{path}=best"])
        assert read("rankings", {**row, "best": value}, mapping=mapping)[1][0].ranks == ranks
        with pytest.raises(Misfit, match="has the best response '3'"):
            read("rankings", {**row, "best": 3}, mapping=mapping)
    with pytest.raises(Misfit, match="has the preference '1'"):  # the first, or the second counted from 0
        read("rankings", {**row, "best": 1}, mapping=Mapping.parse(given))
    assert Mapping.parse([]) is None
    with pytest.raises(InvalidInput, match="'text=a' names no field.*'prompt=' has no path"):
        Mapping.parse(["text=a", "prompt="])


def test_a_row_of_a_known_shape_without_what_is_asked_says_what_it_has():
    with pytest.raises(Misfit, match="UltraFeedback ratings, which has no demonstrations in it but rankings"):
        read("demonstrations", {"instruction": "x", "completions": [{"response": "a"}, {"response": "b"}]})


# ------------------------------------------------------------- damaged rows

REPLY = {"role": "assistant", "content": "Blue."}
COLUMNS = {"prompt": "Name a colour.", "response-1": "Blue.", "response-2": "Fish."}
STUDIO = [
    {"type": "pairwise", "value": {"selected": "right"}, "to_name": ["answer1", "answer2"]},
    {"type": "rating", "value": {"rating": 3}},
    {"type": "choices", "value": {"choices": ["left"]}},
    {"type": "textarea", "value": {"text": ["Green."]}},
    {"type": "ranker", "value": {"ranker": {"rank": ["answer2", "answer1"]}}},
]
EXAMPLES = [
    TREE,
    WMT,
    *rows_of_tree(TREE["prompt"]),
    {"a1": "1", "a2": "2", "a1_id": "x", "a2_id": "y", "debate": "d", "labels": [{"value": "a1", "worker": "w"}]},
    {"prompt": "p", "completion_a": "a", "completion_b": "b", "preference": "tie", "timestamp": "2023-05-19T13:11:45"},
    {"prompt": "p", "response 1": "a", "response 2": "b", "label": 1, "scenario": "s"},
    {"question": "q", "prediction 1": "a", "prediction 2": "b", "preference": [1], "passages": [["t", "s"]]},
    {"instruction": "i", "completions": [{"response": n, "annotations": {"h": {"Rating": n}}} for n in "12"]},
    {"conversations": [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello."}], "system": "s"},
    {"conversations": [{"from": "human", "value": "?"}], "chosen": {"from": "gpt", "value": "a"}, "rejected": {}},
    {"conversation_a": [ASKED, REPLY], "conversation_b": [ASKED, REPLY], "winner": "model_a", "tstamp": 1.5},
    {"turns": ["Write.", "Again."]},
    {"question_id": 1, "choices": [{}]},
    {"data": {"prompt": "p", "answer1": "a", "answer2": "b"}, "annotations": [{"result": STUDIO, "lead_time": 2}]},
    {**COLUMNS, "rank": [{"user_id": "u", "value": [{"rank": 1, "value": "response-2"}], "status": "submitted"}]},
    {**COLUMNS, "rank.responses": [["response-2", "response-1"]], "rank.responses.users": ["u"]},
    {"fields": COLUMNS, "responses": {"own": [{"user_id": "u", "value": "Green."}]}},
    {"prompt": "p", "responses": [{"id": "r", "text": "a"}, "b"], "ranks": [1, 2], "ratings": {"r": {"helpful": 7}}},
    {"prompt": "p", "responses": ["a", "b"], "display_order": [1, 0], "best": 1, "flags": {}, "tags": ["t"]},
    {"chosen": [ASKED, REPLY], "rejected": [ASKED, {**REPLY, "content": "Fish."}], "score_chosen": 1, "split": "train"},
    {"instruction": "i", "input": "x", "output": "o", "instances": [{"input": "", "output": "o"}]},
    {"prompt": "p", "completion": [REPLY], "labeler": "w", "seconds": 3, "label": True},
]
DAMAGE = [None, True, -1, 1.5, float("nan"), 10**400, "", "x", "a\0b", "\ud800", [], [None], [1, "x"], {}, {"a": None}]


def places(value, path=()):
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inside:
        yield from places(each, (*path, key))


def damaged(row, rng):
    row = copy.deepcopy(row)
    for _ in range(rng.randint(1, 3)):
        *path, last = rng.choice([path for path in places(row) if path])
        inner = row
        for step in path:
            inner = inner[step]
        inner[last] = copy.deepcopy(rng.choice(DAMAGE))
    return row


def test_a_damaged_row_of_any_shape_is_read_or_refused_and_never_stops_an_import():
    rng = random.Random(0)
    outcomes = {True: 0, False: 0}
    for _ in range(60):
        for row in (damaged(example, rng) for example in EXAMPLES):
            for kind in ("rankings", "demonstrations", "prompts"):
                try:
                    for _, _, joined in gathered([("line 1", row)]):
                        shapes.read(kind, joined, "file")
                    outcomes[True] += 1
                except Misfit as misfit:
                    assert str(misfit)
                    outcomes[False] += 1
    assert min(outcomes.values()) > 500  # both ways are tried
