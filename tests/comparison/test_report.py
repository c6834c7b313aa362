"""The page of a run: read by the standard library's parser and, where there is one, by a browser."""

import base64
import copy
import dataclasses
import html.parser
import json
import os
import re
import shutil
import struct
import subprocess
import zlib

import keras
import matplotlib.image
import pytest

import tfbn
from tfbn.comparison import report
from tfbn.verdict.judge import Verdict
from tfbn.verdict.statistics import Difference, compare_pairs

HOSTILE = "<script>alert(1)</script>"
QUOTED = "\"'><img src=x onerror=alert(1)>"
SECTIONS = [
    *("Verdict", "Evidence", "Figures", "Results by arm", "Settings", "Where it ran"),
    *("Completion", "Reproduce"),
]
VOID = {"meta", "link", "img", "br"}
# What HTML lets end a paragraph unasked, which a sound page does not do.
BLOCKS = {"p", "div", "section", "table", "dl", "pre", "figure", "details", "h1", "h2"}
ADDRESSES = {"src", "href", "srcset", "poster", "data", "action", "background", "xlink:href"}
BROWSERS = [
    *("chromium", "chromium-browser", "google-chrome", "chrome", "headless_shell"),
    "chromium-headless-shell",
]
BROWSER = os.environ.get("TFBN_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)


def png(width, height):
    """A black PNG."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(height * (1 + width)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


FIGURES = [("Loss over the epochs", png(1200, 840)), (f"Sizes of {QUOTED}", png(300, 200))]


def arm(units=8, **more):
    architecture = {"class_name": "Dense", "config": {"units": units, "name": "dense"}}
    return {
        "parameters": 26762,
        "architecture": architecture,
        "model": {"seed": 2, "epoch": 7},
        "series": "plain",
        "value": None,
        **more,
    }


CONTENT = {
    "versions": {"python": "3.11.7", "tensorflow": "2.21.0"},
    "device": "cpu:0 (2 cores)",
    "jit": {"batchnorm": True, "plain": True},
    "command": "tfbn compare --seeds 3",
    "dataset": {
        "name": "mnist",
        "title": "MNIST",
        "source": "TFDS mnist/3.0.1",
        **{"train": 55000, "validation": 5000, "test": 10000, "classes": 10},
        "sha256": "f7c00d1302d498e6a392d1ec72964327",
    },
    "settings": {
        "epochs": 7,
        "batch_size": 32,
        "seeds": [0, 1, 2],
        "optimizer": {
            "class_name": "Adam",
            "config": {"name": "adam_1", "learning_rate": 0.01, "clipnorm": None, "amsgrad": False},
        },
        "precision": "float32",
        "arms": {"batchnorm": arm(), "plain": arm(9)},
    },
    "diverged": [],
    "interrupted": False,
    "recipe": None,
    "vary": None,
    "records": [],
    "test": [],
    "observations": {"secret": list(range(1000))},
}
ACCURACY = Difference(
    **{"first_mean": 0.9701, "other_mean": 0.95592, "mean": 0.01418, "interval": (0.0061, 0.0223)},
    **{"p": 0.03125, "probability": 0.992, "pairs": 6, "wins": 6, "losses": 0, "ties": 0},
    outcome="better",
)
LOSS = Difference(
    **{"first_mean": 1.5, "other_mean": 12.25, "mean": -10.75, "interval": (-13, -9.5)},
    **{"p": 0.0002, "probability": 0.5, "pairs": 6, "wins": 5, "losses": 1, "ties": 0},
    outcome="better",
)
NOTHING = compare_pairs({}, {})


class Spoken(Verdict):
    """A verdict whose sentences are given."""

    def sentences(self):
        return list(self.runs)


def verdict(quantities, sentences=("It helps.", "Six seeds agree."), notes=("By seed.",), first="First"):
    """The verdict of these differences, a dict by quantity for each other series."""
    notes = {other: list(notes) if index == 0 else [] for index, other in enumerate(quantities)}
    return Spoken(first, quantities, dict.fromkeys(sentences), 0.05, notes)


def many(count, first=ACCURACY):
    """So many quantities, `first` first."""
    return {"test accuracy": first, **{f"loss {place}": LOSS for place in range(1, count)}}


VERDICT = verdict({"Other": {"test accuracy": ACCURACY, "test loss": LOSS, "epochs": NOTHING}})
TABLE = [["arm", "test accuracy"], ["batchnorm", "0.9701"], ["plain", None]]
RECIPE = {
    "name": "depth",
    "question": "Does it help deep networks?",
    "source": "S. Ioffe, https://arxiv.org/abs/1502.03167.",
    "expected": "The deeper, the more.",
    "cost": "two minutes",
}


def changed(**changes):
    """CONTENT with other values, "settings.epochs" as settings__epochs."""
    content = copy.deepcopy(CONTENT)
    for path, value in changes.items():
        *outer, last = path.split("__")
        place = content
        for name in outer:
            place = place[name]
        place[last] = value
    return content


def sweep(count=40):
    names = [f"plain_{i}" for i in range(count)]
    return changed(
        settings__arms={name: arm(value=0.1 * i) for i, name in enumerate(names)},
        jit=dict.fromkeys(names, True),
        vary={"name": "rate", "label": "Learning rate", "log": True},
    )


class Page(html.parser.HTMLParser):
    """A page as a list of elements, each with what is around it; raises where tags do not nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.declaration = [], [], None
        self.feed(text)
        self.close()
        assert not self.open

    def handle_decl(self, text):
        self.declaration = text

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), f"an attribute of <{tag}> twice"
        assert tag not in BLOCKS or "p" not in [element["tag"] for element in self.open]
        element = {
            "tag": tag,
            "in": [around["tag"] for around in self.open],
            "text": "",
            **dict(attributes),
        }
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, text):
        for element in self.open:
            element["text"] += text

    def all(self, tag):
        return [element for element in self.elements if element["tag"] == tag]

    def texts(self, tag):
        return [" ".join(element["text"].split()) for element in self.all(tag)]

    def tables(self):
        """The cells of each table, row by row."""
        tables = []
        for element in self.elements:
            if element["tag"] == "table":
                tables.append([])
            elif element["tag"] == "tr":
                tables[-1].append([])
            elif element["tag"] in ("th", "td"):
                tables[-1][-1].append(element["text"])
        return tables

    def facts(self):
        """The descriptions by their terms; of several, the last."""
        facts = {}
        for element in self.elements:
            if element["tag"] == "dt":
                term = element["text"]
            elif element["tag"] == "dd":
                facts[term] = " ".join(element["text"].split())
        return facts


