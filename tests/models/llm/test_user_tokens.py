from __future__ import annotations

import pytest
import torch

from recbole_hellm.errors import ConfigError, DataError
from recbole_hellm.models.llm.user_tokens import UserTokens


@pytest.mark.parametrize("normalise", [False, True])
def test_an_unknown_user_has_the_mean_of_the_users(normalise: bool) -> None:
    table = 3 * torch.randn(4, 6)
    users = UserTokens(4, 6, normalise)
    assert not users.weight.any()
    users.load(table)
    torch.testing.assert_close(users.weight[0], users.weight[1:].mean(0))
    scale = table.square().mean().sqrt() if normalise else 1
    torch.testing.assert_close(users(torch.tensor([4, 1])), table[[3, 0]] / scale)
    assert not users.weight.requires_grad


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(DataError, match=r"has shape \(2, 6\), not \(4, 6\)"):
        UserTokens(4, 6, False).load(torch.zeros(2, 6))
    with pytest.raises(ConfigError, match="needs the number of users"):
        UserTokens(None, 6, False)
