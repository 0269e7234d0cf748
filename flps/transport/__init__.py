"""How messages are carried: sockets, retries, security. The only user of zmq.

sockets.py     what kind of socket an endpoint needs, and its keys
listener.py    the answering end: one socket that everybody dials (servers, coordinator)
connection.py  the asking end: numbered requests, sent again until answered
beat.py        signs of life, from a thread of their own
journal.py     what a role was told, on the disk
base.py        where a journal begins: the state at one moment
recovery.py    a later life reads the journal
border.py      who may say what, and where
gate.py        which connections of a TCP endpoint stay
security.py    key files
access.py      what each key may speak as
tls/           tls:// endpoints, by X.509 certificates. The only user of ssl
faulty.py      scripted faults
calm.py        a log that a flood cannot fill
"""