def read(content=CONTENT, verdict=VERDICT, table=TABLE, figures=FIGURES):
    return Page(report.render(content, verdict, table, figures))


def hostile():
    """A page on which every string that a user or a recipe can set is markup."""
    quoted = dataclasses.replace(ACCURACY, first_mean=QUOTED)
    names = {HOSTILE: arm(), QUOTED: arm(architecture={"name": f"</pre>{HOSTILE}"}), "x" * 100: arm()}
    return report.render(
        changed(
            **{f"dataset__{key}": f"{key}{HOSTILE}" for key in ("name", "title", "source")},
            settings__arms=names,
            settings__optimizer={"class_name": HOSTILE, "config": {QUOTED: QUOTED}},
            jit={HOSTILE: True, QUOTED: False},
            command=f"tfbn </pre>{HOSTILE} --out {'x' * 300}",
            device=HOSTILE,
            versions={HOSTILE: QUOTED},
            diverged=[{"arm": name, "seed": 0, "epoch": 1} for name in names],
            recipe={
                **dict.fromkeys(("name", "question", "expected", "cost"), f"{HOSTILE}{QUOTED}"),
                "source": f'{HOSTILE} javascript:alert(1) https://a.org/"onclick="alert(1)',
            },
        ),
        verdict({QUOTED: {HOSTILE: quoted}}, [HOSTILE], [HOSTILE], HOSTILE),
        [["arm", QUOTED], [HOSTILE, QUOTED], ["x" * 100, None]],
        [(f"{HOSTILE}{QUOTED}", png(30, 20))],
    )


