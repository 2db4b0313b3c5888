"""Every option once: name, type, default, help. The command line, recipes and records are derived from these classes."""

import types
import typing
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeVar

from sentinode.errors import UsageProblem, nearest, shown

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class PackSettings:
    """How a source becomes a store."""

    groups: str | None = field(
        default=None,
        metadata={"help": "CSV that gives each id its slide or patient (columns id and group, slide, wsi or patient)."},
    )
    px: int | None = field(default=None, metadata={"help": "Edge of a tile in pixels; square tiles of another size are resized."})
    positive: str | None = field(default=None, metadata={"help": "Name of the class that counts as positive."})
    labels: str | None = field(default=None, metadata={"help": "CSV with columns id and label for a plain folder of images."})
    ids: Literal["stem", "path"] = field(
        default="stem", metadata={"help": "Name a tile by its file's name, or by its path inside the source."}
    )
    workers: int | None = field(default=None, metadata={"help": "Threads that read and decode; all cores if not given."})

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        for name, most in (("px", 2048), ("workers", 1024)):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise UsageProblem(f"{name} from 1 to {most}", shown(value), f"give another {name}, or leave it out")


def settings_from(kind: type[Settings], settings: Settings | None, options: dict[str, Any]) -> Settings:
    """Return `settings` (or the defaults of `kind`) with `options` put in by name.

    Raises
    ------
    UsageProblem
        If an option is unknown (the nearest known one is named) or has the wrong type.
    """
    start = kind() if settings is None else settings
    if not isinstance(start, kind):
        raise UsageProblem(f"settings of type {kind.__name__}", type(start).__name__, f"pass a {kind.__name__}")
    known = {entry.name for entry in fields(start)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    for name, value in options.items():
        if name not in known:
            raise UsageProblem(f"an option of {kind.__name__}", shown(name), nearest(name, sorted(known)))
        if not fits(value, hints[name]):
            raise UsageProblem(
                f"{name} as {type_words(hints[name])}", f"{shown(value)} ({type(value).__name__})", "give another value"
            )
    return replace(start, **options)  # type: ignore[type-var]


def fits(value: object, hint: Any) -> bool:
    """Return whether `value` is what the annotation `hint` (plain types, Literal, unions, tuples) allows; a bool is no number."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, choice) for choice in arguments)
    if origin is tuple:
        inner = arguments[0]
        return isinstance(value, tuple) and all(fits(entry, inner) for entry in value)
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def type_words(hint: Any) -> str:
    """Return an annotation in words for a message."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(repr(choice) for choice in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_words(choice) for choice in arguments)
    if origin is tuple:
        return f"a tuple of {type_words(arguments[0])}"
    return "None" if hint is type(None) else hint.__name__
