"""A token of the user in the prompt: the user's vector of the graph stage.

CoLLM's prompt has one (docs/method.md, Titles and users).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_hellm.errors import ConfigError, DataError


class UserTokens(nn.Embedding):
    """The users' vectors, which are not trained; row 0 is for a user who is not known.

    Parameters
    ----------
    n_users : int or None
        M; there are M + 1 rows, which are zero until :meth:`load` is called.
    width : int
        d, the width of a vector.
    normalise : bool
        Divide the table by its root mean square, as tables of items under ``normalise_tables``.

    Raises
    ------
    ConfigError
        If the number of users is not given.
    """

    def __init__(self, n_users: int | None, width: int, normalise: bool) -> None:
        if n_users is None:
            raise ConfigError("user_token=True needs the number of users; give it as n_users.")
        super().__init__(n_users + 1, width, _weight=torch.zeros(n_users + 1, width), _freeze=True)
        self.normalise = normalise

    @torch.no_grad()
    def load(self, table: Tensor) -> None:
        """Put the users' vectors in place; a user who is not known gets their mean.

        Parameters
        ----------
        table : Tensor
            [M, d].

        Raises
        ------
        DataError
            If the shape does not fit.
        """
        wanted = self.weight[1:].shape
        if table.shape != wanted:
            raise DataError(
                f"The table of users has shape {tuple(table.shape)}, not {tuple(wanted)}."
            )
        weight = torch.cat([table.mean(0, keepdim=True), table])
        if self.normalise:
            weight = weight / table.square().mean().sqrt().clamp_min(1e-12)
        self.weight.copy_(weight)
