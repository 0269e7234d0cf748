"""CTR-DNN between two parties: one has the sparse slots, the other the dense columns and the label.

Names are imported from the modules: `hyper` imports no torch, so that a configuration is checked in no time.
"""
