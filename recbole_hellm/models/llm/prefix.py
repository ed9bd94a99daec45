"""Graph-enhanced prefixes: from pooled graph embeddings to keys and values of every layer.

Paper, Eqs. 10 and 11. The released code normalises at another point and passes the prefix through
each layer's projections; both choices are options here.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_hellm.errors import BackboneError
from recbole_hellm.models.llm.attention import PrefixFactors
from recbole_hellm.models.llm.backbone import Backbone
from recbole_hellm.models.llm.inference_cache import InferenceCache
from recbole_hellm.models.llm.pooling import SecondOrderPooling
from recbole_hellm.models.llm.settings import LLMSettings

EPS = 1e-5


class PrefixMLP(nn.Module):
    """Two linear layers with GELU and dropout between them and, if `closed`, after them.

    The first layer is separate, since it can be applied before a running sum.

    Parameters
    ----------
    inputs, hidden, outputs : int
        Widths.
    dropout : float
        Dropout rate.
    closed : bool
        End with an activation and dropout, as the released code does.
    """

    def __init__(
        self, inputs: int, hidden: int, outputs: int, dropout: float, closed: bool
    ) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden)
        layers = [nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, outputs)]
        self.rest = nn.Sequential(*layers, *([nn.GELU(), nn.Dropout(dropout)] if closed else []))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map [..., inputs] to [..., outputs]."""
        outputs: Tensor = self.rest(self.first(inputs))
        return outputs


class PrefixSide(nn.Module):
    r"""The keys' (or the values') prefix of all layers.

    With a user's vector g = MLP(·) and the learned p of layer l and slot k:

    - ``norm="before"``: :math:`P_{lk} = p_{lk} + g`, with g from normalised pooling (Eq. 10).
    - ``norm="after"``: :math:`P_{lk} = RMS_2(p_{lk} + RMS_1(g))`, the released code.

    Parameters
    ----------
    n_layers, length, size : int
        Shape of p.
    norm : {"before", "after"}
        See above.
    init_std : float
        Standard deviation of p at the start.
    mlp : PrefixMLP, optional
        Maps the pooled embeddings to g; ``None`` omits g.
    """

    def __init__(
        self,
        n_layers: int,
        length: int,
        size: int,
        norm: Literal["before", "after"],
        init_std: float,
        mlp: PrefixMLP | None,
    ) -> None:
        super().__init__()
        self.static = nn.Parameter(torch.randn(n_layers, length, size) * init_std)
        self.mlp = mlp
        after = norm == "after"
        self.graph_norm = nn.RMSNorm(size, EPS) if after and mlp is not None else None
        self.norm = nn.RMSNorm(size, EPS) if after else None

    def forward(self, graph: Tensor | None) -> BoundSide:
        """Factor the prefix of every layer, without forming it per slot.

        Parameters
        ----------
        graph : Tensor or None
            [B, Q, size], g; Q = 1 for one prefix per sample.

        Returns
        -------
        BoundSide
            Factors of p + g or of its normalised form.
        """
        if graph is None:
            return BoundSide(self.static if self.norm is None else self.norm(self.static))
        if self.norm is None or self.graph_norm is None:
            return BoundSide(self.static, graph)
        graph = self.graph_norm(graph)
        # |p + g|^2 = |p|^2 + 2 p.g + |g|^2: one product with all layers' slots.
        norms = self.static.square().sum(-1) + graph.square().sum(-1)[..., None, None]
        cross = F.linear(graph, self.static.flatten(0, 1)).unflatten(-1, norms.shape[-2:])
        scale = torch.rsqrt((norms + 2 * cross) / graph.shape[-1] + EPS)
        return BoundSide(self.static * self.norm.weight, graph * self.norm.weight, scale)


