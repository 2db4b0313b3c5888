"""Every option once: name, type, default, help. Flags, TOML recipes and `run.json` are derived from these classes."""

import dataclasses
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from sentinode.errors import UsageProblem, nearest, shown

S = TypeVar("S")


def option(default: Any, text: str) -> Any:
    """Return a dataclass field with its default and its help."""
    return field(default=default, metadata={"help": text})


def shard_of(text: str) -> tuple[int, int]:
    """Return (2, 4) for "2/4"; raises UsageProblem for what is no share."""
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        do = "count shards from 1: --shard 1/4 to --shard 4/4"
        raise UsageProblem("a shard and how many there are, such as 2/4", shown(text), do)
    return int(found[1]), int(found[2])


@dataclass(frozen=True)
class PackSettings:
    """How images become a store."""

    groups: str | None = option(None, "CSV with columns id and slide (or group, patient, wsi), joined by id.")
    px: int | None = option(None, "Edge length of a tile; square images of another size are resized to it.")
    positive: str | None = option(None, "Name of the positive class; all others become negative.")
    labels: str | None = option(None, "CSV with columns id and label, for a plain folder of images.")
    ids: Literal["stem", "path"] = option("stem", "An image's id: its file name, or its path within the source; no ending.")
    workers: int | None = option(None, "Decoding threads; default: one a core.")
    shard: str | None = option(
        None, "Pack one share of all tiles alone: 2/4 is the second of four; 'pack' of all four stores makes them one."
    )

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if self.shard is not None:
            shard_of(self.shard)
        for name, most in (("px", 2048), ("workers", 1024)):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise UsageProblem(f"{name} from 1 to {most}", shown(value), f"give another --{name}, or leave it out")


@dataclass(frozen=True)
class TrainSettings:
    """How a network is trained."""

    model: str = option(
        "auto", "simple-cnn, p4m-cnn, any network of timm's, or hf-hub:OWNER/NAME; auto: the backbone's usual one."
    )
    backbone: Literal["auto", "scratch", "frozen", "finetune"] = option(
        "auto",
        "Train from scratch, a head on frozen features, or the whole pretrained network; auto: scratch for ours, else frozen.",
    )
    weights: str = option(
        "auto", "Pretrained weights: auto, none, a timm tag, hf-hub:OWNER/NAME, or a .safetensors or .pth file."
    )
    input_size: int = option(
        0,
        "Edge in pixels that the network sees; cost grows with its square. 0: the tile's own, or 160 for pretrained ones.",
    )
    head: Literal["logistic", "linear", "mlp"] = option(
        "logistic", "Head on frozen features, and the one fine-tuning begins with; logistic has no epochs, lr or batch."
    )
    feature_views: Literal[1, 4, 8] = option(1, "Dihedral views of the training tiles whose features a frozen backbone gives.")
    freeze: float = option(0.0, "Share of a fine-tuned network, from its input on, that stays as it is, batch norm included.")
    layer_decay: float = option(0.9, "Factor of the learning rate from each layer of a fine-tuned network to the one before it.")
    recalibrate_bn: bool = option(False, "Estimate batch-norm statistics of pretrained weights anew on training tiles.")
    guard: bool = option(True, "Stop if the input does not fit the pretrained weights.")
    features: str | None = option(None, "Folder where extracted features are kept; default: beside the store.")
    split: Literal["auto", "random", "grouped"] = option(
        "auto", "Split off the validation part by slide (where known) or by tile."
    )
    fold: str = option("", "Leave a fold out, to be judged on: 2/5 is the second of five (by slide where known), NAME a domain.")
    domains: str | None = option(
        None, "CSV with columns id and domain (centre, scanner, hospital) for --fold NAME; default: the source packed from."
    )
    valid_share: float = option(0.2, "Share of the tiles that chooses (epoch, threshold), where no --valid is given.")
    sample: str = option(
        "auto", "Train on a stratified, nested sample: 5%, 0.05 or 2000 tiles; auto: all, or as many as --minutes has time for."
    )
    epochs: int = option(
        0, "Passes over the training tiles; 0: by recipe, 40 from scratch (p4m-cnn 24), 12 fine-tuned, 20 for a frozen head."
    )
    minutes: float | None = option(
        None,
        "Hand back the best model in so many minutes, all included. 'train' chooses network, input size and sample to fit, of what is "
        "left open; a frozen backbone follows the clock by its sample alone.",
    )
    patience: int = option(0, "Stop after this many epochs without a better validation AUROC; 0 never stops early.")
    batch: int = option(0, "Tiles an optimiser step; 0: by recipe, 64, or 256 for a frozen head.")
    optimizer: Literal["adamw", "sgd"] = option("adamw", "AdamW, or SGD with Nesterov momentum 0.9.")
    lr: float = option(
        0.0, "Peak learning rate; 0: by recipe, 3e-3 from scratch (p4m-cnn 1e-2), 1e-3 fine-tuned or for a frozen head."
    )
    weight_decay: float = option(0.05, "Decoupled weight decay of the matrices; biases and norms have none.")
    warmup: float = option(0.1, "Share of the training in which the rate rises; then it falls along a cosine.")
    balance: bool = option(True, "Weigh the classes equally in the loss; probabilities keep the true prevalence.")
    dihedral: bool = option(True, "Augment with the eight rotations and reflections.")
    colour: float = option(0.1, "Strength of the colour augmentation; 0 switches it off.")
    jpeg: float = option(0.0, "Share of the tiles that are recompressed as JPEG, quality 50 to 95.")
    dropout: float = option(0.3, "Dropout before the dense head.")
    ema: float = option(0.995, "Decay of the running mean of the weights that is judged and kept; 0 keeps the last weights.")
    seed: int = option(0, "Same seed, machine and precision: the same model.")
    device: str = option("auto", "auto, cpu, cuda or cuda:N.")
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = option(
        "auto", "Arithmetic; auto measures whether less than fp32 pays. tf32: of NVIDIA GPUs since Ampere."
    )
    compile: Literal["auto", "yes", "no"] = option(
        "auto", "Compile the network with torch.compile; auto: on a GPU, where the run is long enough and measuring shows a gain."
    )
    memory_format: Literal["auto", "channels_last", "contiguous"] = option(
        "auto", "Order of a network's weights and maps in memory; auto: channels last, in which tiles arrive."
    )
    micro_batch: int = option(0, "Tiles a forward pass; 0: 32 on a CPU, all on a GPU. The optimiser's batch stays the same.")
    threads: int = option(0, "Threads of the arithmetic; 0: one a usable core.")
    resident: Literal["auto", "yes", "no"] = option("auto", "Keep all tiles in memory, or gather them from disk.")
    checkpoint_s: float = option(60.0, "Seconds between checkpoints inside an epoch; each epoch ends with one.")


