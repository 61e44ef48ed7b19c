"""How splits and partitions are grouped where data is exchanged more than once: pure numbers.

one level      S objects                                S · P reads
two levels     S objects, then a · b                    S · b + P · a reads, with a · b ≥ the larger of S and P
three levels   S objects, then ab · c, then a · bc      S · c + abc · b + P · a reads
"""

from functools import lru_cache

from pywren_shuffle.planning.plan import Layer

__all__ = ["layers_of"]


def layers_of(splits: int, partitions: int, levels: int, tier: str) -> tuple[Layer, ...]:
    """The layers with the fewest reads, and of those the fewest objects; fewer layers where more make no sense."""
    first = Layer(splits, 1, tier)
    if levels == 1:
        return (first,)
    between = _two(splits, partitions) if levels == 2 else _three(splits, partitions)
    return first, *(Layer(groups, ranges, tier) for groups, ranges in between)


@lru_cache(4096)
def _two(splits: int, partitions: int) -> tuple[tuple[int, int], ...]:
    least = max(splits, partitions)
    best = None
    for ranges in range(1, partitions + 1):
        groups = -(-least // ranges)
        found = splits * ranges + partitions * groups, groups * ranges, groups, ranges
        if groups <= splits and (best is None or found < best):
            best = found
        if splits * ranges > (best or found)[0]:
            break
    return () if best is None else ((best[2], best[3]),)


@lru_cache(4096)
def _three(splits: int, partitions: int) -> tuple[tuple[int, int], ...]:
    least = max(splits, partitions)
    root = round(least ** (1 / 3))
    near = range(max(2, root * 2 // 3), root * 3 // 2 + 3)
    best = None
    for a in near:
        for b in near:
            c = -(-least // (a * b))
            whole = a * b * c
            if c * b > partitions or a * b > splits:
                continue
            found = splits * c + whole * b + partitions * a, whole, a, b, c
            if best is None or found < best:
                best = found
    if best is None:
        return ()
    _, _, a, b, c = best
    return (a * b, c), (a, b * c)