PAGES = {
    "side by side": lambda: report.render(CONTENT, VERDICT, TABLE, FIGURES),
    "recipe": lambda: report.render(changed(recipe=RECIPE), VERDICT, TABLE, FIGURES),
    "sweep": lambda: report.render(
        sweep(), verdict({"Other": many(21)}), [["arm"], *[["x"]] * 40], FIGURES
    ),
    "hostile": hostile,
    "empty": lambda: report.render({}, verdict({}, ()), [], []),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_and_stands_alone(name):
    page = Page(PAGES[name]())
    assert page.declaration == "DOCTYPE html"
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("title")) == len(page.all("h1")) == len(page.all("main")) == 1
    assert {element["tag"] for element in page.elements} <= {
        *("html", "head", "meta", "title", "link", "style", "body", "header", "main", "section", "div"),
        *("h1", "h2", "p", "strong", "a", "code", "pre", "figure", "img", "figcaption", "dl", "dt", "dd"),
        *("details", "summary", "table", "thead", "tbody", "tr", "th", "td"),
    }
    for element in page.elements:
        assert not any(key.startswith("on") for key in element), element
        for address in ADDRESSES & element.keys():
            assert element[address].startswith("data:") or element["tag"] == "a"
        assert element["tag"] != "a" or element["href"].startswith("https://")
        if element["tag"] == "summary":
            assert element["in"][-1] == "details"
        if element["tag"] == "th":
            assert element["scope"] == ("col" if "thead" in element["in"] else "row")
    styles = "".join(page.texts("style"))
    assert "@import" not in styles and "url(" not in styles
    assert [element["alt"] for element in page.all("img")] == page.texts("figcaption")
    assert all(len(row) == len(table[0]) for table in page.tables() for row in table)


def test_the_content_policy_forbids_to_load_anything():
    (policy,) = (element for element in read().all("meta") if "http-equiv" in element)
    rules = dict(rule.split(maxsplit=1) for rule in policy["content"].split(";"))
    assert rules.pop("style-src") == "'unsafe-inline'" and rules.pop("img-src") == "data:"
    assert rules == {"default-src": "'none'"}


@pytest.mark.parametrize("name", PAGES)
def test_sections_come_in_order(name):
    page = Page(PAGES[name]())
    assert page.texts("h2") == SECTIONS
    headings = [element["tag"] for element in page.elements if re.fullmatch(r"h\d", element["tag"])]
    assert headings == ["h1", *["h2"] * len(SECTIONS)]


def test_a_page_begins_with_question_and_verdict():
    page = read()
    assert page.texts("h1") == ["Does batch normalization help this network?"]
    assert page.texts("title") == ["Does batch normalization help this network? MNIST"]
    paragraphs = page.texts("p")
    assert paragraphs[:3] == ["MNIST: 2 networks, 3 seeds, 7 epochs.", "It helps.", "Six seeds agree."]
    assert "By seed." in paragraphs


def test_a_recipes_page_shows_question_source_and_expectation():
    page = read(changed(recipe=RECIPE))
    assert page.texts("h1") == ["Does it help deep networks?"]
    assert "Recipe depth. Source: S. Ioffe, https://arxiv.org/abs/1502.03167." in page.texts("p")
    assert [link["href"] for link in page.all("a")] == ["https://arxiv.org/abs/1502.03167"]
    assert "Expected: The deeper, the more." in page.texts("p")
    assert page.facts()["Cost"] == "two minutes"
    bare = read(changed(recipe=dict.fromkeys(RECIPE) | {"name": "depth"}))
    assert "Recipe depth." in bare.texts("p") and not [p for p in bare.texts("p") if "Expected" in p]


