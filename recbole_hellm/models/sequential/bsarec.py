"""BSARec: self-attention beside a filter of frequencies (Shin et al., AAAI 2024)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from recbole.model.layers import FeedForward, MultiHeadAttention
from torch import Tensor, nn

from recbole_hellm.config.settings import setting
from recbole_hellm.models.sequential.base import NextItemRecommender, SequentialSettings


class BSARecSettings(SequentialSettings):
    """Settings of :class:`BSARec`."""

    attn_dropout_prob: float = setting(0.5, "Dropout of attention weights.", ge=0, lt=1)
    alpha: float = setting(0.7, "Weight alpha of the filter against attention.", ge=0, le=1)
    cutoff: int = setting(
        5, "c; the lowest c // 2 + 1 frequencies, the mean among them, are low ones.", ge=1
    )


def low_pass(places: int, kept: int) -> Tensor:
    """The matrix that keeps the lowest frequencies of a series.

    Parameters
    ----------
    places : int
        L, length of the series.
    kept : int
        Number of frequencies, the mean included.

    Returns
    -------
    Tensor, shape [L, L]
        The discrete Fourier transform, a cut and the transform back, which are linear.
    """
    spectrum = torch.fft.rfft(torch.eye(places, dtype=torch.float64), dim=0)
    spectrum[kept:] = 0
    return torch.fft.irfft(spectrum, n=places, dim=0)


class FrequencyRescaler(nn.Module):
    r"""Low frequencies as they are, high ones times a trained factor of each channel.

    .. math:: F(X) = \mathrm{LFC}_c[X] + \beta \, \mathrm{HFC}_c[X], \qquad \beta = b^2

    Parameters
    ----------
    places : int
        L.
    settings : BSARecSettings

    References
    ----------
    Shin et al., "An Attentive Inductive Bias for Sequential Recommendation beyond the
    Self-Attention", AAAI 2024, section "Frequency rescaler". The square is the authors' code's.
    """

    low_pass: Tensor

    def __init__(self, places: int, settings: BSARecSettings) -> None:
        super().__init__()
        filtered = low_pass(places, settings.cutoff // 2 + 1).to(torch.get_default_dtype())
        self.register_buffer("low_pass", filtered, persistent=False)
        self.root_beta = nn.Parameter(torch.randn(settings.hidden_size))
        self.dropout = nn.Dropout(settings.hidden_dropout_prob)
        self.norm = nn.LayerNorm(settings.hidden_size, settings.layer_norm_eps)

    def forward(self, states: Tensor, places: slice) -> Tensor:
        """Filter [B, L, d] along L, with dropout, residual and norm, for some places."""
        low = self.low_pass[places] @ states
        own = states[:, places]
        filtered: Tensor = low + self.root_beta.square() * (own - low)
        return self.norm(self.dropout(filtered) + own)


class Attention(MultiHeadAttention):
    """RecBole's self-attention, with the queries of some places alone."""

    def forward(self, states: Tensor, mask: Tensor, places: slice) -> Tensor:
        """Attend from some places of [B, L, d] to all, with dropout, residual and norm."""
        own = states[:, places]
        queries, keys, values = (
            self.transpose_for_scores(part).transpose(1, 2)
            for part in (self.query(own), self.key(states), self.value(states))
        )
        rate = self.attn_dropout.p if self.training else 0.0
        heads = F.scaled_dot_product_attention(queries, keys, values, mask[:, :, places], rate)
        mixed = self.dense(heads.transpose(1, 2).flatten(2))
        attended: Tensor = self.LayerNorm(self.out_dropout(mixed) + own)
        return attended


class BSARecLayer(nn.Module):
    r"""A filter and attention side by side, then a feed-forward layer.

    .. math:: X' = \mathrm{FFN}(\alpha F(X) + (1 - \alpha) A(X))
    """

    def __init__(self, places: int, settings: BSARecSettings) -> None:
        super().__init__()
        s = settings
        self.alpha = s.alpha
        self.filter = FrequencyRescaler(places, s)
        self.attention = Attention(
            s.n_heads, s.hidden_size, s.hidden_dropout_prob, s.attn_dropout_prob, s.layer_norm_eps
        )
        self.feed_forward = FeedForward(
            s.hidden_size, s.inner_size, s.hidden_dropout_prob, s.hidden_act, s.layer_norm_eps
        )

    def forward(self, states: Tensor, mask: Tensor, places: slice) -> Tensor:
        """See :meth:`NextItemRecommender.layer`."""
        attended = self.attention(states, mask, places)
        mixed = self.alpha * self.filter(states, places) + (1 - self.alpha) * attended
        output: Tensor = self.feed_forward(mixed)
        return output


class BSARec(NextItemRecommender):
    """BSARec as a RecBole sequential recommender; see :class:`NextItemRecommender`."""

    settings_classes = (BSARecSettings,)
    settings: BSARecSettings
    data_parallel = True

    def layer(self) -> BSARecLayer:
        """A layer over all places."""
        return BSARecLayer(self.max_seq_length, self.settings)
