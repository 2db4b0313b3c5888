"""Sentinode: fast and honest classifiers of histopathology tiles."""
