"""Printed results as data: those of the HeLLM paper, and of others on the same split."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

METRICS = ("recall@10", "ndcg@10", "recall@20", "ndcg@20")
DATASETS = ("Sports", "Beauty", "Toys")

_TABLE_1 = """
LightGCN .0232/.0120/.0411/.0165 .0426/.0208/.0669/.0269 .0273/.0138/.0409/.0172
VBPR     .0298/.0150/.0485/.0197 .0436/.0216/.0724/.0289 .0376/.0196/.0565/.0244
GRCN     .0303/.0152/.0502/.0202 .0454/.0225/.0758/.0305 .0411/.0214/.0610/.0264
LATTICE  .0310/.0155/.0506/.0204 .0468/.0234/.0760/.0307 .0459/.0228/.0683/.0284
SLMRec   .0312/.0156/.0507/.0205 .0458/.0227/.0754/.0301 .0436/.0223/.0675/.0284
BM3      .0316/.0160/.0517/.0210 .0446/.0217/.0722/.0286 .0402/.0204/.0618/.0258
FREEDOM  .0314/.0157/.0507/.0205 .0516/.0248/.0805/.0321 .0467/.0232/.0700/.0291
CoLLM    .0349/.0182/.0525/.0226 .0681/.0393/.0960/.0463 .0652/.0376/.0905/.0439
LLaRA    .0367/.0203/.0562/.0252 .0667/.0380/.0925/.0445 .0683/.0371/.0944/.0437
HeLLM    .0412/.0227/.0617/.0279 .0696/.0384/.1021/.0465 .0680/.0372/.1027/.0460
"""
# Recall@20 and NDCG@20 only.
_TABLE_3 = """
HeLLMPre-wo-U2U   .0486/.0203 .0736/.0294 .0592/.0247
HeLLMPre-wo-I2I   .0495/.0205 .0719/.0290 .0647/.0270
HeLLMPre-wo-CL    .0510/.0209 .0774/.0315 .0681/.0281
HeLLM-wo-GNN_PEFT .0582/.0272 .1014/.0440 .1011/.0436
HeLLM-wo-GNN_ID   .0573/.0256 .0991/.0465 .0993/.0434
HeLLM-wo-Seq_ID   .0550/.0232 .0949/.0428 .0951/.0412
HeLLMPre          .0542/.0221 .0820/.0342 .0786/.0319
HeLLM             .0617/.0279 .1021/.0465 .1027/.0460
"""


def _figures(cell: str, metrics: tuple[str, ...]) -> dict[str, float]:
    """Figures by metric, of those that a cell has; "-" stands for none."""
    pairs = zip(metrics, cell.split("/"), strict=True)
    return {metric: float(figure) for metric, figure in pairs if figure != "-"}


def _parse(text: str, metrics: tuple[str, ...]) -> dict[str, dict[str, dict[str, float]]]:
    table: dict[str, dict[str, dict[str, float]]] = {}
    for line in text.split("\n")[1:-1]:
        model, *cells = line.split()
        table[model] = {
            dataset: _figures(cell, metrics) for dataset, cell in zip(DATASETS, cells, strict=True)
        }
    return table


TABLE_1 = _parse(_TABLE_1, METRICS)
"""Model -> dataset -> metric. General models' rows mask training items; LLM rows mask nothing."""

TABLE_3 = _parse(_TABLE_3, METRICS[2:])
"""Variant -> dataset -> metric, under the names of this package."""


@dataclasses.dataclass(frozen=True)
class Published:
    """A row that others published for leave-one-out on the same data, ranking all items.

    Attributes
    ----------
    name : str
        The method, and which of its rows.
    masking : {"seen", "none"} or None
        Whether a user's earlier items were left out of the ranking; None if it is not told.
    selected : str
        How the setting of the row was chosen.
    figures : mapping
        dataset -> metric -> figure.
    """

    name: str
    masking: Literal["seen", "none"] | None
    selected: str
    figures: Mapping[str, Mapping[str, float]]


# Masking, selection, and figures on the datasets in the order of DATASETS; "-" for none.
_OTHERS = """
SASRec | none | ? | .0495/.0248/-/- .0851/.0421/-/- .0922/.0448/-/-
HSTU | none | ? | .0439/.0232/-/- .0859/.0441/-/- .0914/.0461/-/-
DIF-SR | none | ? | .0548/.0256/.0807/.0322 .0908/.0446/.1284/.0541 .1013/.0504/.1382/.0597
OneRec-SFT 1.7B | ? | ? | .0596/.0325/-/- .0925/.0501/-/- .0946/.0541/-/-
TIGER | ? | ? | .0400/.0225/-/- .0648/.0384/-/- .0712/.0432/-/-
eSASRec | seen | ? | .0560/.0323/-/- .0928/.0523/-/- .0939/.0538/-/-
ICSRec | seen | ? | .0565/.0335/.0794/.0393 .0959/.0578/.1298/.0663 .1055/.0657/.1368/.0736
BSARec | seen | ? | - .1008/.0611/.1373/.0703 -
WEARec, its row | seen | best of 72 on test | .0631/.0367/.0895/.0433 .1041/.0614/.1391/.0703 -
WEARec, mean of the 72 | seen | none | .0611/.0355/.0865/.0419 .0997/.0593/.1371/.0687 -
DIFF | none | ? | .0574/.0310/.0853/.0381 .0935/.0526/.1347/.0632 .1023/.0553/.1425/.0656
"""
_MASKINGS: dict[str, Literal["seen", "none"] | None] = {"seen": "seen", "none": "none", "?": None}


def _parse_others(text: str) -> tuple[Published, ...]:
    rows = []
    for line in text.split("\n")[1:-1]:
        name, masking, selected, cells = (part.strip() for part in line.split("|"))
        figures = {
            dataset: _figures(cell, METRICS)
            for dataset, cell in zip(DATASETS, cells.split(), strict=True)
            if cell != "-"
        }
        chosen = "not told" if selected == "?" else selected
        rows.append(Published(name, _MASKINGS[masking], chosen, figures))
    return tuple(rows)


OTHERS = _parse_others(_OTHERS)
"""Rows in the order in which they are shown."""
