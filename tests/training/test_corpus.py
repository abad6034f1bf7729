import json
import math

import pytest
import torch
from datasets import Dataset

from data.errors import InvalidInput
from training import checkpoints, corpus
from training.corpus import Source, bits_per_byte, blocks, docstrings, files, heldout_bits_per_byte, is_heldout
from training.tokenizer import SEPARATOR, response_ids

TEXTS = [f"Document {i} says that the cat sat on the mat." for i in range(200)]


def text_of(words, block_ids):
    return words.decode(block_ids.reshape(-1), skip_special_tokens=False)


@pytest.mark.slow
def test_the_standard_library_is_read_in_the_same_order_each_time_and_without_tests():
    found = corpus.standard_library()

    assert found == sorted(found)
    assert {"textwrap.py", "json/decoder.py"} <= {"/".join(p.parts[-2:]) for p in found} | {p.name for p in found}
    assert not any("test" in p.parts or "site-packages" in p.parts for p in found)


def test_docstrings_are_those_of_the_module_and_of_all_that_is_in_it():
    source = '"""About it."""\nclass A:\n    """A thing."""\n    def b(self):\n        """Do\n        it."""\n'

    assert list(docstrings(source)) == ["About it.", "A thing.", "Do\nit."]


def test_a_file_that_is_not_python_has_no_docstrings():
    assert list(docstrings("this is = not python")) == []


@pytest.mark.slow
def test_this_installation_has_text_and_code_enough():
    prose, code = corpus.python_prose(), corpus.python_code()

    assert sum(map(len, prose)) > 1_000_000 and sum(map(len, code)) > 5_000_000
    assert len(set(prose)) == len(prose)


