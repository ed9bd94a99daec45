"""HeLLM as a RecBole sequential recommender: the LLM stage over earlier stages' embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn
from torch.func import functional_call

from recbole_hellm.config.settings import Settings, require, setting
from recbole_hellm.data.features.item_inputs import ItemInput
from recbole_hellm.data.features.item_titles import item_titles
from recbole_hellm.data.interactions.histories import Histories
from recbole_hellm.data.interactions.loaders import FIRST_TARGET
from recbole_hellm.errors import BackboneError, ConfigError
from recbole_hellm.models.llm.backbone import Backbone, build_backbone
from recbole_hellm.models.llm.hellm import HeLLMNetwork
from recbole_hellm.models.llm.item_texts import ItemTexts, title_texts
from recbole_hellm.models.llm.packing import MIN_CAPACITY
from recbole_hellm.models.llm.settings import LLMSettings


class StageSettings(Settings):
    """Where the item embeddings come from."""

    graph_model: str | None = setting("HeLLMPre", "Model of the stage that gives g_i; ~ for none.")
    sequence_model: str | None = setting("SASRec", "Model of the stage that gives s_i; ~ for none.")
    graph_dim: int = setting(64, "Width of the graph stage's item embeddings.")
    sequence_dim: int = setting(64, "Width of the sequence stage's item embeddings.")
    graph_embeddings: str | None = setting(
        None,
        "File with item embeddings in place of the graph stage: .pt, .npy or .safetensors, a row "
        "per item in the order of the sorted item tokens, after an optional row of padding.",
        identifies=False,  # the run's identity has the file's checksum instead
        hash_neutral=True,
    )
    sequence_embeddings: str | None = setting(
        None,
        "File with item embeddings in place of the sequence stage.",
        identifies=False,
        hash_neutral=True,
    )
    train_users: float = setting(
        1.0,
        "Share of users whose histories this stage learns from, drawn with the seed. The stages "
        "before it learn from all users, and all are evaluated.",
        gt=0,
        le=1,
        hash_neutral=True,
    )


class HeLLM(SequentialRecommender):
    """HeLLM's LLM stage (paper, section 3.5) behind RecBole's interface.

    The network starts with empty item tables; the trainer fills them through
    :meth:`load_item_table` before training.

    The paper's CoLLM and LLaRA and the ablations of its Table 3 are this class with other settings,
    in ``properties/model/`` under their names: no prefix, or item tokens of one stage alone.

    Parameters
    ----------
    config : HellmConfig
        With the keys of :class:`LLMSettings` and :class:`StageSettings`.
    dataset : Dataset
        The training split, which tells the number of items and the widths of their tables.
    network : HeLLMNetwork, optional
        A trained network, in place of a new one.
    """

    input_type = InputType.POINTWISE
    settings_classes = (LLMSettings, StageSettings)
    data_parallel = True

    def __init__(self, config: Any, dataset: Any, network: HeLLMNetwork | None = None) -> None:
        super().__init__(config, dataset)
        self.settings = _settings(config)
        self.sources: Mapping[str, ItemInput] = config.item_inputs
        self.train_users = StageSettings.from_config(config).train_users
        if network is None:
            widths = table_widths(self.settings, self.sources, dataset)
            empty = {name: torch.zeros(self.n_items, width) for name, width in widths.items()}
            backbone = build_backbone(self.settings, config["device"])
            network = HeLLMNetwork(
                self.settings,
                empty,
                n_items=self.n_items - 1,
                backbone=backbone,
                texts=read_texts(self.settings, dataset, backbone),
                n_users=dataset.user_num - 1,
                item_counts=torch.from_numpy(dataset.training_counts),
            )
            network.check_training(longest_history(config, dataset, network))
        self.network = network

    @property
    def batches(self) -> str:
        """Kind of training batches: whole sequences, several targets a row, or one history."""
        if self.settings.targets == "every":
            return "sequences"
        return "targets" if self.settings.multi_target else "histories"

    @property
    def loss_scaling(self) -> bool:
        """Whether gradients need scaling, as those of float16 products do."""
        return self.network.loss_scaling

    @property
    def blocks(self) -> list[nn.Module]:
        """The backbone's layers; the passes need one of them whole at a time.

        Raises
        ------
        ConfigError
            If a layer's weights are needed again after its backward pass.
        """
        shares_instruction = self.settings.targets == "every" or self.settings.multi_target
        if shares_instruction and len(self.network.prompt.instruction):
            raise ConfigError(
                "parallel=fsdp cannot train targets=every or multi_target=True with an "
                "instruction, which passes the layers on its own; use --targets=last without "
                "multi_target, --prompt=none or --parallel=ddp."
            )
        attention = {id(module) for module in self.network.backbone.attention_layers}
        modules = self.network.model.named_modules()
        paths = [path for path, module in modules if id(module) in attention]
        return [self.network.model.get_submodule(path.rpartition(".")[0]) for path in paths]

    @property
    def item_tables(self) -> list[str]:
        """Names of the item inputs whose tables the network holds."""
        return list(self.network.tokens.names)

    def load_item_table(self, name: str, table: Tensor) -> None:
        """Put the table of an item input in place.

        Parameters
        ----------
        name : str
            One of :attr:`item_tables`.
        table : Tensor, shape [N, d]
            Row i belongs to item i + 1.

        Raises
        ------
        ConfigError
            If the width is not the one the network was built for.
        """
        if table.shape[1] != self.network.tokens.table(name).embedding_dim:
            raise self.sources[name].wrong_width(table.shape[1])
        self.network.tokens.load_table(name, table)

    def export_item_tokens(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Item tokens as the network reads them, [N+1, hidden_size], row 0 being padding.

        Parameters
        ----------
        weights : Mapping of str to Tensor
            All weights of the model, also where this process holds a share of them.
        """
        prefix = "network.tokens."
        state = {
            key.removeprefix(prefix): value
            for key, value in weights.items()
            if key.startswith(prefix)
        }
        ids = torch.arange(self.n_items, device=next(iter(state.values())).device)
        tokens: Tensor = functional_call(self.network.tokens.eval(), state, (ids,))
        return tokens

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups for the optimiser."""
        return self.network.trainable_parameter_groups(weight_decay)

    @property
    def reads_users(self) -> bool:
        """Whether the graph stage's users are to be given to :meth:`load_users`."""
        return self.settings.user_token

    def load_users(self, table: Tensor) -> None:
        """Put the vectors of the graph stage's users in place.

        Parameters
        ----------
        table : Tensor, shape [M, d]
            Row i belongs to user i + 1.

        Raises
        ------
        DataError
            If the shape does not fit.
        """
        if self.network.users is not None:
            self.network.users.load(table)

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Cross-entropy over all items (paper, equation 14)."""
        sequences, users = interaction[self.ITEM_SEQ], self._users(interaction)
        if self.settings.targets == "every":
            return self.network.sequence_loss(sequences, users)
        lengths = interaction[self.ITEM_SEQ_LEN]
        if self.settings.multi_target:
            first = interaction[FIRST_TARGET]
            return self.network.targets_loss(sequences, lengths, first, users)
        return self.network.loss(sequences, lengths, interaction[self.POS_ITEM_ID], users)

    def _users(self, interaction: Any) -> Tensor | None:
        """Users of the rows; ``None`` where they are not read, or not known."""
        read = self.settings.user_token and self.USER_ID in interaction
        return interaction[self.USER_ID] if read else None

    def sample_tokens(self, interaction: Any) -> Tensor:
        """Tokens of each row in a training pass, prompt words included, shape [B]."""
        if self.settings.targets == "every":
            # One item less than the row holds; the instruction is read once for all rows.
            return self._history_tokens(interaction, self.target_counts(interaction))
        prompt, lengths = self.network.prompt, interaction[self.ITEM_SEQ_LEN]
        if self.settings.multi_target:
            # The last item is not read, and the instruction once for all rows.
            responses = len(prompt.response) * self.target_counts(interaction)
            return self._history_tokens(interaction, lengths - 1) + responses
        words: int = len(prompt.instruction) + len(prompt.response)
        return self._history_tokens(interaction, lengths) + words

    @property
    def tokens_per_item(self) -> int:
        """The most tokens that an item of a history takes up."""
        return self.network.tokens_per_item

    def _history_tokens(self, interaction: Any, lengths: Tensor) -> Tensor:
        """Tokens of the first `lengths` items of each row, with what is read before them."""
        if self.network.texts is None:
            return lengths + self.network.lead
        items = interaction[self.ITEM_SEQ]
        read = torch.arange(items.shape[1], device=items.device) < lengths.unsqueeze(1)
        return (self.network.texts.widths(items) * read).sum(1) + self.network.lead

    def pass_tokens(self, tokens: np.ndarray) -> tuple[int, int]:
        """Tokens of a pass over rows with these :meth:`sample_tokens`, and slots they take up.

        Single histories are padded to the longest. Sequences and rows of several targets are
        packed, and the instruction is read once for all of them.
        """
        if self.batches == "histories":
            return int(tokens.sum()), len(tokens) * int(tokens.max())
        words, longest = len(self.network.prompt.instruction), int(tokens.max())
        capacity = longest * -(-MIN_CAPACITY // max(longest, 1))
        rows = -(-int(tokens.sum()) // max(capacity, 1))
        return int(tokens.sum()) + words, rows * capacity + words

    def target_counts(self, interaction: Any) -> Tensor:
        """Number of targets in each row of a training batch, shape [B]."""
        if self.settings.targets == "every":
            return (interaction[self.ITEM_SEQ][:, 1:] > 0).sum(1)
        if self.settings.multi_target:
            return interaction[self.ITEM_SEQ_LEN] - interaction[FIRST_TARGET]
        return torch.ones_like(interaction[self.ITEM_SEQ_LEN])

    @torch.no_grad()
    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Scores of all items, shape [B, N + 1], with padding at minus infinity."""
        return self.network.logits(self.read_out(interaction))

    def read_out(self, interaction: Any) -> Tensor:
        """States after each row's history, [B, d]; their products with the network's item weights
        are the scores."""
        return self.network.hidden_states(
            interaction[self.ITEM_SEQ],
            interaction[self.ITEM_SEQ_LEN],
            self._users(interaction),
        )

    @torch.no_grad()
    def predict(self, interaction: Any) -> Tensor:
        """Scores of given (history, item) pairs, shape [B]."""
        scores = self.full_sort_predict(interaction)
        return scores.gather(1, interaction[self.ITEM_ID][:, None])[:, 0]