@dataclasses.dataclass(frozen=True)
class BoundSide:
    """Factors of one side for a batch: ``(static[l, k] + dynamic[b, q]) * scale[b, q, l, k]``.

    Attributes
    ----------
    static : Tensor
        [n_layers, k, size].
    dynamic : Tensor, optional
        [B, Q, size].
    scale : Tensor, optional
        [B, Q, n_layers, k].
    """

    static: Tensor
    dynamic: Tensor | None = None
    scale: Tensor | None = None

    def factors(
        self,
        layer: int,
        head_dim: int,
        projection: nn.Module | None,
        cache: dict[Any, Tensor] | None = None,
    ) -> PrefixFactors:
        """One layer's factors by head, passed through `projection` if set.

        The static factors, which all users share, are cached in `cache`.
        """
        static, dynamic, bias = self.static[layer], self.dynamic, None
        if projection is not None:
            # A projection is linear: map each factor once instead of every slot.
            base = _base(projection)
            if cache is None or torch.compiler.is_compiling():
                static = _mapped(base, static)
            else:
                stamp = (base.weight.data_ptr(), base.weight._version)
                key = (projection, torch.is_autocast_enabled(static.device.type), stamp)
                static = (
                    cache[key] if key in cache else cache.setdefault(key, _mapped(base, static))
                )
            dynamic = None if dynamic is None else _mapped(base, dynamic)
            bias = None if base.bias is None else base.bias.unflatten(-1, (-1, head_dim))
        return PrefixFactors(
            static.unflatten(-1, (-1, head_dim)),
            None if dynamic is None else dynamic.unflatten(-1, (-1, head_dim)),
            None if self.scale is None else self.scale[:, :, layer],
            bias,
        )


@dataclasses.dataclass(frozen=True)
class BoundPrefix:
    """The prefix of a batch for the attention layers."""

    keys: BoundSide
    values: BoundSide
    head_dim: int
    projected: bool
    cache: dict[Any, Tensor] | None = None

    def layer(self, attention: nn.Module) -> tuple[PrefixFactors, PrefixFactors]:
        """Prefix keys and values of an attention module."""
        index = int(attention.layer_idx)  # type: ignore[arg-type]
        key_projection = attention.get_submodule("k_proj") if self.projected else None
        value_projection = attention.get_submodule("v_proj") if self.projected else None
        return (
            self.keys.factors(index, self.head_dim, key_projection, self.cache),
            self.values.factors(index, self.head_dim, value_projection, self.cache),
        )


class GraphPrefix(InferenceCache):
    r"""Maps pooled graph embeddings to prefix keys and values (paper, Eqs. 10 and 11).

    .. math:: g_K = \mathrm{MLP}_K(\mathrm{RMSNorm}(H_{Graph})), \quad P_K = p_K + g_K

    and the same for V. Each MLP has two linear layers.

    Parameters
    ----------
    n_layers, n_kv_heads, head_dim, hidden_size : int
        Shape of the backbone.
    length : int
        k, prefixes per layer.
    pooled_size : int, optional
        d'^2; ``None`` makes the prefix static.
    norm : {"before", "after"}
        Where to normalise; ``after`` also ends the MLPs with an activation and dropout (released
        code).
    projection : {"direct", "frozen"}
        Whether prefixes are keys and values themselves, or pass each layer's projections (without
        its input norm, key norm and rotary positions).
    mlp_hidden : int
        Width of the MLPs' hidden layer.
    dropout : float
        Dropout inside the MLPs.
    init_std : float
        Standard deviation of p at the start.
    """

    def __init__(
        self,
        *,
        n_layers: int,
        n_kv_heads: int,
        head_dim: int,
        hidden_size: int,
        length: int,
        pooled_size: int | None,
        norm: Literal["before", "after"],
        projection: Literal["direct", "frozen"],
        mlp_hidden: int,
        dropout: float,
        init_std: float,
    ) -> None:
        super().__init__()
        self.projected = projection == "frozen"
        self.head_dim = head_dim
        size = hidden_size if self.projected else n_kv_heads * head_dim

        def side() -> PrefixSide:
            mlp = None
            if pooled_size is not None:
                mlp = PrefixMLP(pooled_size, mlp_hidden, size, dropout, closed=norm == "after")
            return PrefixSide(n_layers, length, size, norm, init_std, mlp)

        before = norm == "before" and pooled_size is not None
        self.norm = nn.RMSNorm(pooled_size, EPS) if before else None  # type: ignore[arg-type]
        self.keys = side()
        self.values = side()

    def forward(self, pooled: Tensor | None) -> BoundPrefix:
        """Bind the prefix to a batch with one set of items per row.

        Parameters
        ----------
        pooled : Tensor or None
            [B, Q, d'^2], from :class:`SecondOrderPooling`; ``None`` for a static prefix.

        Returns
        -------
        BoundPrefix
            The prefix for an :class:`AttentionContext`.
        """
        if self.norm is not None and pooled is not None:
            pooled = self.norm(pooled)
        keys, values = (
            None if pooled is None or side.mlp is None else side.mlp(pooled)
            for side in (self.keys, self.values)
        )
        return self._bound(keys, values)

    def running(
        self, pooling: SecondOrderPooling, embeddings: Tensor, visible: Tensor
    ) -> BoundPrefix:
        """Bind the prefix to a batch in which every position pools its visible items.

        Equal to pooling at every position and calling the module on [B, T, d'^2].

        Parameters
        ----------
        pooling : SecondOrderPooling
        embeddings : Tensor
            [B, T, d], graph embeddings.
        visible : Tensor
            [B, T, T], True at (t, s) where position t sees item s.
        """
        mlps = [side.mlp for side in (self.keys, self.values) if side.mlp is not None]
        weight = torch.cat([mlp.first.weight for mlp in mlps])
        if self.norm is not None:
            weight = weight * self.norm.weight
        mapped, square_norm = pooling.running(embeddings, visible, weight)
        if self.norm is not None:
            # RMSNorm divides by one number per position, so it can follow the linear map.
            mapped = mapped * torch.rsqrt(square_norm / pooling.size + EPS).unsqueeze(-1)
        keys, values = (
            mlp.rest(part + mlp.first.bias)
            for mlp, part in zip(mlps, mapped.chunk(2, dim=-1), strict=True)
        )
        return self._bound(keys, values)

    def _bound(self, keys: Tensor | None, values: Tensor | None) -> BoundPrefix:
        keys_side, values_side = self.keys(keys), self.values(values)
        return BoundPrefix(keys_side, values_side, self.head_dim, self.projected, self.kept())


