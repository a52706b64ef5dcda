"""A sweep: a grid of cells, each computed once and kept in a folder, where an interrupted run goes on.

    @dataclass(frozen=True)
    class Cell:
        rank: int
        seed: int

    def compute(cell):
        table = measured(cell.rank, cell.seed)
        return Result(facts={"rows": table.to_dict("records")})

    cells = [Cell(rank, seed) for rank in (1, 2, 4) for seed in range(5)]
    store = Store.claim("runs/ranks", {"what": "ranks", "data": digest_of(data), "version": 1})
    table = table_of(run(cells, compute, store))

The experiment's description holds all that determines the numbers; the fields of a cell hold the rest.
"""

from causal_reft.sweeps.cell import Result, digest_of, table_of
from causal_reft.sweeps.runner import going_on, run, tick, ticking
from causal_reft.sweeps.store import Store

__all__ = ["Result", "Store", "digest_of", "going_on", "run", "table_of", "tick", "ticking"]
