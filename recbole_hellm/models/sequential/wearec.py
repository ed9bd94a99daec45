"""WEARec: adaptive filters of frequencies and wavelets in place of attention (Xu et al., 2026)."""

from __future__ import annotations

import torch
from recbole.model.layers import FeedForward
from torch import Tensor, nn

from recbole_hellm.config.settings import setting
from recbole_hellm.models.sequential.base import NextItemRecommender, SequentialSettings


class WEARecSettings(SequentialSettings):
    """Settings of :class:`WEARec`."""

    n_heads: int = setting(2, "Groups of channels with a filter each.", ge=1)
    alpha: float = setting(0.3, "Weight of the frequency filter against the wavelets.", ge=0, le=1)


class FilteredLayer(nn.Module):
    r"""A layer of WEARec: filters of a head's channels along the places, then a feed-forward layer.

    With the channels :math:`X_h` of head h, its spectrum :math:`\hat X_h` and the mean
    :math:`\bar x` of all states over the places,

    .. math::

        (\Delta s, \Delta b) = \mathrm{MLP}(\bar x), \qquad
        G_h = \mathcal F^{-1}\big(\hat X_h \odot w_h (1 + \Delta s_h) + b_h + \Delta b_h\big)

    and, with the Haar halves :math:`a_t = (x_{2t} + x_{2t+1}) / 2` and
    :math:`d_t = (x_{2t} - x_{2t+1}) / 2`,

    .. math::

        W_{2t} = a_t + T_t \odot d_t, \quad W_{2t+1} = a_t - T_t \odot d_t, \qquad
        X' = \mathrm{FFN}\big(\mathrm{LN}(X + \alpha G + (1 - \alpha) W)\big).

    A last place without a partner stays as it is.

    Parameters
    ----------
    places : int
        L.
    settings : WEARecSettings

    References
    ----------
    Xu et al., "Wavelet Enhanced Adaptive Frequency Filter for Sequential Recommendation",
    arXiv 2511.07028, and the authors' code for what the paper leaves open.
    """

    def __init__(self, places: int, settings: WEARecSettings) -> None:
        super().__init__()
        s, bins, width = settings, places // 2 + 1, settings.hidden_size // settings.n_heads
        self.alpha, self.heads, self.places = s.alpha, s.n_heads, places
        self.scale = nn.Parameter(torch.ones(s.n_heads, bins, 1))  # w
        self.bias = nn.Parameter(torch.full((s.n_heads, bins, 1), -0.1))  # b
        self.adapt = nn.Sequential(
            nn.Linear(s.hidden_size, s.hidden_size),
            nn.GELU(),
            nn.Linear(s.hidden_size, s.n_heads * bins * 2),
        )
        self.details = nn.Parameter(0.02 * torch.randn(s.n_heads, places // 2, width))  # T
        self.dropout = nn.Dropout(s.hidden_dropout_prob)
        self.norm = nn.LayerNorm(s.hidden_size, s.layer_norm_eps)
        self.feed_forward = FeedForward(
            s.hidden_size, s.inner_size, s.hidden_dropout_prob, s.hidden_act, s.layer_norm_eps
        )

    def forward(self, states: Tensor, _mask: Tensor, places: slice) -> Tensor:
        """See :meth:`NextItemRecommender.layer`; padding is a place like any other."""
        heads = states.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        far = self._filtered(heads, states.mean(1))[:, :, places]
        near = self._wavelets(heads)[:, :, places]
        mixed = (self.alpha * far + (1 - self.alpha) * near).transpose(1, 2).flatten(2)
        output: Tensor = self.feed_forward(self.norm(self.dropout(mixed) + states[:, places]))
        return output

    def _filtered(self, heads: Tensor, mean: Tensor) -> Tensor:
        """The frequency filter of [B, h, L, d / h]."""
        change = self.adapt(mean).unflatten(-1, (self.heads, -1, 2))
        scale, bias = (part.unsqueeze(-1) for part in change.unbind(-1))
        spectrum = torch.fft.rfft(heads, dim=2, norm="ortho")
        spectrum = spectrum * (self.scale * (1 + scale)) + (self.bias + bias)
        return torch.fft.irfft(spectrum, n=self.places, dim=2, norm="ortho")

    def _wavelets(self, heads: Tensor) -> Tensor:
        """Haar wavelets of [B, h, L, d / h] with scaled details."""
        pairs = heads[:, :, : self.places // 2 * 2].unflatten(2, (-1, 2))
        first, second = pairs.unbind(3)
        mean, detail = (first + second) / 2, self.details * (first - second) / 2
        joined = torch.stack([mean + detail, mean - detail], dim=3).flatten(2, 3)
        return torch.cat([joined, heads[:, :, joined.shape[2] :]], dim=2)


class WEARec(NextItemRecommender):
    """WEARec as a RecBole sequential recommender; see :class:`NextItemRecommender`."""

    settings_classes = (WEARecSettings,)
    settings: WEARecSettings
    data_parallel = True

    def layer(self) -> FilteredLayer:
        """A layer over all places."""
        return FilteredLayer(self.max_seq_length, self.settings)
