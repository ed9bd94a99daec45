"""A fine-tuned network on disk: peft's adapter layout, safetensors for the rest, a model card.

===========================  ===================================================================
``adapter_config.json``,     LoRA adapters of a frozen backbone as peft lays them out
``adapter_model.safetensors``
``backbone/``                a backbone with weights of its own (tiny, or trained whole), as
                             ``save_pretrained`` lays it out
``prefix.safetensors``       pooling and prefix parameters
``item_tokens.safetensors``  embedding tables, MLP, item vectors, and gates with the numbers of
                             training interactions that they read
``item_head.safetensors``    the item head, trained or not (docs/method.md, Item head)
``item_texts.safetensors``   word ids of the titles, where ``item_text`` puts them into the prompt
``user_tokens.safetensors``  vectors of the users, under ``user_token``; the first is their mean
``items.json``               item tokens; row i of all tensors with a row per item is item i's
``users.json``               user tokens in the order of the other vectors, under ``user_token``
``settings.json``            resolved settings, a fingerprint of a frozen backbone, and name and
                             checksum of its GGUF file
``README.md``                model card
===========================  ===================================================================
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import NotRequired, TypedDict

from recbole_hellm.errors import BackboneError, ConfigError, DataError, RunError
from recbole_hellm.models.llm import artefact_rows
from recbole_hellm.models.llm.artefact_files import (
    check_fit,
    damaged,
    load_tensors,
    read_json,
    save_tensors,
    write_json,
)
from recbole_hellm.models.llm.backbone import Backbone, build_backbone
from recbole_hellm.models.llm.gguf import (
    SMOLLM2,
    GgufFile,
    cached_folder,
    find_gguf,
    gguf_sha256,
)
from recbole_hellm.models.llm.hellm import HeLLMNetwork
from recbole_hellm.models.llm.item_tokens import table_key
from recbole_hellm.models.llm.model_card import CardFacts, model_card
from recbole_hellm.models.llm.settings import LLMSettings
from recbole_hellm.progress import transformers_bars
from recbole_hellm.storage.files import atomic_folder

# File of each part and the sub-modules of the network whose parameters it holds.
PARTS = {
    "prefix": ("pooling", "prefix"),
    "item_tokens": ("tokens",),
    "item_head": ("head",),
    "item_texts": ("texts",),
    "user_tokens": ("users",),
}
PEFT_PREFIX = "base_model.model."  # peft names an adapted model's parameters from its wrapper on


class _Described(TypedDict):
    """Content of ``settings.json``."""

    settings: dict[str, Any]
    backbone_fingerprint: str | None
    backbone_file: NotRequired[GgufFile | None]  # earlier versions knew no such files


def save_artefacts(
    network: HeLLMNetwork,
    folder: Path,
    item_tokens: Sequence[str],
    *,
    facts: CardFacts | None = None,
    state: Mapping[str, Tensor] | None = None,
    user_tokens: Sequence[str] | None = None,
) -> None:
    """Write everything that :func:`load_artefacts` needs, and a model card.

    The folder appears whole or not at all; one that is there is replaced.

    Parameters
    ----------
    network : HeLLMNetwork
    folder : Path
    item_tokens : sequence of str
        Names of items 1..N.
    facts : CardFacts, optional
        Data, metrics and training, for the model card.
    state : Mapping of str to Tensor, optional
        The network's whole ``state_dict()`` where its parameters are sharded.
    user_tokens : sequence of str, optional
        Names of users 1..M, where the network reads users.

    Raises
    ------
    DataError
        If there is not one token per item, and per user.
    """
    if len(item_tokens) != network.n_items:
        raise DataError(f"{len(item_tokens)} item tokens were given for {network.n_items} items.")
    n_users = 0 if network.users is None else network.users.num_embeddings - 1
    if network.users is not None and len(user_tokens or ()) != n_users:
        raise DataError(f"{len(user_tokens or ())} user tokens were given for {n_users} users.")
    values = {
        name: value.detach().cpu()
        for name, value in (network.state_dict() if state is None else state).items()
    }
    left = set(values)
    folder = Path(folder)
    with atomic_folder(folder) as temporary:
        left -= _save_trunk(network, temporary, values)
        for part, modules in PARTS.items():
            names = {name for name in left if name.startswith(tuple(f"{m}." for m in modules))}
            held = {name: values[name] for name in sorted(names)}
            if held:
                save_tensors(
                    temporary / f"{part}.safetensors",
                    artefact_rows.without_padding(held, network.settings),
                )
            left -= names
        if left:
            raise RuntimeError(f"No artefact holds {min(left)}.")
        settings = {
            "settings": network.settings.to_dict(),
            "backbone_fingerprint": None if _whole(network) else _fingerprint(network.model),
            "backbone_file": network.backbone.file,
        }
        write_json(temporary / "settings.json", settings)
        write_json(temporary / "items.json", [str(token) for token in item_tokens])
        if network.users is not None:
            write_json(temporary / "users.json", [str(token) for token in user_tokens or ()])
        adapted = (temporary / "adapter_config.json").is_file()
        card = model_card(network.settings, adapted, facts, network.backbone.file)
        (temporary / "README.md").write_text(card, encoding="utf-8")


def load_artefacts(
    folder: Path,
    *,
    item_tokens: Sequence[str] | None = None,
    backbone: str | None = None,
    device: torch.device | str | None = None,
    user_tokens: Sequence[str] | None = None,
) -> HeLLMNetwork:
    """The network that :func:`save_artefacts` wrote, in evaluation mode.

    Parameters
    ----------
    folder : Path
    item_tokens : sequence of str, optional
        Names of items 1..N of the data at hand; the order of the artefacts otherwise.
    backbone : str, optional
        Where a frozen backbone lies now, if it has moved. A GGUF file that is no longer there is
        looked for in the cache of de-quantised files.
    device : torch.device or str, optional
        Where the network will run; the CPU by default.
    user_tokens : sequence of str, optional
        Names of users 1..M of the data at hand; the order of the artefacts otherwise.

    Raises
    ------
    RunError
        If a file is missing or damaged, does not fit the others, or the items or users are not
        those named.
    BackboneError
        If a frozen backbone cannot be had.
    """
    folder = Path(folder)
    settings, fingerprint, file = _read_settings(folder / "settings.json")
    items = artefact_rows.read_tokens(folder / "items.json")
    places = (
        None if item_tokens is None else artefact_rows.order(folder, "items", items, item_tokens)
    )
    absent = {
        *(["prefix"] if settings.prefix == "none" else []),
        *(["item_texts"] if settings.item_text == "none" else []),
        *([] if settings.user_token else ["user_tokens"]),
    }
    parts = {
        part: artefact_rows.with_padding(
            load_tensors(folder / f"{part}.safetensors"), settings, places
        )
        for part in PARTS
        if part not in absent
    }
    users = artefact_rows.read_tokens(folder / "users.json") if settings.user_token else []
    if users and user_tokens is not None:
        artefact_rows.reorder_users(
            parts["user_tokens"], artefact_rows.order(folder, "users", users, user_tokens)
        )
    trunk = _load_trunk(folder, settings, backbone or _place(folder, settings, file), device)
    trunk = dataclasses.replace(trunk, file=trunk.file or file)
    tables = _empty_tables(parts["item_tokens"], settings)
    try:
        network = HeLLMNetwork(
            settings,
            tables,
            n_items=len(items),
            backbone=trunk,
            texts=artefact_rows.texts(parts.get("item_texts", {}), folder),
            n_users=len(users),
            item_counts=torch.zeros(len(items) + 1),
        )
    except (ConfigError, DataError) as error:
        raise damaged(folder / "item_tokens.safetensors", error) from error
    for part, tensors in parts.items():
        expected = [name for name in network.state_dict() if name.startswith(_prefixes(part))]
        _fill(network, expected, tensors, folder / f"{part}.safetensors")
    if hasattr(network.model, "peft_config"):
        _load_adapters(network.model, folder / "adapter_model.safetensors")
    if not _whole(network):
        _check_fingerprint(network, fingerprint, folder)
    return (network if device is None else network.to(device)).eval()


# Trunk -------------------------------------------------------------------------------------------


def _whole(network: HeLLMNetwork) -> bool:
    """Whether the artefacts have to hold the trunk's weights, for nothing else does."""
    return network.backbone.trained or network.settings.drawn


