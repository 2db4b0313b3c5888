"""Settings: one place, checked by type, unknown names answered with the nearest."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from sentinode.errors import UsageProblem
from sentinode.settings import EvaluateSettings, PackSettings, PredictSettings, TrainSettings, read_recipe, settings_from

ALL = (PackSettings, TrainSettings, PredictSettings, EvaluateSettings)


@pytest.mark.parametrize("cls", ALL)
def test_every_setting_has_a_help_that_is_a_sentence(cls: type[Any]) -> None:
    for field in dataclasses.fields(cls):
        text = field.metadata["help"]
        assert text.endswith(".")
        assert len(text) > 15


@pytest.mark.parametrize("cls", ALL)
def test_defaults_are_of_their_own_type(cls: type[Any]) -> None:
    values = dataclasses.asdict(cls())
    assert settings_from(cls, None, values) == cls()


def test_options_go_over_settings() -> None:
    assert settings_from(TrainSettings, TrainSettings(epochs=3, lr=0.1), {"lr": 0.2}) == TrainSettings(epochs=3, lr=0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 1}, r"expected a setting of TrainSettings; found 'learning_rate'"),
        ({"epoch": 1}, r"found 'epoch'; did you mean epochs"),
        ({"epochs": "3"}, r"expected int for epochs; found '3' \(str\)"),
        ({"epochs": True}, r"expected int for epochs"),
        ({"split": "randm"}, r"expected auto or random or grouped for split"),
        ({"minutes": "soon"}, r"for minutes; found 'soon'"),
    ],
)
def test_what_is_no_setting_is_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageProblem, match=message):
        settings_from(TrainSettings, None, options)


def test_settings_of_another_command_are_refused() -> None:
    with pytest.raises(UsageProblem, match=r"settings of type TrainSettings; found PackSettings"):
        settings_from(TrainSettings, PackSettings(), {})


def test_a_whole_number_is_a_float() -> None:
    assert settings_from(TrainSettings, None, {"minutes": 2}).minutes == 2


@pytest.mark.parametrize("text", ["lr = ", None])
def test_a_recipe_that_cannot_be_read_is_told(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "recipe.toml"
    if text is not None:
        path.write_text(text, "utf-8")
    with pytest.raises(UsageProblem, match=r"expected a TOML recipe.*found .*; mend"):
        read_recipe(path)
