"""What `predict` decides before it scores tiles, and why: told as it goes, and kept in the table's header."""

import dataclasses
from dataclasses import dataclass, field

import torch

from sentinode.machine.plan import choose_device, reasoned, why_threads
from sentinode.machine.probe import keep_to_usable_cores
from sentinode.machine.ranks import Ranks
from sentinode.settings import PredictSettings


@dataclass(frozen=True)
class PredictPlan:
    """The choices; `reasons` says for each why.

    `arithmetic` is the form and the precision that each run computes in ("eager fp32", "openvino bf16"), in the order of the runs;
    it is chosen when a run's turn comes. `device` and `threads` are those of the first of several processes.
    """

    device: str
    threads: int
    batch: int
    memory_format: str = "channels_last"
    tiles: str = "mapped"
    arithmetic: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return one line a choice, with its reason."""
        return reasoned(vars(self), self.reasons)

    def and_then(self, arithmetic: str, why: str, batch: int) -> "PredictPlan":
        """Return the plan with the arithmetic of one more run, that computes `batch` tiles at a time."""
        before = self.reasons.get("arithmetic")
        reasons = self.reasons | {"arithmetic": f"{before}; then {why}" if before else why}
        if batch < self.batch:
            reasons["batch"] = f"memory is too small for {self.batch} at a time"
        fewest = min(batch, self.batch)
        return dataclasses.replace(self, batch=fewest, arithmetic=[*self.arithmetic, arithmetic], reasons=reasons)


def plan_prediction(settings: PredictSettings, ranks: Ranks) -> PredictPlan:
    """Return the plan but for the arithmetic; MachineProblem for a device that is not there."""
    device, why_device = choose_device(settings.device)
    if not settings.threads:
        keep_to_usable_cores()
    threads = torch.get_num_threads()
    return PredictPlan(
        device,
        threads,
        settings.batch,
        reasons={
            "device": why_device,
            "threads": why_threads(settings.threads, threads, ranks),
            "batch": "as set; halved where memory is too small for it",
            "memory_format": "the order in which tiles arrive",
            "tiles": "a batch is read when its turn comes, once for each run: keeping them in memory would gain nothing",
        },
    )