def _save_trunk(network: HeLLMNetwork, folder: Path, values: Mapping[str, Tensor]) -> set[str]:
    """Write the trunk; returns the names in `values` that its files hold."""
    model = network.model
    trunk = {name.removeprefix("model."): v for name, v in values.items() if name[:6] == "model."}
    if _whole(network):
        plain = {_plain(name): value for name, value in trunk.items() if "lora_" not in name}
        with transformers_bars():
            model.save_pretrained(folder / "backbone", state_dict=plain)
        if network.backbone.tokenizer is not None:
            network.backbone.tokenizer.save_pretrained(folder / "backbone")
    if hasattr(model, "peft_config"):
        from peft import get_peft_model_state_dict

        # The vocabulary never changes; peft would ask the hub to find that out.
        adapters = get_peft_model_state_dict(model, trunk, save_embedding_layers=False)
        named = {PEFT_PREFIX + name: value for name, value in adapters.items()}
        save_tensors(folder / "adapter_model.safetensors", named)
        config: Any = copy.deepcopy(model.peft_config["default"])
        config.base_model_name_or_path = "backbone" if _whole(network) else network.backbone.name
        config.revision = getattr(model.config, "_commit_hash", None)
        config.task_type = "FEATURE_EXTRACTION"
        config.inference_mode = True
        config.save_pretrained(str(folder))
    return {f"model.{name}" for name in trunk}


