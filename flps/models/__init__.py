"""Models, one folder each, written for one device; catalog.py finds them by the name that the yaml gives."""
