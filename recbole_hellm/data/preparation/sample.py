"""The bundled sample: a small synthetic shop that holds every kind of signal.

- *Content*: items belong to sub-categories of eight categories and have a style; titles, brands,
  descriptions and an image-like vector carry both.
- *Collaboration*: within every category, groups of users prefer one circle of items; neither texts
  nor images show it.
- *Order*: every item has a successor within its category, which often comes right after it.
- *Drift*: a user's interest in categories moves from one mixture to another along the history.

It is as sparse as Amazon's datasets, with about five interactions an item. Where items have many
interactions, these already show what content shows, and models that read content do no better.

Every byte is a function of the seed alone; nothing comes from real data.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from recbole_hellm.data.preparation.atomic import TEXT_COLUMNS, write_atomic_dataset
from recbole_hellm.data.preparation.versions import Replacing

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SHOP: dict[str, dict[str, str]] = {
    "Kitchen": {
        "Coffee Making": "Grinder Kettle Dripper Mug",
        "Baking": "Whisk Loaf-Pan Rolling-Pin Cake-Tin",
        "Knives": "Paring-Knife Cleaver Sharpener Chopping-Board",
    },
    "Garden": {
        "Watering": "Hose Sprinkler Watering-Can Rain-Barrel",
        "Planting": "Trowel Seed-Tray Planter Dibber",
        "Pruning": "Secateurs Loppers Hedge-Shears Pruning-Saw",
    },
    "Music": {
        "Strings": "Ukulele Guitar-Strap Violin-Bow Capo",
        "Percussion": "Cajon Drumsticks Tambourine Shaker",
        "Keys": "Melodica Keyboard-Stand Sustain-Pedal Metronome",
    },
    "Outdoors": {
        "Camping": "Tent Sleeping-Bag Lantern Camp-Stove",
        "Climbing": "Carabiner Chalk-Bag Harness Belay-Device",
        "Paddling": "Paddle Dry-Bag Life-Vest Spray-Deck",
    },
    "Stationery": {
        "Writing": "Fountain-Pen Ink-Bottle Pencil-Set Blotter",
        "Paper": "Notebook Sketchbook Envelopes Index-Cards",
        "Desk": "Stapler Letter-Tray Desk-Lamp Pen-Holder",
    },
    "Pets": {
        "Dogs": "Dog-Leash Chew-Toy Dog-Bed Dog-Bowl",
        "Cats": "Scratching-Post Cat-Tunnel Litter-Scoop Catnip-Mouse",
        "Fish": "Aquarium Fish-Net Air-Pump Gravel-Cleaner",
    },
    "Cycling": {
        "Repair": "Chain-Tool Tyre-Lever Patch-Kit Bike-Pump",
        "Riding": "Helmet Gloves Jersey Saddle",
        "Touring": "Pannier Bike-Bell Bottle-Cage Mudguard",
    },
    "Games": {
        "Board": "Chess-Set Go-Board Dominoes Backgammon",
        "Cards": "Card-Deck Tarot Card-Sleeves Playing-Mat",
        "Puzzles": "Jigsaw Wooden-Cube Disentanglement Tangram",
    },
}
STYLES = {
    "nordic": "Nordic Birch Pale Plain",
    "vintage": "Vintage Brass Walnut Antique",
    "sporty": "Neon Rapid Aero Carbon",
    "botanical": "Floral Fern Mossy Leafy",
    "industrial": "Steel Riveted Concrete Matte",
    "playful": "Polka Rainbow Bubbly Cartoon",
}
_MAKERS = "Aldo Brisk Corvo Dunmore Elstow Fenrow Galt Hobb Ivers Jessel Kestor Lomond"
_SIZES = "Small Compact Medium Large Deluxe Twin"
_IMAGE_DIM, _GROUPS, _CIRCLES = 32, 8, 4
_FOLLOW = 0.25  # probability that a step goes to the successor of the step before
_SAME_DAY = 0.15  # probability that a step has the day of the step before
_FIRST_DAY, _SECONDS = 15_340, 86_400  # 1 January 2012


@dataclasses.dataclass(frozen=True)
class _Items:
    """The shop's N items; `category`, `sub`, `style`, `circle`, `successor`, `appeal` are [N].

    A circle is a set of items that some groups of users like; it is independent of content.
    """

    category: Ints
    sub: Ints
    style: Ints
    circle: Ints
    successor: Ints
    appeal: Floats


def generate_sample(
    directory: Path,
    seed: int = 2024,
    users: int = 1000,
    items: int = 1800,
    name: str = "sample",
    replacing: Replacing | None = None,
) -> dict[str, Any]:
    """Write the sample's atomic files and its image features.

    Parameters
    ----------
    directory : Path
        The dataset directory, for example ``dataset/sample``.
    seed : int
        Decides every byte.
    users, items : int
        Size of the shop; an item that nobody takes is left out of the files. At least 240 items,
        so that no category runs out within a history.
    name : str
        The dataset's name.
    replacing : Replacing, optional
        Whether other data may be replaced; by default it is.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    ValueError
        If `users` or `items` is too small.
    """
    if users < 1 or items < 240:
        raise ValueError(f"The sample needs users >= 1 and items >= 240, not {users}, {items}.")
    from recbole_hellm.data.features.store import save_features

    rng = np.random.default_rng(seed)
    shop = _make_items(items, rng)
    tokens = [f"I{number:04d}" for number in rng.permutation(items) + 1]
    table = _describe_items(shop, tokens, rng)
    image = _images(shop, rng)
    rows = [
        (f"U{user + 1:04d}", tokens[item], day * _SECONDS)
        for user, history in enumerate(_histories(shop, users, rng))
        for item, day in history
    ]
    interactions = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    notes = {"generator": __name__, "seed": seed, "synthetic": True}
    manifest = write_atomic_dataset(
        name, interactions, table, directory, [], notes, replacing=replacing
    )
    taken = set(interactions["item_id"])
    order = [row for row in np.argsort(tokens) if tokens[row] in taken]
    # The same bytes at any time; features of the user's own are newer.
    template = "style, category and sub-category plus noise"
    details = {"template": template, "seed": seed, "saved_at": 0.0}
    ordered_tokens = [tokens[row] for row in order]
    save_features(Path(directory), "image", "synthetic", ordered_tokens, image[order], details)
    return manifest


def _make_items(count: int, rng: np.random.Generator) -> _Items:
    n_subs = sum(map(len, SHOP.values()))
    sub = np.arange(count) % n_subs
    category = sub // (n_subs // len(SHOP))
    successor = np.empty(count, dtype=np.int64)
    for members in _members(category):
        cycle = rng.permutation(members)  # one round through the category
        successor[cycle] = np.roll(cycle, -1)
    return _Items(
        category=category,
        sub=sub,
        style=rng.integers(len(STYLES), size=count),
        circle=rng.integers(_CIRCLES, size=count),
        successor=successor,
        appeal=0.3 * rng.normal(size=count),
    )


def _histories(shop: _Items, users: int, rng: np.random.Generator) -> list[list[tuple[int, int]]]:
    """(item, day) pairs of every user, in the order of events."""
    n_categories, n_subs = len(SHOP), int(shop.sub.max()) + 1
    group_circle = np.arange(_GROUPS) % _CIRCLES
    group_style = rng.integers(len(STYLES), size=_GROUPS)
    group_interest = rng.dirichlet(np.full(n_categories, 0.3), size=(_GROUPS, 2))
    members = _members(shop.category)
    histories = []
    for _ in range(users):
        group = int(rng.integers(_GROUPS))
        user_interest = rng.dirichlet(np.full(n_categories, 0.15), size=2)
        begin, end = 0.3 * group_interest[group] + 0.7 * user_interest
        length = 5 + min(int(rng.geometric(0.2)) - 1, 15)
        in_circle = shop.circle == group_circle[group]
        style = group_style[group] if rng.random() < 0.5 else rng.integers(len(STYLES))
        niche = (rng.random(n_subs) < 0.25)[shop.sub]
        liked = np.exp(shop.appeal + 2.5 * in_circle + 3.0 * (shop.style == style) + 2.0 * niche)
        day = _FIRST_DAY + int(rng.integers(365))
        history: list[tuple[int, int]] = []
        fresh = np.ones(len(liked))
        for step in range(length):
            follower = int(shop.successor[history[-1][0]]) if history else -1
            if follower >= 0 and fresh[follower] and rng.random() < _FOLLOW:
                item = follower
            else:
                share = step / (length - 1)
                category = int(rng.choice(n_categories, p=(1 - share) * begin + share * end))
                weights = (liked * fresh)[members[category]]
                item = int(rng.choice(members[category], p=weights / weights.sum()))
            if history and rng.random() >= _SAME_DAY:
                day += int(rng.geometric(0.05))
            history.append((item, day))
            fresh[item] = 0.0
        histories.append(history)
    return histories


def _describe_items(shop: _Items, tokens: list[str], rng: np.random.Generator) -> pd.DataFrame:
    subs = [(category, sub) for category, folder in SHOP.items() for sub in folder]
    styles = list(STYLES)
    rows = []
    for row, token in enumerate(tokens):
        category, sub = subs[shop.sub[row]]
        noun = str(rng.choice(SHOP[category][sub].split())).replace("-", " ")
        style = styles[shop.style[row]]
        first, second = rng.choice(STYLES[style].split(), 2, replace=False)
        size = str(rng.choice(_SIZES.split()))
        # A maker covers two categories in two styles, so brands say a little about both.
        maker = _MAKERS.split()[3 * (shop.category[row] // 2) + shop.style[row] // 2]
        title, description = f"{first} {second} {noun} {size}", f"{style.title()} {sub.lower()}"
        brand = maker if rng.random() < 0.9 else ""
        rows.append(
            (token, title, brand, [category, sub], description if rng.random() < 0.8 else "")
        )
    return pd.DataFrame(rows, columns=["item_id", *TEXT_COLUMNS])


def _images(shop: _Items, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Image-like vectors, [N, 32]."""

    def look(ids: Ints) -> Floats:
        return rng.normal(size=(int(ids.max()) + 1, _IMAGE_DIM))[ids]

    noise = rng.normal(size=(len(shop.style), _IMAGE_DIM))
    image = look(shop.style) + look(shop.category) + 0.7 * look(shop.sub) + 0.7 * noise
    # Half precision in single, so that rounding differences between machines cannot show.
    return image.astype(np.float16).astype(np.float32)


def _members(groups: Ints) -> list[Ints]:
    return [np.flatnonzero(groups == group) for group in range(int(groups.max()) + 1)]
