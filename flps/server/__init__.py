"""A parameter server: holds its share of every shared table and answers pulls and pushes.

store.py    the tables of this server; the one place where a push is accepted and applied
warm.py     a saved model's shared tables as first values
cohort.py   sync: when is a step complete?  (pure)
windows.py  geo: how much does a delta weigh, and what has changed since?
service.py  which message means what
"""
