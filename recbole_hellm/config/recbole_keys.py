"""Facts about RecBole's own keys, which its files and parameter lists declare."""

from __future__ import annotations

import dataclasses

from recbole.utils import dataset_arguments

from recbole_hellm.config.settings import Facts

PASSED_ON = frozenset(dataset_arguments)
"""RecBole's dataset keys, which a stage shares with the model that builds on it."""

_SPLIT = "the split follows from the data and the settings alone"
_PRECISION = "a pre-trained backbone computes in bfloat16 on a GPU by itself"


@dataclasses.dataclass(frozen=True)
class RecboleKey:
    """A RecBole key with special treatment.

    Attributes
    ----------
    facts : Facts
    not_offered : str
        Why users cannot set it, and what to do instead; empty if they can.
    """

    facts: Facts
    not_offered: str = ""


_INTERNAL = RecboleKey(Facts(identifies=False, restored=False))
_DERIVED = RecboleKey(Facts(restored=False))
_IGNORED = RecboleKey(Facts(identifies=False))


def _refused(why: str, identifies: bool) -> RecboleKey:
    return RecboleKey(Facts(identifies=identifies, restored=False), why)


RECBOLE_KEYS: dict[str, RecboleKey] = {
    # Without effect here, or against the protocol.
    "benchmark_filename": _refused("use split", identifies=True),
    "checkpoint_dir": _refused("use runs_dir", identifies=False),
    "enable_amp": _refused(_PRECISION, identifies=True),
    "enable_scaler": _refused(_PRECISION, identifies=True),
    "eval_batch_size": _refused("use eval_users", identifies=False),
    "gpu_id": _refused("use device, for example --device=cuda:1", identifies=False),
    "log_wandb": _refused("use trackers, for example --trackers=wandb", identifies=False),
    "repeatable": _refused("use mask_history", identifies=True),
    "save_dataloaders": _refused(_SPLIT, identifies=False),
    "save_dataset": _refused(_SPLIT, identifies=False),
    "valid_metric_bigger": _refused("it follows from valid_metric", identifies=True),
    "wandb_project": _refused("use tracking_project", identifies=False),
    "worker": _refused(
        "batches are made in one process, so that a run can be repeated", identifies=False
    ),
    # Derived by the configuration.
    "model": _DERIVED,
    "dataset": _DERIVED,
    "eval_args": _DERIVED,
    "valid_neg_sample_args": _DERIVED,
    "test_neg_sample_args": _DERIVED,
    "MODEL_TYPE": _INTERNAL,
    "MODEL_INPUT_TYPE": _INTERNAL,
    "eval_type": _INTERNAL,
    "single_spec": _INTERNAL,
    "local_rank": _INTERNAL,
    # Messages and files that this package does not write.
    "state": _IGNORED,
    "dataset_save_path": _IGNORED,
    "dataloaders_save_path": _IGNORED,
    "loss_decimal_place": _IGNORED,
}
