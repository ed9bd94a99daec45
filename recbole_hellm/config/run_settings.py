"""The settings of data, protocol and runs, which every model shares."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from recbole_hellm.config.devices import AUTO, DEVICE_HELP
from recbole_hellm.config.settings import Facts, Settings, names, require, setting
from recbole_hellm.config.split_settings import as_points, check_split, in_file_name

# Where a run reads and writes, how it is shown and how fast it is; never what comes out of it.
_PLACE = Facts(identifies=False, passed_on=True)
_HERE = Facts(identifies=False, passed_on=True, restored=False)
_PROTOCOL = Facts(passed_on=True)
_ADDED = Facts(passed_on=True, hash_neutral=True)


class RunSettings(Settings):
    """Settings of data, protocol and runs."""

    data_path: str = setting(
        "dataset", "Folder that holds one folder per dataset.", facts=_HERE, group="Data"
    )
    raw_dir: str | None = setting(
        None, "Folder of raw files; the environment variable HELLM_RAW_DIR otherwise.", facts=_HERE
    )
    mirrors: str | tuple[str, ...] | None = setting(
        None,
        "Where missing raw files are downloaded: addresses, a file that lists them, or none.",
        facts=_PLACE,
        hash_neutral=True,
    )
    load_col: dict | None = setting(
        None,
        "Columns to read from atomic files, by suffix; ids, time and position are always read.",
        facts=_PROTOCOL,
        recbole_default=True,
    )
    unload_col: dict | None = setting(
        None, "Columns not to read from atomic files.", facts=_PROTOCOL, recbole_default=True
    )
    encoding: str = setting(
        "utf-8", "Encoding of the dataset's files.", facts=_PROTOCOL, hash_neutral=True
    )
    features: tuple[str, ...] | None = setting(
        None,
        "Feature sets to use, as in [text-minilm, image-clip]; otherwise one of each modality.",
        facts=_PLACE,
    )
    text_encoder: str = setting(
        "auto", "auto, minilm, tfidf, bert, or the name or folder of a text encoder.", facts=_PLACE
    )
    MAX_ITEM_LIST_LENGTH: int = setting(
        50,
        "Last items of a history that sequential models read.",
        ge=1,
        facts=_PROTOCOL,
        shown=True,
    )

    # By default leave-one-out and full ranking; always one masking for every model
    mask_history: Literal["seen", "train", "none"] = setting(
        "seen",
        "Items of a user that the ranking leaves out.",
        facts=_PROTOCOL,
        shown=True,
        group="Evaluation",
    )
    split: Literal["leave_one_out", "temporal", "ratio"] = setting(
        "leave_one_out",
        "What is held out: a user's last two items, all that follows a point in time, or shares of "
        "each user's items.",
        facts=_ADDED,
    )
    split_points: tuple[float | str, float | str] = setting(
        (0.8, 0.9),
        "split=temporal: where validation and test begin, as shares of all interactions in order "
        "of time or as dates.",
        facts=_ADDED,
    )
    split_ratios: tuple[float, float, float] = setting(
        (8.0, 1.0, 1.0), "split=ratio: shares of training, validation and test.", facts=_ADDED
    )
    split_order: Literal["time", "random"] = setting(
        "time", "split=ratio: the order in which shares are taken.", facts=_ADDED
    )
    split_seed: int = setting(
        2024,
        "Random seed of split_order=random and of sampled candidates.",
        ge=0,
        lt=2**32,
        facts=_ADDED,
    )
    split_rows: Literal["auto", "user", "interaction"] = setting(
        "auto",
        "split=temporal or ratio: whether all targets of a user are predicted at once, or each "
        "from all before it; auto does the first for general, the second for sequential models.",
        facts=_ADDED,
    )
    candidates: Literal["all", "uniform-100", "popularity-100"] = setting(
        "all",
        "What is ranked: all items; or, for comparison with old papers only, the targets among 100 "
        "sampled items.",
        facts=_ADDED,
    )
    metrics: tuple[str, ...] = setting(
        ("Recall", "NDCG", "MRR", "Hit"), "Metrics to compute.", facts=_PROTOCOL
    )
    topk: tuple[int, ...] = setting((10, 20), "Lengths of the rankings.", facts=_PROTOCOL)
    valid_metric: str = setting(
        "NDCG@10",
        "Metric of the validation split that chooses the epoch.",
        facts=_PROTOCOL,
        shown=True,
    )
    metric_decimal_place: int = setting(12, "Decimals that RecBole's own reports keep.", ge=0)
    eval_users: int = setting(
        256,
        "Users scored at a time; 256 fit into a processor's cache. Fewer where the titles of items "
        "are read, by the tokens of the longest one.",
        ge=1,
        facts=_PLACE,
    )

    seed: int = setting(
        2024, "Random seed.", ge=0, lt=2**32, facts=_PROTOCOL, shown=True, group="Training"
    )
    reproducibility: bool = setting(True, "Use deterministic algorithms.", facts=_PROTOCOL)
    train_batch_size: int = setting(2048, "Training rows of a step.", ge=1, shown=True)
    bucket_by_length: bool = setting(
        False,
        "Sequential models: batch histories of similar length and trim their padding.",
        shown=True,
    )
    first_item_target: bool = setting(
        False,
        "Sequential models: learn every user's first item, too, from an empty history; RecBole's "
        "rows begin with the second.",
        shown=True,
        hash_neutral=True,
    )

    runs_dir: str = setting("runs", "Folder of run directories.", facts=_HERE, group="Runs")
    resume: bool = setting(False, "Go on from the last finished epoch.", facts=_HERE)
    force: bool = setting(
        False, "Train again even if the same run is finished.", identifies=False, restored=False
    )
    save_topk: int = setting(
        0, "Items of each user's recommended list to keep, stages included.", ge=0, facts=_PLACE
    )
    projector: bool = setting(
        True,
        "Write item embeddings for TensorBoard's projector.",
        facts=_PLACE,
        hash_neutral=True,
    )
    trackers: tuple[str, ...] = setting(
        ("tensorboard",),
        "Where settings, curves and metrics are shown: tensorboard, mlflow, wandb, the import path "
        "of a class of your own, or none.",
        facts=_HERE,
        hash_neutral=True,
    )
    tracked_files: tuple[str, ...] = setting(
        ("config.yaml", "environment.json", "identity.json", "metrics.json"),
        "Files and folders of the run directory that MLflow and W&B keep, too, such as best.pt.",
        facts=_HERE,
        hash_neutral=True,
    )
    tracking_project: str = setting(
        "recbole-hellm",
        "Name of the experiment in MLflow and of the project in W&B.",
        facts=_HERE,
        hash_neutral=True,
    )
    mlflow_uri: str | None = setting(
        None,
        "MLflow's server or database (http://localhost:5000); <runs_dir>/mlflow otherwise.",
        facts=_HERE,
        hash_neutral=True,
    )
    wandb_mode: Literal["offline", "online"] = setting(
        "offline",
        "W&B: keep runs in <runs_dir>/wandb (offline), or send them as they train (online).",
        facts=_HERE,
        hash_neutral=True,
    )
    device: str = setting(
        AUTO,
        DEVICE_HELP,
        facts=_HERE,
    )
    use_gpu: bool = setting(True, "Whether device=auto may take a GPU.", facts=_PLACE)
    threads: int | None = setting(None, "CPU threads; all cores otherwise.", ge=1, facts=_PLACE)
    show_progress: bool | None = setting(
        None,
        "Show progress bars; by default in a terminal or a notebook, but not where standard error "
        "goes to a file.",
        facts=_PLACE,
    )

    @field_validator("device", mode="before")
    @classmethod
    def _device_name(cls, value: Any) -> str:
        return str(value or AUTO)  # the configuration keeps a torch.device

    @field_validator("trackers", "tracked_files", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        if not isinstance(value, (str, tuple, type(None))):
            return value
        return () if value == "none" else names(value)

    @field_validator("split_points", mode="before")
    @classmethod
    def _dates_as_texts(cls, value: Any) -> Any:
        return as_points(value)

    def validate_relations(self) -> None:
        """Check what concerns several fields or elements; raises :class:`ConfigError`."""
        require(
            bool(self.topk) and min(self.topk) >= 1,
            f"topk={list(self.topk)} must be one or more positive numbers.",
        )
        check_split(self.to_dict(), self._defaults())

    @property
    def protocol_suffix(self) -> str:
        """The protocol at the end of a file's name; see :func:`in_file_name`."""
        return in_file_name(self.to_dict(), self._defaults())

    def _defaults(self) -> dict[str, Any]:
        return {key: declaration.default for key, declaration in self.declarations().items()}

    def canonical(self) -> dict[str, Any]:
        """Settings that can be written in several ways, in one of them."""
        return {"split_points": list(self.split_points), "split_ratios": list(self.split_ratios)}
