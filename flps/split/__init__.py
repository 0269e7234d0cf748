"""Training one model over parties that hold different columns of the same rows.

schema, terms          a party's yaml, every complaint at once, and what the parties must agree on
yaml_types, yaml_check what may stand in it
model                  FLModel: one net of one party, stepped forward and back
forward, gradients     one forward and one backward of it, whatever its optimizers ask for
step, updates          what is asked of a step, and who moves which parameters by it
optimizers             by name; FTRL and AdamWeightDecay
scale                  loss scale, static and dynamic; a step that overflows is skipped
guard, privacy         labels, activations and gradients before somebody else sees them
compress               how tensors are packed for other parties
checkpoint             a net, its optimizers and random streams on the disk
course                 what a party does in a step, from what all nets take and give

communicator           a party's links to the others: send, receive, agree
exchange, links, wires each message once, in order, over a socket or within one process
agreement, parties     do the parties fit together, from which step do they go on; who is who
tensors, codec         tensors as messages, packed or plain
"""
