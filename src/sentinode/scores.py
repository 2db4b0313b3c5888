"""The table everyone meets at: one row a tile, `id, group, label, logit, probability`; read, write, align."""
