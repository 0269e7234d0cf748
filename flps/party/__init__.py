"""The training loop of a leader or a follower.

step   one step of a party: its course, carried out
"""
