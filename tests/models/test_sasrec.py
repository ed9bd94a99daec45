from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from recbole.model.sequential_recommender.sasrec import SASRec as RecBoleSASRec

from recbole_hellm.data.loaders import HistoryLoader, RecBoleLoader, SequenceLoader, training_loader
from recbole_hellm.models.sequential.sasrec import SASRec

Parts = Callable[..., tuple[Any, Any, list[Any]]]
STILL = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}


def test_one_pass_equals_recboles_loss_over_all_rows_of_the_users(make_parts: Parts) -> None:
    config, dataset, parts = make_parts("SASRec", **STILL, train_batch_size=9)
    torch.manual_seed(0)
    ours, theirs = SASRec(config, parts[0]).double(), RecBoleSASRec(config, parts[0]).double()
    theirs.load_state_dict(ours.state_dict())
    rows = parts[0].inter_feat
    for batch in training_loader(config, dataset, parts, ours):
        mine = rows[torch.isin(rows["user_id"], batch["user_id"])]
        assert len(mine) == int((batch["item_length"] - 1).sum())
        gradients = []
        for model, data in ((ours, batch), (theirs, mine)):
            model.zero_grad()
            loss = model.calculate_loss(data)
            loss.backward()
            gradients.append((loss.detach(), *(p.grad for p in model.parameters())))
        torch.testing.assert_close(gradients[0], gradients[1])


def test_long_sequences_give_the_targets_of_their_last_window(make_parts: Parts) -> None:
    config, dataset, parts = make_parts("SASRec", **STILL, MAX_ITEM_LIST_LENGTH=3)
    torch.manual_seed(0)
    model = SASRec(config, parts[0]).double()
    for batch in training_loader(config, dataset, parts, model):
        losses = []
        for items, length in zip(batch["item_id_list"], batch["item_length"].tolist(), strict=True):
            assert length <= 4
            for step in range(1, length):
                hidden = model.forward(items[None, :step], torch.tensor([step]))[0]
                scores = hidden @ model.item_embedding.weight.T
                losses.append(torch.logsumexp(scores, 0) - scores[items[step]])
        torch.testing.assert_close(model.calculate_loss(batch), torch.stack(losses).mean())


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, SequenceLoader),
        ({"targets": "last"}, HistoryLoader),
        ({"targets": "last", "bucket_by_length": False}, RecBoleLoader),
        ({"loss_type": "BPR"}, RecBoleLoader),
    ],
)
def test_batches_follow_the_settings(make_parts: Parts, options: Any, kind: type) -> None:
    config, dataset, parts = make_parts("SASRec", **options)
    model = SASRec(config, parts[0])
    loader = training_loader(config, dataset, parts, model)
    assert type(loader) is kind
    assert torch.isfinite(model.calculate_loss(next(iter(loader))))
