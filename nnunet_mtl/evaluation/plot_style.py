"""How every figure of this package looks: colours that everybody can tell apart, few lines, PNG bytes."""

import io

from matplotlib.axes import Axes
from matplotlib.figure import Figure

DPI = 110
# Okabe and Ito's, told apart under every common colour blindness. Yellow is unreadable as a line on white: left out.
_LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000")


def line_colour(number: int) -> str:
    """Return the colour of the line or bar with this number; after seven they repeat."""
    return _LINE_COLOURS[number % len(_LINE_COLOURS)]


def plain(axes: Axes) -> None:
    """Leave of the frame what is needed, and a faint grid behind what is drawn."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, alpha=0.3)
    axes.set_axisbelow(True)


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
