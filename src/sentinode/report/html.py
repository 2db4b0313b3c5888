"""Pages: one file each that needs no network, for a phone, a desk and paper, in light and dark."""

import base64
import hashlib
from typing import Any

from markupsafe import Markup

NO_RECORD: dict[str, Any] = {"command": [], "versions": {}, "machine": {}, "store": {}, "runs": []}
"""What stands for the record of a page that was made from scores alone."""


def estimate(figure: dict[str, Any], digits: int = 3) -> str:
    """Return a figure and its interval."""
    return f"{figure['estimate']:.{digits}f} ({figure['low']:.{digits}f} to {figure['high']:.{digits}f})"


def rendered(template: str, values: dict[str, Any], **more: Any) -> str:
    """Return a page; whatever comes from the data is escaped.

    Parameters
    ----------
    template
        A file of `templates/` that extends base.html.
    values
        What the command's JSON file holds: `warnings` stand first, `record` says how it was made.
    more
        What else the template uses.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    room = Environment(loader=PackageLoader("sentinode.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    room.filters |= {"estimate": estimate}
    script = room.get_template("sort.html").render()
    # Only the script with this digest may run: what came from the data could not, even if it were not escaped.
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    known = {"record": record_of(values), "classes": classes_of(values)}
    return room.get_template(template).render(values=values, script=Markup(script), allowed=allowed, **known, **more)


def record_of(values: dict[str, Any]) -> dict[str, Any]:
    """Return how it was made."""
    return {**NO_RECORD, **values.get("record", {})}


def classes_of(values: dict[str, Any]) -> list[str]:
    """Return the names of the negative and the positive class."""
    return [str(name) for name in record_of(values)["store"].get("classes", ("negative", "positive"))]


def embedded(svg: bytes) -> str:
    """Return a picture as base64, for a data URI."""
    return base64.b64encode(svg).decode()
