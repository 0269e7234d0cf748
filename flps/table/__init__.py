"""Tables: what is shared or kept, and how a push changes it.

A table has three verbs: `pull(keys)`, `push(keys, values)` and, where an answer travels, `wait(request)`. A table in
this process and a table behind servers are used alike, so a model trains alone, without servers, unchanged.

    index.py        key -> slot: which line of the storage a key's row stands in
    storage.py      where the rows stand, by slot
    spill.py        the same, cold rows on disk
    cold.py         the file of cold rows
    distinct.py     the different ones of many keys
    initializer.py  what a row holds when it is first touched
    rules/          how a push changes rows
    sparse.py       key -> row, rows made on first touch
    accessor.py     what is counted about a row, and what follows from it
    counted.py      a sparse table that counts
    dense.py        one tensor
    change_log.py   which rows changed since somebody last looked
    replica.py      geo: a worker's own copy beside what it knows of the servers'
    snapshot.py     what tables held at one moment, written while they change
    files.py        tables on disk
    spec.py         the description that both ends of a table agree on
"""

from flps.table.accessor import Accessor
from flps.table.change_log import ChangeLog
from flps.table.counted import CountedTable, make_sparse
from flps.table.dense import DenseTable
from flps.table.distinct import distinct
from flps.table.initializer import Initializer
from flps.table.rules import Adagrad, Adam, Rule, Sgd, Sum, make_rule
from flps.table.sparse import SparseTable
from flps.table.spec import TableSpec

__all__ = [
    "Accessor",
    "Adagrad",
    "Adam",
    "ChangeLog",
    "CountedTable",
    "DenseTable",
    "Initializer",
    "Rule",
    "Sgd",
    "SparseTable",
    "Sum",
    "TableSpec",
    "distinct",
    "make_rule",
    "make_sparse",
]
