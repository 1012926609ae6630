"""Scales, claims, records and figures."""

from __future__ import annotations

import inspect
import json
import os
import stat
import subprocess
import sys
from dataclasses import asdict, fields

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from convbert import lab, results


@pytest.fixture
def content(tmp_path, monkeypatch):
    """Begin a record; return a function that reads its file again."""
    monkeypatch.setattr(lab, "_run", None)

    def begin(scale="cpu", **options):
        lab.begin("01_test", scale, tmp_path, **options)
        root = results.output_root(tmp_path, options.get("break_", ""))
        return lambda: json.loads(results.path(root, scale, "01_test").read_text("utf-8"))

    return begin


def line() -> Figure:
    figure = Figure(figsize=(3, 2))
    figure.subplots().plot([1, 2])
    return figure


# Scales


def test_every_scale_has_the_same_fields_and_its_own_name():
    assert list(lab.SCALES) == ["smoke", "cpu", "paper"]
    keys = [list(asdict(row)) for row in lab.SCALES.values()]
    assert keys[0] == keys[1] == keys[2]
    assert all(row.name == name for name, row in lab.SCALES.items())


def test_scales_grow_and_leave_room_for_a_statistical_claim():
    smoke, cpu, paper = lab.SCALES.values()
    for field in fields(lab.Scale):
        if field.type == "int":
            values = [getattr(row, field.name) for row in (smoke, cpu, paper)]
            assert values == sorted(values), field.name
    assert min(cpu.seeds, paper.seeds) >= lab.MIN_SEEDS


def test_scales_cannot_be_changed_by_a_notebook():
    with pytest.raises(AttributeError):
        lab.SCALES["smoke"].seeds = 7
    with pytest.raises(TypeError):
        lab.SCALES["mine"] = lab.SCALES["smoke"]


def test_every_field_of_a_scale_says_what_it_counts():
    lines = inspect.getsource(lab.Scale).splitlines()
    for field in fields(lab.Scale):
        (declared,) = [line for line in lines if line.strip().startswith(f"{field.name}:")]
        assert "  # " in declared, field.name


# Begin


def test_begin_returns_the_row_and_says_where_things_go(content, capsys, tmp_path):
    read = content("smoke")
    assert lab.begin("01_test", "smoke", tmp_path) is lab.SCALES["smoke"]
    shown = capsys.readouterr().out.splitlines()[0]
    assert "01_test at scale smoke" in shown
    assert str(tmp_path) in shown
    kept = read()
    assert kept["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert set(kept["versions"]) == {"python", "paddle", "numpy", "convbert"}
    assert kept["hardware"] and kept["cores"] >= 1
    assert kept["finished"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("01_test", "huge"), "SCALE='huge': choose one of smoke, cpu, paper"),
        (("../01", "smoke"), "notebook name '../01'"),
        (("01_test", "smoke", "out", "no_such"), "BREAK='no_such': 01_test knows none"),
        (("01_test", "smoke", "out", "no_such", ("a", "b")), "01_test knows a, b"),
    ],
)
def test_begin_refuses(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        lab.begin(*arguments)
    assert not list(tmp_path.iterdir()), "a refused call writes nothing"


def test_nothing_works_before_begin(monkeypatch):
    monkeypatch.setattr(lab, "_run", None)
    for call in (
        lambda: lab.record("a", 1),
        lambda: lab.claim("a", "b", True, kind="exact"),
        lambda: lab.figure(line(), "a", "1"),
    ):
        with pytest.raises(RuntimeError, match=r"call lab\.begin"):
            call()


def test_a_broken_run_does_not_touch_the_honest_results(content, tmp_path):
    honest = content()
    lab.record("kept", 1)
    before = honest()
    broken = content(break_="shuffled", breaks=("shuffled",))
    lab.figure(line(), "line", "Rises to 2.")
    assert honest() == before
    assert broken()["broken"] == "shuffled"
    assert not (tmp_path / "figures").exists()


def test_a_second_begin_starts_a_fresh_record(content):
    content()
    lab.record("old", 1)
    assert content()()["records"] == {}


# Records


def test_record_keeps_and_shows_a_value(content, capsys):
    read = content()
    lab.record("speed", np.float32(1.5), unit="tokens/s")
    lab.record("losses", np.array([1.0, 2.0, 3.0]), seeds=[0, 1, 2])
    assert read()["records"]["speed"] == {"value": 1.5, "unit": "tokens/s", "seeds": None}
    assert read()["records"]["losses"]["value"] == [1.0, 2.0, 3.0]
    shown = capsys.readouterr().out
    assert "speed = 1.5 tokens/s" in shown
    assert "losses = 2 ± 1" in shown


def test_the_last_record_and_claim_of_a_name_count(content):
    read = content()
    for value in (1, 2):
        lab.record("value", value)
        lab.claim("count", f"It is {value}.", True, kind="exact", observed=value)
    assert read()["records"]["value"]["value"] == 2
    assert read()["claims"]["count"]["text"] == "It is 2."
    assert len(read()["claims"]) == 1


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), np.array([1.0, np.nan]), {"a": [-np.inf]}]
)
def test_numbers_that_json_does_not_know_are_refused(content, value):
    read = content()
    with pytest.raises(ValueError, match="not a finite number"):
        lab.record("value", value)
    with pytest.raises(ValueError, match="not a finite number"):
        lab.claim("value", "It is.", True, kind="exact", observed=value)
    assert read()["records"] == read()["claims"] == {}


