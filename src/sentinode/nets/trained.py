"""A trained network as files and as an object: `model.safetensors` and `model.json` are all that prediction needs.

Weights are read by safetensors, which holds tensors and nothing that could run.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from sentinode.errors import DataProblem, RunProblem, nearest, shown
from sentinode.nets.forward import Call, Logits, logits, placed, slices
from sentinode.nets.p4m_cnn import P4MCNN
from sentinode.nets.sealed import sealed, unsealed
from sentinode.nets.simple_cnn import SimpleCNN
from sentinode.nets.transform import Preprocessing, Transform
from sentinode.run import read_json, write_bytes, write_json
from sentinode.scores import probability_of

FORMAT = 1
"""Version of model.json."""
NETWORKS: dict[str, type[nn.Module]] = {"simple-cnn": SimpleCNN, "p4m-cnn": P4MCNN}
"""Our own networks by the name `--model` takes."""


@dataclass(frozen=True)
class ModelFacts:
    """What travels with the weights.

    `probability = sigmoid((logit + logit_shift) / temperature)`. `logit_shift` gives back the prevalence that a balanced loss
    took out. `threshold` is a probability, chosen on the validation part by `threshold_rule`. `classes` are (negative, positive).
    """

    network: str
    arguments: dict[str, Any]
    preprocessing: Preprocessing
    px: int
    classes: tuple[str, str]
    logit_shift: float = 0.0
    temperature: float = 1.0
    threshold: float = 0.5
    threshold_rule: str = "0.5, not chosen"
    training: dict[str, Any] = field(default_factory=dict)


def build(network: str, arguments: dict[str, Any]) -> nn.Module:
    """Return an untrained network, ours or timm's (whose arguments name its `input_px`).

    Raises RunProblem or UsageProblem, with the nearest names, if there is none of that name.
    """
    if network in NETWORKS:
        return NETWORKS[network](**arguments)
    if "input_px" not in arguments:
        raise RunProblem("a network this version knows", shown(network), nearest(network, list(NETWORKS)))
    from sentinode.nets.backbone import Classifier

    return Classifier(network, **arguments)


def save_model(folder: Path, state: dict[str, Tensor], facts: ModelFacts) -> None:
    """Write weights and facts into `folder`, each whole or not at all; the facts last."""
    write_bytes(folder / "model.safetensors", sealed(state))
    write_json(folder / "model.json", {"format": FORMAT} | dataclasses.asdict(facts))


def read_facts(folder: Path) -> ModelFacts:
    """Read model.json; RunProblem if it is missing, of another version, or misses a field."""
    values = read_json(folder / "model.json", RunProblem)
    version = values.pop("format", None)
    if version != FORMAT:
        raise RunProblem(f"model.json of format {FORMAT}", f"format {shown(version)}", "train again with this version")
    try:
        travels: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values["preprocessing"].items()}
        values["preprocessing"] = Preprocessing(**travels)
        classes = values["classes"]
        if not isinstance(classes, list) or len(classes) != 2 or not all(isinstance(name, str) for name in classes):
            raise RunProblem("two names as classes in model.json", shown(classes), f"train again, or mend {shown(folder)}")
        values["classes"] = tuple(classes)
        return ModelFacts(**values)
    except (TypeError, KeyError, AttributeError) as error:
        raise RunProblem("the fields of a model.json", f"{error}"[:200], f"train again, or mend {shown(folder)}") from error


@dataclass(frozen=True)
class Run:
    """A trained run: `path`, `model` (a plain torch module in evaluation mode), `facts`, and `record` (run.json)."""

    path: Path
    model: nn.Module
    facts: ModelFacts
    record: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return the record, with the folder and the threshold."""
        return {"run": str(self.path), "threshold": self.facts.threshold} | self.record

    def __repr__(self) -> str:
        """Return `lines` as one text: what a notebook shows."""
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """Return what the run is and what it cost, for a terminal; warnings first."""
        threshold = f"threshold  {self.facts.threshold:.4f} ({self.facts.threshold_rule})"
        if not self.record:
            return [f"run        {shown(self.path)}: {self.facts.network}, without its record (run.json)", threshold]
        data, valid, cost = (self.record[name] for name in ("data", "valid", "cost"))
        if "extract_seconds" in cost:
            where = "from the feature store" if cost["cached"] else f"extracted at {cost['tiles_per_s']:,.0f} tiles/s"
            spent = f"{cost['seconds']:.0f} s, features {where} by {self.record['plan']['engine']}, "
        else:
            share = f"{cost['share_of_peak']:.0%} of the {cost['peak_flop_per_s'] / 1e9:,.0f} GFLOP/s measured for convolutions"
            spent = f"{cost['seconds']:.0f} s, {cost['tiles_per_s']:,.0f} tiles/s in training, {share}, "
        return [
            *(f"warning: {text}" for text in self.record["warnings"]),
            f"run        {shown(self.path)}: {self.facts.network}, {data['train']['n']:,} tiles trained, {valid['n']:,} chose",
            self.best(),
            f"valid      AUROC {valid['auroc']:.4f}: it chose the epoch, so judge on other slides with 'sentinode evaluate'",
            threshold,
            f"cost       {spent}{cost['peak_memory_bytes'] / 1e9:.2f} GB at most",
        ]

    def best(self) -> str:
        """Return which head or which epoch was the best."""
        if "head" in self.record:
            return f"head       {self.record['head']}"
        return (
            f"best epoch {self.record['best_epoch']} of {self.record['cost']['epochs']}, stopped by {self.record['stopped_by']}"
        )

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.model.parameters()).device

    def transform(self) -> Transform:
        """Return what makes network input of tiles, on the network's device."""
        return Transform(self.facts.preprocessing, self.facts.px).to(self.device)

    def logits(self, tiles: npt.NDArray[np.uint8], batch: int = 64, form: Call | None = None, **how: Any) -> Logits:
        """Return calibrated logits float32 [n] of uint8 tiles [n, px, px, 3], `batch` at a time.

        `form`: of the network, as `nets/engine.py` makes them, to compute in; `how` as `forward.logits` takes.
        """
        expected = (self.facts.px, self.facts.px, 3)
        if tiles.dtype != np.uint8 or tiles.shape[1:] != expected:
            raise DataProblem(
                f"uint8 tiles [n, {expected[0]}, {expected[1]}, 3]", f"{tiles.dtype} {list(tiles.shape)}", "pack them with --px"
            )
        raw = logits(form or self.model, slices(tiles, batch), self.transform(), **how)
        return ((raw + np.float32(self.facts.logit_shift)) / np.float32(self.facts.temperature)).astype(np.float32)

    def predict_proba(self, tiles: npt.NDArray[np.uint8], views: int = 1) -> npt.NDArray[np.float64]:
        """Return the probability of the positive class, float64 [n] in 0 to 1, of uint8 tiles [n, px, px, 3]."""
        return probability_of(self.logits(tiles, views=views).astype(np.float64))


