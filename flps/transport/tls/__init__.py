"""`tls://host:port`: messages between organisations over mutual TLS, in place of zmq sockets. The only user of ssl.

identity.py    certificate, key, authorities and revocation lists of a role, made ready for use
speakers.py    which certificate may speak as which member
complaints.py  what went wrong, in words
framing.py     how a message looks inside the stream
channel.py     one TLS conversation, without its socket
queues.py      what waits to be sent, and what waits to be received
link.py        one conversation and its socket
dialler.py     the asking end, in place of a DEALER
door.py        the answering end, in place of a ROUTER, and who may speak there
"""
