"""The results printed in the HeLLM paper, as data."""

from __future__ import annotations

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


def _parse(text: str, metrics: tuple[str, ...]) -> dict[str, dict[str, dict[str, float]]]:
    table: dict[str, dict[str, dict[str, float]]] = {}
    for line in text.split("\n")[1:-1]:
        model, *cells = line.split()
        table[model] = {
            dataset: dict(zip(metrics, map(float, cell.split("/")), strict=True))
            for dataset, cell in zip(DATASETS, cells, strict=True)
        }
    return table


TABLE_1 = _parse(_TABLE_1, METRICS)
"""Model -> dataset -> metric. General models' rows mask training items; LLM rows mask nothing."""

TABLE_3 = _parse(_TABLE_3, METRICS[2:])
"""Variant -> dataset -> metric, under the names of this package."""