OWN_NETWORKS = ("simple-cnn", "p4m-cnn")
"""Networks of ours, always trained from scratch."""
PRETRAINED = "tf_efficientnet_lite0"
"""What `model` auto is for frozen and fine-tuned backbones: its ImageNet weights come as a package of 13 MB, without a model hub."""
RECIPES: dict[str, dict[str, Any]] = {
    "scratch": {"epochs": 40, "lr": 3e-3, "batch": 64},
    "p4m-cnn": {"epochs": 24, "lr": 1e-2, "batch": 64},
    "frozen": {"epochs": 20, "lr": 1e-3, "batch": 256},
    "finetune": {"epochs": 12, "lr": 1e-3, "batch": 64},
}
"""What 0 means for epochs, lr and batch, by backbone; a network may have its own."""


HUB, FOLDER, CONFIG = "hf-hub:", "local-dir:", "config.json"
"""Where a model's name may say that it lies, and what describes the network of such a repository or folder."""
WEIGHT_ENDINGS = (
    *(".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt", ".th", ".zip", ".gz", ".pkl", ".npz", ".npy"),
    *(".h5", ".hdf5", ".keras", ".onnx", ".msgpack", ".pb", ".tflite"),
)
"""How a weight file may be called, of whatever library: a tag or a repository of the hub does not end so."""


def place_of(path: str) -> Path | None:
    """Return what is at `path` on this machine; None if there is nothing, or nothing can be."""
    try:
        place = Path(path).expanduser()
        return place if place.exists() else None
    except (OSError, RuntimeError, ValueError):  # a name too long, the home of nobody, a zero byte
        return None


def means_path(weights: str) -> bool:
    """Return whether `weights` means a place on this machine, there or not; OWNER/NAME is the hub's unless there is such a folder."""
    if weights in {"auto", "none"} or weights.startswith(HUB):
        return False
    written_so = weights.startswith((".", "/", "~")) or "\\" in weights or weights.count("/") > 1
    return written_so or Path(weights).suffix.lower() in WEIGHT_ENDINGS or place_of(weights) is not None


def network_with(weights: str) -> str | None:
    """Return the network that weights bring along, as `model` names it: of the hub, or of a folder with config.json; else None."""
    if means_path(weights):
        place = place_of(weights)
        return FOLDER + weights if place is not None and (place / CONFIG).is_file() else None
    return HUB + weights.removeprefix(HUB) if weights.startswith(HUB) or "/" in weights else None


def sample_of(settings: TrainSettings) -> str:
    """Return the share of the training tiles that is sampled: all where it was left open."""
    return "100%" if settings.sample == "auto" else settings.sample