def load(run: str | Path, device: str = "cpu") -> Run:
    """Open a run folder.

    Raises RunProblem if the folder is no finished run, or its weights are cut, foreign or of another network.
    """
    folder = Path(run)
    if not (folder / "model.json").is_file():
        raise RunProblem(
            f"a run folder at {shown(folder)}", "no model.json in it", "name the --out of a finished 'sentinode train'"
        )
    facts = read_facts(folder)
    model = build(facts.network, facts.arguments)
    try:
        state, _ = unsealed(folder / "model.safetensors")
    except (OSError, SafetensorError, ValueError) as error:
        raise RunProblem(
            "readable weights in model.safetensors", f"{error}"[:200], "train again, or copy the whole run folder"
        ) from error
    wanted = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in state.items()}
    if wanted != found:
        different = sorted(set(wanted.items()) ^ set(found.items()))
        raise RunProblem(
            f"the weights of {facts.network}", f"others: {shown(different[:3])}", "keep model.json and model.safetensors together"
        )
    model.load_state_dict(state)
    record = read_json(folder / "run.json", RunProblem) if (folder / "run.json").exists() else {}
    return Run(folder, placed(model, device).eval(), facts, record)


def weights_digest(folder: Path) -> str:
    """Return the 128-bit hex digest of a run's weights and facts, by which scores name the run."""
    import hashlib

    whole = hashlib.sha256()
    for name in ("model.json", "model.safetensors"):
        data = (folder / name).read_bytes()
        whole.update(json.dumps([name, len(data)]).encode() + data)
    return whole.hexdigest()[:32]
