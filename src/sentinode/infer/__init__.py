"""A trained run over tiles: views, ensembles, scores, submission."""
