"""HTML pages as single files, without network access or scripts, for all screens and for print."""

import io
import re
from collections.abc import Sequence
from typing import Any

import jinja2
import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from minillm.evaluation.plots import INK

_templates = jinja2.Environment(
    loader=jinja2.PackageLoader("minillm.evaluation"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: Any) -> str:
    """Render a template of this package; text is escaped, figures become SVG.

    Args:
        template: its file name.
        values: its variables.
    """
    return _templates.get_template(template).render(**values, svg=svg, shown=shown, span=span)


def svg(figure: Figure) -> Markup:
    """Return a figure as an SVG element with the page's colour and font."""
    drawing = io.StringIO()
    # Text stays text; with a fixed salt, equal figures give equal files.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "minillm"}):
        figure.savefig(drawing, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    element = drawing.getvalue()
    element = element[element.index("<svg") :].replace(INK, "currentColor")
    # Two figures on a page would have the same ids.
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r'<g id="[^"]*"', "<g", element)
    return Markup(re.sub(r"font-family: [^;\"]*", "font-family: inherit", element))


def shown(value: float | None) -> str:
    """Return a number with a useful number of digits; a dash for None.

    >>> [shown(value) for value in (4140032, 583474.126, 70.83, 4.26, 0.0, 0.000012, None)]
    ['4,140,032', '583,474.1', '70.83', '4.2600', '0.0000', '1.2e-05', '–']
    """
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    size = abs(value)
    if 0 < size < 0.0001:
        return f"{value:.1e}"
    return f"{value:,.{1 if size >= 1000 else 2 if size >= 10 else 4}f}"


def span(interval: Sequence[float] | None) -> str:
    """Return an interval of positive numbers as text; "" for None.

    >>> span((4.21, 4.31)), span(None)
    ('4.2100–4.3100', '')
    """
    return f"{shown(interval[0])}–{shown(interval[1])}" if interval else ""
