"""Which queries an iteration works on: seeded epochs without replacement in training, one pass in order before it."""

import random
from collections.abc import Sequence

from tapo_core.ids import derive_seed


def queries_of_iteration(query_ids: Sequence[str], count: int, iteration: int, run_seed: int) -> list[str]:
    """The `count` queries of an iteration (1-based). Every query is used once before any is used twice.

    The order depends on the set of ids and the run seed alone, so a resumed run sees the same queries.

    Raises:
        ValueError: `count` is larger than the number of queries.
    """
    ids = sorted(query_ids)
    if count > len(ids):
        raise ValueError(f"{count} queries an iteration, but there are {len(ids)}")
    per_epoch = len(ids) // count
    epoch, place = divmod(iteration - 1, per_epoch)
    random.Random(derive_seed(run_seed, epoch, "schedule")).shuffle(ids)
    return ids[place * count : (place + 1) * count]


def queries_of_chunk(query_ids: Sequence[str], count: int, chunk: int) -> list[str]:
    """The queries of a chunk (1-based) of one pass over all queries, by id. The last chunk may be smaller than `count`."""
    return sorted(query_ids)[(chunk - 1) * count : chunk * count]


def number_of_chunks(n_queries: int, count: int) -> int:
    """How many chunks of `count` a pass over all queries has."""
    return -(-n_queries // count)
