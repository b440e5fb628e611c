"""What the commands share: configurations as plain values, refusals as one line and exit code 2.

Words on the command line are read by Hydra's grammar before any of our code runs. `check_words`
looks at them first, and says in one sentence what to write where that grammar would stop.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from acdc.errors import InputError, first_line
from discovery.choices.labels import model_label, task_label
from discovery.choices.registry import KEY, KNOWN

BARE = re.compile(r"[^A-Za-z0-9_/.\-+%:@?|\\*$ ]")  # what Hydra takes within quotes only
MANY = re.compile(r"-m|--multirun|\+sweep=.*|hydra\.mode=MULTIRUN")  # words that begin a sweep

HERE = Path(__file__).resolve().parent
CONF = str(next(p / "conf" for p in (HERE, HERE.parent) if (p / "conf").is_dir()))  # wheel, clone
MOVED = {"method.metric": "metric", "method.ablation": "ablation"}  # before 2026-11 -> now

LONG = 60  # characters of one name within a folder's

sys.path.append(os.getcwd())  # one's own modules lie where one works
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def cleaned(text: str) -> str:
    """The text as it may stand in the name of a folder."""
    return re.sub(r"[^\w.=+-]+", "-", text).strip("-.")


def _name_of(label: Callable[[Mapping[str, Any]], Any], config: DictConfig) -> str:
    """What the folder of a run calls its model or task."""
    values: Any = OmegaConf.to_container(config)
    name = str(label(values)).rpartition(":")[2]
    return cleaned(name)[:LONG] or str(values.get("kind", values.get("name")))


for _name, _label in (("model_label", model_label), ("task_label", task_label)):  # for conf/
    OmegaConf.register_new_resolver(_name, partial(_name_of, _label), replace=True)


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration; InputError for what is missing or cannot be resolved."""
    try:
        found: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise InputError(f"{error.full_key} is required: add {error.full_key}=...") from None
    except OmegaConfBaseException as error:
        raise InputError(str(error).splitlines()[0]) from None
    return found


def asked(words: Sequence[str]) -> list[str]:
    """The overrides as Hydra has to be told them.

    A choice that has no file in conf/ (one's own "module:Name", an entry point) becomes the file
    `own` and its name, so that `method=my_module:Mine method.depth=3` works as for ours. What was
    the method's before is asked of the run. InputError for several own choices in one word.
    """
    words = [_moved(word) for word in words]
    own = {group for group, value in map(_split, words) if group in KNOWN and _is_own(group, value)}
    out = []
    for word in words:
        key, value = _split(word)
        group = key.partition(".")[0]
        if group not in own or not value:
            out.append(word)
        elif key == group:
            if "," in value:
                raise InputError(f"{word}: of your own, one at a time; start a sweep for each")
            out += [f"{group}=own", f"{group}.{KEY.get(group, 'name')}={value}"]
        else:
            out.append(f"++{word.lstrip('+')}")
    return out


def _split(word: str) -> tuple[str, str]:
    key, _, value = word.lstrip("+").partition("=")
    return key, value


def _moved(word: str) -> str:
    key, value = _split(word)
    if key not in MOVED:
        return word
    print(f"note: {word} is now written {MOVED[key]}={value}", file=sys.stderr)
    return f"{MOVED[key]}={value}"


def _is_own(group: str, value: str) -> bool:
    names = value.strip("[]'\"").split(",")
    return bool(value) and not all(Path(CONF, group, f"{name}.yaml").exists() for name in names)


def hydra_words() -> None:
    """Rewrite this command's words as `asked` says and check them; a refusal ends it."""
    with refusals_as_exit():
        sys.argv[1:] = asked(sys.argv[1:])
    check_words(sys.argv[1:])


def this_run() -> tuple[Path, list[str]]:
    """Run folder and overrides of the running command."""
    runtime = HydraConfig.get()
    return Path(runtime.runtime.output_dir), list(runtime.overrides.task)


@contextmanager
def refusals_as_exit() -> Iterator[None]:
    """Turn an InputError into a line on stderr and exit code 2."""
    try:
        yield
    except InputError as error:
        print(f"error: {str(error).strip()}", file=sys.stderr)
        sys.exit(2)


def shown(path: Path) -> Path:
    """A path as it is shortest from here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def check_words(words: Sequence[str]) -> None:
    """Exit with one sentence for the first word that Hydra cannot read, and what to write."""
    many = any(MANY.fullmatch(word) for word in words)
    with refusals_as_exit():
        for word in words:
            if "=" in word and not word.startswith("-"):
                _check_word(word, many)


def _check_word(word: str, many: bool) -> None:
    field, _, value = word.partition("=")
    try:
        (override,) = OverridesParser.create().parse_overrides([word])
    except HydraException as error:
        mended = f"{field}={_mended(value)}"
        if not _is_readable(mended):
            raise InputError(f"{word}: {first_line(error)}") from None
        raise InputError(
            f"{word}: {_signs(value)} in a value must stand in inner quotes; write"
            f" {shlex.quote(mended)}"
        ) from None
    if override.is_sweep_override() and not many:
        mended = shlex.quote(f"{field}={in_quotes(value)}")
        raise InputError(
            f"{word}: a comma separates values; for one value with a comma write {mended}, for a"
            f" list {shlex.quote(f'{field}=[{value}]')}, and to try them all add -m"
        )


def _mended(value: str) -> str:
    """The value in quotes, a list's items each in their own."""
    if value.startswith("[") and value.endswith("]"):
        items = [item.strip() for item in value[1:-1].split(",")]
        return f"[{','.join(in_quotes(item) if BARE.search(item) else item for item in items)}]"
    return in_quotes(os.path.expanduser(value))  # within quotes no shell would


def _signs(value: str) -> str:
    """The signs that Hydra stumbles over, each once."""
    inner = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    return " ".join(dict.fromkeys(BARE.findall(inner))) or repr(value)


def in_quotes(text: str, quote: str = '"') -> str:
    """The text as one string for Hydra, whatever it holds."""
    escaped = re.sub(rf"(\\*){quote}", rf"\1\1\\{quote}", text)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped).replace("${", "\\${")
    return f"{quote}{escaped}{quote}"


def _is_readable(word: str) -> bool:
    try:
        OverridesParser.create().parse_overrides([word])
    except HydraException:
        return False
    return True


class MakeFolder(Callback):
    """Makes the run's or sweep's folder before Hydra does; exit code 2 if that is impossible."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        HydraConfig.instance().set_config(config)  # the folder's name asks for it
        _make("hydra.run.dir", config.hydra.run.dir)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        HydraConfig.instance().set_config(config)  # the folder's name asks for it
        _make("hydra.sweep.dir", config.hydra.sweep.dir)


def _make(field: str, folder: str) -> None:
    with refusals_as_exit():
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{field}={folder}: the folder cannot be made ({error.strerror or error})"
            ) from None
