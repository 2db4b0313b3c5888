"""The how-to of exported files: its Python runs as it stands there, and its table names every fact that a file holds."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sentinode.infer.export import export
from sentinode.nets.trained import ModelFacts, build, load, save_model
from sentinode.nets.transform import Preprocessing
from sentinode.tiles.pack import pack
from sentinode.tiles.synth import synthesise, write_kaggle_folder

PAGE = Path(__file__).parents[2] / "docs" / "export.md"


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_its_programs_run_and_its_table_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PAGE.read_text(encoding="utf-8")
    write_kaggle_folder(tmp_path / "kaggle", synthesise(2, 5, px=24))
    store = pack(tmp_path / "kaggle", out=tmp_path / "test.store", quiet=True)
    facts = ModelFacts("simple-cnn", {}, Preprocessing((0.7, 0.5, 0.7), (0.2, 0.2, 0.2)), 24, ("0", "1"))
    save_model(tmp_path / "run", build("simple-cnn", {}).state_dict(), facts)
    expected = load(tmp_path / "run").predict_proba(np.array(store.tiles))
    programs = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(programs) == 2
    monkeypatch.chdir(tmp_path)
    for program, to in zip(programs, ("onnx", "torchscript"), strict=True):
        written = export("run", to=to, quiet=True)  # type: ignore[arg-type]
        names: dict[str, Any] = {}
        exec(program, names)  # noqa: S102
        np.testing.assert_allclose(names["probability"], expected, atol=1e-5)
    told = {name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert told == set(written.facts)
