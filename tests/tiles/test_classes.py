"""Two classes, and one of them positive: told, or asked for."""

import pytest

from sentinode.errors import SourceProblem, UsageProblem
from sentinode.tiles.classes import choose_classes
from sentinode.tiles.listing import Listing


def listing(*labels: str, fixed: bool = False, name: str = "s") -> Listing:
    count = len(labels)
    ids = [f"{name}{i}" for i in range(count)]
    return Listing(name, "class folders", "", "", ids, [f"{i}.png" for i in ids], list(labels), [""] * count, fixed=fixed)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["0", "1", ""], ("0", "1")),
        (["1"], ("0", "1")),
        (["normal", "Tumour"], ("normal", "Tumour")),
        (["malignant", "benign"], ("benign", "malignant")),
        (["cancer"], ("not cancer", "cancer")),
        ([], ("", "")),
        ([""], ("", "")),
    ],
)
def test_classes_that_speak_for_themselves(labels: list[str], names: tuple[str, str]) -> None:
    classes = choose_classes([listing(*labels)], None)
    assert classes.names == names
    assert classes.codes[""] == -1
    assert all(classes.codes[label] == names.index(label) for label in labels if label)


@pytest.mark.parametrize("labels", [["a", "b"], ["tumor", "cancer"], ["normal"], ["ADI", "LYM", "TUM"], ["0", "1", "2"]])
def test_classes_that_do_not_are_listed_with_counts_and_the_first_row(labels: list[str]) -> None:
    with pytest.raises(SourceProblem) as caught:
        choose_classes([listing(*labels, labels[0])], None)
    assert f"'{labels[0]}' 2 (first 's/s0.png')" in caught.value.found
    assert "--positive" in caught.value.do


def test_positive_makes_all_others_negative_and_counts_them() -> None:
    classes = choose_classes([listing("ADI", "LYM", "TUM", "LYM")], "TUM")
    assert classes.names == ("not TUM", "TUM")
    assert classes.codes == {"": -1, "ADI": 0, "LYM": 0, "TUM": 1}
    assert classes.merged == {"ADI": 1, "LYM": 2}
    assert choose_classes([listing("a", "b")], "a").names == ("b", "a")


def test_an_unknown_positive_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageProblem, match="did you mean TUM"):
        choose_classes([listing("ADI", "TUM")], "TUN")
    with pytest.raises(UsageProblem, match="nothing is labelled"):
        choose_classes([listing("")], "TUM")


def test_several_sources_must_agree() -> None:
    assert choose_classes([listing("0", "1"), listing("1", fixed=True, name="k")], None).names == ("0", "1")
    with pytest.raises(SourceProblem, match="4 classes"):
        choose_classes([listing("0", "1", fixed=True), listing("normal", "tumor", name="t")], None)
