"""What HeLLM's two stages need at any size, by arithmetic: memory, traffic and operations.

python benchmarks/scale_on_paper.py

Prints the tables of docs/scale.md. Nothing is measured here; docs/method.md has the equations that
are counted. Sizes are decimal (1 GB = 10^9 bytes).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

FLOAT, INDEX, OFFSET = 4, 4, 8  # bytes
GIGA = 1e9


@dataclasses.dataclass(frozen=True)
class Size:
    """A dataset and the settings that decide what it costs.

    Attributes
    ----------
    name : str
    users, items, interactions : int
        M, N and |A|.
    modalities, features : int
        Modalities, and numbers of each item in each.
    dim, neighbours : int
        d and K.
    layers : tuple of int
        Of the user-item graph, the user hypergraph and the item hypergraph.
    batch : int
        Users of a step.
    width : int
        Hidden size of the language model.
    """

    name: str
    users: int
    items: int
    interactions: int
    modalities: int
    features: int
    dim: int = 64
    neighbours: int = 10
    layers: tuple[int, int, int] = (2, 2, 1)
    batch: int = 1024
    width: int = 128

    @property
    def nodes(self) -> int:
        """Users and items."""
        return self.users + self.items

    @property
    def memberships(self) -> int:
        """Entries of the item hypergraph's incidence matrix."""
        return self.modalities * self.neighbours * self.items

    @property
    def hyperedges(self) -> int:
        """Hyperedges of the item hypergraph."""
        return self.modalities * self.items

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self.interactions // self.batch + 1


BEAUTY = Size("Beauty", 22_363, 12_101, 153_776, modalities=1, features=384)
LARGE = Size("10^8 users", 10**8, 10**7, 10**9, modalities=2, features=64)


def memory(size: Size) -> dict[str, float]:
    """Bytes of one process that holds everything in float32."""
    table = size.nodes * size.dim * FLOAT
    return {
        "four tables of embeddings": 2 * table,
        "their gradients": 2 * table,
        "Adam's two moments": 4 * table,
        "vectors e and h of all nodes, and their gradients": 4 * table,
        "interactions, by user and by item": 2 * size.interactions * INDEX + size.nodes * OFFSET,
        "item hypergraph, by item and by hyperedge": 2 * size.memberships * INDEX
        + (size.items + size.hyperedges) * OFFSET,
    }


def product(entries: int, rows: int, dim: int) -> int:
    """Bytes that a sparse product moves: a row for each entry read, each result written."""
    return entries * (dim * FLOAT + INDEX) + rows * dim * FLOAT


def traffic(size: Size) -> dict[str, float]:
    """Bytes that a training step of HeLLM_pre moves; rows that a cache holds count all the same."""
    to_users = product(size.interactions, size.users, size.dim)
    to_items = product(size.interactions, size.items, size.dim)
    over_items = product(size.memberships, size.items, size.dim)
    over_edges = product(size.memberships, size.hyperedges, size.dim)
    graph, users, items = size.layers
    forward = (graph + users) * (to_users + to_items) + items * (over_items + over_edges)
    return {
        "sparse products, forward": forward,
        "sparse products, backward": forward,
        # Parameter, gradient and two moments are read, all but the gradient written.
        "Adam": 7 * memory(size)["four tables of embeddings"],
    }


def exchanged(size: Size) -> float:
    """Bytes of item vectors that are summed over processes in a step, if each holds some users."""
    graph, users, _ = size.layers
    return 2 * (graph + users) * size.items * size.dim * FLOAT


def operations(size: Size) -> dict[str, float]:
    """Floating-point operations of the jobs that grow with pairs."""
    return {
        "exact nearest neighbours of one modality": 2.0 * size.items**2 * size.features,
        "ranking all items for all users": 2.0 * size.users * size.items * size.dim,
        "item head of the language model, an epoch": 6.0
        * size.interactions
        * size.items
        * size.width,
    }


def number(value: float) -> str:
    """Three significant digits, or a whole number; a power of ten from 10 million on."""
    if value >= 1e7:
        return f"{value:.2e}".replace("e+", "e")
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def table(head: str, rows: Mapping[str, tuple[float, float]]) -> str:
    """A table in Markdown with a column for each size."""
    lines = [f"| {head} | {BEAUTY.name} | {LARGE.name} |", "|---|---|---|"]
    lines += [f"| {name} | {number(one)} | {number(two)} |" for name, (one, two) in rows.items()]
    return "\n".join(lines)


def both(
    one: dict[str, float], two: dict[str, float], unit: float
) -> dict[str, tuple[float, float]]:
    """The rows of two sizes, with their sum."""
    rows = {name: (one[name] / unit, two[name] / unit) for name in one}
    return rows | {"**in all**": (sum(one.values()) / unit, sum(two.values()) / unit)}


def tables() -> list[str]:
    """The tables of docs/scale.md."""
    sizes = {
        "users M": (BEAUTY.users, LARGE.users),
        "items N": (BEAUTY.items, LARGE.items),
        "training interactions": (BEAUTY.interactions, LARGE.interactions),
        "modalities": (BEAUTY.modalities, LARGE.modalities),
        "numbers of an item in each": (BEAUTY.features, LARGE.features),
        "steps of an epoch": (BEAUTY.steps, LARGE.steps),
    }
    jobs = {name: (value, operations(LARGE)[name]) for name, value in operations(BEAUTY).items()}
    return [
        table("size", sizes),
        table("memory, GB", both(memory(BEAUTY), memory(LARGE), GIGA)),
        table("bytes moved in a step, GB", both(traffic(BEAUTY), traffic(LARGE), GIGA)),
        table("operations", jobs),
    ]


if __name__ == "__main__":
    print("\n\n".join(tables()))
    print(f"\nItem vectors summed in a step, GB: {number(exchanged(LARGE) / GIGA)}")
