"""A comparison as one HTML page that needs nothing else: no script, no font, no network."""

import base64
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jinja2

from tfbn.verdict.judge import Verdict
from tfbn.verdict.statistics import Difference

LONG_TABLE = 12  # Rows; a longer one is folded away.
# Above one of these the architectures are left to results.json: a page must stay quick to open.
ARMS_LIMIT, CHARACTERS_LIMIT = 6, 60_000
COLUMNS = "Difference", "95 % interval", "p", "P(improvement)", "Seeds better"
DASH = "–"


def render(
    content: dict[str, Any],
    verdict: Verdict,
    table: Sequence[Sequence[str | None]],
    figures: Sequence[tuple[str, bytes]],
) -> str:
    """Return the page of a comparison, to be written as UTF-8.

    What is None or missing shows as a dash. All text is escaped: a name is never markup. `content` is what
    results.json holds, `table` the test results, the header first, `figures` are pairs of caption and PNG.
    """
    settings = content.get("settings") or {}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tfbn", "comparison"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.ChainableUndefined,
        finalize=lambda value: DASH if value is None or isinstance(value, jinja2.Undefined) else value,
    )
    environment.filters["grouped"] = _grouped
    page = environment.get_template("report.html.j2").render(
        content=content,
        sentences=[*verdict.sentences(), *(content.get("notes") or [])],
        reading_notes=" ".join(note for notes in verdict.notes.values() for note in notes),
        comparisons=list(_comparisons(verdict)),
        table=table,
        figures=[(caption, base64.b64encode(png).decode()) for caption, png in figures],
        arms=_arms(settings, content.get("vary")),
        optimizer=_call(settings["optimizer"]) if settings.get("optimizer") else None,
        seeds=_seeds(settings.get("seeds") or []),
        xla=_xla(content.get("jit") or {}),
        versions=", ".join(map(" ".join, (content.get("versions") or {}).items())) or None,
        architectures=_architectures(settings.get("arms") or {}),
        diverged=_diverged(content.get("diverged") or []),
        long_table=LONG_TABLE,
    )
    # A command can hold a file name's bytes that are not text.
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def _grouped(value: Any) -> Any:
    """Return a number as a person writes it; anything else as it is."""
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value


def _comparisons(verdict: Verdict) -> Iterator[tuple[str, list[list[str]], list[list[str]]]]:
    """Yield for each pair of series a label, the table of its differences, and the row that decides."""
    for other, quantities in verdict.differences.items():
        rows = [_cells(quantity, difference) for quantity, difference in quantities.items()]
        table = [["Quantity", verdict.first, other, *COLUMNS], *rows]
        yield f"{verdict.first} and {other}", table, rows[:1]


def _cells(quantity: str, difference: Difference) -> list[str]:
    values = [difference.mean, *(difference.interval or (None, None))]
    # In line: four digits of the largest but four decimals at most, as long as these leave two digits.
    size = math.floor(math.log10(max((abs(x) for x in values if _shown(x) != DASH), default=0) or 0.1))
    decimals = 1 if quantity.startswith("epochs") else max(0, min(3 - size, max(4, 1 - size)))
    mean, low, high = (_shown(value, f"+,.{decimals}f") for value in values)
    # Of a single pair they would look certain.
    p, probability = (difference.p, difference.probability) if difference.pairs > 1 else (None, None)
    return [
        quantity,
        *(_shown(value, f",.{decimals}f") for value in (difference.first_mean, difference.other_mean)),
        mean,
        DASH if low == high == DASH else f"{low} to {high}",
        "< 0.001" if p is not None and p < 0.001 else _shown(p, ".3f"),
        _shown(probability, ".2f"),
        f"{difference.wins} of {difference.pairs}" if difference.pairs else DASH,
    ]


def _shown(value: Any, form: str = "g") -> str:
    """Return a number as a string, a dash for one that is missing; a string as it is."""
    if isinstance(value, str):
        return value
    return DASH if value is None or not math.isfinite(value) else format(value, form)


def _arms(settings: dict[str, Any], vary: dict[str, Any] | None) -> list[list[str | None]]:
    """Return a table of the arms, the header first; with columns for what differs between them."""
    arms = settings.get("arms") or {}
    columns = {"series": "Series", "value": vary["label"]} if vary else {}
    shared = ((settings.get("optimizer") or {}).get("config") or {}).get("learning_rate")
    if any(arm.get("learning_rate") not in (None, shared, arm.get("value")) for arm in arms.values()):
        columns["learning_rate"] = "Learning rate"
    columns["parameters"] = "Parameters"
    rows: list[list[str | None]] = [["Arm", *columns.values(), "Saved model"]]
    for name, arm in arms.items():
        model = arm.get("model")
        saved = f"seed {model['seed']}, epoch {model['epoch']}" if model else None
        rows.append([name, *(_grouped(arm.get(key)) for key in columns), saved])
    return rows


def _call(value: Any) -> str:
    """Return an object that Keras serialized as a call in Python, without arguments that are None."""
    if not isinstance(value, dict) or "class_name" not in value:
        return repr(value)
    config = {key: item for key, item in value["config"].items() if key != "name" and item is not None}
    return f"{value['class_name']}({', '.join(f'{key}={_call(item)}' for key, item in config.items())})"


def _seeds(seeds: list[int]) -> str | None:
    if len(seeds) == 1:
        return f"1 (seed {seeds[0]})"
    if len(seeds) > 3 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds)) or None


def _xla(jit: dict[str, bool]) -> str | None:
    without = [arm for arm, is_compiled in jit.items() if not is_compiled]
    if len(without) == len(jit):
        return "no" if jit else None
    return f"yes, but not for {', '.join(without)}" if without else "yes"


def _diverged(runs: list[dict[str, Any]]) -> dict[str, str]:
    """Return for each arm its seeds that diverged, in words."""
    seeds: dict[str, list[str]] = {}
    for run in runs:
        seeds.setdefault(run["arm"], []).append(f"seed {run['seed']} in epoch {run['epoch']}")
    return {arm: ", ".join(words) for arm, words in seeds.items()}


def _architectures(arms: dict[str, dict[str, Any]]) -> list[tuple[list[str], str]]:
    """Return pairs of the arms that share an architecture, names and initializers aside, and its JSON."""
    shared: dict[str, tuple[list[str], str]] = {}
    for name, arm in arms.items():
        if (architecture := arm.get("architecture")) is not None:
            key = json.dumps(_bare(architecture, {}), sort_keys=True)
            shared.setdefault(key, ([], json.dumps(architecture, indent=1)))[0].append(name)
    if len(arms) > ARMS_LIMIT or sum(len(text) for _, text in shared.values()) > CHARACTERS_LIMIT:
        return []
    return list(shared.values())


def _bare(value: Any, names: dict[str, str]) -> Any:
    """Return an architecture without initial values, its names replaced by their place in `names`."""
    if isinstance(value, list):
        return [_bare(item, names) for item in value]
    if not isinstance(value, dict):
        return names.get(value, value) if isinstance(value, str) else value
    # A precision is an object with a name and nothing else; its name tells it from others.
    if isinstance(value.get("name"), str) and len(value) > 1:
        names.setdefault(value["name"], f"name {len(names)}")
    return {
        key: _bare(item, names)
        for key, item in value.items()
        if key not in ("seed", "compile_config") and not key.endswith("initializer")
    }
