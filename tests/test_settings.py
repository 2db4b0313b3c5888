"""Settings: options go in by name; a wrong name or type is answered, not swallowed."""

from dataclasses import fields
from typing import Any

import pytest

from sentinode.errors import UsageProblem
from sentinode.settings import PackSettings, settings_from


def test_options_go_before_settings_and_settings_before_defaults() -> None:
    start = PackSettings(px=32, positive="tumor")
    assert settings_from(PackSettings, start, {"px": 48}) == PackSettings(px=48, positive="tumor")
    assert settings_from(PackSettings, None, {}) == PackSettings()


def test_an_unknown_option_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageProblem) as caught:
        settings_from(PackSettings, None, {"positve": "tumor"})
    assert "PackSettings" in caught.value.expected
    assert "'positve'" in caught.value.found
    assert "positive" in caught.value.do


@pytest.mark.parametrize(
    "options",
    [{"px": "96"}, {"px": 9.6}, {"px": True}, {"ids": "name"}, {"positive": 1}, {"px": 0}, {"px": 4000}, {"workers": 0}],
)
def test_a_wrong_type_or_value_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageProblem) as caught:
        settings_from(PackSettings, None, options)
    assert next(iter(options)) in caught.value.expected
    assert "give another" in caught.value.do


def test_every_option_has_help_of_one_sentence() -> None:
    for entry in fields(PackSettings):
        assert entry.metadata["help"].endswith("."), entry.name
