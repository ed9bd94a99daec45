"""Print the order of methods under two protocols, from kept results of `compare`.

    python benchmarks/protocol_orders.py table1-Beauty table1-Beauty-temporal-interaction

Only methods that both have are ordered, 1 the best. Kendall's tau is 1 where the orders are the
same, 0 where they have nothing in common, and -1 where one is the other reversed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from scipy.stats import kendalltau

from recbole_hellm.reporting.numbers import number, p_value

RESULTS = Path(__file__).resolve().parents[1] / "docs/results"
METRICS = {"ndcg@10": "N@10", "recall@20": "R@20"}


def means(name: str) -> pd.DataFrame:
    """Means of methods on test, shape [methods, metrics], in the order of the table."""
    results = pd.read_csv(RESULTS / f"{name}-results.csv")
    wide = results.pivot_table(index="method", columns="metric", values="mean")
    return wide.loc[results["method"].unique(), list(METRICS)]


def orders(first: str, second: str) -> str:
    """The table as Markdown, and a line on each metric."""
    one, other = means(first), means(second)
    both = [name for name in one.index if name in other.index]
    ranks = {
        key: table.loc[both].rank(ascending=False).astype(int)
        for key, table in (("one", one), ("other", other))
    }
    head = [f"{metric}, {name}" for metric in METRICS.values() for name in (first, second)]
    lines = ["| | " + " | ".join(head) + " |", "| --- |" + " --- |" * len(head)]
    for method in both:
        cells = [
            f"{number(table.loc[method, metric])} ({ranks[key].loc[method, metric]})"
            for metric in METRICS
            for key, table in (("one", one), ("other", other))
        ]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    lines.append("")
    for metric, shown in METRICS.items():
        tau, p = kendalltau(one.loc[both, metric], other.loc[both, metric])
        chance = p_value(p)
        chance = chance.replace("<", "< ") if "<" in chance else f"= {chance}"
        lines.append(f"Kendall's tau of {shown} over {len(both)} methods: {tau:.2f} (p {chance}).")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("first", help="file name in docs/results up to -results.csv")
    parser.add_argument("second")
    options = parser.parse_args()
    print(orders(options.first, options.second))


if __name__ == "__main__":
    main()
