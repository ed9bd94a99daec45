"""Trainers of models that stand on other models: on their embeddings, or on their scores."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterator
from typing import Any

from recbole.utils import init_seed

from recbole_hellm.errors import ConfigError, RunError
from recbole_hellm.runs.directory import RunDirectory
from recbole_hellm.training.trainer import HellmTrainer

logger = logging.getLogger(__name__)


class _StandingTrainer(HellmTrainer):
    """The trainer of a model that stands on runs of other models."""

    def stage_runs(self, wanted: Container[str]) -> Iterator[tuple[str, RunDirectory]]:
        """Name and run of each wanted stage, which is trained now unless it is finished."""
        if self.train_stage is None:
            raise RunError(f"{self.config['model']} needs its stages; use recbole_hellm.run.")
        for name, config in self.config.stages().items():
            if name in wanted:
                logger.info("Stage '%s' of %s: %s.", name, self.config["model"], config["model"])
                yield name, self.train_stage(config)


class StagedTrainer(_StandingTrainer):
    """Train the stages, fill the model's item tables, then train the model.

    Each stage is a run of its own, found again by a hash of everything that determines it. A second
    run, an ablation or another model on the same stages does not train them again.
    """

    def prepare(self, dataset: Any) -> dict[str, str]:
        """Run the stages, and load their item embeddings and all other item tables into the model.

        Raises
        ------
        ConfigError, DataError
            If a file or a table cannot be used.
        RunError
            If a stage's model has no item embeddings.
        """
        for name, file in self.config.imported.items():
            if name not in self.model.item_tables:
                raise ConfigError(
                    f"{file.key} is given, and {self.config['model']} makes no use of {name} "
                    "embeddings with these settings; remove it."
                )
        reads_users = getattr(self.model, "reads_users", False)
        if reads_users and "graph" not in self.config.stages():
            raise ConfigError(
                f"{self.config['model']} reads the users of the graph stage, and there is no such "
                "stage; name one by graph_model, and remove graph_embeddings."
            )
        # Before the stages, so that a mistake shows before anything is trained.
        for name in self.model.item_tables:
            if self.config.item_inputs[name].stage is None:
                table = self.config.item_inputs[name].vectors(dataset)
                self.model.load_item_table(name, table)
        directories = {}
        for name, directory in self.stage_runs(self.model.item_tables):
            table = directory.read_embeddings("item", dataset.item_tokens, dataset.fingerprint)
            self.model.load_item_table(name, table)
            if name == "graph" and reads_users:
                users = directory.read_embeddings("user", dataset.user_tokens, dataset.fingerprint)
                self.model.load_users(users)
            directories[name] = str(directory.path)
        # The same random numbers whether the stages were trained just now or found.
        init_seed(self.config["seed"], self.config["reproducibility"])
        return directories


class EnsembleTrainer(_StandingTrainer):
    """Train the members of an ensemble, each a run of its own as stages are, and validate it."""

    def prepare(self, dataset: Any) -> dict[str, str]:
        """Run the members, which are then restored and put into the model.

        Raises
        ------
        RunError
            If there is nothing to train them with.
        """
        members = self.stage_runs(self.config.stages())
        directories = {name: str(directory.path) for name, directory in members}
        init_seed(self.config["seed"], self.config["reproducibility"])
        return directories

    def _train_epoch(self, *_: Any, **__: Any) -> float:
        """Do nothing: an ensemble has no weights of its own to train."""
        return 0.0
