"""The README beside a fine-tuned model, in Hugging Face's form."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData

from recbole_hellm.models.llm.gguf import SMOLLM2, GgufFile
from recbole_hellm.models.llm.settings import LLMSettings

PAPER = "HeLLM (Guo et al.)"


@dataclasses.dataclass(frozen=True)
class CardFacts:
    """Facts of a model card that the network does not know.

    Attributes
    ----------
    model, dataset : str
        Names as on the command line.
    split : str
        Fingerprint of the split.
    masking : str
        ``mask_history`` of the run; the masking of its reported metrics.
    metrics : Mapping
        masking -> metric -> value on the test split.
    training : Mapping
        Settings of the training, seed and epoch included.
    versions : Mapping
        Package -> version.
    protocol : str
        How validation and test were made and what was ranked.
    """

    model: str
    dataset: str
    split: str
    masking: str
    metrics: Mapping[str, Mapping[str, float]]
    training: Mapping[str, Any]
    versions: Mapping[str, str | None]
    protocol: str = ""


def model_card(
    settings: LLMSettings,
    adapted: bool,
    facts: CardFacts | None,
    file: GgufFile | None = None,
) -> str:
    """Text of the model card.

    Parameters
    ----------
    settings : LLMSettings
        Resolved settings of the network.
    adapted : bool
        Whether the folder holds LoRA adapters.
    facts : CardFacts, optional
        Without them the card has neither data nor metrics.
    file : GgufFile, optional
        The GGUF file of the backbone.
    """
    name = facts.model if facts else "HeLLM"
    data = ModelCardData(
        library_name="peft" if adapted else "recbole-hellm",
        base_model=_base_model(settings, file),
        pipeline_tag="feature-extraction",
        tags=["recommendation", "sequential-recommendation", "recbole", "hellm"]
        + (["lora"] if adapted else []),
    )
    sections = [f"---\n{data.to_yaml()}\n---", _description(name, settings, adapted, file)]
    if facts:
        sections += [_measured(facts), _training(facts)]
    sections += [_loading(settings, adapted, file)]
    if facts:
        versions = [
            f"{package} {version}" for package, version in facts.versions.items() if version
        ]
        sections += [f"## Versions\n\n{', '.join(versions)}"]
    return "\n\n".join([*sections, _licence(settings)]) + "\n"


def _base_model(settings: LLMSettings, file: GgufFile | None) -> str | None:
    """The backbone's name on Hugging Face, as far as it is known."""
    if settings.backbone == SMOLLM2 and file and not settings.random_backbone:
        return "HuggingFaceTB/SmolLM2-135M-Instruct"
    return None if settings.drawn or file else settings.backbone


def _description(name: str, settings: LLMSettings, adapted: bool, file: GgufFile | None) -> str:
    trunk = "a small LLaMA from random weights" if settings.tiny else f"`{settings.backbone}`"
    if file:
        trunk += f", the GGUF file `{file['file']}` with SHA-256 `{file['sha256']}`"
    if settings.backbone_layers and not settings.tiny:
        number = settings.backbone_layers
        trunk = f"{'the first layer' if number == 1 else f'the first {number} layers'} of {trunk}"
    if settings.random_backbone:
        trunk = f"a decoder of the shape of {trunk}, from random weights"
    training = "frozen, with LoRA adapters" if adapted else "frozen"
    training = "trained whole" if settings.train_backbone else training
    return (
        f"# {name}\n\n"
        f"A sequential recommender: {trunk} ({training}) reads a user's history as item tokens"
        f"{' behind the words of their titles' if settings.item_text != 'none' else ''}"
        f"{' and a token of the user' if settings.user_token else ''}"
        f"{' under a prefix of every layer' if settings.prefix != 'none' else ''} and scores all "
        f"items at its last hidden state, as in {PAPER}. It scores the items in `items.json` and "
        "no others."
    )


def _measured(facts: CardFacts) -> str:
    names = list(facts.metrics[facts.masking])
    head = ["masking", *names]
    rows = [
        [f"**{masking}**" if masking == facts.masking else masking]
        + [f"{values[name]:.5f}" if name in values else "" for name in names]
        for masking, values in facts.metrics.items()
    ]
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return (
        f"## Data and test metrics\n\nDataset `{facts.dataset}`, "
        f"{facts.protocol or 'leave-one-out, full ranking'}; "
        f"split fingerprint `{facts.split}`. The test split was scored once, on the epoch that "
        f"validation chose; `masking` says which known items the ranking leaves out, and "
        f"`{facts.masking}` is the one this run reports.\n\n{table}"
    )


def _training(facts: CardFacts) -> str:
    lines = [f"- `{key}`: {value}" for key, value in facts.training.items()]
    return "## Training\n\n" + "\n".join(lines)


def _loading(settings: LLMSettings, adapted: bool, file: GgufFile | None) -> str:
    text = (
        "## Loading\n\nWith the run directory and its dataset:\n\n"
        '```python\nfrom recbole_hellm import load_run\n\nresult = load_run("path/of/the/run")\n'
        'model = result.restore()  # a RecBole model\nresult.evaluate("test")\n```\n\n'
        "This folder alone, without RecBole:\n\n"
        "```python\nfrom recbole_hellm.models.llm.artefacts import load_artefacts\n\n"
        'network = load_artefacts("path/of/this/folder")\n```'
    )
    if adapted and not settings.drawn:
        place = f'"{settings.backbone}"'
        if file:
            place = f'"path/of/its/folder", gguf_file="{file["file"]}"'
        cut = f"trunk.layers = trunk.layers[:{settings.backbone_layers}]\n"
        text += (
            "\n\nThe adapted trunk alone, without prefix, item tokens and item head:\n\n"
            "```python\nfrom peft import PeftModel\nfrom transformers import AutoModel\n\n"
            f"trunk = AutoModel.from_pretrained({place}).get_decoder()\n"
            f"{cut if settings.backbone_layers else ''}"
            'model = PeftModel.from_pretrained(trunk, "path/of/this/folder")\n```'
        )
    return text


def _licence(settings: LLMSettings) -> str:
    if settings.drawn:
        return (
            "## Licence\n\nThe backbone was trained from random weights on the dataset named here, "
            "whose terms apply to works derived from it."
        )
    return (
        f"## Licence\n\nThe backbone `{settings.backbone}` keeps its own licence, which applies to "
        "works derived from it, such as this folder; the terms of the dataset apply too."
    )
