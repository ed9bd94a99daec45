"""Writing what others need to serve a run themselves: a folder with a manifest."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from recbole_hellm import __version__
from recbole_hellm.errors import ConfigError
from recbole_hellm.exporting.faiss_index import faiss_library, write_index
from recbole_hellm.exporting.onnx_model import onnx_runtime, write_model
from recbole_hellm.exporting.settings import ExportSettings
from recbole_hellm.runs.recommending import Recommender
from recbole_hellm.runs.results import RunResult, load_run
from recbole_hellm.storage.checksums import checksums
from recbole_hellm.storage.files import atomic_folder
from recbole_hellm.storage.json_files import parse_json
from recbole_hellm.storage.text_files import read_text

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
KIND = "recbole-hellm export"


def export(
    run: str | Path | RunResult, settings: ExportSettings, show_progress: bool = False
) -> Path:
    """Write a finished run for use elsewhere.

    Parameters
    ----------
    run : path or RunResult
        A finished run; or a model's folder of runs, for the newest run in it.
    settings : ExportSettings
    show_progress : bool

    Returns
    -------
    Path
        The folder; ``manifest.json`` in it tells what is there.

    Raises
    ------
    ConfigError
        If a package is missing, the model cannot be exported in this format, or the folder holds
        other things.
    RunError
        If the run cannot be restored, or what was written does not give its scores.
    """
    (faiss_library if settings.format == "faiss" else onnx_runtime)()
    result = run if isinstance(run, RunResult) else load_run(run)
    target = Path(settings.output) if settings.output else _folder(result, settings)
    check_folder(target)
    # What is exported to ONNX runs on any device; its check runs on the CPU.
    device = settings.device if settings.format == "faiss" else "cpu"
    recommender = Recommender.open(result, settings.data_path, settings.backbone, device=device)
    with atomic_folder(target) as folder:
        if settings.format == "faiss":
            entries = write_index(recommender, folder, show_progress)
        else:
            entries = write_model(recommender, folder)
        _write_manifest(folder, result, settings, entries)
    return target


def _folder(result: RunResult, settings: ExportSettings) -> Path:
    record = result.record
    name = f"{record['model']}-{result.path.name}-{settings.format}"
    return Path("exports") / record["dataset"] / name


def check_folder(target: Path) -> None:
    """Check that a folder is absent, empty or an earlier export, which may be replaced.

    Raises
    ------
    ConfigError
        If it holds anything else.
    """
    if not target.exists() and not target.is_symlink():
        return
    if target.is_dir() and not any(target.iterdir()):
        return
    manifest = target / MANIFEST
    known: Any = {}
    if manifest.is_file():
        text = read_text(manifest, ConfigError, "name another folder with --output")
        known = parse_json(text, manifest, ConfigError, "name another folder with --output")
    if not isinstance(known, dict) or known.get("kind") != KIND:
        raise ConfigError(
            f"{target} holds no earlier export, so it is not replaced; name another folder with "
            "--output."
        )


def _write_manifest(
    folder: Path, result: RunResult, settings: ExportSettings, entries: dict[str, Any]
) -> None:
    record = result.record
    names = sorted(path.name for path in folder.iterdir())
    content = {
        "kind": KIND,
        "format": settings.format,
        "version": __version__,
        "run": result.path.name,
        **{key: record[key] for key in ("model", "dataset", "split", "candidates", "seed")},
        **entries,
        "sha256": checksums(folder, names),
    }
    text = json.dumps(content, indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def summary(folder: Path) -> str:
    """What an export holds, in one line."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    check, files = manifest["check"], sorted(manifest["sha256"])
    kind = "users" if "users" in check else "histories"
    return (
        f"{folder}: {', '.join(files)} of {manifest['model']}; scores of {check[kind]} {kind} "
        f"differ from the model's by at most {check['max_abs_difference']:.1e}"
    )