def _place(folder: Path, settings: LLMSettings, file: GgufFile | None) -> str:
    """Where a frozen backbone lies: in the cache, if its GGUF file is not where it was."""
    there, name = find_gguf(settings.backbone), settings.backbone
    if file is None or there is None or settings.train_backbone:
        return name
    if os.path.isfile(there) and gguf_sha256(name, there) == file["sha256"]:
        return name
    cached = cached_folder(file["sha256"])
    if cached is None and name != SMOLLM2:
        raise BackboneError(
            f"{folder} was trained on the GGUF file {file['file']} (SHA-256 {file['sha256']}), "
            f"which is neither {name} nor in the cache; give its place as `backbone`."
        )
    return str(cached or name)


def _load_trunk(
    folder: Path,
    settings: LLMSettings,
    backbone: str,
    device: torch.device | str | None,
) -> Backbone:
    if settings.tiny:
        trunk = build_backbone(settings, device)
        path = folder / "backbone" / "model.safetensors"
        names = {_plain(name): name for name in trunk.model.state_dict() if "lora_" not in name}
        tensors = {names.get(name, name): value for name, value in load_tensors(path).items()}
        _fill(trunk.model, list(names.values()), tensors, path)
        return trunk
    if settings.train_backbone or settings.random_backbone:
        own = {"backbone": str((folder / "backbone").resolve()), "random_backbone": False}
        try:
            trunk = build_backbone(settings.replace(**own), device)
        except BackboneError as error:
            raise damaged(folder / "backbone", error) from error
        return dataclasses.replace(trunk, name=settings.backbone)
    return build_backbone(settings.replace(backbone=backbone), device)


def _load_adapters(model: nn.Module, path: Path) -> None:
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    stored = load_tensors(path)
    adapters = {name.removeprefix(PEFT_PREFIX): value for name, value in stored.items()}
    expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    check_fit(expected, adapters, path)
    set_peft_model_state_dict(model, adapters)


def _plain(name: str) -> str:
    """Name of a weight as it is without an adapter around its layer."""
    return name.replace(".base_layer.", ".")


def _fingerprint(model: Any) -> str | None:
    """Hash of a sample of frozen weights, the same in bfloat16 and float32; ``None`` if sharded."""
    frozen = [
        (name, value)
        for name, value in model.named_parameters()
        if not value.requires_grad and value.ndim == 1 and value.is_floating_point()
    ]
    frozen.append(("embeddings", model.get_input_embeddings().weight[:64]))
    if any(hasattr(value, "full_tensor") for _, value in frozen):
        return None
    digest = hashlib.sha256()
    for name, value in sorted(frozen, key=lambda pair: pair[0]):
        digest.update(f"{_plain(name)}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().bfloat16().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def _check_fingerprint(network: HeLLMNetwork, fingerprint: str | None, folder: Path) -> None:
    if fingerprint is not None and _fingerprint(network.model) != fingerprint:
        raise RunError(
            f"backbone={network.backbone.name} holds other weights than the backbone that {folder} "
            "was trained on; give that one's name or folder as `backbone`."
        )


# Tensors -----------------------------------------------------------------------------------------


def _prefixes(part: str) -> tuple[str, ...]:
    return tuple(f"{module}." for module in PARTS[part])


def _empty_tables(tensors: Mapping[str, Tensor], settings: LLMSettings) -> dict[str, Tensor]:
    """Item tables of the shapes in the file."""
    keys = {name: f"tokens.tables.{table_key(name)}.weight" for name in settings.item_tables}
    return {name: torch.zeros(tensors[key].shape) for name, key in keys.items() if key in tensors}


def _fill(
    module: nn.Module, expected: Sequence[str], tensors: Mapping[str, Tensor], path: Path
) -> None:
    state = module.state_dict()
    check_fit({name: state[name] for name in expected}, tensors, path)
    module.load_state_dict(tensors, strict=False)


def _read_settings(path: Path) -> tuple[LLMSettings, str | None, GgufFile | None]:
    described: _Described = read_json(path, _Described)
    try:
        values, fingerprint = described["settings"], described["backbone_fingerprint"]
        if "backbone_file" not in described:  # `backbone_layers` was for tiny alone
            values = LLMSettings.given(values)
        unknown = sorted(set(values) - set(LLMSettings.keys()))
        settings = LLMSettings.from_config(values).resolved()
    except ConfigError as error:
        raise damaged(path, error) from error
    if unknown:
        raise RunError(
            f"{path} holds the setting '{unknown[0]}', which this version of recbole-hellm does "
            "not know; use the version that wrote it (see README.md beside it)."
        )
    return settings, fingerprint, described.get("backbone_file")
