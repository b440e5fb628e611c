"""What is known of a model before its weights are read, and faults of weights in words."""

import json
from types import SimpleNamespace

import httpx
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from acdc import pretrained
from acdc.errors import InputError
from acdc.pretrained import check_folder, read_outline, weight_faults, why_unreachable


def info(missing=(), unexpected=(), mismatched=()):
    return {
        "missing_keys": set(missing), "unexpected_keys": set(unexpected),
        "mismatched_keys": set(mismatched),
    }  # fmt: skip


@pytest.mark.parametrize("given, words", [
    (info(), ""),
    (info(["b", "a"]), "2 missing (a, b)"),
    (info("dbca"), "4 missing (a, b, c and 1 more)"),
    (info("ecbda"), "5 missing (a, b, c and 2 more)"),
    (info("cba"), "3 missing (a, b, c)"),
    (info(["x"], ["y"], [("w", (2, 3), (4, 5)), ("v", (1,), (6,))]),
     "1 missing (x), 1 unexpected (y), 2 of another shape"
     " (v [1] instead of [6], w [2, 3] instead of [4, 5])"),
    (info([], ["h.0.attn.masked_bias"]), ""),
    (info([], ["masked_bias.weight"]), "1 unexpected (masked_bias.weight)"),
    (info(["a.w", "b.w"], ["m.a.w", "m.b.w"]),
     "2 missing (a.w, b.w), 2 unexpected (m.a.w, m.b.w);"
     " take the prefix 'm.' off the names and save again"),
    (info(["a.w", "w"], ["m.a.w"]),
     "2 missing (a.w, w), 1 unexpected (m.a.w);"
     " take the prefix 'm.' off the names and save again"),
    (info(["a.w"], ["m.a.w", "other"]), "1 missing (a.w), 2 unexpected (m.a.w, other)"),
    (info(["a.w"], ["ma.w"]), "1 missing (a.w), 1 unexpected (ma.w)"),
    (info(["a", "w"], ["m.w"]),
     "2 missing (a, w), 1 unexpected (m.w); take the prefix 'm.' off the names and save again"),
])  # fmt: skip
def test_faults_of_weights_in_words(given, words):
    assert weight_faults(given) == words


def folder(path, **config):
    path.mkdir()
    about = {"model_type": "gpt2", "vocab_size": 11, "n_positions": 7} | config
    (path / "config.json").write_text(json.dumps(about))
    (path / "model.safetensors").write_bytes(b"")
    return path


def test_an_outline_of_a_folder(tmp_path):
    found = read_outline(str(folder(tmp_path / "m")))
    assert (found.name, found.tokenizer) == (str(tmp_path / "m"), None)
    assert (found.d_vocab, found.n_ctx, found.local) == (11, 7, True)


@pytest.mark.parametrize("length", [None, 0])
def test_a_model_that_tells_no_length_takes_any(tmp_path, monkeypatch, length):
    config = SimpleNamespace(vocab_size=11, max_position_embeddings=length)
    monkeypatch.setattr(
        pretrained.AutoConfig, "from_pretrained",
        lambda name, local_files_only: SimpleNamespace(get_text_config=lambda: config),
    )  # fmt: skip
    assert read_outline(str(folder(tmp_path / "m"))).n_ctx == 2**31
    del config.max_position_embeddings
    assert read_outline(str(folder(tmp_path / "m2"))).n_ctx == 2**31


def test_what_a_folder_must_have(tmp_path):
    with pytest.raises(InputError, match=r"^name='.*': the folder has no config.json$"):
        check_folder(tmp_path)
    with pytest.raises(InputError, match="has no config.json"):
        read_outline(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"no weights there \(\*.safetensors or \*.bin\)$"):
        check_folder(tmp_path)
    for name in ("model.safetensors", "pytorch_model.bin"):
        (tmp_path / name).write_bytes(b"")
        check_folder(tmp_path)
        with pytest.raises(InputError, match=r"'.*': config.json cannot be used: \S"):
            read_outline(str(tmp_path))
        (tmp_path / name).unlink()