def table_widths(
    settings: LLMSettings, sources: Mapping[str, ItemInput], dataset: Any
) -> dict[str, int]:
    """Width of each item table that the network holds, by name.

    Parameters
    ----------
    settings : LLMSettings
    sources : Mapping of str to ItemInput
        Where the tables come from.
    dataset : Dataset

    Raises
    ------
    HellmError
        If a table cannot be had.
    """
    widths = {name: sources[name].width(dataset) for name in settings.item_tables}
    return {name: width for name, width in widths.items() if width is not None}


def read_texts(settings: LLMSettings, dataset: Any, backbone: Backbone) -> ItemTexts | None:
    """The titles of a dataset's items in words of the backbone, if the settings ask for them.

    Raises
    ------
    DataError
        If the dataset has no titles.
    BackboneError
        If the backbone's tokenizer makes no words of them.
    """
    if settings.item_text == "none" or backbone.tokenizer is None:
        return None
    texts = title_texts(item_titles(dataset), backbone.tokenizer, settings.item_text_tokens)
    if not texts.lengths.any():
        raise BackboneError(
            f"backbone={backbone.name}: its tokenizer makes no words of the titles; put the "
            "tokenizer that belongs to the model into its folder, or name another backbone."
        )
    return texts


def running_tokens(network: HeLLMNetwork, histories: Histories) -> np.ndarray:
    """Tokens of all items before each place of ``histories.items``, [n_interactions + 1].

    Parameters
    ----------
    network : HeLLMNetwork
    histories : Histories
    """
    widths = np.ones(len(histories.items), dtype=np.int64)
    if network.texts is not None:
        widths = network.texts.widths(torch.from_numpy(histories.items)).numpy()
    return np.concatenate([[0], widths.cumsum()])


def longest_history(config: Any, dataset: Any, network: HeLLMNetwork) -> int:
    """Tokens of the longest history that the model reads of a dataset or of its training split."""
    histories, tokens = dataset.histories, running_tokens(network, dataset.histories)
    # Each item but a user's first is a target, of the items before it.
    places = np.arange(len(histories.items))
    starts = np.repeat(histories.offsets[:-1], histories.lengths)
    begins = np.maximum(starts, places - int(config["MAX_ITEM_LIST_LENGTH"]))
    return max(int((tokens[places] - tokens[begins]).max()), 1) + network.lead


def _settings(config: Any) -> LLMSettings:
    resolved = LLMSettings.from_config(config).resolved()
    read = resolved.item_inputs or resolved.prefix != "none" or resolved.prompt != "none"
    require(
        bool(read) or not config["first_item_target"],
        "first_item_target=True needs something to read of an empty history, and item_inputs=[] "
        "with prefix=none and prompt=none leaves zeros; name an item input, or leave it out.",
    )
    require(
        not (resolved.gram_pad_bug and config["bucket_by_length"]),
        "gram_pad_bug=True pools the padding of batches, of which bucket_by_length=True leaves "
        "little; set bucket_by_length=False, as the authors' batches are.",
    )
    return resolved
