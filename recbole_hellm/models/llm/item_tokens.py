"""Item tokens: tables of item vectors aligned with the backbone's space.

Paper, end of section 3.5; the variants of its ablation and of CoLLM and LLaRA are settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

import torch
from torch import Tensor, nn

from recbole_hellm.errors import ConfigError, DataError
from recbole_hellm.models.llm.inference_cache import InferenceCache
from recbole_hellm.models.llm.item_roles import ItemGates, drop_roles
from recbole_hellm.models.llm.settings import LLMSettings


class ItemTokens(InferenceCache):
    r"""One input vector per item.

    .. math:: x_i = W_2\,\phi(W_1 [t^1_i \Vert \dots \Vert t^k_i] + b_1) + b_2 \;(+\; e_i)

    with the rows of the input tables t (in the paper the graph embedding and the sequence
    embedding) and, optionally, a learned vector e.

    Parameters
    ----------
    hidden_size : int
        Width of a token.
    n_items : int
        N; tables and vectors have N + 1 rows, row 0 being padding.
    tables : Mapping of str to Tensor
        [N+1, d] each, by name; the network holds all of them.
    inputs : tuple of str
        Names of the tables that a token is made of, in order. May be empty if `vectors`.
    mlp_hidden : int
        Width of the MLP's hidden layer.
    activation : {"gelu", "relu"}
        Its activation.
    vectors : bool
        Add e, drawn from N(0, 0.02²).
    train_tables : bool
        Fine-tune the tables.
    normalise : bool
        Divide each table by its root mean square, so that all tables have one scale.
    role_dropout : float
        Share of table rows that training leaves out, see :func:`drop_roles`.
    gated : bool
        Multiply the rows t and the vector e by gates of the item, see :class:`ItemGates`.
    counts : Tensor of int64, optional
        [N+1] training interactions of each item, which gates need.

    Raises
    ------
    DataError
        If a table that `inputs` names is missing, or a table has the wrong number of rows.
    ConfigError
        If gates have no counts.
    """

    def __init__(
        self,
        hidden_size: int,
        n_items: int,
        tables: Mapping[str, Tensor],
        *,
        inputs: tuple[str, ...],
        mlp_hidden: int,
        activation: Literal["gelu", "relu"] = "gelu",
        vectors: bool = False,
        train_tables: bool = False,
        normalise: bool = False,
        role_dropout: float = 0.0,
        gated: bool = False,
        counts: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.inputs = inputs
        self.names = tuple(tables)
        self.normalise = normalise
        self.role_dropout = role_dropout
        self.tables = nn.ModuleDict()
        for name in inputs:
            if name not in tables:
                raise DataError(
                    f"Item tokens need the {name} embeddings, and there are none; name the stage "
                    f"or file that they come from, or take {name} out of item_inputs."
                )
        for name, table in tables.items():
            weight = _prepared(name, table, n_items, normalise)
            self.tables[table_key(name)] = nn.Embedding.from_pretrained(
                weight, freeze=not train_tables, padding_idx=0
            )
        self.mlp: nn.Sequential | None = None
        if inputs:
            width = sum(table.embedding_dim for table in self.input_tables)
            self.mlp = nn.Sequential(
                nn.Linear(width, mlp_hidden),
                nn.GELU() if activation == "gelu" else nn.ReLU(),
                nn.Linear(mlp_hidden, hidden_size),
            )
        self.vectors: nn.Embedding | None = None
        if vectors:
            weight = torch.randn(n_items + 1, hidden_size) * 0.02
            weight[0] = 0
            self.vectors = nn.Embedding.from_pretrained(weight, freeze=False, padding_idx=0)
        self.gates: ItemGates | None = None
        if gated:
            self.gates = ItemGates(counts, n_items, len(inputs) + bool(vectors))

    @property
    def dtype(self) -> torch.dtype:
        """Type of the tokens."""
        return next(self.parameters()).dtype

    def table(self, name: str) -> nn.Embedding:
        """The embedding table `name`."""
        return cast(nn.Embedding, self.tables[table_key(name)])

    @property
    def input_tables(self) -> list[nn.Embedding]:
        """The tables that a token is made of, in order."""
        return [self.table(name) for name in self.inputs]

    @torch.no_grad()
    def load_table(self, name: str, table: Tensor) -> None:
        """Replace the table `name` by another of its shape.

        Parameters
        ----------
        name : str
        table : Tensor
            [N, d], the items' embeddings without a row for padding.

        Raises
        ------
        DataError
            If the shape does not fit.
        """
        weight = self.table(name).weight
        padded = torch.nn.functional.pad(table, (0, 0, 1, 0))
        prepared = _prepared(name, padded, len(weight) - 1, self.normalise)
        if prepared.shape != weight.shape:  # copy_ would repeat a single column
            raise DataError(
                f"The {name} table has {table.shape[1]} columns and replaces one of "
                f"{weight.shape[1]}; give a table of that width."
            )
        weight.copy_(prepared)

    def forward(self, ids: Tensor) -> Tensor:
        """Tokens of items.

        Parameters
        ----------
        ids : Tensor
            [...] item ids; the vector of id 0, padding, has no meaning and is to be masked.

        Returns
        -------
        Tensor
            [..., hidden_size].
        """
        return self._combine(
            [table(ids) for table in self.input_tables],
            None if self.vectors is None else self.vectors(ids),
            ids,
        )

    def mapped(self, vectors: Tensor) -> Tensor:
        """Tokens [..., hidden_size] of vectors [..., d] by the items' MLP, such as users'."""
        if self.mlp is None:
            raise RuntimeError("Tokens without inputs have no MLP.")
        tokens: Tensor = self.mlp(vectors)
        return tokens

    def all(self) -> Tensor:
        """Tokens of all items, [N+1, hidden_size]; kept at inference."""
        kept = self.kept()
        if kept is not None and "all" in kept:
            return kept["all"]
        tokens = self._combine(
            [table.weight for table in self.input_tables],
            None if self.vectors is None else self.vectors.weight,
        )
        if kept is not None:
            kept["all"] = tokens
        return tokens

    def _combine(
        self, rows: list[Tensor], vectors: Tensor | None, ids: Tensor | None = None
    ) -> Tensor:
        if self.gates is not None:
            gates = self.gates(ids)
            rows = [row * gate for row, gate in zip(rows, gates, strict=False)]
            vectors = None if vectors is None else vectors * gates[-1]
        if self.training and self.role_dropout:
            rows = drop_roles(rows, self.role_dropout)
        terms = [] if self.mlp is None else [self.mlp(torch.cat(rows, dim=-1))]
        terms += [] if vectors is None else [vectors]
        tokens: Tensor = terms[0] if len(terms) == 1 else terms[0] + terms[1]
        return tokens


def build_item_tokens(
    settings: LLMSettings,
    hidden_size: int,
    n_items: int,
    tables: Mapping[str, Tensor],
    counts: Tensor | None,
) -> ItemTokens:
    """Item tokens as resolved settings ask for them; tables that they do not name are left out.

    Parameters
    ----------
    settings : LLMSettings
    hidden_size, n_items, tables, counts
        As of :class:`ItemTokens`.

    Raises
    ------
    ConfigError, DataError
        As :class:`ItemTokens`.
    """
    return ItemTokens(
        hidden_size,
        n_items,
        {name: tables[name] for name in settings.item_tables if name in tables},
        inputs=settings.item_inputs,
        mlp_hidden=settings.item_mlp_hidden or hidden_size,
        activation=settings.item_mlp_activation,
        vectors=bool(settings.item_vectors),
        train_tables=bool(settings.train_item_tables),
        normalise=bool(settings.normalise_tables),
        role_dropout=settings.role_dropout,
        gated=settings.item_gate,
        counts=counts,
    )


def number_of_items(n_items: int | None, tables: Mapping[str, Tensor]) -> int:
    """N, as given or as the tables' rows tell it; :class:`ConfigError` where neither does."""
    if n_items is not None:
        return n_items
    if not tables:
        raise ConfigError("Without item tables the network needs the number of items (n_items).")
    return len(next(iter(tables.values()))) - 1


def table_key(name: str) -> str:
    """Name of a table's sub-module, which may have no dot and must not be an attribute's."""
    key = name.replace(".", "/")
    return f"{key}_" if hasattr(nn.ModuleDict(), key) else key


def _prepared(name: str, table: Tensor, n_items: int, normalise: bool) -> Tensor:
    if table.ndim != 2 or len(table) != n_items + 1:
        raise DataError(
            f"The {name} table has shape {tuple(table.shape)}, but {n_items} items need "
            f"{n_items + 1} rows, the first one for padding."
        )
    table = table.detach().clone().to(torch.get_default_dtype())
    table[0] = 0
    if normalise:
        table = table / table[1:].square().mean().sqrt().clamp_min(1e-12)
    return table
