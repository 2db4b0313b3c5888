"""Scores in, statements out: figures, each with its interval. No torch."""
