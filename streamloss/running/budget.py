"""What a budget of memory makes of a run: how many rows a batch has, how many threads there are, what is read ahead.

A row takes what its values take, three times: as they are read, as they are added up, and of slices in another order; and the
values that are found of it. Of what every thread has a quarter is left for pages, and seven eighths where there will be slices.
"""

from __future__ import annotations

import math
from dataclasses import replace

from streamloss import jit, memory
from streamloss.memory import Allotment, Exceeded, enough, told
from streamloss.options import Options
from streamloss.quantities import plan
from streamloss.reading.roles import Plan
from streamloss.reading.source import Input
from streamloss.state import layout

_COPIES = 3  # of a row's values
_FOUND = 8 * 24  # bytes of the values that are found of a row
_THREAD = 3 << 20  # bytes that a thread takes besides
_PAGES = 4 << 20  # bytes of the pages that are open of a column, where it is large
_SUMS = 4  # as many times as there are threads, and so many times more, there are sums of all rows
_CLASS = 900  # bytes of a class in a report: measured 780 as objects, as a dict and as JSON
_FEW = 1 << 18  # bytes of a batch below which fewer threads are better
_REMOTE = 64 << 20

jit.before_compiling(memory.before_compiling)


def fit(sources: list[Input], options: Options, threads: int, *, chosen: bool, sums: bool = True, besides: int = 0) -> int:
    """Makes the batches of a run's inputs as large as its budget allows; the threads that it allows.

    chosen: the rows of a batch were asked for. sums: all rows are added up to a state. besides: bytes that are taken whatever
    the batches are.
    Raises `Exceeded` when not one row of each fits.
    """
    left = memory.left()
    most = memory.limit()
    if left is None or most is None:
        return threads
    plans = [source.plan for source in sources]
    row = sum(_COPIES * plan.row_bytes + _FOUND for plan in plans)
    thread = sum(_THREAD + _PAGES * min(len(plan.needed), 4) for plan in plans)
    eighths = 1 if options.by or options.cluster else 6
    asked = min(plan.batch_rows for plan in plans)
    least = asked if chosen else 1
    for count in range(threads, 0, -1):
        fixed = besides + (sum(_sums(plan, options, count) for plan in plans) if sums else 0)
        share = (left - fixed) // count
        rows = min(eighths * (share - thread) // 8 // row, asked)
        if rows >= least and (count == 1 or rows == asked or rows * row >= _FEW):
            break
    else:
        raise _refused(plans, row, least, least * row * 8 // eighths + thread - share)
    batches = fixed + count * (rows * row + _THREAD * len(plans))
    spare = max(share // 4, 1)
    allotment = Allotment(most, count, batches, spare // (2 * len(plans)), min(_REMOTE, spare // (2 * len(plans))))
    for source in sources:
        source.plan = replace(source.plan, batch_rows=rows, memory=allotment)
    memory.allot(allotment)
    return count


def _sums(of: Plan, options: Options, threads: int) -> int:
    """Bytes of the sums of all rows, and of what a report says of every class."""
    p = plan(of.task, options)
    sums = sum(8 * math.prod(shape) for _, shape in layout(of.task, options).values())
    return sums * (threads + _SUMS) + (of.task.classes * _CLASS if p.per_class else 0)


def _refused(plans: list[Plan], row: int, rows: int, missing: int) -> Exceeded:
    of_all = sum(plan.row_bytes for plan in plans)
    what = f"a row takes {told(of_all)}" if rows == 1 else f"{rows} rows of --batch-rows take {told(rows * of_all)}"
    most = memory.limit() or 0
    taken = told(most - (memory.left() or 0))
    return Exceeded(
        f"{what}, with what is made of it {told(rows * row)}: that does not fit in --max-memory {told(most)}, of which "
        f"{taken} are taken; at least {enough(max(missing, 1))} is needed"
    )