def test_the_verdict_has_a_row_a_quantity():
    assert read().tables()[0] == [
        [
            *("Quantity", "First", "Other", "Difference", "95 % interval", "p", "P(improvement)"),
            "Seeds better",
        ],
        [
            *("test accuracy", "0.9701", "0.9559", "+0.0142", "+0.0061 to +0.0223", "0.031", "0.99"),
            "6 of 6",
        ],
        ["test loss", "1.50", "12.25", "-10.75", "-13.00 to -9.50", "< 0.001", "0.50", "5 of 6"],
        ["epochs", "–", "–", "–", "–", "–", "–", "–"],
    ]


@pytest.mark.parametrize(
    ("change", "column", "shown"),
    [
        ({"first_mean": "batchnorm"}, 1, "batchnorm"),
        ({"interval": (None, 0.0223)}, 4, "– to +0.0223"),
        ({"interval": (0.0061, float("inf"))}, 4, "+0.0061 to –"),
        ({"interval": None}, 4, "–"),
        ({"p": float("nan")}, 5, "–"),
        ({"p": 0.0}, 5, "< 0.001"),
        ({"p": 0.001}, 5, "0.001"),
        ({"p": 1.0}, 5, "1.000"),
        ({"wins": 0}, 7, "0 of 6"),
        ({"mean": 0, "interval": (0, 0)}, 3, "+0.0000"),
        ({"mean": 0.20519, "interval": (0.1, 0.3)}, 3, "+0.2052"),
        ({"mean": 2, "quantity": "epochs to 0.95", "interval": (0.667, 3)}, 4, "+0.7 to +3.0"),
        ({"mean": 1234.5, "interval": (-20000, 0.0223)}, 4, "-20,000 to +0"),
        ({"mean": 0.0012, "interval": (0.0, 0.002)}, 4, "+0.0000 to +0.0020"),
        ({"mean": 3e-5, "interval": (1e-5, 4e-5)}, 4, "+0.000010 to +0.000040"),
        ({"pairs": 1, "wins": 1}, 5, "–"),
        ({"pairs": 1, "wins": 1}, 6, "–"),
        ({"pairs": 1, "wins": 1}, 7, "1 of 1"),
    ],
)
def test_a_number_is_shown_in_line(change, column, shown):
    quantity = change.get("quantity", "test accuracy")
    change = {name: value for name, value in change.items() if name != "quantity"}
    shown_verdict = verdict({"Other": {quantity: dataclasses.replace(ACCURACY, **change)}})
    assert read(verdict=shown_verdict).tables()[0][1][column] == shown


def test_the_row_that_decides_is_bold_and_never_folded_away():
    def strong(page):
        return [(row["text"], "details" in row["in"]) for row in page.all("tr") if row.get("class")]

    ((text, folded),) = strong(read())
    assert text.startswith("test accuracy") and not folded
    page = read(verdict=verdict({"Other": many(13)}))
    assert [folded for _, folded in strong(page)] == [False, True]
    assert len(page.tables()[0]) == 2 and len(page.tables()[1]) == 14
    # Of each pair of series the row that decides, and it alone.
    page = read(verdict=verdict({"Other": many(13, LOSS), "third": many(12)}))
    assert [folded for _, folded in strong(page)] == [False, True, False]


def test_each_pair_of_series_has_a_table():
    quantities = {"test accuracy": ACCURACY, "test loss": LOSS}
    pairs = verdict({"plain": quantities, "wide": quantities}, first="batchnorm")
    tables = read(verdict=pairs).tables()[:2]
    assert [table[0][:4] for table in tables] == [
        ["Quantity", "batchnorm", "plain", "Difference"],
        ["Quantity", "batchnorm", "wide", "Difference"],
    ]
    assert [row[0] for table in tables for row in table[1:]] == ["test accuracy", "test loss"] * 2


def test_the_page_holds_every_figure():
    page = read()
    assert [image["alt"] for image in page.all("img")] == [caption for caption, _ in FIGURES]
    for image, (_, data) in zip(page.all("img"), FIGURES, strict=True):
        assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == data


