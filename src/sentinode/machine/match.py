"""Whether torch and torchvision were made for each other: a wrong pair fails in obscure ways, and only when backbones are used."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

OFFSET = 15
"""torch 2.N goes with torchvision 0.(N + 15): 2.0 with 0.15, 2.6 with 0.21, 2.13 with 0.28. Source: torchvision's README."""


@dataclass(frozen=True)
class Match:
    """`fits` is None where nothing can be said: no torchvision, or a torch of another major version."""

    torch: str
    torchvision: str
    fits: bool | None

    @property
    def line(self) -> str:
        """The finding in words."""
        if not self.torchvision:
            return "not installed; only pretrained backbones need it (pip install 'sentinode[backbones]')"
        if self.fits is None:
            return f"{self.torchvision}; no rule is known for torch {self.torch}"
        return f"{self.torchvision}, {'made' if self.fits else 'NOT made'} for torch {self.torch}"


def match_of(torch: str, torchvision: str) -> Match:
    """Return whether the two versions, as "2.13.0+cpu" and "0.28.0", go together; "" for a torchvision that is not there."""
    theirs, ours = torch.split("."), torchvision.split(".")
    if not torchvision or theirs[0] != "2" or not theirs[1].isdigit() or len(ours) < 2 or not ours[1].isdigit():
        return Match(torch, torchvision, None)
    return Match(torch, torchvision, ours[0] == "0" and int(ours[1]) == int(theirs[1]) + OFFSET)


def installed_match() -> Match:
    """Return the match of what is installed; neither package is imported."""
    try:
        found = version("torchvision")
    except PackageNotFoundError:
        found = ""
    return match_of(version("torch"), found)


def wanted_torchvision(torch: str) -> str:
    """Return the requirement that fits `torch`, as pip takes it."""
    return f"torchvision==0.{int(torch.split('.')[1]) + OFFSET}.*"
