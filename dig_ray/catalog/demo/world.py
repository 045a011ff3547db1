"""The demo world: a shop whose customers act on hidden intents, so that the truth behind every click is known.

Every item serves one to three *intents* (contexts of use, such as camping in the rain). People hold one to three
intents, change between them, sometimes take up a new one, and choose what serves the intent of the moment: often the
next step after their last choice within it, otherwise by popularity. Some choices are noise. Title, brand and category
follow the product, which says little about the intent; a description hints at each intent only now and then, each time
in other words. Hence popularity is a poor guide, what people chose together is a better one, text helps some, and
knowing the intents helps most.

Everything is drawn from one seeded generator and all users advance together, so a million events take seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dig_ray.catalog.build import Raw
from dig_ray.catalog.config import CatalogConfig, DemoConfig
from dig_ray.catalog.demo.demo_pictures import GROUNDS, N_PATTERNS, N_SIZES, picture
from dig_ray.catalog.demo.demo_words import CATEGORIES, COLOURS, INTENTS, PRODUCTS, VARIANTS

STEPS = 5  # steps of an intent, in a circle: after a tent comes a stove, and so on round (our choice)
MAX_INTENTS = 3
START_MS = 1_640_995_200_000  # 2022-01-01
DAY_MS = 86_400_000


@dataclass(frozen=True)
class Product:
    """One line of the product list."""

    name: str
    category: str
    shelf: str
    intents: tuple[int, ...]


@dataclass(frozen=True)
class World:
    """The hidden side of the catalogue.

    Attributes:
        names: intent names.
        products: which product each item is, int64 ``(N,)``.
        intents: int64 ``(N, 3)`` intent of each item, first one first, padded -1.
        steps: int64 ``(N, 3)`` step of the item within that intent, padded -1.
        popularity: float64 ``(N,)`` relative weight.
    """

    names: list[str]
    products: np.ndarray
    intents: np.ndarray
    steps: np.ndarray
    popularity: np.ndarray


def product_list(n_intents: int) -> list[Product]:
    """The products that serve at least one of the first ``n_intents`` intents."""
    number = {key: i for i, key in enumerate(INTENTS)}
    found = []
    for line in PRODUCTS.splitlines():
        name, place, keys = (part.strip() for part in line.split("|"))
        category, shelf = (part.strip() for part in place.split(">"))
        intents = tuple(number[key] for key in keys.split() if number[key] < n_intents)
        if intents:
            found.append(Product(name, category, shelf, intents))
    return found


def make_world(config: DemoConfig, rng: np.random.Generator) -> World:
    """Draw what every item is and which intents it serves; every intent gets its fair share of items."""
    products = product_list(config.n_intents)
    serving = [
        [p for p, product in enumerate(products) if i in product.intents] for i in range(config.n_intents)
    ]
    n = config.n_items
    primary = rng.permutation(np.arange(n) % config.n_intents)
    intents = np.full((n, MAX_INTENTS), -1, dtype=np.int64)
    chosen = np.empty(n, dtype=np.int64)
    wanted = 1 + (rng.random((n, 2)) < (0.55, 0.3)).cumprod(axis=1).sum(axis=1)  # 1, 2 or 3 intents
    for item in range(n):
        product = serving[primary[item]][int(rng.integers(len(serving[primary[item]])))]
        others = [i for i in products[product].intents if i != primary[item]]
        rng.shuffle(others)
        mine = [int(primary[item]), *others][: int(wanted[item])]
        chosen[item] = product
        intents[item, : len(mine)] = mine
    steps = np.full((n, MAX_INTENTS), -1, dtype=np.int64)
    for intent in range(config.n_intents):
        rows, cols = np.nonzero(intents == intent)
        steps[rows, cols] = rng.permutation(np.arange(len(rows)) % STEPS)
    rank = rng.permutation(n) + 1.0
    return World(
        [name for name, _ in INTENTS.values()][: config.n_intents],
        chosen,
        intents,
        steps,
        rank**-config.popularity,
    )


def read(config: CatalogConfig, seed: int, log: Callable[[str], None]) -> Raw:
    """The demo world in place of files; see :func:`demo_world`."""
    return demo_world(config.demo, seed)


def demo_world(config: DemoConfig, seed: int) -> Raw:
    """The whole world as raw tables; the same settings and seed give the same bytes.

    ``items`` has the truth columns ``intents`` (names) and ``intent_steps``. ``truth_users`` says which intents each user
    held, in the order they took them up, and which ones at the end. ``truth_events`` says for every event which intent
    it served (null for noise).

    Args:
        config: sizes and behaviour.
        seed: used unless ``config.seed`` is set.
    """
    rng = np.random.default_rng([7919, seed if config.seed is None else config.seed])
    world = make_world(config, rng)
    items = _items(config, world, rng)
    log = _behave(config, world, rng)
    item_ids = items.column("item_id").combine_chunks()
    width = max(5, len(str(config.n_users)))
    user_names = pa.array([f"u{u:0{width}d}" for u in range(config.n_users)], pa.string())
    names = np.array([*world.names, None], dtype=object)
    user_id = user_names.take(pa.array(log.user))
    item_id = item_ids.take(pa.array(log.item))
    interactions = pa.table(
        {
            "user_id": user_id,
            "item_id": item_id,
            "time": log.time,
            "timestamp": log.time,
            "rating": log.rating.astype(np.float32),
        }
    )
    events = pa.table(
        {
            "user_id": user_id,
            "item_id": item_id,
            "timestamp": log.time,
            "intent": pa.array(names[log.intent], pa.string()),
        }
    )
    users = pa.table(
        {
            "user_id": user_names,
            "intents": pa.array([[world.names[i] for i in row] for row in log.held], pa.list_(pa.string())),
            "last_intents": pa.array(
                [[world.names[i] for i in row if i >= 0] for row in log.last.tolist()], pa.list_(pa.string())
            ),
        }
    )
    return Raw(
        items,
        interactions,
        Counter(),
        "demo items",
        "demo interactions",
        {"truth_users": users, "truth_events": events},
    )


# --- the shop -------------------------------------------------------------------------------------------


def _items(config: DemoConfig, world: World, rng: np.random.Generator) -> pa.Table:
    products = product_list(config.n_intents)
    phrases = [phrases for _, phrases in INTENTS.values()]
    colours, categories = list(COLOURS.items()), list(CATEGORIES)
    width = max(5, len(str(config.n_items)))
    columns: dict[str, list] = {
        name: []
        for name in (
            "item_id",
            "title",
            "description",
            "brand",
            "categories",
            "price",
            "image",
            "image_bytes",
        )
    }
    for item in range(config.n_items):
        product = products[world.products[item]]
        brands, adjectives, plain = CATEGORIES[product.category]
        draws = rng.random(16)

        def pick(options, at, draws=draws):  # type: ignore[no-untyped-def]
            return options[int(draws[at] * len(options))]

        colour_name, colour = pick(colours, 0)
        brand, adjective, variant = pick(brands, 1), pick(adjectives, 2), pick(VARIANTS, 3)
        mine = [int(i) for i in world.intents[item] if i >= 0]
        sentences = [pick(plain, 4)]
        for at, intent in enumerate(mine):
            if draws[5 + at] < config.hint_rate:
                sentences.append(pick(phrases[intent], 8 + at))
        if draws[11] < 0.5:
            sentences.reverse()
        noun = product.name if product.name[0].isupper() else product.name.title()
        hinted = draws[12] < config.hint_rate  # the picture hints at the first intent, or at nothing
        ground = mine[0] % len(GROUNDS) if hinted else int(draws[13] * len(GROUNDS))
        pattern = mine[0] // len(GROUNDS) if hinted else int(draws[14] * N_PATTERNS)
        columns["item_id"].append(f"i{item:0{width}d}")
        columns["title"].append(
            ", ".join(filter(None, (f"{brand} {adjective} {noun}", colour_name, variant)))
        )
        columns["description"].append(" ".join([f"{adjective} {product.name} by {brand}.", *sentences]))
        columns["brand"].append(brand)
        columns["categories"].append([product.category, product.shelf])
        columns["price"].append(round(float(np.exp(1.6 + 2.4 * draws[15])), 2))
        columns["image"].append(None)
        size = int(rng.integers(N_SIZES))
        columns["image_bytes"].append(
            picture(categories.index(product.category), colour, ground, pattern, size, config.image_size)
        )
    kinds = {
        "categories": pa.list_(pa.string()),
        "price": pa.float64(),
        "image_bytes": pa.binary(),
    }
    table = {name: pa.array(values, kinds.get(name, pa.string())) for name, values in columns.items()}
    table["intents"] = pa.array(
        [[world.names[i] for i in row if i >= 0] for row in world.intents.tolist()], pa.list_(pa.string())
    )
    table["intent_steps"] = pa.array(
        [[s for s in row if s >= 0] for row in world.steps.tolist()], pa.list_(pa.int64())
    )
    return pa.table(table)


# --- the people -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Log:
    user: np.ndarray
    item: np.ndarray
    intent: np.ndarray
    time: np.ndarray
    rating: np.ndarray
    held: list[list[int]]
    last: np.ndarray


class _Draw:
    """Draw members of numbered groups by weight: one cumulative sum over all groups and one search."""

    def __init__(self, group: np.ndarray, member: np.ndarray, weight: np.ndarray, n_groups: int) -> None:
        order = np.lexsort((member, group))
        self.member = member[order]
        counts = np.bincount(group, minlength=n_groups)
        self.end = np.cumsum(counts)
        self.start = self.end - counts
        self.total = np.concatenate(([0.0], np.cumsum(weight[order])))

    def __call__(self, group: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        low, high = self.total[self.start[group]], self.total[self.end[group]]
        at = np.searchsorted(self.total, low + (high - low) * rng.random(len(group)), side="right") - 1
        return self.member[np.clip(at, self.start[group], self.end[group] - 1)]


def _behave(config: DemoConfig, world: World, rng: np.random.Generator) -> _Log:
    n_users, n_intents = config.n_users, config.n_intents
    rows, cols = np.nonzero(world.intents >= 0)
    intent_of, step_of = world.intents[rows, cols], world.steps[rows, cols]
    weight = world.popularity[rows]
    by_intent = _Draw(intent_of, rows, weight, n_intents)
    by_step = _Draw(intent_of * STEPS + step_of, rows, weight, n_intents * STEPS)
    by_fame = _Draw(np.zeros(config.n_items, np.int64), np.arange(config.n_items), world.popularity, 1)
    step_in = np.full((config.n_items, n_intents), -1, dtype=np.int8)
    step_in[rows, intent_of] = step_of

    shape = 1.5
    lengths = 5 + rng.poisson(rng.gamma(shape, (config.mean_events - 5) / shape, n_users))
    longest = int(lengths.max())
    n_held = 1 + (rng.random((n_users, 2)) < (0.6, 0.4)).cumprod(axis=1).sum(axis=1)
    held = np.argsort(rng.random((n_users, n_intents)), axis=1)[:, :MAX_INTENTS]
    held = np.where(np.arange(held.shape[1]) < n_held[:, None], held, -1)
    taken_up = [held.copy()]  # every intent ever held, in order
    slot = np.zeros(n_users, dtype=np.int64)
    everyone = np.arange(n_users)
    last_step = np.full((n_users, n_intents), -1, dtype=np.int8)  # where each user stands in each intent
    history = np.full((n_users, longest), -1, dtype=np.int32)
    served = np.full((n_users, longest), -1, dtype=np.int16)
    for t in range(longest):
        drifts = rng.random(n_users) < config.drift
        slot = np.where(drifts, rng.integers(0, n_held), slot)
        renews = drifts & (rng.random(n_users) < 0.2) & (t > 0) & (t < lengths)
        fresh = rng.integers(0, n_intents, n_users)
        renews &= ~(held == fresh[:, None]).any(axis=1)
        held[everyone[renews], slot[renews]] = fresh[renews]
        taken_up.append(np.where(renews, fresh, -1)[:, None])
        intent = held[everyone, slot]
        step = last_step[everyone, intent]
        follows = (rng.random(n_users) < config.next_step) & (step >= 0)
        noisy = rng.random(n_users) < config.noise
        item = np.zeros(n_users, dtype=np.int64)
        todo = everyone
        for _ in range(4):  # people seldom buy the same thing twice: draw again, a few times
            group = intent[todo] * STEPS + (step[todo] + 1) % STEPS
            drawn = np.where(follows[todo], by_step(group, rng), by_intent(intent[todo], rng))
            item[todo] = np.where(noisy[todo], by_fame(np.zeros(len(todo), np.int64), rng), drawn)
            todo = todo[(history[todo, :t] == item[todo, None]).any(axis=1)]
        history[:, t] = item
        served[:, t] = np.where(noisy, -1, intent)
        moved = ~noisy
        last_step[everyone[moved], intent[moved]] = step_in[item[moved], intent[moved]]
    real = np.arange(longest) < lengths[:, None]
    user = np.repeat(everyone, lengths)
    gaps = rng.exponential(6.0 * DAY_MS, real.sum()).astype(np.int64) + 60_000
    first = START_MS + (rng.random(n_users) * 500 * DAY_MS).astype(np.int64)
    begins = np.cumsum(lengths) - lengths
    walked = np.cumsum(gaps)
    time = walked - np.repeat(walked[begins], lengths) + np.repeat(first, lengths)
    intent = served[real].astype(np.int64)
    rating = np.where(intent >= 0, 4 + (rng.random(len(intent)) < 0.6), rng.integers(2, 6, len(intent)))
    ever = np.concatenate(taken_up, axis=1).tolist()
    return _Log(
        user,
        history[real].astype(np.int64),
        intent,
        time,
        rating,
        [list(dict.fromkeys(i for i in r if i >= 0)) for r in ever],
        held,
    )
