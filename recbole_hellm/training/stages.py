"""The trainer of models that stand on other models' embeddings, such as HeLLM."""

from __future__ import annotations

import logging
from typing import Any

from recbole.utils import init_seed

from recbole_hellm.errors import ConfigError, RunError
from recbole_hellm.training.trainer import HellmTrainer

logger = logging.getLogger(__name__)


class StagedTrainer(HellmTrainer):
    """Train the stages, hand their item embeddings to the model, then train the model.

    Each stage is a run of its own, found again by a hash of everything that determines it, so that
    a second run, an ablation or another model on the same stages trains them no more.
    """

    def prepare(self, dataset: Any) -> dict[str, str]:
        """Run the stages and load their item embeddings, or those of files, into the model.

        Raises
        ------
        ConfigError, DataError
            If a file is given in place of a stage and cannot be used.
        RunError
            If a stage's model has no item embeddings.
        """
        # First, so that a mistake is told before anything is trained.
        for role, file in self.config.imported.items():
            if role not in self.model.stage_roles:
                raise ConfigError(
                    f"{file.key} is given, and {self.config['model']} makes no use of {role} "
                    "embeddings with these settings; remove it."
                )
            self.model.load_item_table(role, file.read(dataset.item_tokens))
        if self.train_stage is None:
            raise RunError(f"{self.config['model']} needs its stages; use recbole_hellm.run.")
        directories = {}
        for role, config in self.config.stages().items():
            if role not in self.model.stage_roles:
                continue
            logger.info("Stage '%s' of %s: %s.", role, self.config["model"], config["model"])
            directory = self.train_stage(config)
            table = directory.read_embeddings("item", dataset.item_tokens, dataset.fingerprint)
            self.model.load_item_table(role, table)
            directories[role] = str(directory.path)
        # The same random numbers whether the stages were trained just now or found.
        init_seed(self.config["seed"], self.config["reproducibility"])
        return directories
