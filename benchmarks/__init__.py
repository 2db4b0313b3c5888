"""Suites that time Sentinode beside its peers and keep what they saw."""
