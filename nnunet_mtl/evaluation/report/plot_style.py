"""The style of every figure of this package: colours for colour-blind readers, few lines, PNG bytes."""

import io

from matplotlib.axes import Axes
from matplotlib.figure import Figure

DPI = 110
# The palette of Okabe and Ito, which colour-blind readers can tell apart, without yellow, too pale for lines on white.
_LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000")


def line_colour(number: int) -> str:
    """Return the colour of the line or bar with this number; colours repeat after seven."""
    return _LINE_COLOURS[number % len(_LINE_COLOURS)]


def plain(axes: Axes) -> None:
    """Remove the upper and right edge of the frame, and put a faint grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, alpha=0.3)
    axes.set_axisbelow(True)


def png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
