"""Sentinode: fast and honest classifiers of histopathology tiles.

Each command is a function of the same name and the same argument names. Names are imported when first used, so that
`import sentinode` is quick; research use, not a medical device.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentinode.errors import SentinodeError as SentinodeError
    from sentinode.flows.audit import audit as audit
    from sentinode.flows.classifier import TileClassifier as TileClassifier
    from sentinode.flows.compare import compare as compare
    from sentinode.flows.crossvalidate import crossvalidate as crossvalidate
    from sentinode.flows.doctor import doctor as doctor
    from sentinode.flows.evaluate import evaluate as evaluate
    from sentinode.flows.findings import Study as Study
    from sentinode.flows.ladder import ladder as ladder
    from sentinode.flows.quickstart import quickstart as quickstart
    from sentinode.flows.train import train as train
    from sentinode.flows.tune import tune as tune
    from sentinode.infer.export import export as export
    from sentinode.infer.predict import predict as predict
    from sentinode.nets.catalogue import models as models
    from sentinode.nets.trained import Run as Run
    from sentinode.nets.trained import load as load
    from sentinode.tiles.info import info as info
    from sentinode.tiles.pack import pack as pack
    from sentinode.tiles.store import Store as Store
    from sentinode.tiles.store import open_store as open_store

HOMES = {
    "SentinodeError": "errors",
    "train": "flows.train",
    "TileClassifier": "flows.classifier",
    "audit": "flows.audit",
    "compare": "flows.compare",
    "crossvalidate": "flows.crossvalidate",
    "doctor": "flows.doctor",
    "evaluate": "flows.evaluate",
    "ladder": "flows.ladder",
    "quickstart": "flows.quickstart",
    "Study": "flows.findings",
    "tune": "flows.tune",
    "export": "infer.export",
    "predict": "infer.predict",
    "models": "nets.catalogue",
    "Run": "nets.trained",
    "load": "nets.trained",
    "info": "tiles.info",
    "pack": "tiles.pack",
    "Store": "tiles.store",
    "open_store": "tiles.store",
}
"""Where each public name lives."""

__all__ = ["HOMES", "__version__", *sorted(HOMES)]
__version__ = version("sentinode")


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in HOMES:
        raise AttributeError(f"module 'sentinode' has no attribute {name!r}")
    return getattr(import_module(f"sentinode.{HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
