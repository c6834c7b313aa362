"""A finished run as one HTML page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

import base64
import importlib.resources
import itertools
import json
import math

import jinja2

LONG_TABLE = 12  # Rows; a longer one is folded away.
# Above one of these the architectures are left to results.json: a page must stay quick to open.
MOST_ARMS, MOST_CHARACTERS = 6, 60_000
NUMBERS = "Difference", "95 % interval", "p", "P(improvement)", "Seeds better"
DASH = "–"


def render(content, verdict, table, figures):
    """One HTML page of a comparison: question, verdict, figures, results, settings.

    What is None or missing shows as a dash. All text is escaped: a name is never markup.

    Args:
        content: dict, what results.json holds; records and observations are not shown.
        verdict: dict of "sentences", a list of str; "rows", a list of dicts of names (of first and
            other; optional), quantity, first and other (the means), difference (first minus other), low
            and high (its 95 % interval), p, probability (of improvement), wins, pairs, decides (a bool);
            "note", a str on reading them.
        table: list of lists of str, the test results by arm; the first is the header.
        figures: list of pairs of caption and PNG as bytes.

    Returns:
        str, the page. Write it as UTF-8.

    >>> page = render({}, {"sentences": ["No evidence of a difference."]}, [], [])
    >>> page.startswith("<!DOCTYPE html>"), "<p>No evidence of a difference.</p>" in page
    (True, True)
    """
    settings = content.get("settings") or {}
    arms = settings.get("arms") or {}
    page = _template().render(
        content=content,
        verdict=verdict,
        comparisons=_comparisons(verdict.get("rows") or []),
        table=table,
        figures=[(caption, base64.b64encode(png).decode()) for caption, png in figures],
        arms=_arms(settings, content.get("vary")),
        optimizer=_call(settings["optimizer"]) if settings.get("optimizer") else None,
        seeds=_seeds(settings.get("seeds") or []),
        xla=_xla(content.get("jit") or {}),
        versions=", ".join(map(" ".join, (content.get("versions") or {}).items())) or None,
        architectures=_architectures(arms),
        diverged=_diverged(content.get("diverged") or []),
        long_table=LONG_TABLE,
    )
    # A command can hold a file name's bytes that are no text.
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def _template():
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.ChainableUndefined,
        finalize=lambda value: DASH if value is None or isinstance(value, jinja2.Undefined) else value,
    )
    environment.filters["grouped"] = _grouped
    text = (
        importlib.resources.files("tfbn.comparison").joinpath("report.html.j2").read_text(encoding="utf-8")
    )
    return environment.from_string(text)


def _grouped(value):
    """A number as a person writes it; anything else as it is.

    >>> _grouped(55000), _grouped(0.1 + 0.2), _grouped("tanh")
    ('55,000', '0.3', 'tanh')
    """
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value


def _comparisons(rows):
    """For each pair that is compared a label, the table of its rows, and those that decide."""
    comparisons = []
    for names, group in itertools.groupby(rows, key=lambda row: row.get("names") or ("First", "Other")):
        group = list(group)
        table = [["Quantity", *names, *NUMBERS], *map(_numbers, group)]
        deciding = [_numbers(row) for row in group if row["decides"]]
        comparisons.append((" and ".join(names), table, deciding))
    return comparisons


def _numbers(row):
    """The cells of one of the verdict's rows."""
    values = [row["difference"], row["low"], row["high"]]
    # In line: four digits of the largest but four decimals at most, as long as these leave two digits.
    size = math.floor(math.log10(max((abs(x) for x in values if _shown(x) != DASH), default=0) or 0.1))
    decimals = 1 if row["quantity"].startswith("epochs") else max(0, min(3 - size, max(4, 1 - size)))
    difference, low, high = (_shown(value, f"+,.{decimals}f") for value in values)
    p, wins = _shown(row["p"], ".3f"), _shown(row["wins"], "g")
    return [
        row["quantity"],
        *(_shown(row[key], f",.{decimals}f") for key in ("first", "other")),
        difference,
        DASH if low == high == DASH else f"{low} to {high}",
        "< 0.001" if p != DASH and row["p"] < 0.001 else p,
        _shown(row["probability"], ".2f"),
        DASH if wins == DASH else f"{wins} of {row['pairs']}",
    ]


