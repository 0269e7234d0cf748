"""A party of a split job: a leader or a follower.

role      a process becomes a party
loop      its run: epochs, evaluations, checkpoints
agreed    what the parties have told each other, and what follows
step      one step: its course, carried out
schedule  in which order, when a batch is cut into parts
mail      what comes from the other parties in a step
kept      what packing owes to the other parties
story     what it says of itself
scores    what it predicts, as a file
"""