def test_the_page_shows_results_and_settings():
    page = read()
    assert page.tables()[1] == [["arm", "test accuracy"], ["batchnorm", "0.9701"], ["plain", "–"]]
    assert page.facts() == {
        "Data set": "MNIST (mnist)",
        "Source": "TFDS mnist/3.0.1",
        "Examples": "55,000 to train, 5,000 to validate, 10,000 to test",
        "Classes": "10",
        "SHA-256": "f7c00d1302d498e6…",
        "Epochs": "7",
        "Batch size": "32",
        "Seeds": "0, 1, 2",
        "Optimizer": "Adam(learning_rate=0.01, amsgrad=False)",
        "Precision": "float32",
        "Device": "cpu:0 (2 cores)",
        "XLA": "yes",
        "Versions": "python 3.11.7, tensorflow 2.21.0",
        "Diverged": "none",
        "Interrupted": "no",
    }
    assert page.tables()[2] == [
        ["Arm", "Parameters", "Saved model"],
        ["batchnorm", "26,762", "seed 2, epoch 7"],
        ["plain", "26,762", "seed 2, epoch 7"],
    ]
    assert page.texts("pre")[-1] == "tfbn compare --seeds 3"
    assert "secret" not in report.render(CONTENT, VERDICT, TABLE, FIGURES)


@pytest.mark.parametrize(
    ("change", "name", "shown"),
    [
        ({"jit": {"batchnorm": False, "plain": False}}, "XLA", "no"),
        ({"jit": {"a": False, "b": True, "c": False}}, "XLA", "yes, but not for a, c"),
        ({"settings__seeds": [0]}, "Seeds", "1 (seed 0)"),
        ({"settings__seeds": [4, 5, 6, 7]}, "Seeds", "4 to 7"),
        ({"settings__seeds": [4, 6, 5, 7]}, "Seeds", "4, 6, 5, 7"),
        ({"interrupted": True}, "Interrupted", "yes: it holds the epochs that had finished"),
        (
            {"diverged": [{"arm": "plain", "seed": seed, "epoch": 3} for seed in (1, 2)]},
            "Diverged",
            "plain: seed 1 in epoch 3, seed 2 in epoch 3",
        ),
        ({"dataset__sha256": None}, "SHA-256", "–"),
        ({"dataset__classes": None}, "Classes", "–"),
        ({"dataset__classes": 0}, "Classes", "none, a regression"),
        ({"settings__steps_per_epoch": 1000}, "Epochs", "7, of 1,000 steps each"),
        ({"settings__loss": "mse"}, "Loss", "mse"),
        ({"device": None}, "Device", "–"),
        ({"versions": {}}, "Versions", "–"),
        ({"settings__optimizer": None}, "Optimizer", "–"),
    ],
)
def test_a_setting_is_shown_in_words(change, name, shown):
    assert read(changed(**change)).facts()[name] == shown


def test_an_optimizer_shows_its_schedule():
    schedule = keras.optimizers.schedules.CosineDecay(0.1, decay_steps=100)
    optimizer = keras.optimizers.SGD(schedule)
    config = json.loads(json.dumps(keras.optimizers.serialize(optimizer)))
    shown = read(changed(settings__optimizer=config)).facts()["Optimizer"]
    assert shown.startswith("SGD(learning_rate=CosineDecay(initial_learning_rate=0.1, decay_steps=100")


def test_a_learning_rate_of_an_arm_gets_a_column():
    arms = {"fast": arm(learning_rate=0.5), "plain": arm(learning_rate=None)}
    table = read(changed(settings__arms=arms)).tables()[2]
    assert [row[1] for row in table] == ["Learning rate", "0.5", "–"]
    # Not where it says no more than the optimizer, or than what is varied.
    arms = {"fast": arm(learning_rate=0.01), "plain": arm(learning_rate=0.1, value=0.1)}
    assert "Learning rate" not in read(changed(settings__arms=arms)).tables()[2][0]