def _shown(value, form="g"):
    """A number as text, a dash for one that is missing; a text as it is.

    >>> _shown(0.25, ".3f"), _shown(None), _shown(float("nan")), _shown("plain", ".3f")
    ('0.250', '–', '–', 'plain')
    """
    if isinstance(value, str):
        return value
    return DASH if value is None or not math.isfinite(value) else format(value, form)


def _arms(settings, vary):
    """A table of the arms, the header first; with columns for what they differ in."""
    arms = settings.get("arms") or {}
    columns = {"series": "Series", "value": vary["label"]} if vary else {}
    shared = ((settings.get("optimizer") or {}).get("config") or {}).get("learning_rate")
    if any(arm.get("learning_rate") not in (None, shared, arm.get("value")) for arm in arms.values()):
        columns["learning_rate"] = "Learning rate"
    columns["parameters"] = "Parameters"
    rows = [["Arm", *columns.values(), "Saved model"]]
    for name, arm in arms.items():
        model = arm.get("model")
        saved = f"seed {model['seed']}, epoch {model['epoch']}" if model else None
        rows.append([name, *(_grouped(arm.get(key)) for key in columns), saved])
    return rows


def _call(value):
    """An object as Keras serializes it, as one would write it in Python; what is None is left out.

    >>> _call({"class_name": "SGD", "config": {"name": "sgd", "learning_rate": 0.1, "clipnorm": None}})
    'SGD(learning_rate=0.1)'
    """
    if not isinstance(value, dict) or "class_name" not in value:
        return repr(value)
    config = {key: item for key, item in value["config"].items() if key != "name" and item is not None}
    return f"{value['class_name']}({', '.join(f'{key}={_call(item)}' for key, item in config.items())})"


def _seeds(seeds):
    """The seeds in words.

    >>> _seeds([0]), _seeds([0, 1, 2]), _seeds(list(range(5, 25)))
    ('1 (seed 0)', '0, 1, 2', '5 to 24')
    """
    if len(seeds) == 1:
        return f"1 (seed {seeds[0]})"
    if len(seeds) > 3 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds)) or None


def _xla(jit):
    without = [arm for arm, compiled in jit.items() if not compiled]
    if not jit:
        return None
    if not without:
        return "yes"
    return "no" if len(without) == len(jit) else f"yes, but not for {', '.join(without)}"


def _diverged(items):
    """Arms to what is said of their seeds that diverged."""
    said = {}
    for item in items:
        said.setdefault(item["arm"], []).append(f"seed {item['seed']} in epoch {item['epoch']}")
    return {arm: ", ".join(seeds) for arm, seeds in said.items()}


def _architectures(arms):
    """Pairs of the arms that share an architecture, names and initializers aside, and it as JSON."""
    shared = {}
    for name, arm in arms.items():
        architecture = arm.get("architecture")
        if architecture is not None:
            key = json.dumps(_bare(architecture, {}), sort_keys=True)
            shared.setdefault(key, ([], json.dumps(architecture, indent=1)))[0].append(name)
    if len(arms) > MOST_ARMS or sum(len(text) for _, text in shared.values()) > MOST_CHARACTERS:
        return []
    return list(shared.values())


def _bare(value, names):
    """An architecture without names, initializers, seeds and what it was compiled with.

    Args:
        names: dict of the names found so far to their place: layers refer to one another by name.
    """
    if isinstance(value, list):
        return [_bare(item, names) for item in value]
    if not isinstance(value, dict):
        return names.get(value, value) if isinstance(value, str) else value
    # A precision is an object with a name and nothing else, and no name to leave out.
    if isinstance(value.get("name"), str) and len(value) > 1:
        names.setdefault(value["name"], f"name {len(names)}")
    return {
        key: _bare(item, names)
        for key, item in value.items()
        if key not in ("seed", "compile_config") and not key.endswith("initializer")
    }