def test_objects_and_odd_names_and_wrong_seeds_are_refused(content):
    content()
    with pytest.raises(ValueError, match="cannot keep a object"):
        lab.record("value", object())
    with pytest.raises(ValueError, match="record name 'a b'"):
        lab.record("a b", 1)
    with pytest.raises(ValueError, match="2 values but 3 seeds"):
        lab.record("value", [1, 2], seeds=[0, 1, 2])
    with pytest.raises(ValueError, match="repeat"):
        lab.record("value", [1, 2], seeds=[0, 0])


def test_the_file_is_strict_json_with_usual_modes(content, tmp_path):
    content()
    lab.record("value", 1e300)
    path = results.path(tmp_path, "cpu", "01_test")

    def refuse(word):
        raise AssertionError(f"{word} in the results file")

    json.loads(path.read_text("utf-8"), parse_constant=refuse)
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    with pytest.raises(ValueError, match="not JSON compliant"):
        results.write_json(path, {"value": float("nan")})


def test_an_interrupted_write_leaves_the_old_file(content, tmp_path, monkeypatch):
    read = content()
    lab.record("value", 1)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        lab.record("value", 2)
    assert read()["records"]["value"]["value"] == 1
    assert [path.name for path in (tmp_path / "data/results/cpu").iterdir()] == ["01_test.json"]


# Claims


@pytest.mark.parametrize("scale", ["smoke", "cpu", "paper"])
def test_an_exact_claim_is_judged_at_every_scale(content, scale):
    read = content(scale)
    lab.claim("holds", "Equal.", np.bool_(True), kind="exact", observed=0.0, bound=1e-6)
    with pytest.raises(lab.ClaimFailed, match=r"claim fails_here fails: Equal\. .*observed 0\.5"):
        lab.claim("fails_here", "Equal.", False, kind="exact", observed=0.5, bound=1e-6)
    verdicts = {name: claim["verdict"] for name, claim in read()["claims"].items()}
    assert verdicts == {"holds": "holds", "fails_here": "fails"}


def test_a_failed_claim_names_observed_and_bound_and_is_an_assertion(content):
    content()
    with pytest.raises(AssertionError, match=r"observed 7\.1, null 6\.77, bound < 6\.5, 3 seeds"):
        lab.claim(
            "loss", "It learns.", False, kind="statistical",
            observed=7.1, null=6.77, bound="< 6.5", seeds=[0, 1, 2],
        )  # fmt: skip


def test_a_statistical_claim_is_not_judged_at_smoke(content, capsys):
    read = content("smoke")
    lab.claim("loss", "It learns.", False, kind="statistical", observed=[9.0], null=6.8, seeds=[0])
    assert read()["claims"]["loss"]["verdict"] == "not judged at this scale"
    assert "not judged at this scale" in capsys.readouterr().out


def test_a_statistical_claim_is_judged_from_three_seeds_on(content, capsys):
    read = content()
    options = {"kind": "statistical", "null": 6.8}
    lab.claim("loss", "It learns.", True, observed=[6.0, 6.1, 6.2], seeds=[0, 1, 2], **options)
    assert read()["claims"]["loss"]["verdict"] == "holds"
    assert "observed 6.1 ± 0.1, null 6.8, 3 seeds" in capsys.readouterr().out
    for seeds in ([0, 1], None):
        with pytest.raises(ValueError, match="at least 3 seeds at scale cpu"):
            lab.claim("loss", "It learns.", True, observed=6.0, seeds=seeds, **options)
    with pytest.raises(lab.ClaimFailed):
        lab.claim("loss", "It learns.", False, observed=7.0, seeds=[0, 1, 2], **options)