def test_a_missing_command_and_one_in_bytes_are_shown(tmp_path):
    assert "The comparison was run from Python; no command was noted." in read(changed(command=None)).texts(
        "p"
    )
    page = report.render(changed(command="tfbn --out a\udcff"), VERDICT, TABLE, FIGURES)
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    assert Page(page).texts("pre")[-1] == "tfbn --out a\\udcff"


def test_names_are_never_markup():
    page = Page(hostile())
    assert page.texts("h1") == [f"{HOSTILE}{QUOTED}"]
    assert page.tables()[1] == [["arm", QUOTED], [HOSTILE, QUOTED], ["x" * 100, "–"]]
    assert [link["href"] for link in page.all("a")] == ['https://a.org/"onclick="alert(1)']
    facts = page.facts()
    assert facts["Data set"] == f"title{HOSTILE} (name{HOSTILE})"
    assert facts["Device"] == HOSTILE and facts["Versions"] == f"{HOSTILE} {QUOTED}"
    assert page.texts("pre")[-1] == f"tfbn </pre>{HOSTILE} --out {'x' * 300}"
    assert not page.all("script")


def test_a_sweep_folds_long_tables():
    page = read(sweep(), table=[["arm"], *[[f"plain_{i}"] for i in range(40)]])
    results, arms = page.tables()[1:]
    assert len(results) == len(arms) == 41
    assert arms[0] == ["Arm", "Series", "Learning rate", "Parameters", "Saved model"]
    assert arms[4] == ["plain_3", "plain", "0.3", "26,762", "seed 2, epoch 7"]
    assert page.texts("summary") == ["Test results: 40 rows", "Arms: 40 rows"]
    assert "units" not in report.render(sweep(), VERDICT, TABLE, [])
    assert page.texts("p")[0] == "MNIST: 40 networks, 3 seeds, 7 epochs."
    few = read(sweep(6), table=[["arm"], *[["x"]] * 12])
    assert few.texts("summary") == ["Architecture of " + ", ".join(f"plain_{i}" for i in range(6))]


def functional(units=4, seed=0, name="a", activation="relu", optimizer="sgd", kernels="zeros"):
    """A network whose layers are named after `name`."""
    x = start = keras.Input([3], name=f"{name}_in")
    for place in range(2):
        x = keras.layers.Dense(units, activation, kernel_initializer=kernels, name=f"{name}_{place}")(x)
    model = keras.Model(start, keras.layers.Dropout(0.1, seed=seed)(x), name=name)
    model.compile(optimizer, "mse")
    return json.loads(model.to_json())


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"name": "b"}, True),
        ({"name": "b", "seed": 7}, True),
        ({"kernels": "he_normal"}, True),
        ({"optimizer": "adam"}, True),
        ({"units": 5}, False),
        ({"activation": "tanh"}, False),
    ],
)
def test_an_architecture_that_arms_share_is_shown_once(change, same):
    first = functional()
    arms = {"one": arm(architecture=first), "two": arm(architecture=functional(**change))}
    page = read(changed(settings__arms=arms))
    shown = ["Architecture of one, two"] if same else ["Architecture of one", "Architecture of two"]
    assert page.texts("summary") == shown
    assert json.loads(page.texts("pre")[0]) == first


def test_architectures_of_different_precision_are_shown_apart():
    def network(policy):
        return json.loads(
            keras.Sequential([keras.Input([3]), keras.layers.Dense(4, dtype=policy)]).to_json()
        )

    policies = ("mixed_float16", "mixed_bfloat16", "mixed_bfloat16")
    arms = {str(place): arm(architecture=network(policy)) for place, policy in enumerate(policies)}
    assert read(changed(settings__arms=arms)).texts("summary") == [
        f"Architecture of {x}" for x in ("0", "1, 2")
    ]


