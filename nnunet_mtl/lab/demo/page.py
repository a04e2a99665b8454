"""One self-contained HTML page about a run: the page needs no script, no host and no other file."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, StrictUndefined


@dataclass(frozen=True)
class Command:
    """A command that was run, as typed, and how long it took."""

    line: str
    seconds: float


@dataclass(frozen=True)
class DiceRow:
    """One line of the table: a region, or a task's mean over its regions (`region` empty then)."""

    task: str
    region: str
    dice: float | None
    cases: int


@dataclass(frozen=True)
class Picture:
    """A PNG and its caption, which is also the alternative text of the image."""

    caption: str
    png: bytes


@dataclass(frozen=True)
class Section:
    """A paragraph and a picture."""

    text: str
    picture: Picture


@dataclass(frozen=True)
class Comparison:
    """The result of another training on the same cases."""

    text: str
    picture: Picture
    command: Command | None = None


@dataclass(frozen=True, kw_only=True)
class PageContent:
    """The content of the page as plain data; sections without content are left out.

    Attributes:
        title: Heading and title of the page.
        summary: What was run and on what, in one paragraph.
        headline: The main figures by their names.
        shows: Sentences that say what the figures mean.
        shows_not: Sentences that say what the figures do not mean.
        commands: Every command in the order it ran.
        dice: The table of scores.
        answers: Answers to the image-level question, if the data set has one.
        overlays: Images with truth and prediction.
        curves: Training curves.
        comparison: Result of the stock training, if there was one.
        settings: The schedule: setting names and values.
        versions: Names and versions of software, the device, the random seed.
    """

    title: str
    summary: str
    headline: Mapping[str, str]
    shows: Sequence[str]
    shows_not: Sequence[str]
    commands: Sequence[Command] = ()
    dice: Sequence[DiceRow] = ()
    answers: Section | None = None
    overlays: Sequence[Picture] = ()
    curves: Picture | None = None
    comparison: Comparison | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, object] = field(default_factory=dict)


def write_page(content: PageContent, path: Path) -> Path:
    """Write the page, and make its folder if it is missing.

    Every text is escaped, because the user chooses the names of cases and regions.

    Returns:
        `path`.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"dice": _dice, "duration": _duration, "percent": _percent, "base64": _base64}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(environment.from_string(_TEMPLATE).render(page=content), encoding="utf-8")
    return path


def _dice(value: float | None) -> str:
    return "none" if value is None or math.isnan(value) else f"{value:.3f}"


def _percent(value: float | None) -> float:
    return 0.0 if value is None or math.isnan(value) else round(100 * value, 1)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


_STYLE = """
:root { color-scheme: light dark; --ink: #1d2530; --soft: #5a6675; --paper: #ffffff; --card: #f4f6f8; --line: #d8dee5;
  --bar: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaef; --soft: #a3aebb; --paper: #14181d; --card: #1f252c;
  --line: #38424d; --bar: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 66rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .75rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 0 0 .4rem; }
.summary { max-width: 48rem; }
.headline { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .75rem; margin: 1.5rem 0; }
.headline div, .reading div { background: var(--card); border-radius: .5rem; padding: .8rem 1rem; }
.headline dd { margin: 0; font-size: 1.6rem; font-weight: 600; line-height: 1.25; }
.headline dt { color: var(--soft); font-size: .875rem; }
.headline div { display: flex; flex-direction: column-reverse; justify-content: flex-end; }
.reading { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: .75rem; }
.reading ul { margin: 0; padding-left: 1.1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9375rem; }
th, td { text-align: left; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 500; }
th[scope="row"] { width: 18rem; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.mean td { font-weight: 600; }
.track { width: 40%; min-width: 6rem; vertical-align: middle; }
.track span { display: block; height: .6rem; border-radius: .3rem; background: var(--bar); }
code { font: .875rem/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
figure { margin: 0 0 1.25rem; background: #ffffff; border: 1px solid var(--line); border-radius: .5rem;
  overflow: hidden; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
figcaption { background: var(--card); color: var(--ink); padding: .5rem 1rem; font-size: .9375rem; }
@media print { body { max-width: none; } figure, tr { break-inside: avoid; } }
"""

_TEMPLATE = (
    """{% macro figure(picture) %}
<figure>
<img alt="{{ picture.caption }}" src="data:image/png;base64,{{ picture.png | base64 }}">
<figcaption>{{ picture.caption }}</figcaption>
</figure>
{% endmacro %}
{% macro pairs(mapping) %}
<div class="scroll"><table>
{% for name, value in mapping.items() %}
<tr><th scope="row">{{ name }}</th><td><code>{{ value }}</code></td></tr>
{% endfor %}
</table></div>
{% endmacro %}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ page.title }}</title>
<style>"""
    + _STYLE
    + """</style>
</head>
<body>
<h1>{{ page.title }}</h1>
<p class="summary">{{ page.summary }}</p>
{% if page.headline %}
<dl class="headline">
{% for name, value in page.headline.items() %}
<div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>
{% endfor %}
</dl>
{% endif %}
<section class="reading">
{% for heading, sentences in (("What this shows", page.shows), ("What this does not show", page.shows_not)) %}
{% if sentences %}
<div><h3>{{ heading }}</h3><ul>
{% for sentence in sentences %}
<li>{{ sentence }}</li>
{% endfor %}
</ul></div>
{% endif %}
{% endfor %}
</section>
{% if page.dice %}
<h2>Dice per task and region</h2>
<p>Mean over the cases in which the region is there, in the reference or in the prediction.</p>
<div class="scroll"><table>
<tr><th>task</th><th>region</th><th class="number">Dice</th><th></th><th class="number">cases</th></tr>
{% for row in page.dice %}
<tr{% if not row.region %} class="mean"{% endif %}>
<td>{{ row.task }}</td><td>{{ row.region or "mean of its regions" }}</td><td class="number">{{ row.dice | dice }}</td>
<td class="track"><span style="width: {{ row.dice | percent }}%"></span></td>
<td class="number">{{ row.cases }}</td></tr>
{% endfor %}
</table></div>
{% endif %}
{% if page.answers %}
<h2>Image-level answer</h2>
<p>{{ page.answers.text }}</p>
{{ figure(page.answers.picture) }}
{% endif %}
{% if page.comparison %}
<h2>Comparison</h2>
<p>{{ page.comparison.text }}</p>
{% if page.comparison.command %}
<p><code>{{ page.comparison.command.line }}</code> ({{ page.comparison.command.seconds | duration }})</p>
{% endif %}
{{ figure(page.comparison.picture) }}
{% endif %}
{% if page.overlays %}
<h2>Images, truth and prediction</h2>
{% for picture in page.overlays %}
{{ figure(picture) }}
{% endfor %}
{% endif %}
{% if page.curves %}
<h2>Training</h2>
{{ figure(page.curves) }}
{% endif %}
{% if page.commands %}
<h2>What was run</h2>
<div class="scroll"><table>
<tr><th>command</th><th class="number">time</th></tr>
{% for command in page.commands %}
<tr><td><code>{{ command.line }}</code></td><td class="number">{{ command.seconds | duration }}</td></tr>
{% endfor %}
</table></div>
{% endif %}
{% if page.settings %}
<h2>Settings</h2>
{{ pairs(page.settings) }}
{% endif %}
{% if page.versions %}
<h2>Versions</h2>
{{ pairs(page.versions) }}
{% endif %}
<p><small>For research use. Not a medical device; no figure here is a clinical claim.</small></p>
</body>
</html>
"""
)
