"""README and docs/ say what is so: Python runs, commands compose, links lead somewhere.

Python blocks of a page run in order in one namespace; one with a title is a file of that name, and
a module. A block after `<!-- not run: WHY -->` is left out, a validation's minute is made a second,
and of an explanation the story is left out. Commands, in bash blocks and in running text, are
composed and checked as the command would, and not run.
"""

import importlib
import json
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from discovery.choices import registry
from discovery.choices.fields import checked
from discovery.consensus.settings import ConsensusSettings
from discovery.settings.evaluation import FullEvaluation
from discovery.settings.explanation import ExplainSettings
from discovery.settings.run import (
    AriseSettings,
    MibSettings,
    RouteSettings,
    read_as,
    read_scrub_settings,
    read_settings,
)

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs" / "pages").glob("*.md"))]
sys.path.append(str(ROOT / "scripts"))
NAMES = ("circuits", "command", "compare", "components", "route", "validate", "aggregate",
         "dashboard", "export", "truth", "mib", "draw", "workspace")  # fmt: skip
(
    circuits,
    command,
    compare,
    components,
    route,
    validate,
    aggregate,
    dashboard,
    export,
    truth,
    mib,
    draw,
    workspace,
) = map(  # fmt: skip
    importlib.import_module, NAMES
)

