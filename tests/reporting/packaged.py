"""The packaged tables of some runs."""

from functools import partial

from hired_eval.records.store import Store
from hired_eval.reporting.configs import PACKAGED
from hired_eval.reporting.kinds import make
from hired_eval.reporting.tables import Table


def table(name: str, store: Store) -> Table:
    return make(PACKAGED.spec(name), store)


table2, table3, table4, table5, table6, baselines = (
    partial(table, name) for name in ("table2", "table3", "table4", "table5", "table6", "baselines")
)
