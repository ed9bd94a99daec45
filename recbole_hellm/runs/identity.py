"""Identity of a run: the settings, data and stages that determine its result, and their hash."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recbole_hellm.storage.checksums import content_hash
from recbole_hellm.version import __version__


def run_path(config: Any, dataset: Any) -> Path:
    """Directory of a run, named by a hash of everything that determines its result."""
    folder = Path(config["runs_dir"]) / config["dataset"] / config["model"]
    return folder / run_id(run_identity(config, dataset))


def run_identity(config: Any, dataset: Any) -> dict[str, Any]:
    """Everything that determines a run's result; see :func:`run_id`."""
    contents = {name: source.content(dataset) for name, source in config.item_inputs.items()}
    tables = {name: content for name, content in contents.items() if content is not None}
    identity = {
        "settings": config.identifying_settings(),
        "content": dataset.interactions_hash,
        "split": dataset.fingerprint,
        "candidates": dataset.candidates_hash,
        "features": dataset.features_fingerprint if config.needs_features() else None,
        "stages": _of_stages(config, lambda stage: run_identity(stage, dataset)),
        "version": __version__,
    }
    columns = getattr(dataset, "columns_hash", None)
    return (
        identity
        | ({"item_inputs": tables} if tables else {})
        | ({"columns": columns} if columns else {})
        | _backbone(config)
        | _titles(config, dataset)
    )


def run_id(identity: Mapping[str, Any]) -> str:
    """The hash of an identity; a backbone's folder counts by its content and not by its name."""
    hashed = dict(identity)
    if "backbone" in identity:
        settings = identity["settings"].items()
        hashed["settings"] = {key: value for key, value in settings if key != "backbone"}
    return content_hash(hashed)


def _backbone(config: Any) -> dict[str, str]:
    if config.entry.kind != "LLM":
        return {}
    from recbole_hellm.models.llm.backbone_content import backbone_content
    from recbole_hellm.models.llm.settings import LLMSettings

    return backbone_content(LLMSettings.from_config(config))


def _titles(config: Any, dataset: Any) -> dict[str, str]:
    if config.entry.kind != "LLM" or config.model_settings().get("item_text", "none") == "none":
        return {}
    from recbole_hellm.data.features.item_titles import titles_hash

    return {"titles": titles_hash(dataset)}


def recipe(config: Any) -> dict[str, Any]:
    """The settings of a run and of its stages, without the data.

    A run id also covers this package's version and hashes of the data and of item features, whose
    last bits differ between processors. A recipe is the same on every machine.
    """
    settings = portable(config.identifying_settings())
    return {"settings": settings, "stages": _of_stages(config, recipe)}


def recipe_of(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe of a run from its ``identity.json``; the entry of an imported file is kept."""
    if "settings" not in identity:
        return dict(identity)
    stages = {role: recipe_of(stage) for role, stage in identity["stages"].items()}
    return {"settings": portable(identity["settings"]), "stages": stages}


def portable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without folders of this machine: an absolute path is reduced to its last part."""
    return {
        key: Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
        for key, value in settings.items()
    }


def _of_stages(config: Any, describe: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """A description of each stage, or the checksum of the file that replaces it, by role."""
    stages = {role: describe(stage) for role, stage in config.stages().items()}
    return stages | {role: {"sha256": file.sha256} for role, file in config.imported.items()}