def test_the_page_stays_below_100_kb():
    """Whatever the networks: figures, and less than 100 kB."""
    large = {"class_name": "Large", "config": {"sizes": list(range(20_000))}}
    arms = {"batchnorm": arm(architecture=functional()), "plain": arm(architecture=large)}
    for content in (CONTENT, changed(settings__arms=arms)):
        assert len(report.render(content, VERDICT, TABLE, []).encode()) < 100_000
    assert not read(changed(settings__arms=arms)).texts("summary")
    # A network of a usual size is shown in full.
    deep = keras.Sequential([keras.Input([8]), *[keras.layers.Dense(8, "relu") for _ in range(10)]])
    arms = {"deep": arm(architecture=json.loads(deep.to_json())), "plain": arm()}
    page = report.render(changed(settings__arms=arms), VERDICT, TABLE, [])
    assert len(page.encode()) < 100_000
    assert Page(page).texts("summary") == ["Architecture of deep", "Architecture of plain"]


def test_a_trained_comparison_fills_the_page(blobs):
    arms = {
        "batchnorm": lambda: tfbn.Model(8, 3, use_batchnorm=True),
        "plain": lambda: tfbn.Model(8, 3, use_batchnorm=False),
    }
    result = tfbn.compare(arms, blobs, epochs=1, seeds=1, jit=False, command="tfbn compare")
    page = read(json.loads(result.to_json()), result.judge())
    assert page.texts("p")[0] == "blobs: 2 networks, 1 seed, 1 epoch."
    assert "–" not in page.facts().values()
    assert page.facts()["Optimizer"].startswith("Adam(learning_rate=")
    assert page.facts()["Examples"] == "203 to train, 40 to validate, 50 to test"
    parameters = [f"{model.count_params():,}" for model in result.models.values()]
    assert [row[1] for row in page.tables()[2][1:]] == parameters
    assert json.loads(page.texts("pre")[1])["config"]["use_batchnorm"] is False


# Opens pages in frames, so that no browser's smallest window matters, and writes down what it made of them.
LOOK = """<!DOCTYPE html><meta name="color-scheme" content="light dark"><pre id="found"></pre><script>
const frames = PAGES.flatMap(page => [1200, 400].map(width => {
  const frame = document.createElement("iframe");
  frame.width = width; frame.height = 800;
  frame.srcdoc = new TextDecoder().decode(Uint8Array.from(atob(page), c => c.charCodeAt(0)));
  document.body.append(frame);
  return frame;
}));
const light = color => {  // relative luminance, WCAG 2
  const [r, g, b] = color.match(/[\\d.]+/g).map(x => x / 255)
    .map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (element, style) => {
  for (; element; element = element.parentElement)
    if (style(element).backgroundColor != "rgba(0, 0, 0, 0)") return style(element).backgroundColor;
};
addEventListener("load", () => {
  found.textContent = JSON.stringify(frames.map(frame => {
    const view = frame.contentWindow, page = frame.contentDocument, root = page.documentElement;
    const style = element => view.getComputedStyle(element), right = root.clientWidth;
    const elements = [...page.body.querySelectorAll("*")];
    for (const element of elements) if (element.tagName == "DETAILS") element.open = true;
    return {
      title: page.title,
      text: page.body.innerText,
      outside: root.scrollWidth - right,
      elements: elements.filter(element => !element.closest(".wide"))
        .filter(element => element.getBoundingClientRect().right > right).map(element => element.tagName),
      columns: [...page.querySelectorAll("dl")].map(list => new Set(
        [...list.querySelectorAll("dd")].map(item => item.getBoundingClientRect().left)).size),
      tables: [...page.querySelectorAll(".wide")].map(table => table.scrollWidth - table.clientWidth),
      images: [...page.images].map(image => image.complete ? image.naturalWidth : 0),
      resources: view.performance.getEntriesByType("resource").map(entry => entry.name)
        .filter(name => !name.startsWith("data:")),
      scripts: page.scripts.length,
      ground: light(style(page.body).backgroundColor),
      contrast: Math.min(...elements.filter(element => element.innerText)
        .map(element => [light(style(element).color), light(ground(element, style))])
        .map(([a, b]) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05))),
    };
  }));
});
</script>"""
DARK, LIGHT = (f"--blink-settings=preferredColorScheme={scheme}" for scheme in (0, 1))