def resolved(settings: TrainSettings) -> TrainSettings:
    """Return `settings` with model, backbone, sample, epochs, lr and batch decided where they were left open.

    A model that was left open is the one that the weights bring along, where they do.

    Raises UsageProblem if a network of ours is to be frozen or fine-tuned (it has no pretrained weights), and for settings that the
    backbone would not read.
    """
    model, backbone = settings.model, settings.backbone
    if model == "auto":
        pretrained = backbone in {"frozen", "finetune"}
        model = network_with(settings.weights) or PRETRAINED if pretrained else OWN_NETWORKS[0]
    if backbone == "auto":
        backbone = "scratch" if model in OWN_NETWORKS else "frozen"
    if model in OWN_NETWORKS and backbone != "scratch":
        raise UsageProblem(
            f"a pretrained network for --backbone {backbone}", shown(model), f"leave --model out ({PRETRAINED}), or --backbone"
        )
    if backbone == "scratch" and (settings.weights not in {"auto", "none"} or settings.recalibrate_bn or settings.freeze):
        found = "--weights, --recalibrate-bn or --freeze with a network from scratch"
        raise UsageProblem("pretrained weights", found, "add --backbone frozen or finetune, or leave them out")
    if backbone == "frozen" and settings.precision not in {"auto", "fp32"}:
        do = "auto takes the fastest that agrees with fp32; leave --precision out"
        raise UsageProblem("precision auto or fp32 for a frozen backbone", settings.precision, do)
    if backbone == "frozen" and (settings.compile == "yes" or settings.memory_format != "auto"):
        name, value = ("compile", "yes") if settings.compile == "yes" else ("memory-format", settings.memory_format)
        do = f"leave --{name} out: the fastest form of the network is measured as it is"
        raise UsageProblem(f"no --{name} for a frozen backbone, which takes no steps", f"--{name} {value}", do)
    by_recipe = {name: value for name, value in RECIPES.get(model, RECIPES[backbone]).items() if not getattr(settings, name)}
    return dataclasses.replace(settings, model=model, backbone=backbone, sample=sample_of(settings), **by_recipe)


@dataclass(frozen=True)
class TuneSettings:
    """What a study searches: a grid, or trials drawn by what earlier ones found."""

    grid: tuple[str, ...] = option((), "A setting of 'train' and its values, such as lr=1e-3,1e-4; once a setting.")
    trials: int | None = option(None, "Draw so many trials with Optuna (TPE sampler, median pruner) instead of a grid.")
    storage: str | None = option(None, "Database URL that several machines share; default: a journal file in the study's folder.")
    keep: tuple[str, ...] = option((), "A setting that trials leave alone, as they do those that were typed; once a setting.")


RUNGS = ("floor", "simple-cnn", "p4m-cnn", "frozen", "finetune", "ensemble")
"""The rungs of the ladder, from the lowest."""


@dataclass(frozen=True)
class LadderSettings(TrainSettings):
    """What every rung of the ladder is trained with, and how the rungs are judged."""

    model: str = option(
        "auto", f"Network of the frozen and the fine-tuned rung, timm's or hf-hub:OWNER/NAME; auto: {PRETRAINED}."
    )
    minutes: float | None = option(
        None,
        "Of training, divided: 2 parts simple-cnn, 3 p4m-cnn, 5 finetune and each of --members, 1 the study's sample; "
        "others take what they need.",
    )
    valid: str | None = option(None, "A store that chooses in every rung; default: a part split off the tiles that train.")
    rungs: str = option(",".join(RUNGS), "The rungs to climb, separated by commas.")
    members: str = option(
        "", "Networks fine-tuned for the ensemble alone, each NAME or NAME@PX: tf_efficientnet_lite1,tf_efficientnet_lite2@128."
    )
    study: bool = option(True, "Also the reference study's table, and its scaling mistake made on purpose.")
    resamples: int = option(2000, "Resamples of the bootstrap, at least 100.")


@dataclass(frozen=True)
class CrossvalidateSettings(TrainSettings):
    """What every fold is trained with, and how the folds are judged."""

    folds: str = option("5", "Number of folds (whole slides where known, else tiles), or domains: each is held out once.")
    views: Literal[1, 4, 8] = option(1, "Dihedral views whose logits are averaged where a fold is judged.")
    resamples: int = option(2000, "Resamples of the bootstrap, at least 100.")


@dataclass(frozen=True)
class PredictSettings:
    """How a run is applied."""

    views: Literal[1, 4, 8] = option(1, "Dihedral views whose logits are averaged: none, the rotations, all eight.")
    device: str = option("auto", "auto, cpu, cuda or cuda:N.")
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = option(
        "auto",
        "Arithmetic; auto: fp32 for little work, else what is measured to be the fastest here, OpenVINO and bf16 among it; fp32 is "
        "what 'evaluate' judges; int8 is the fastest on a CPU and moves the logits most: it says how far, and refuses where that is "
        "too far.",
    )
    batch: int = option(64, "Tiles a forward pass.")
    threads: int = option(0, "Threads of the arithmetic; 0: one a usable core.")


