"""The tree of errors: three parts, exit codes, text from data made safe, unknown names answered."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinode import errors
from sentinode.errors import SentinodeError, masked, nearest, shown

CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SentinodeError)]


@pytest.mark.parametrize("kind", CLASSES)
def test_a_message_has_its_three_parts_in_order(kind: type[SentinodeError]) -> None:
    with pytest.raises(kind) as caught:
        raise kind("a tile of 96 px", "95 px in 'a.tif'", "pack with --px 96")
    assert str(caught.value) == "expected a tile of 96 px; found 95 px in 'a.tif'; pack with --px 96"
    parts = (caught.value.expected, caught.value.found, caught.value.do)
    assert parts == ("a tile of 96 px", "95 px in 'a.tif'", "pack with --px 96")


def test_exit_codes_are_those_the_command_line_promises() -> None:
    codes = {kind.__name__: kind.exit_code for kind in CLASSES if kind is not SentinodeError}
    data = dict.fromkeys(("DataProblem", "SourceProblem", "StoreProblem", "SplitProblem", "ScoresProblem", "RunProblem"), 3)
    assert codes == data | {"UsageProblem": 2, "UndefinedScore": 4, "MachineProblem": 5}


def test_every_class_is_drawn_in_the_tree() -> None:
    assert errors.__doc__ is not None
    assert all(kind.__name__ in errors.__doc__ for kind in CLASSES)


@given(st.text())
def test_shown_text_cannot_steer_a_terminal(text: str) -> None:
    safe = shown(text)
    assert not [c for c in safe if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]
    assert safe.encode("utf-8").decode("utf-8") == safe


@given(st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=120))
def test_plain_letters_of_any_script_stay_as_they_are(text: str) -> None:
    assert shown(text) == f"'{text}'"


def test_shown_is_bounded() -> None:
    assert len(shown("x" * 10_000)) == 123
    assert shown("\x1b" * 10_000).count("\\x1b") == 120


@pytest.mark.parametrize(
    ("value", "expected"),
    [("\x1b[2J", r"'\x1b[2J'"), ("a\nb", r"'a\nb'"), ("\u202egpj", r"'\u202egpj'"), ("\ud800", r"'\ud800'"), (7, "'7'")],
)
def test_shown_examples(value: object, expected: str) -> None:
    assert shown(value) == expected


def test_a_near_name_is_offered_and_otherwise_all_are_listed() -> None:
    assert nearest("simple_cnn", ["simple-cnn", "resnet50"]) == "did you mean simple-cnn?"
    assert nearest("zzz", ["simple-cnn", "resnet50"]) == "known are resnet50, simple-cnn"


def test_a_line_never_lists_a_thousand_names() -> None:
    assert nearest("zzz", [f"resnet{n}" for n in range(1300)]) == "none of the 1,300 known names is like it"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("postgresql://user:p@ss/w:rd@host/db", "postgresql://user:***@host/db"),
        ("a 'mysql+pymysql://u:pw@h:3306/db?password=pw&x=1' b", "a 'mysql+pymysql://u:***@h:3306/db?password=***&x=1' b"),
        ("sqlite:///study.db", "sqlite:///study.db"),
        ("postgresql://user@host:5432/db", "postgresql://user@host:5432/db"),
    ],
)
def test_passwords_of_urls_are_masked_and_all_else_stays(text: str, safe: str) -> None:
    assert masked(text) == safe
