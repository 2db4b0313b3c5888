"""Heads over frozen features: a line, or a small network of one hidden layer. The standardisation of the features is part of them."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Standardised(nn.Module):
    """What both heads begin with: each feature minus its mean, over its standard deviation, both of the training tiles."""

    mean: Tensor
    std: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def first(self, layer: nn.Linear, features: Tensor) -> Tensor:
        """Return `layer` of standardised features [n, d], the standardisation folded into its weights: no second copy of them."""
        weight = layer.weight / self.std
        return functional.linear(features, weight, layer.bias - weight @ self.mean)


class LinearHead(Standardised):
    """One logit as a weighted sum of `width` features: [n, d] to [n]."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.dense = nn.Linear(width, 1)
        nn.init.zeros_(self.dense.weight)  # the loss is convex: a start at chance needs no draw
        nn.init.zeros_(self.dense.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [n] of features [n, d]."""
        return self.first(self.dense, features).squeeze(1)


class MlpHead(Standardised):
    """A hidden layer with ReLU and dropout, then one logit: [n, d] to [n].

    Parameters
    ----------
    width
        Features.
    hidden
        Units of the hidden layer.
    dropout
        Probability of dropping a hidden unit in training.
    """

    def __init__(self, width: int, hidden: int = 128, dropout: float = 0.0) -> None:
        super().__init__(width)
        self.hidden = nn.Linear(width, hidden)
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(hidden, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [n] of features [n, d]."""
        hidden = functional.relu(self.first(self.hidden, features))
        logits: Tensor = self.dense(self.dropout(hidden))
        return logits.squeeze(1)
