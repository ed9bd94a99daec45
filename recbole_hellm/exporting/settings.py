"""Settings of ``recbole-hellm export``."""

from __future__ import annotations

from typing import Literal

from recbole_hellm.config.devices import AUTO, DEVICE_HELP
from recbole_hellm.config.settings import Settings, require, setting

Format = Literal["onnx", "faiss"]


class ExportSettings(Settings):
    """What is written of a run, and where."""

    format: Format | None = setting(
        None,
        "faiss: vectors of users and items and an index; onnx: a sequential model that scores "
        "histories.",
    )
    output: str | None = setting(
        None, "Folder to write; exports/DATASET/MODEL-RUN-FORMAT otherwise."
    )
    data_path: str | None = setting(None, "Where the datasets lie if they have moved.")
    backbone: str | None = setting(None, "Where a frozen backbone lies if it has moved.")
    device: str = setting(AUTO, DEVICE_HELP)

    def validate_relations(self) -> None:
        """Check that a format is named; raises :class:`ConfigError`."""
        require(
            self.format is not None,
            "Say what to write with --format=onnx or --format=faiss.",
        )