def test_a_folder_of_text_is_read_by_name_and_what_is_not_text_left_out(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.txt").write_text("first ü")
    (tmp_path / "sub" / "c.md").write_text("third")
    (tmp_path / "d.bin").write_bytes(b"\xff\xfe\x00")
    (tmp_path / ".hidden").write_text("no")

    assert files([tmp_path]) == ["first ü", "second", "third"]
    assert files([tmp_path / "b.txt", tmp_path / "sub"]) == ["second", "third"]


def test_a_path_that_cannot_be_read_as_text_is_named(tmp_path):
    (tmp_path / "d.bin").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(InvalidInput, match="nowhere"):
        files([tmp_path / "nowhere"])
    with pytest.raises(InvalidInput, match="d.bin: not UTF-8"):
        files([tmp_path / "d.bin"])
    with pytest.raises(InvalidInput, match="no text"):
        files([tmp_path])


def test_a_dataset_folder_gives_its_text_column(tmp_path):
    Dataset.from_dict({"text": ["one", "two"], "id": [1, 2]}).save_to_disk(tmp_path / "saved")

    assert list(corpus.dataset(tmp_path / "saved", "text")) == ["one", "two"]
    with pytest.raises(InvalidInput, match="'words'; it has text, id"):
        corpus.dataset(tmp_path / "saved", "words")
    with pytest.raises(InvalidInput, match="nowhere"):
        corpus.dataset(tmp_path / "nowhere", "text")


def test_what_is_held_out_depends_on_the_words_alone():
    held = [text for text in TEXTS if is_heldout(text, 0.2)]

    assert 20 <= len(held) <= 60  # 40 expected, standard deviation 5.7
    assert all(is_heldout(text, 0.3) for text in held)  # a larger share keeps the old ones
    assert not any(is_heldout(text, 0.0) for text in TEXTS)


def test_training_and_heldout_text_share_no_document():
    source = Source("s", 1.0, [f"{i} " * 20 for i in range(2000)])

    train = set(corpus.sample_text([source], 10**9, seed=0))
    held = set(corpus.heldout_sample([source], 10**9, seed=0))

    assert train and held and not train & held
    assert len(train) + len(held) == 2000


def test_blocks_hold_documents_whole_one_after_the_other_each_after_a_separator(words):
    source = Source("s", 1.0, TEXTS[:3])

    made = blocks(words, [source], length=8, count=12, seed=0)

    assert made.ids.shape == (12, 8)
    unshuffled = corpus._tokens(words, source, 96, 0)[0]
    documents = text_of(words, unshuffled).split(SEPARATOR)
    assert documents[0] == ""  # it begins with a separator
    assert all(document in TEXTS[:3] for document in documents[1:-1])  # the last may go on beyond the blocks
    assert sorted(map(tuple, made.ids)) == sorted(map(tuple, unshuffled.reshape(12, 8)))


def test_each_source_fills_its_share_of_the_blocks(words):
    sources = [Source("a", 3.0, ["aaaa " * 20] * 5 + ["aaab " * 20]), Source("b", 1.0, ["bbbb " * 20, "bbba " * 20])]

    made = blocks(words, sources, length=16, count=40, seed=0)

    with_b = sum("bb" in text_of(words, block) for block in made.ids)
    assert with_b == 10  # 40 * 1 / (3 + 1)


def test_the_same_seed_cuts_the_same_blocks_and_another_seed_others(words):
    def cut(seed):
        return blocks(words, [Source("s", 1.0, TEXTS)], length=16, count=20, seed=seed).ids.tolist()

    assert cut(1) == cut(1) != cut(2)


def test_the_bytes_of_a_token_count_the_separators_too(words):
    text = "ü" * 30  # 60 bytes; some tokens and a separator before each copy

    made = blocks(words, [Source("s", 1.0, [text])], length=8, count=50, seed=0)

    document = len(response_ids(words, text))  # as many tokens as with the separator
    assert made.bytes_per_token == pytest.approx(60 / document, rel=0.05)


def test_a_source_without_training_text_is_named(words):
    with pytest.raises(InvalidInput, match="mine"):
        blocks(words, [Source("mine", 1.0, [])], length=8, count=2, seed=0)


def test_special_tokens_in_a_document_are_words(words):
    made = blocks(words, [Source("s", 1.0, ["x <|end|> y " * 4])], length=8, count=10, seed=0)

    assert words.eos_token_id not in made.ids


def test_bits_per_byte_of_a_coin_flip_a_byte_is_one():
    assert bits_per_byte(100 * math.log(2), 100) == pytest.approx(1.0)


def test_a_model_that_knows_nothing_needs_log2_of_its_vocabulary_for_each_token(policy, words):
    policy.get_output_embeddings().weight.data.zero_()
    texts = ["The cat sat.", "ü" * 40, "mat"]
    tokens = sum(len(response_ids(words, text)) - 1 for text in texts)

    measured = heldout_bits_per_byte(policy, words, texts, window=8)

    size = 12 + 80 + 3  # in UTF-8, ü takes two
    assert measured == pytest.approx(tokens * math.log2(300) / size, rel=1e-5)


@torch.no_grad()
def test_every_token_is_predicted_once_with_the_context_of_its_window(policy, words):
    text = "What do cats eat? Cats eat fish and drink water."
    ids = [words.convert_tokens_to_ids(SEPARATOR), *response_ids(words, text)[:-1]]
    nats = 0.0
    for start in range(0, len(ids) - 1, 5):  # by hand: windows of 5 targets, one token of context before them
        part = torch.tensor([ids[start : start + 6]])
        logits = policy(part).logits.log_softmax(-1)
        nats -= logits[0, :-1].gather(-1, part[0, 1:, None]).sum().item()

    measured = heldout_bits_per_byte(policy, words, [text], window=5, batch_size=3)

    assert measured == pytest.approx(nats / math.log(2) / len(text), rel=1e-4)


def test_measuring_leaves_the_model_in_the_mode_it_was_in(policy, words):
    policy.train()
    heldout_bits_per_byte(policy, words, ["a"])
    assert policy.training


def checkpoint(workspace, policy, words, run_id, parents, also=None):
    return checkpoints.save(
        workspace.checkpoints,
        run_id,
        stage=run_id.split("-")[0],
        parents=parents,
        snapshot=None,
        model=policy,
        tokenizer=words,
        config={},
        metrics={},
        seed=0,
        also=also,
    )


def test_a_model_is_measured_on_what_its_pretrained_ancestor_held_out(workspace, policy, words):
    texts = ["one\ntwo", "drei ü"]
    checkpoint(workspace, policy, words, "pretrain-0001", [], lambda folder: corpus.write_heldout(folder, texts))
    checkpoint(workspace, policy, words, "sft-0001", ["pretrain-0001"])
    ppo = checkpoint(workspace, policy, words, "ppo-0001", ["sft-0001", "reward-0009"])  # one parent is gone

    assert corpus.heldout_texts(ppo, workspace.checkpoints) == texts
    assert json.loads((workspace.checkpoints / "pretrain-0001" / "heldout.jsonl").read_text().splitlines()[0]) == {
        "text": "one\ntwo"
    }


@pytest.mark.slow
def test_a_model_from_outside_is_measured_on_docstrings(workspace, policy, words):
    sft = checkpoint(workspace, policy, words, "sft-0001", ["someone/model"])

    texts = corpus.heldout_texts(sft, workspace.checkpoints)

    assert 40_000 < sum(map(len, texts)) < 80_000
    assert texts == corpus.heldout_texts(sft, workspace.checkpoints)