@pytest.mark.parametrize(
    "file", ["tokenizer.json", "tokenizer_config.json", "vocab.json", "tokenizer.model"]
)
def test_a_tokenizer_that_cannot_be_used(tmp_path, file):
    where = folder(tmp_path / "m")
    (where / file).write_text("no json")
    with pytest.raises(InputError, match=rf"^name='{where}': no usable tokenizer: \S"):
        read_outline(str(where))


def answer(monkeypatch, error=None):
    asked = []

    def ask(url, timeout):
        asked.append((url, timeout))
        if error is not None:
            raise error

    monkeypatch.setattr(pretrained.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(pretrained, "get_hf_file_metadata", ask)
    return asked


def test_whether_the_hub_answers(monkeypatch):
    asked = answer(monkeypatch)
    monkeypatch.setattr(pretrained.constants, "HF_HUB_OFFLINE", True)
    assert why_unreachable("some/model") == "HF_HUB_OFFLINE is set"
    assert asked == []
    asked = answer(monkeypatch)
    assert why_unreachable("some/model") is None
    ((url, timeout),) = asked
    assert url.endswith("some/model/resolve/main/config.json")
    assert timeout == pretrained.constants.HF_HUB_ETAG_TIMEOUT
    response = httpx.Response(404, request=httpx.Request("HEAD", "https://nowhere"))
    for error in (HfHubHTTPError("no", response=response), HFValidationError("no")):
        answer(monkeypatch, error)
        assert why_unreachable("some/model") is None
    answer(monkeypatch, OSError("one\ntwo"))
    assert why_unreachable("some/model") == "one"


def test_with_a_hub_files_are_asked_for_there_and_without_only_here(monkeypatch):
    local = []

    def fail(name, local_files_only):
        local.append(local_files_only)
        raise OSError("nothing of that name\nand more")

    monkeypatch.setattr(pretrained.AutoConfig, "from_pretrained", fail)
    answer(monkeypatch)
    with pytest.raises(InputError) as error:
        read_outline("some/model")
    assert str(error.value) == "name='some/model' cannot be loaded: nothing of that name"
    answer(monkeypatch, OSError("cut off"))
    with pytest.raises(InputError) as error:
        read_outline("some/model")
    assert str(error.value) == (
        "name='some/model' cannot be loaded: it is no folder and not in the cache of Hugging"
        " Face, and the hub cannot be reached (cut off); give a local folder"
    )
    for name in ("./m", "/m", "~m"):
        with pytest.raises(InputError) as error:
            read_outline(name)
        assert str(error.value) == (f"name={name!r}: there is no such folder, and it is no hub id")
    assert local[:2] == [False, True]


def test_an_outline_from_the_hub_is_not_local(monkeypatch):
    config = SimpleNamespace(vocab_size=11, max_position_embeddings=3)
    asked = []
    monkeypatch.setattr(
        pretrained.AutoConfig, "from_pretrained",
        lambda name, local_files_only: SimpleNamespace(get_text_config=lambda: config),
    )  # fmt: skip

    def tokenizer(name, local_files_only):
        asked.append((name, local_files_only))
        return "its own"

    monkeypatch.setattr(pretrained.AutoTokenizer, "from_pretrained", tokenizer)
    answer(monkeypatch)
    found = read_outline("some/model")
    assert (found.tokenizer, found.local, found.n_ctx) == ("its own", False, 3)
    answer(monkeypatch, OSError("cut off"))
    assert read_outline("some/model").local
    assert asked == [("some/model", False), ("some/model", True)]


def test_a_revision_is_what_all_files_are_asked_of(monkeypatch):
    asked = []

    def ask(answer):
        return lambda name, **kwargs: (asked.append((name, kwargs.get("revision"))), answer)[1]

    config = SimpleNamespace(vocab_size=11, max_position_embeddings=3)
    config.get_text_config = lambda: config
    nothing_wrong = ("module", info())
    answers = {"AutoConfig": config, "AutoTokenizer": "own", "AutoModelForCausalLM": nothing_wrong}
    for kind, given in answers.items():
        monkeypatch.setattr(getattr(pretrained, kind), "from_pretrained", ask(given))
    answer(monkeypatch)
    found = read_outline("some/model", "step7")
    assert found.revision == "step7"
    assert pretrained.read_weights(found, torch.float32) == "module"
    assert asked == [("some/model", "step7")] * 3
