"""A sequential model's full ranking as an ONNX file: histories in, scores of all items out."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_hellm.errors import ConfigError, HellmError, RunError, install_extra, reason
from recbole_hellm.runs.recommending import Recommender

MODEL = "model.onnx"
INPUTS = ("item_ids", "lengths")
OUTPUT = "scores"
BATCHES = (1, 2, 61)  # sizes with which the file is checked
TOLERANCE = 1e-4  # greatest difference of a score, in units of the greatest score
_INLINE = 1 << 30  # bytes of weights up to which they are in the same file


class Ranking(nn.Module):
    """A sequential model as a function of tensors.

    Parameters
    ----------
    model : AbstractRecommender
        Reads nothing but histories.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, item_ids: Tensor, lengths: Tensor) -> Tensor:
        """Scores of all items, [B, N + 1] float32; column 0, padding, is minus infinity.

        Parameters
        ----------
        item_ids : Tensor of int64, shape [B, L]
            The last L items of each history, oldest first, padded with 0 on the right.
        lengths : Tensor of int64, shape [B]
            Number of items, from 1 to L.
        """
        model = self.model
        scores = model.full_sort_predict({model.ITEM_SEQ: item_ids, model.ITEM_SEQ_LEN: lengths})
        scores = scores.reshape(-1, model.n_items)
        return F.pad(scores[:, 1:].float(), (1, 0), value=-torch.inf)


def onnx_runtime() -> Any:
    """The module ``onnxruntime``.

    Raises
    ------
    ConfigError
        If it, or what PyTorch's exporter needs, is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"--format=onnx needs onnx, onnxscript and onnxruntime ({error}); "
            f"{install_extra('export')}."
        ) from error
    return onnxruntime


def write_model(recommender: Recommender, folder: Path) -> dict[str, Any]:
    """Write the model of a restored run, and check the file against it.

    Parameters
    ----------
    recommender : Recommender
        On the CPU.
    folder : Path
        An empty one.

    Returns
    -------
    dict
        Entries of the manifest.

    Raises
    ------
    ConfigError
        If a package is missing, or the model cannot be exported.
    RunError
        If the file gives other scores.
    """
    runtime = onnx_runtime()
    name = recommender.opened.config["model"]
    if not recommender.reads_histories:
        raise ConfigError(
            f"{name} scores the users that it was trained on, not histories, so there is no "
            "function to export; use --format=faiss."
        )
    ranking = Ranking(recommender.opened.model).eval()
    path = folder / MODEL
    _export(ranking, _histories(recommender, 3), path, name)
    try:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        differences = [
            _difference(ranking, session, _histories(recommender, size), name) for size in BATCHES
        ]
    except HellmError:
        raise
    except Exception as error:  # ONNX Runtime's errors share no other class
        raise RunError(
            f"The ONNX file of {name} does not run ({reason(error)}); it is not kept, so use "
            "--format=faiss or other versions of torch and onnxruntime."
        ) from error
    dataset = recommender.dataset
    ids = {str(token): place for place, token in enumerate(dataset.item_tokens, 1)}
    text = json.dumps(ids, ensure_ascii=False)
    (folder / "item_ids.json").write_text(text + "\n", encoding="utf-8")
    length = int(recommender.opened.config["MAX_ITEM_LIST_LENGTH"])
    return {
        "inputs": {
            INPUTS[0]: {
                "type": "int64",
                "shape": ["batch", length],
                "what": f"the last {length} items of each history, oldest first, padded with 0 on "
                "the right",
            },
            INPUTS[1]: {
                "type": "int64",
                "shape": ["batch"],
                "what": f"items of each history, from 1 to {length}",
            },
        },
        "output": {
            OUTPUT: {
                "type": "float32",
                "shape": ["batch", len(ids) + 1],
                "what": "column i is the item with id i of item_ids.json; column 0 is -inf",
            }
        },
        "check": {"histories": sum(BATCHES), "max_abs_difference": max(differences)},
        "packages": {"torch": torch.__version__, "onnxruntime": runtime.__version__},
    }


def _histories(recommender: Recommender, count: int) -> tuple[Tensor, Tensor]:
    """Histories of users spread over the dataset, as :meth:`Ranking.forward` takes them."""
    limit = int(recommender.opened.config["MAX_ITEM_LIST_LENGTH"])
    users = np.linspace(1, recommender.dataset.user_num - 1, count).astype(np.int64)
    items, lengths = torch.zeros(count, limit, dtype=torch.int64), []
    for row, user in enumerate(users):
        history = torch.from_numpy(recommender.history(user)[-limit:])
        # Of every length, also those that few users have.
        history = history[: max(1, len(history) - row % len(history))]
        items[row, : len(history)] = history
        lengths.append(len(history))
    return items, torch.tensor(lengths)


def _export(ranking: Ranking, example: tuple[Tensor, Tensor], path: Path, name: str) -> None:
    batch = torch.export.Dim("batch", min=1)
    size = sum(value.numel() * value.element_size() for value in ranking.state_dict().values())
    try:
        with _quiet(), torch.no_grad():
            program: Any = torch.onnx.export(
                ranking,
                example,
                dynamo=True,
                dynamic_shapes=({0: batch}, {0: batch}),
                input_names=INPUTS,
                output_names=[OUTPUT],
                verbose=False,
            )
            program.save(str(path), external_data=size > _INLINE)
    except (torch.onnx.errors.OnnxExporterError, KeyError) as error:
        logging.getLogger(__name__).debug("The exporter's error", exc_info=error)
        cause = error.__cause__ or error
        raise ConfigError(
            f"PyTorch cannot export {name} to ONNX ({type(cause).__name__}), as its computation "
            "depends on more than the shapes of histories; try --format=faiss, or serve it with "
            "`recbole-hellm serve`."
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own messages, which may be whole programs; the error is told."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _difference(ranking: Ranking, session: Any, rows: tuple[Tensor, Tensor], name: str) -> float:
    """The greatest difference of the file's scores from the model's; raises if it is large."""
    with torch.no_grad():
        own = ranking(*rows)[:, 1:].numpy()
    given = dict(zip(INPUTS, (part.numpy() for part in rows), strict=True))
    (scores,) = session.run([OUTPUT], given)
    difference = float(np.abs(scores[:, 1:] - own).max(initial=0.0))
    if not difference <= TOLERANCE * max(1.0, float(np.abs(own).max(initial=0.0))):
        raise RunError(
            f"The ONNX file of {name} gives other scores than the model, by up to "
            f"{difference:.3g}; it is not kept, so use --format=faiss or other versions of torch "
            "and onnxruntime."
        )
    return difference