def browse(folder, page, *options):
    """Open a page in the browser, which finds no host: what it printed, and what its console said."""
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    result = subprocess.run(
        [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *("--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr"),
            *(f"--user-data-dir={folder / 'profile'}", *options, path.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout, [line for line in result.stderr.splitlines() if "CONSOLE" in line]


def look(folder, pages, *options):
    """For each page what the browser makes of it 1200 and 400 pixels wide; and what its console said."""
    encoded = [base64.b64encode(page.encode()).decode() for page in pages]
    dom, console = browse(folder, LOOK.replace("PAGES", json.dumps(encoded)), "--dump-dom", *options)
    frames = json.loads(Page(dom.split("<script>")[0] + "</body></html>").texts("pre")[0])
    return list(zip(frames[::2], frames[1::2], strict=True)), console


@pytest.fixture(scope="module")
def browser():
    if not BROWSER:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} on the path, and no $TFBN_BROWSER")


@pytest.fixture(scope="module", params=[DARK, LIGHT], ids=["dark", "light"])
def seen(request, browser, tmp_path_factory):
    """The scheme; all PAGES as `look` has them, by name; the console."""
    pages = [page() for page in PAGES.values()]
    frames, console = look(tmp_path_factory.mktemp("browser"), pages, request.param)
    return request.param, dict(zip(PAGES, frames, strict=True)), console


@pytest.mark.parametrize("name", PAGES)
def test_a_browser_shows_the_page_without_faults(seen, name):
    scheme, frames, console = seen
    assert console == []
    page = Page(PAGES[name]())
    for frame in frames[name]:
        assert frame["title"] == " ".join(page.texts("title"))
        assert frame["outside"] <= 0 and frame["elements"] == []
        assert len(frame["images"]) == len(page.all("img")) and all(frame["images"])
        assert set(frame["columns"]) == {1}
        assert frame["resources"] == [] and frame["scripts"] == 0
        assert frame["ground"] < 0.02 if scheme == DARK else frame["ground"] > 0.9
        assert frame["contrast"] >= 4.5  # WCAG 2, level AA
    assert not any(frames[name][1]["tables"])  # On a phone no table scrolls sideways.
    assert name != "hostile" or frame["text"].count(HOSTILE) > 10


@pytest.mark.parametrize("scheme", [DARK, LIGHT], ids=["dark", "light"])
def test_a_browsers_picture_has_the_scheme(browser, tmp_path, scheme):
    """By itself, not in a frame."""
    picture = tmp_path / "page.png"
    page = PAGES["hostile"]()
    _, console = browse(tmp_path, page, scheme, f"--screenshot={picture}", "--window-size=800,600")
    assert console == []
    pixels = matplotlib.image.imread(picture)[..., :3]
    assert pixels[0, 0].max() < 0.15 if scheme == DARK else pixels[0, 0].min() > 0.9
    assert pixels.std() > 0.05


def test_the_browser_tests_detect_planted_faults(browser, tmp_path):
    faults = [
        "<img src='https://example.com/a.png' alt=''>",
        "<div style='width: 500px'>wide</div>",
        "<script>1</script>",
        "<p style='color: #888'>faint</p>",
    ]
    page = PAGES["side by side"]()
    frames, console = look(tmp_path, [page.replace("</main>", f"{fault}</main>") for fault in faults])
    image, wide, script, faint = (narrow for _, narrow in frames)
    assert 0 in image["images"] and any("https://example.com/a.png" in line for line in console)
    assert wide["outside"] > 0 and wide["elements"] == ["DIV"]
    assert script["scripts"] == 1 and any("script-src" in line for line in console)
    assert faint["contrast"] < 4.5