FENCE = re.compile(
    r"(?:^<!--(?P<note>[^\n]*)-->\n)?^```(?P<kind>\w*)(?: title=\"(?P<title>[^\"]+)\")?[ ]*\n"
    r"(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
INLINE = re.compile(r"(?<!`)`((?:circuits \w+ |python scripts/)[^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"")
WHY = re.compile(r" not run: \w+( \S+){2,} ")


@dataclass(frozen=True)
class Block:
    """What stands between fences."""

    kind: str  # python, bash, json, ...
    text: str
    line: int  # of the page, from 1, where the text begins
    title: str | None  # a file's name
    note: str | None  # of the comment before it


def blocks(page, *kinds):
    """The page's blocks, in order."""
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start("text")) + 1
        block = Block(found["kind"], found["text"], line, found["title"], found["note"])
        if not kinds or block.kind in kinds:
            yield block


def commands(page):
    """(where, words) of each command on the page."""
    text = page.read_text(encoding="utf-8")
    for block in blocks(page, "bash"):
        for line in block.text.replace("\\\n", " ").splitlines():
            yield page.name, shlex.split(line, comments=True)
    for found in INLINE.finditer(FENCE.sub("", text)):
        yield page.name, shlex.split(found[1].replace("\n", " "))


def with_python(page):
    return any(not block.note for block in blocks(page, "python"))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to work in, whose modules are found and then forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CIRCUIT_DISCOVERY_CACHE", str(tmp_path / "cache"))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def write_files(page, folder):
    for block in blocks(page, "python"):
        if block.title:
            (folder / block.title).write_text(block.text)


def test_there_are_pages_and_blocks():
    assert len(PAGES) > 15 and README.stat().st_size <= 10_000
    assert sum(len(list(blocks(page, "python"))) for page in PAGES) > 25
    assert sum(len(list(commands(page))) for page in PAGES) > 60
    kinds = {block.kind for page in PAGES for block in blocks(page)}
    assert kinds == {"python", "bash", "json", "yaml", ""}  # no other is looked at


# the first page's code is much that of the README; what the others' calls is tested elsewhere too
@pytest.mark.quick(
    "README", "concepts", "own_method", "own_model", "own_task", "validation", "wandb"
)
@pytest.mark.parametrize("page", list(filter(with_python, PAGES)), ids=lambda page: page.stem)
def test_python_runs(page, place):
    write_files(page, place)
    names = {"__name__": "page"}
    for block in blocks(page, "python"):
        if block.title:
            importlib.import_module(Path(block.title).stem)
        elif not block.note:
            text = block.text.replace("budget=1)", "budget=0.02)").replace(', "story"]', "]")
            exec(compile("\n" * (block.line - 1) + text, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_is_not_run_says_why(page):
    notes = [block.note for block in blocks(page) if block.note is not None]
    assert all(WHY.fullmatch(note) for note in notes), notes
    assert page.read_text().count("not run:") >= len(notes)
    assert len(re.findall("<!--", page.read_text())) == len(notes)  # a comment is at its block


READ = {
    "discover": lambda config, words: read_settings(command.plain(config)),
    "compare": lambda config, words: compare.questions(command.plain(config), words),
    "route": lambda config, words: read_as(RouteSettings, command.plain(config)),
    "components": lambda config, words: components.checked(command.plain(config)),
    "validate": lambda config, words: checked(FullEvaluation, _less_run(config)),
    "consensus": lambda config, words: checked(ConsensusSettings, _less_run(config)),
    "arise": lambda config, words: read_as(AriseSettings, command.plain(config)),
    "explain": lambda config, words: checked(ExplainSettings, _less_run(config)),
    "truth": lambda config, words: truth.questions(command.plain(config)),
    "mib": lambda config, words: read_as(MibSettings, command.plain(config)),
    "scrub": lambda config, words: read_scrub_settings(command.plain(config)),
}


def _less_run(config):
    fields = command.plain(config)
    assert fields.pop("run")
    return fields


def composed(name, words):
    """Compose the command's configuration, for each value of a sweep once, and check it."""
    many = any(command.MANY.fullmatch(word) for word in words)
    words = [word for word in words if word not in ("-m", "--multirun")]
    if name == "route":
        words = [route.quoted(word) for word in words]
    if name in ("discover", "compare", "route", "components", "arise", "mib"):
        words = command.asked(words)
    command.check_words([*words, *["-m"] * many])
    parsed = OverridesParser.create().parse_overrides(words)
    values = [
        [f"{one.key_or_group}={v}" for v in one.sweep_string_iterator()]
        if one.is_sweep_override()
        else [word]
        for one, word in zip(parsed, words, strict=True)
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for i in range(max(map(len, values), default=1)):
            job = [own[i % len(own)] for own in values]
            READ[name](compose(name, job), job)


def parsed(name, words, monkeypatch):
    """Let the command read its words, and do nothing."""
    if name == "dashboard":
        monkeypatch.setattr(dashboard, "serve", lambda *asked: None)
        dashboard.main(words)
    elif name == "export":
        monkeypatch.setattr(export, "export", lambda *asked: None)
        export.main(words)
    elif name == "draw":
        draw.read_words(words)
    elif name == "workspace":
        for name in ("save", "save_report"):
            monkeypatch.setattr(workspace, name, lambda *asked: None)
        workspace.main(words)
    else:
        monkeypatch.setattr(aggregate, "summarise", lambda *asked, **more: True)
        monkeypatch.setattr(sys, "argv", ["aggregate", *words])
        with pytest.raises(SystemExit) as stop:
            aggregate.main()
        assert stop.value.code == 0


FILES = {"validate": ("full", FullEvaluation), "explain": ("explain", ExplainSettings)}


def check(words, monkeypatch):
    """One command of a page: that its words are what it takes."""
    first, *rest = words
    if first == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    is_script = first == "python" and re.fullmatch(r"scripts/\w+\.py", rest[0])
    assert first == "circuits" or is_script, f"not a command of ours: {words}"
    assert is_script or rest[0] in circuits.COMMANDS
    name, rest = Path(rest[0]).stem, [word for word in rest[1:] if word != "..."]
    if name in FILES and any(word.startswith("circuit=") for word in rest):
        composed("discover", validate.of_file(rest, *FILES[name]))
    elif name == "mib" and rest[0] != "evaluate":
        for part in ("write_submission", "check_submission"):
            monkeypatch.setattr(mib, part, lambda *asked: None)
        mib.submission(rest)
    elif name == "mib":
        composed(name, rest[1:])
    elif name in READ:
        composed(name, rest)
    elif name in ("dashboard", "export", "aggregate", "draw", "workspace"):
        parsed(name, rest, monkeypatch)
    else:
        assert is_script and (ROOT / "scripts" / f"{name}.py").exists()


def make_mentioned(words, folder):
    """Files that a command names, empty."""
    for word in words:
        value = word.rpartition("=")[2]
        if re.fullmatch(r"FILE|[\w./-]+\.(jsonl?|txt|safetensors|pt)", value):
            path = folder / value
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


CHECKED = set()  # commands, as words: what several pages have is composed once


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_take_their_words(page, place, monkeypatch):
    monkeypatch.setattr("discovery.settings.run.usable_device", lambda device: device)
    write_files(page, place)
    for where, words in commands(page):
        if words and tuple(words) not in CHECKED:
            CHECKED.add(tuple(words))
            make_mentioned(words, place)
            try:
                check(words, monkeypatch)
            except BaseException as error:
                raise AssertionError(f"{where}: {shlex.join(words)}: {error}") from error


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in (a or b for a, b in LINK.findall(text)):
        if not re.match(r"https?:|mailto:|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), target
    for script in re.findall(r"scripts/\w+\.py|tests/[\w/]+\.py|discovery/[\w/]+\.py", text):
        assert (ROOT / script).exists(), script


def test_every_choice_is_named():
    readme = README.read_text()
    for group, known in registry.KNOWN.items():
        assert [name for name in known if f"`{name}`" not in readme] == [], group
    methods = (ROOT / "docs/pages/methods.md").read_text()
    assert [name for name in registry.KNOWN["method"] if f"| `{name}` |" not in methods] == []
    concepts = (ROOT / "docs/pages/concepts.md").read_text()
    for group in ("metric", "ablation"):
        assert [n for n in registry.KNOWN[group] if f"| `{n}`" not in concepts] == []


def test_every_file_of_conf_is_shown():
    fields = (ROOT / "docs/pages/fields.md").read_text()
    shown = set(re.findall(r'^--8<-- "(.+)"$', fields, re.MULTILINE))
    files = {
        path.relative_to(ROOT).as_posix()
        for path in CONF.rglob("*.yaml")
        if path.stem != "own" and path.parent.name != "metric" and path.name != "discover.yaml"
    }
    assert shown == files


def test_every_file_and_field_of_a_run_is_described(tmp_path):
    import discovery as cd

    model = cd.load("induction")
    task = cd.task("induction", model, n=8)
    cd.discover(model, task, folder=tmp_path / "search")
    cd.discover(model, task, "learned", n_edges=9, steps=2, folder=tmp_path / "masks", grow=9)
    page = (ROOT / "docs/pages/run_folder.md").read_text()
    named = set(re.findall(r"`([\w.]+)", page))
    for folder in tmp_path.iterdir():
        assert {p.name for p in folder.iterdir()} <= named
        for path in folder.glob("*.json*"):
            if path.suffix == ".jsonl":
                fields = {key for line in path.open() for key in json.loads(line)}
            else:
                fields = set(json.loads(path.read_text()))
            assert len(fields) > 0 and sorted(fields - named) == [], path.name