def test_a_quoted_number_is_shown_and_never_judged(content, capsys):
    read = content()
    lab.claim("glue", "They report 86.4.", kind="quoted", observed=86.4, source="paper, table 3")
    claim = read()["claims"]["glue"]
    assert (claim["verdict"], claim["source"]) == ("quoted", "paper, table 3")
    assert "quoted: They report 86.4." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("holds", "options", "message"),
    [
        (True, {"kind": "certain"}, "kind='certain'; choose exact, statistical or quoted"),
        (None, {"kind": "exact"}, "holds must be True or False, got None"),
        (0.25, {"kind": "exact"}, "holds must be True or False, got 0.25"),
        (None, {"kind": "quoted"}, "needs its source"),
        (None, {"kind": "quoted", "source": " "}, "needs its source"),
        (True, {"kind": "quoted", "source": "paper"}, "not judged"),
        (True, {"kind": "statistical", "observed": 1.0}, "needs null as numbers, got None"),
        (True, {"kind": "statistical", "null": 1.0}, "needs observed as numbers, got None"),
        (True, {"kind": "statistical", "null": 0, "observed": []}, "needs observed as numbers"),
        (
            True,
            {"kind": "statistical", "null": 0, "observed": [1], "seeds": [0, 1]},
            "1 values but",
        ),
    ],
)
@pytest.mark.parametrize("scale", ["smoke", "cpu"])
def test_unusable_claims_are_refused_and_not_kept(content, scale, holds, options, message):
    read = content(scale)
    with pytest.raises(ValueError, match=message):
        lab.claim("name", "Text.", holds, **options)
    assert read()["claims"] == {}


def test_a_claim_says_something(content):
    content()
    with pytest.raises(ValueError, match="text is empty"):
        lab.claim("name", "  ", True, kind="exact")


# Figures and sources


def test_figure_writes_png_svg_csv_and_keeps_the_alt_text(content, tmp_path, capsys):
    read = content()
    lab.figure(line(), "rise", 'Rises from 1 to "2".', data=pd.DataFrame({"y": [1, 2]}))
    folder = tmp_path / "figures" / "01_test"
    assert (folder / "rise.png").read_bytes().startswith(b"\x89PNG")
    assert "Rises from 1 to" in (folder / "rise.svg").read_text("utf-8")
    assert (folder / "rise.csv").read_text("utf-8") == "y\n1\n2\n"
    assert read()["figures"]["rise"]["alt"] == 'Rises from 1 to "2".'
    assert "[figure: Rises from 1 to" in capsys.readouterr().out


def test_the_same_figure_gives_the_same_files(content, tmp_path):
    content()
    folder = tmp_path / "figures" / "01_test"
    kept = []
    for _ in range(2):
        lab.figure(line(), "rise", "Rises to 2.")
        kept.append([path.read_bytes() for path in sorted(folder.iterdir())])
    assert kept[0] == kept[1]


def test_figure_refuses_what_a_reader_cannot_use(content, tmp_path):
    read = content()
    for alt in ("", "It rises."):
        with pytest.raises(ValueError, match="must say the key number"):
            lab.figure(line(), "rise", alt)
    with pytest.raises(TypeError, match="expected a matplotlib Figure, got list"):
        lab.figure([1, 2], "rise", "Rises to 2.")
    with pytest.raises(TypeError, match="data is a pandas DataFrame, got list"):
        lab.figure(line(), "rise", "Rises to 2.", data=[1, 2])
    assert not (tmp_path / "figures").exists()
    assert read()["figures"] == {}


def test_show_prints_the_source_of_the_package_and_of_nothing_else(capsys):
    lab.show(lab.scale_row)
    shown = capsys.readouterr().out
    assert shown.startswith("# convbert/lab.py, line ")
    assert "def scale_row(name: str) -> Scale:" in shown
    lab.show(lab.Scale)
    assert "@dataclass(frozen=True)" in capsys.readouterr().out
    for stranger in (json.dumps, 3, lab, lab.SCALES["smoke"]):
        with pytest.raises(ValueError, match="expected a function or class of convbert"):
            lab.show(stranger)


def test_format_value():
    assert results.format_value(0.123456) == "0.1235"
    assert results.format_value([2, 16]) == "[2, 16]"
    assert results.format_value([1.0], average=True) == "1"
    assert results.format_value([1.0, 3.0], average=True) == "2 ± 1.4"
    assert results.format_value([0.1, 0.2, -0.3 + 1e-17], average=True) == "0 ± 0.26"
    assert results.format_value([4e-16, 5e-16], average=True) == "4.5e-16 ± 7.1e-17"
    assert results.format_value(True) == "True"


def test_no_paddle_is_imported():
    names = "lab, results, notebooks, runner, tables, cli"
    check = f"import sys; from convbert import {names}; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
