"""Private set intersection: two parties find the rows that both have, and order them alike, without telling each other
the ids of the others. ECDH on Curve25519; see docs/psi.md for what each party learns.

    curve      ids as points, points times a secret number
    message    what the parties say
    protocol   one party's side, without sockets and clocks
    wire       messages as bytes
    link       messages over the transport of split training
    run        carries a side out: links, cores, deadlines
    ids        ids as they are in a column: normal text, duplicates, empty ones
    sources    tables they come from: csv, parquet, databases
    aligned    the rows that are wanted, in the agreed order, as a file
"""

from __future__ import annotations
