"""How messages are carried: sockets, retries, security. The only user of zmq.

sockets.py    what kind of socket an endpoint needs, and its keys
listener.py   the answering end: one socket that everybody dials (servers, coordinator)
journal.py    what a listener was told, on the disk
recovery.py   a role that was started again takes up its journal
base.py       where a journal begins, so that it stays short
connection.py the asking end: numbered requests, sent again until answered
beat.py       signs of life, from a thread of their own
security.py   keys, and who may say what
"""
