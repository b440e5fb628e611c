"""The documentation's table of families: the ones that are tried, read or refused as it says."""

import importlib
import re
import sys
from pathlib import Path

import families
import pytest
import torch

from acdc.errors import InputError

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "scripts"))
script = importlib.import_module("model_families")


@pytest.fixture(scope="module")
def documented():
    """Names of the families in the two tables of the page, and what follows each."""
    text = (ROOT / "docs" / "pages" / "own_model.md").read_text(encoding="utf-8")
    text = text[text.index("## Families") :]
    tables = re.findall(r"^\| family .*\n\|[ -|]*\n((?:\|.*\n)+)", text, re.MULTILINE)
    rows = [[line.strip("| ").split(" | ") for line in table.splitlines()] for table in tables]
    read, refused = ({row[0]: row[1:] for row in some} for some in rows)
    return read, refused


def test_the_tables_name_the_families_that_are_tried(documented):
    read, refused = documented
    assert sorted([*read, *refused]) == sorted(script.FAMILIES)


def test_every_family_of_the_tests_is_in_the_table(documented):
    classes = {row[0].strip("`") for row in documented[0].values()}
    assert {type(build()).__name__ for build in families.BUILDERS.values()} <= classes


@pytest.mark.parametrize("family", script.FAMILIES)
def test_a_family_is_read_or_refused_as_the_table_says(family, documented):
    read, refused = documented
    if family in refused:
        with pytest.raises(InputError) as told:
            script.load(family, torch.float32)
        numbers = re.compile(r"\d+\.\d+(e-\d+)?")  # are the machine's
        assert numbers.sub("", str(told.value)) == numbers.sub("", refused[family][0])
        return
    loaded, name, _ = script.load(family, torch.float32)
    assert [f"`{name}`", str(loaded.model.graph().n_edges)] == [read[family][0], read[family][3]]
    assert script.error(family, torch.float32) < 1e-5
