"""Several runs as one: the mean of their logits."""

import numpy as np
import numpy.typing as npt

from sentinode.errors import RunProblem, shown
from sentinode.nets.trained import Run

Floats = npt.NDArray[np.float64]


def members_of(runs: list[Run]) -> list[Run]:
    """Return `runs` if they can be averaged; RunProblem if their tile size or classes differ."""
    first = runs[0]
    for run in runs[1:]:
        if (run.facts.px, run.facts.classes) != (first.facts.px, first.facts.classes):
            raise RunProblem(
                f"runs of {first.facts.px} px with classes {shown(first.facts.classes)}, as {shown(first.path)}",
                f"{run.facts.px} px with classes {shown(run.facts.classes)} in {shown(run.path)}",
                "name only runs of the same task",
            )
    return runs


def mean_logit(members: list[Floats]) -> Floats:
    """Return the plain mean [n] of the members' logits, each float64 [n]; the order of the members does not matter."""
    # Sorted before summing: floating-point sums then do not depend on the order in which runs were named.
    mean: Floats = np.sort(np.stack(members), axis=0).mean(axis=0)
    return mean