def check_resamples(resamples: int) -> None:
    """Raise UsageProblem for so few resamples that the ends of an interval would rest on one draw or two."""
    if resamples < 100:
        raise UsageProblem("at least 100 resamples", str(resamples), "change --resamples; 2000 is the default")


@dataclass(frozen=True)
class JudgeSettings:
    """What `evaluate` and `compare` share."""

    views: Literal[1, 4, 8] = option(1, "Dihedral views whose logits are averaged, where runs are judged.")
    floor: str | None = option(None, "Run or store whose colours give the floor; default: the first run's.")
    resamples: int = option(2000, "Resamples of the bootstrap, at least 100.")
    seed: int = option(0, "Of the bootstrap and of the floor's sample: the same seed gives the same judgement.")

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        check_resamples(self.resamples)


@dataclass(frozen=True)
class EvaluateSettings(JudgeSettings):
    """How predictions are judged."""

    sensitivity: float | None = option(
        None, "Choose the threshold on valid so that this share of positives is found, such as 0.95."
    )
    cost: str | None = option(None, "Choose the threshold on valid by the cost of a miss to that of a false alarm, such as 5:1.")
    coverage: float = option(
        0.9, 'Share of tiles whose set of labels is to hold the true one: the others say how often "don\'t know".'
    )
    stress: bool = option(
        False, "Also test views, centre against rim, and shifts of stain, blur, brightness, JPEG: 20 predictions more."
    )
    mistakes: int = option(12, "Surest mistakes that the page shows, with what moved the model; 0: none.")


@dataclass(frozen=True)
class CompareSettings(JudgeSettings):
    """How models are compared."""

    power: float = option(0.8, "Chance of finding a difference that the number of slides is planned for, 0.5 to below 1.")
    together: bool = option(True, "Take runs of one recipe that differ in seed or fold as one contestant.")


@dataclass(frozen=True)
class AuditSettings:
    """How a store is audited."""

    probe: Literal["auto", "network", "colour"] = option(
        "auto",
        "What looks for wrong labels: a frozen network's features with colour, or colour and texture; auto: network where its "
        "weights are installed and at most 20,000 tiles have labels.",
    )
    queue: float = option(0.06, "Share of the labelled tiles that the queue names as label suspects, 0 to 1.")
    features: str | None = option(None, "Folder where extracted features are kept; default: beside the store.")
    workers: int | None = option(None, "Threads that read tiles; default: one a core.")
    seed: int = option(0, "Of probes and foldings: the same seed gives the same audit.")

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if not 0 <= self.queue <= 1:
            raise UsageProblem("a share from 0 to 1 for the queue", shown(self.queue), "change --queue; 0.06 is the default")
        if self.workers is not None and not 1 <= self.workers <= 1024:
            raise UsageProblem("workers from 1 to 1024", shown(self.workers), "give another --workers, or leave it out")


def fits(value: object, kind: Any) -> bool:
    """Return whether `value` is of the annotated type `kind`: a class, a Literal, or a union of such."""
    if get_origin(kind) is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(kind))
    if get_origin(kind) in {Union, UnionType}:
        return any(fits(value, part) for part in get_args(kind))
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def settings_from(cls: type[S], settings: S | None, options: dict[str, Any]) -> S:
    """Return `settings` (or the defaults of `cls`) with `options` put over them.

    Raises UsageProblem for a name that is no setting (answered with the nearest) and for a value of a wrong type or choice.
    """
    if settings is not None and not isinstance(settings, cls):
        raise UsageProblem(f"settings of type {cls.__name__}", type(settings).__name__, "pass that class, or options by name")
    kinds = get_type_hints(cls)
    for name, value in options.items():
        if name not in kinds:
            raise UsageProblem(f"a setting of {cls.__name__}", shown(name), nearest(name, list(kinds)))
        if not fits(value, kinds[name]):
            wanted = " or ".join(map(str, get_args(kinds[name]))) or getattr(kinds[name], "__name__", str(kinds[name]))
            raise UsageProblem(f"{wanted} for {name}", f"{shown(value)} ({type(value).__name__})", "change the value")
    start = cls() if settings is None else settings
    return dataclasses.replace(start, **options)  # type: ignore[type-var]


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Return the settings of a TOML recipe: a flat table of names and values."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageProblem(
            f"a TOML recipe at {shown(path)}", f"{type(error).__name__}: {error}"[:200], "mend or rename it"
        ) from error
