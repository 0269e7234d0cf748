"""Neural collaborative filtering.

hyper.py  what the yaml may say
model.py  the modules
build.py  one to the other
"""
