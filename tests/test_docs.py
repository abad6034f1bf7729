"""The pages tell the truth about the tree, and every command they name exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
PATHS = re.compile(r"`((?:annotate|data|training|tests|docs)/[\w./-]*)`|\]\((?!https?:)([\w./-]+)\)")
MODULES = re.compile(r"python -m ((?:annotate|data|training)(?: [a-z]+)?)")
COMMANDS = {
    "annotate": {"users", "simulate"},
    "data": {"import", "export", "freeze", "diff", "snapshots", "verify", "stats", "withdraw", "seed", "add"},
    "training": {"pretrain", "sft", "reward", "ppo", "evaluate", "sample", "cycle", "serve"},
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_a_page_mentions_exists(page):
    named = [(ROOT / path) if path else page.parent / link for path, link in PATHS.findall(page.read_text())]
    missing = [str(path) for path in named if not path.exists()]

    assert not missing, f"{page.name} mentions {missing}: fix the page or bring the file back."


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_a_page_mentions_is_one(page):
    named = [words.split() for words in MODULES.findall(page.read_text())]
    wrong = [" ".join(words) for words in named if len(words) == 2 and words[1] not in COMMANDS[words[0]]]

    assert not wrong, f"{page.name} names {wrong}, which is no command."


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_a_page_mentions_is_there(page):
    named = set(re.findall(r"`(test_\w+)`", page.read_text()))
    there = {name for path in ROOT.glob("tests/**/*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}

    assert not named - there, f"{page.name} mentions {named - there}: a detail that nothing holds."


@pytest.mark.parametrize("row", re.findall(r"^\| \d+ \|.*", (ROOT / "docs/training.md").read_text(), re.MULTILINE))
def test_every_detail_of_ppo_is_where_the_page_says(row):
    for place in re.findall(r"`([^`]+)`", row.split("|")[3]):
        module, _, name = place.partition(".")
        path = ROOT / "training" / f"{module}.py"
        assert (ROOT / place).exists() or re.search(rf"^(def|class) {name}", path.read_text(), re.MULTILINE), place


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [f"{package} {verb}" for package in ("annotate", "data") for verb in sorted(COMMANDS[package])]
)
def test_every_command_explains_itself(command):
    run = subprocess.run([sys.executable, "-m", *command.split(), "--help"], capture_output=True, text=True, cwd=ROOT)

    assert run.returncode == 0, run.stderr
    assert "--workspace" in run.stdout