def build_prefix(
    settings: LLMSettings, backbone: Backbone, graph_table: Tensor | None
) -> tuple[SecondOrderPooling | None, GraphPrefix | None]:
    """Pooling and prefix for a backbone; ``None`` for parts that the settings omit.

    Parameters
    ----------
    settings : LLMSettings
        Resolved settings.
    backbone : Backbone
        The decoder that reads the prefix.
    graph_table : Tensor or None
        [N+1, d], needed for ``prefix=graph``.

    Raises
    ------
    BackboneError
        If the prefix needs projections that the backbone does not have.
    """
    if settings.prefix == "none":
        return None, None
    projection = settings.prefix_projection or "direct"
    if projection == "frozen":
        check_projections(backbone.attention_layers, backbone.name)
    pooling = None
    if settings.prefix == "graph" and graph_table is not None:
        size = settings.bilinear_size if settings.bilinear == "linear" else None
        pooling = SecondOrderPooling(graph_table.shape[1], size, settings.gram_pad_bug)
    return pooling, GraphPrefix(
        n_layers=backbone.n_layers,
        n_kv_heads=backbone.n_kv_heads,
        head_dim=backbone.head_dim,
        hidden_size=backbone.hidden_size,
        length=settings.prefix_length,
        pooled_size=None if pooling is None else pooling.size,
        norm=settings.prefix_norm or "before",
        projection=projection,
        mlp_hidden=settings.prefix_mlp_hidden or backbone.hidden_size,
        dropout=settings.prefix_dropout,
        init_std=0.02 if settings.prefix_init_std is None else settings.prefix_init_std,
    )


def check_projections(attention_layers: list[nn.Module], name: str) -> None:
    """Raise :class:`BackboneError` unless every layer has its own key and value projections."""
    for module in attention_layers:
        for key in ("k_proj", "v_proj"):
            if not isinstance(_base(getattr(module, key, None)), nn.Linear):
                raise BackboneError(
                    f"backbone={name} has no linear {key} in its attention layers, which "
                    "prefix_projection=frozen needs; use prefix_projection=direct."
                )


def _base(projection: Any) -> Any:
    """The layer inside an adapter; frozen weights alone define a prefix."""
    return getattr(projection, "base_layer", projection)


def _mapped(layer: Any, inputs: Tensor) -> Tensor:
    """The linear map of a layer, without its bias."""
    if type(layer) is nn.Linear:
        return F.linear(inputs, layer.weight)
    # Only a quantised layer itself can read its packed weights.
    outputs: Tensor = layer(inputs)
    return outputs if layer.bias is None else outputs - layer.bias
