"""Where data are found: the order, the messages, and the hub with stand-ins."""

import json
import socket
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from convbert.data import glue, hub, sample, sources
from convbert.data.sources import find


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """A cache that holds the sample."""
    pytest.importorskip("gensim", reason="needs the extra: sample")
    cache = tmp_path_factory.mktemp("cache")
    sample.build(cache / sample.FOLDER)
    return cache


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """Folders for CONVBERT_DATA and the cache, both empty; the hub is off."""
    data, cache = tmp_path / "data", tmp_path / "cache"
    data.mkdir()
    monkeypatch.setenv("CONVBERT_DATA", str(data))
    monkeypatch.setenv("CONVBERT_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    hub._answers.cache_clear()
    return data, cache


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x\n")


def test_the_order(places, monkeypatch, capsys, made):
    data, cache = places
    files = ["glue/SST-2/train.tsv", "glue/SST-2/dev.tsv"]

    monkeypatch.setenv("CONVBERT_CACHE", str(made))
    assert find("sst-2").origin == "sample"

    def download(name, folder):
        put(folder, "train.tsv", "dev.tsv", "test.tsv")

    monkeypatch.setenv("CONVBERT_CACHE", str(cache))
    with monkeypatch.context() as patch:
        patch.setattr(hub, "why_unusable", lambda: None)
        patch.setattr(hub, "download", download)
        assert find("sst-2").origin == "hub"
    assert find("sst-2").origin == "cache", "what was downloaded is found again"

    put(data, files[0])
    assert find("sst-2").origin == "cache", "half a data set does not count"
    put(data, files[1])
    capsys.readouterr()
    source = find("sst-2")
    assert (source.name, source.origin, source.path) == (
        "sst-2",
        "CONVBERT_DATA",
        data / "glue/SST-2",
    )
    assert source.file("dev") == data / "glue/SST-2/dev.tsv"
    expected = f"data: sst-2 from CONVBERT_DATA ({data / 'glue/SST-2'})\n"
    assert capsys.readouterr().out == expected


def test_default_cache_is_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("CONVBERT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sources.cache_folder() == tmp_path / ".cache" / "convbert"


@pytest.mark.parametrize(
    ("name", "stand_in"),
    [
        ("cola", "swap"),
        ("sst-2", "swap"),
        *((task, "order") for task in ("mrpc", "sts-b", "qqp", "mnli", "qnli", "rte", "wnli")),
        ("squad-v1.1", "cloze"),
        ("squad-v2.0", "cloze"),
        ("text", "text"),
    ],
)
def test_the_sample_stands_in_under_its_own_name(name, stand_in, made, monkeypatch, capsys):
    monkeypatch.setenv("CONVBERT_CACHE", str(made))
    source = find(name)
    assert source.name == f"sample/{stand_in}" and source.origin == "sample"
    assert source.path == made / sample.FOLDER / stand_in
    assert all(
        (source.path / file).is_file() for file in sources.LAYOUTS[source.name].files.values()
    )
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert printed.startswith(
        f"data: sample/{stand_in} from sample ({source.path}); {name} not found"
    )


@pytest.mark.parametrize("name", ["sample/text", "sample/swap", "sample/order", "sample/cloze"])
def test_sample_sets_by_name(name, made, monkeypatch):
    monkeypatch.setenv("CONVBERT_CACHE", str(made))
    source = find(name, allow_sample=False)
    assert source.name == name and source.path == made / sample.FOLDER / name.split("/")[1]
    if name in glue.TASKS:
        for split, layout in glue.TASKS[name].splits.items():
            assert len(glue.read(source, name, split)) == layout.rows


def test_the_sample_is_made_in_the_cache(places, monkeypatch):
    asked = []
    monkeypatch.setattr(sample, "build", asked.append)
    find("rte")
    assert asked == [places[1] / sample.FOLDER]


def test_without_the_sample_one_clear_line(places):
    data, cache = places
    with pytest.raises(FileNotFoundError) as error:
        find("sst-2", allow_sample=False)
    message = str(error.value)
    assert "\n" not in message
    for part in ("sst-2", "train.tsv", "dev.tsv", str(data / "glue/SST-2"), str(cache), "HF_HUB_"):
        assert part in message
    assert not cache.exists(), "looking writes nothing"


def test_without_convbert_data(monkeypatch):
    for value in (None, ""):
        monkeypatch.delenv("CONVBERT_DATA", raising=False)
        if value is not None:
            monkeypatch.setenv("CONVBERT_DATA", value)
        with pytest.raises(FileNotFoundError, match=r"CONVBERT_DATA \(not set\)"):
            find("sst-2", allow_sample=False)


@pytest.mark.parametrize("name", ["sst-2", "text", "vocab", "sample/swap"])
def test_a_convbert_data_that_is_no_folder_is_an_error(name, tmp_path, monkeypatch):
    put(tmp_path, "file")
    for wrong in ("typo", "file"):
        monkeypatch.setenv("CONVBERT_DATA", str(tmp_path / wrong))
        with pytest.raises(FileNotFoundError, match=f"CONVBERT_DATA=.*{wrong} is not a folder"):
            find(name)


def test_missing_gensim_names_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in ("sample/swap", "sst-2"):
        with pytest.raises(ModuleNotFoundError) as error:
            find(name)
        assert 'pip install "convbert[sample]"' in str(error.value)
        assert "\n" not in str(error.value)
    assert "sst-2 not found" in str(error.value)


def test_splits_that_are_asked_for(places):
    data, _ = places
    put(data, "glue/QNLI/test.tsv", "glue/MNLI/dev_matched.tsv", "squad/dev-v1.1.json")
    assert find("qnli", splits=["test"], allow_sample=False).origin == "CONVBERT_DATA"
    assert find("mnli", splits=["dev"], allow_sample=False).origin == "CONVBERT_DATA"
    squad = find("squad-v1.1", splits=["dev"], allow_sample=False)
    assert squad.file("dev") == data / "squad/dev-v1.1.json"
    for name in ("qnli", "mnli", "squad-v1.1"):
        with pytest.raises(FileNotFoundError):
            find(name, allow_sample=False)
    with pytest.raises(ValueError, match="qnli has train, dev, test"):
        find("qnli", splits=["validation"])
    with pytest.raises(ValueError, match=r"squad-v1\.1 has train, dev"):
        squad.file("test")


def test_single_files(places):
    data, _ = places
    put(data, "text/train.txt", "text/wikitext2-valid.txt", "vocab/bert-base-uncased-vocab.txt")
    assert find("text").path == data / "text"
    assert find("text").file("valid") == data / "text/valid.txt"
    wikitext = find("wikitext2-valid")
    assert wikitext.path == wikitext.file("valid") == data / "text/wikitext2-valid.txt"
    assert find("vocab").path == data / "vocab/bert-base-uncased-vocab.txt"


@pytest.mark.parametrize("name", ["wikitext2-valid", "vocab"])
def test_nothing_stands_in_for_single_files(name):
    with pytest.raises(FileNotFoundError, match=f"{name} not found"):
        find(name)


def test_unknown_name():
    with pytest.raises(ValueError, match="choose one of text, wikitext2-valid, vocab, cola"):
        find("imdb")


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_offline_variables_keep_the_hub_untouched(variable, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv(variable, "true")
    monkeypatch.setattr(hub, "_answers", lambda endpoint: pytest.fail("asked"))
    assert hub.why_unusable() == f"{variable} is set"


def test_a_hub_that_does_not_answer_costs_little_and_once(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(hub, "PROBE_SECONDS", 0.5)
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as silent:  # accepts and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        start = time.monotonic()
        for _ in range(5):
            with pytest.raises(FileNotFoundError, match=rf"hub \({endpoint} does not answer\)"):
                find("sst-2", allow_sample=False)
        assert time.monotonic() - start < 2


def test_a_slow_name_server_does_not_block(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(hub, "PROBE_SECONDS", 0.2)
    release = threading.Event()
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: release.wait(30))
    start = time.monotonic()
    assert "does not answer" in hub.why_unusable()
    assert time.monotonic() - start < 2
    release.set()


def test_a_refused_connection_is_no_answer(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
    assert "does not answer" in hub.why_unusable()


class Rows(list):
    """Stands in for a split of `datasets`."""

    def __init__(self, rows, names=()):
        super().__init__(rows)
        self.features = {"label": types.SimpleNamespace(int2str=lambda i: names[i])}


def serve(monkeypatch, splits) -> list:
    """Let `datasets.load_dataset` return these splits; return what it was asked."""
    asked = []

    def load_dataset(*names, revision):
        asked.append((*names, revision))
        return splits

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setattr(hub, "why_unusable", lambda: None)
    return asked


def shrink(monkeypatch, task, rows) -> None:
    """Let a task have so many rows in every split."""
    table = glue.TASKS[task]
    for split in table.splits.values():
        monkeypatch.setitem(split.__dict__, "rows", rows)


@pytest.mark.parametrize(
    "task",
    [name for name, layout in sources.LAYOUTS.items() if name in glue.TASKS and layout.on_hub],
)
def test_glue_from_the_hub_is_read_back(task, places, monkeypatch):
    keys = {
        "qqp": ("question1", "question2"),
        "mnli": ("premise", "hypothesis"),
        "qnli": ("question", "sentence"),
    }
    single = sources.LAYOUTS[task].stand_in == "sample/swap"
    first, second = ("sentence", None) if single else keys.get(task, ("sentence1", "sentence2"))
    # The hub has its own order of MNLI's labels.
    names = {"mnli": ("entailment", "neutral", "contradiction")}.get(task, glue.TASKS[task].labels)
    label = 3.799999952316284 if task == "sts-b" else 1
    row = {
        first: 'a "tab"\there',
        **({second: "b\nb "} if second else {}),
        "label": label,
        "idx": 0,
    }
    splits = {
        name.replace("dev", "validation"): Rows([row, row], names)
        for name in glue.TASKS[task].splits
    }
    asked = serve(monkeypatch, splits)
    shrink(monkeypatch, task, 2)
    source = find(task, allow_sample=False)
    assert asked == [(hub.GLUE.path, task.replace("-", ""), hub.GLUE.revision)]
    expected = {"sts-b": 3.8, "mnli": 2}.get(task, 1)
    for split, layout in glue.TASKS[task].splits.items():
        examples = glue.read(source, task, split)
        text_b = None if single else "b b "
        truth = None if layout.label is None else expected
        assert examples == [('a "tab" here', text_b, truth)] * 2
    assert source.origin == "hub" and places[1] in source.path.parents


def test_too_few_rows_from_the_hub_leave_nothing(places, monkeypatch):
    row = {"sentence": "a", "label": 1, "idx": 0}
    serve(monkeypatch, {name: Rows([row]) for name in ("train", "validation", "test")})
    with pytest.raises(FileNotFoundError, match=r"hub \(ValueError: sst-2 train: expected 67349"):
        find("sst-2", allow_sample=False)
    assert not any(path.is_file() for path in places[1].rglob("*"))


def test_a_failing_download_is_reported_in_one_line(monkeypatch):
    serve(monkeypatch, None)
    monkeypatch.setattr(hub, "download", lambda *_: (_ for _ in ()).throw(RuntimeError("no\nmore")))
    with pytest.raises(FileNotFoundError, match=r"hub \(RuntimeError: no\)"):
        find("sst-2", allow_sample=False)


@pytest.mark.parametrize("name", ["squad-v1.1", "squad-v2.0"])
def test_squad_from_the_hub(name, monkeypatch):
    def row(number, title, context, answers):
        found = {"text": answers, "answer_start": [0] * len(answers)}
        return {
            "id": str(number),
            "title": title,
            "context": context,
            "question": f"q{number}?",
            "answers": found,
        }

    rows = [row(0, "T", "c1", ["c"]), row(1, "T", "c1", []), row(2, "T", "c2 é", ["c2"]),
            row(3, "U", "c3", ["c", "c3"])]  # fmt: skip
    asked = serve(monkeypatch, {"train": Rows(rows), "validation": Rows(rows[:1])})
    monkeypatch.setitem(hub.SQUAD_QUESTIONS, name, (4, 1))
    source = find(name, allow_sample=False)
    assert asked == [(hub.SQUAD[name].path, hub.SQUAD[name].revision)]
    content = json.loads(source.file("train").read_bytes())
    assert content["version"] == {"squad-v1.1": "1.1", "squad-v2.0": "v2.0"}[name]
    shape = [[len(p["qas"]) for p in article["paragraphs"]] for article in content["data"]]
    assert shape == [[2, 1], [1]]
    unanswered = content["data"][0]["paragraphs"][0]["qas"][1]
    assert unanswered["answers"] == []
    assert unanswered.get("is_impossible") == (True if name == "squad-v2.0" else None)


def test_vocabulary_from_the_hub_is_checked(tmp_path, monkeypatch):
    put(tmp_path, "download")
    asked = []

    def hf_hub_download(*names, revision):
        asked.append((*names, revision))
        return str(tmp_path / "download")

    module = types.SimpleNamespace(hf_hub_download=hf_hub_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setattr(hub, "why_unusable", lambda: None)
    with pytest.raises(FileNotFoundError, match="checksum"):
        find("vocab")
    digest = "73cb3858a687a8494ca3323053016282f3dad39d42cf62ca4e79dda2aac7d9ac"  # of "x\n"
    monkeypatch.setattr(hub, "VOCABULARY_SHA256", digest)
    assert find("vocab").path.read_text() == "x\n"
    assert asked[0] == (hub.VOCABULARY.path, "vocab.txt", hub.VOCABULARY.revision)


def test_no_paddle_is_imported():
    code = (
        "import sys, types; sys.modules['convbert'] = p = types.ModuleType('convbert');"
        f"p.__path__ = [{str(Path(sources.__file__).parents[1])!r}];"
        "import convbert.data.sources, convbert.data.glue;"
        "assert not {'paddle', 'datasets', 'gensim', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
