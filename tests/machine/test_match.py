"""Pairs of torch and torchvision are judged as torchvision's own table of releases does."""

from importlib.metadata import version

import pytest

from sentinode.machine.match import installed_match, match_of, wanted_torchvision


@pytest.mark.parametrize(
    ("torch", "torchvision"),
    [("2.13.0+cpu", "0.28.0"), ("2.6.0", "0.21.0+cu124"), ("2.5.1", "0.20.1"), ("2.1.0", "0.16.0"), ("2.0.1", "0.15.2")],
)
def test_pairs_of_the_published_table_fit(torch: str, torchvision: str) -> None:
    assert match_of(torch, torchvision).fits is True


@pytest.mark.parametrize("torchvision", ["0.27.0", "0.29.0", "1.28.0"])
def test_another_minor_version_does_not(torchvision: str) -> None:
    match = match_of("2.13.0", torchvision)
    assert match.fits is False
    assert "NOT made for torch 2.13.0" in match.line


@pytest.mark.parametrize(("torch", "torchvision"), [("2.13.0", ""), ("3.0.0", "0.40.0"), ("2.13.0", "nightly")])
def test_what_cannot_be_said_is_not_said(torch: str, torchvision: str) -> None:
    assert match_of(torch, torchvision).fits is None


def test_a_missing_torchvision_is_no_fault() -> None:
    assert "not installed" in match_of("2.13.0", "").line


def test_the_remedy_names_the_version_that_fits() -> None:
    assert wanted_torchvision("2.13.0+cpu") == "torchvision==0.28.*"


def test_the_installed_torch_is_the_one_compared() -> None:
    assert installed_match().torch == version("torch")
