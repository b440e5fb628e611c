"""Words on the command line that Hydra's grammar stops at, folders that cannot be made."""

import ast
import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

ROOT = Path(__file__).parents[1]
HYDRA = [p for p in (ROOT / "scripts").glob("*.py") if "@hydra.main" in p.read_text()]
sys.path.append(str(ROOT / "scripts"))
command, route = (importlib.import_module(name) for name in ("command", "route"))


def said(capsys, *words):
    """What is said of the words before Hydra reads them; empty if nothing."""
    try:
        command.check_words(words)
    except SystemExit as stop:
        assert stop.code == 2
    return capsys.readouterr().err


def proposed(sentence):
    """The word that a sentence says to write, as the shell and then Hydra read it."""
    (word,) = shlex.split(re.search(r"write ('.*?'(?:\"'\"'.*?')*)(?:,|$)", sentence.strip())[1])
    return word, OverridesParser.create().parse_overrides([word])[0].value()


@pytest.mark.parametrize("path", [
    "/tmp/a=b.jsonl", "/tmp/ä.jsonl", "日本.jsonl", "a(b).jsonl", "a{b}.jsonl", "it's.jsonl",
    "a#c.jsonl", 'q".jsonl', "runs/x,y=1_ab", "${a}=b",
])  # fmt: skip
def test_the_word_that_is_proposed_is_read_as_the_path(capsys, path):
    sentence = said(capsys, "seed=1", f"task.path={path}")
    assert sentence.startswith(f"error: task.path={path}: ") and sentence.count("\n") == 1
    found = proposed(sentence)[1]
    assert found.replace("\\${", "${") == path  # what is left of it is OmegaConf's to resolve


def test_a_list_has_each_item_in_quotes(capsys):
    word, value = proposed(said(capsys, "run=[runs/a=b,c]"))
    assert word == 'run=["runs/a=b",c]' and value == ["runs/a=b", "c"]


def test_a_comma_is_a_value_a_list_or_a_sweep(capsys):
    sentence = said(capsys, "task.path=/tmp/a,b.jsonl")
    assert proposed(sentence)[1] == "/tmp/a,b.jsonl" and "-m" in sentence
    for sweep in ("-m", "--multirun", "+sweep=seeds"):
        assert said(capsys, sweep, "task.n=8,16") == ""


@pytest.mark.parametrize(
    "word", ["seed=1", "task.path=/tmp/a b.jsonl", "task.path='ä=b'", "run=[a,b]", "~task", "-m",
             "+sweep=[seeds,thresholds]", "task=ioi"]
)  # fmt: skip
def test_words_that_hydra_reads_pass(capsys, word):
    assert said(capsys, word) == ""


def test_a_number_is_text_where_text_is_asked_for_and_else_an_id():
    assert route.quoted("text=12") == 'text="12"' and route.quoted("text=null") == "text=null"
    assert [route.quoted(w) for w in ("target=12", "contrast=-3")] == ["target=12", "contrast=-3"]


@pytest.mark.parametrize("path", HYDRA, ids=lambda p: p.stem)
def test_every_command_looks_at_its_words_first(path):
    last = ast.unparse(ast.parse(path.read_text()).body[-1])
    looks = "hydra_words()" if "hydra_words()" in last else "check_words(sys.argv[1:])"
    assert looks in last and last.index(looks) < last.index("main()")
    assert len(HYDRA) == 11


@pytest.mark.parametrize("script", ["discover", "route", "components", "scrub", "compare"])
def test_a_folder_that_cannot_be_made(script, here, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = here(f"{script}.py", f"hydra.run.dir={tmp_path}/file/run")
    assert code == 2 and err.count("\n") == 1, err
    assert f"hydra.run.dir={tmp_path}/file/run: the folder cannot be made" in err
