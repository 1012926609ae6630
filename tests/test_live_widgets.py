"""The widgets as a reader meets them: in JupyterLab, light and dark, by keyboard and mouse."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from browser import Watcher, open_page
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).resolve().parents[1]
TEXT = "the dog sees the cat and the bird"
CALCULATOR = "ipywidgets.interact(calculate"  # in notebook 03
SETUP = f"""
import ipywidgets, numpy as np, paddle
from convbert import cost, ConvBertConfig, ConvBertForMaskedLM, ConvBertForQuestionAnswering
from convbert import ConvBertTokenizer
from convbert.locality import record, widgets
from convbert.tokenizer import SPECIAL_TOKENS
from convbert.train import asking
words = ConvBertTokenizer([*SPECIAL_TOKENS, *"the dog sees cat and bird a".split()])
paddle.seed(0)
config = ConvBertConfig.named("convbert-tiny", vocab_size=words.vocab_size, num_hidden_layers=2)
models = [ConvBertForMaskedLM(config) for _ in range(3)]
answerer = ConvBertForQuestionAnswering(config)
records = {{100 * i: record.record(m, words, [{TEXT!r}]) for i, m in enumerate(models)}}
sizes, live = cost.PUBLISHED_FLOPS, True
"""
CELLS = (
    f"widgets.MixingExplorer(models[0], words, {TEXT!r})",
    f"widgets.HeadAblation(models[0], words, {TEXT!r})",
    "widgets.CheckpointScrubber(records)",
    f"asking.AskWidget(answerer, words, 'the cat sees a bird', {TEXT!r})",
)
CONNECTED = """() => {
  const session = window.jupyterapp?.shell.currentWidget?.sessionContext?.session;
  return session?.kernel?.connectionStatus === "connected" && session.kernel.status === "idle";
}"""
NO_SERVERS = {"version": 2, "sessions": {}, "specs": {}}
DONE = """() => document.querySelectorAll('.jp-OutputArea svg[role=img]').length === 3
  && document.querySelectorAll('.jp-OutputArea mark').length === 1"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """Start JupyterLab on a notebook with the five widgets; yields its address."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}  # or Lab would ask
    course = nbformat.read(ROOT / "notebooks" / "03_pretraining.ipynb", as_version=4)
    (calculator,) = (cell.source for cell in course.cells if CALCULATOR in cell.source)
    cells = [new_code_cell(source) for source in (SETUP, *CELLS, calculator)]
    notebook = new_notebook(cells=cells, metadata=kernel)
    nbformat.write(notebook, tmp_path / "explorers.ipynb")
    settings = tmp_path / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    quiet = {"fetchNews": "false", "checkForUpdates": False}
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(8)
    words = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"]
    words += [f"--port={port}", f"--IdentityProvider.token={token}", f"--notebook-dir={tmp_path}"]
    words += ["--LabApp.expose_app_in_browser=True"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "workspaces"),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
    }
    environment.pop("CONVBERT_STATIC", None)
    with open(tmp_path / "lab.txt", "w") as log:
        server = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
        try:
            wait_for(f"http://127.0.0.1:{port}/api?token={token}", tmp_path / "lab.txt")
            yield f"http://127.0.0.1:{port}/lab/tree/explorers.ipynb?token={token}"
        finally:
            server.terminate()
            server.wait(20)


def wait_for(address: str, log: Path) -> None:
    for _ in range(200):
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


class Explorer:
    """One of the explorers on the page."""

    def __init__(self, page: Any, number: int) -> None:
        self.page = page
        self.output = page.locator(".jp-OutputArea").filter(has=page.locator("svg[role=img]"))
        self.output = self.output.nth(number)

    def picture(self) -> str:
        return str(self.output.locator("svg[role=img]").first.evaluate("svg => svg.outerHTML"))

    def alt(self) -> str:
        return str(self.output.locator("svg[role=img]").first.get_attribute("aria-label"))

    def press(self, control: Any, *keys: str) -> str:
        """Use a control by keyboard, wait for another picture, and return its alt text."""
        before = self.picture()
        control.focus()
        for key in keys:
            self.page.keyboard.press(key)
        self.wait(before)
        return self.alt()

    def wait(self, before: str) -> None:
        deadline = time.monotonic() + 20
        while self.picture() == before:
            assert time.monotonic() < deadline, f"the picture did not change: {self.alt()}"
            self.page.wait_for_timeout(20)

    def labeled(self, label: str) -> Any:
        return self.output.get_by_label(label, exact=True)


def use_mixing(page: Any) -> None:
    explorer = Explorer(page, 0)
    assert "Layer 1, token 2:" in explorer.alt()
    assert "Layer 2, token 2:" in explorer.press(explorer.labeled("layer"), "ArrowUp")
    for control in ("attention", "convolution"):
        explorer.press(explorer.labeled(control), "ArrowUp")
    assert "token 3:" in explorer.press(explorer.labeled("token no."), "ArrowUp")
    before = explorer.picture()
    explorer.labeled("token").locator("option").nth(5).click()  # a mouse does it, too
    explorer.wait(before)
    assert "token 6:" in explorer.alt()
    before = explorer.picture()
    explorer.labeled("text B").fill("a cat")
    explorer.wait(before)
    assert explorer.picture().count("<image") == 4  # two matrices for each text
    explorer.labeled("text A").fill("")
    explorer.output.get_by_role("alert").wait_for()
    assert "empty" in explorer.output.get_by_role("alert").inner_text()
    before = explorer.picture()
    explorer.labeled("text A").fill(TEXT)
    explorer.labeled("text B").fill("")
    explorer.wait(before)
    explorer.output.get_by_role("alert").wait_for(state="detached")  # it goes after the picture
    for control in ("layer", "attention", "convolution"):
        explorer.press(explorer.labeled(control), "ArrowDown")
    alt = explorer.press(explorer.labeled("token no."), "Control+a", "2", "Enter")
    assert "token 2:" in alt


def use_ablation(page: Any) -> None:
    explorer = Explorer(page, 1)
    assert "a change of +0.0000" in explorer.alt()
    box = explorer.output.get_by_role("checkbox").nth(2)
    explorer.press(box, "Space")
    assert "1 silenced" in explorer.picture()
    explorer.press(explorer.labeled("token no."), "ArrowDown")
    alt = explorer.press(explorer.output.get_by_role("button"), "Enter")
    assert "Silencing one head at a time" in alt
    explorer.press(box, "Space")
    before = explorer.picture()
    explorer.labeled("text").fill("the cat sees a dog")
    explorer.wait(before)
    before = explorer.picture()
    explorer.labeled("text").fill(TEXT)
    explorer.wait(before)
    assert "a change of +0.0000" in explorer.alt()


def use_scrubber(page: Any) -> None:
    explorer = Explorer(page, 2)
    assert "step 200" in explorer.alt()
    assert "step 100" in explorer.press(explorer.labeled("checkpoint"), "ArrowDown")
    assert "step 0" in explorer.press(explorer.labeled("checkpoint"), "ArrowDown")
    before, rail = explorer.picture(), explorer.output.locator(".noUi-target").bounding_box()
    page.mouse.click(rail["x"] + rail["width"] - 2, rail["y"] + rail["height"] / 2)
    explorer.wait(before)
    assert "step 200" in explorer.alt()


def use_ask(page: Any) -> None:
    output = page.locator(".jp-OutputArea").filter(has=page.get_by_label("question", exact=True))
    shown = output.locator(".widget-html-content").last
    text, ask = output.get_by_label("text", exact=True), output.get_by_role("button")
    for words in ("the bird and a cat", TEXT):
        text.fill(words)
        ask.focus()
        page.keyboard.press("Enter")
        shown.locator("p", has_text=words).wait_for()
        assert shown.locator("mark").inner_text() in words
        assert "probability 0." in shown.inner_text() or "probability 1." in shown.inner_text()
    question = output.get_by_label("question", exact=True)
    question.fill(" ")
    ask.click()  # a mouse does it, too
    output.get_by_role("alert").wait_for()
    assert "the question is empty" in output.get_by_role("alert").inner_text()
    question.fill("a cat sees the dog")
    ask.click()
    shown.locator("mark").wait_for()
    output.get_by_role("alert").wait_for(state="detached")


def use_calculator(page: Any, length: int) -> None:
    label = page.locator(".widget-label", has_text="devices")
    output = page.locator(".jp-OutputArea").filter(has=label).first
    shown = output.locator("pre")
    for size in ("convbert-small", "convbert-base"):
        output.get_by_label("size", exact=True).select_option(size)
        shown.filter(has_text=f"{size}, ").wait_for()
    rail = output.locator(".noUi-target").nth(1).bounding_box()  # of 64 to 512 tokens
    place = rail["x"] + (length - 64) / (512 - 64) * rail["width"]
    page.mouse.click(place, rail["y"] + rail["height"] / 2)
    shown.filter(has_text=f"examples of {length} tokens").wait_for()
    assert shown.count() == 1


CONTRAST = """([element, property]) => {
  const light = rgb => { const [r, g, b] = rgb.match(/[0-9.]+/g).map(Number);
    return (0.299 * r + 0.587 * g + 0.114 * b) / 255; };
  let place = element;
  const clear = e => /rgba\\(.*, 0\\)|transparent/.test(getComputedStyle(e).backgroundColor);
  while (clear(place)) place = place.parentElement;
  return [light(getComputedStyle(element)[property]),
          light(getComputedStyle(place).backgroundColor)];
}"""


def contrast(element: Any, ink: str = "color") -> tuple[float, float]:
    """Return how light an element's text and the ground behind it are, 0 … 1."""
    light, ground = element.element_handle().evaluate(f"e => ({CONTRAST})([e, '{ink}'])")
    return light, ground


def check_colors(theme: str, ink: float, ground: float) -> None:
    if theme == "Light":
        assert ink < 0.3 and ground > 0.7
    else:
        assert ink > 0.7 and ground < 0.3


def test_widgets_in_jupyterlab(lab: str, tmp_path: Path):
    """Every control changes its picture in either theme; nothing is fetched, no error is logged."""
    with open_page(viewport={"width": 1300, "height": 3200}) as page:
        watcher = Watcher(page, lab.split("/lab/")[0])
        # Lab asks for language servers and logs an error where no extension answers: say "none".
        page.route("**/lsp/status*", lambda route: route.fulfill(json=NO_SERVERS))
        page.goto(lab)
        page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=40_000)
        page.wait_for_function(CONNECTED, timeout=40_000)
        # Not the promise: it would be waited for without a limit.
        page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
        page.wait_for_function(DONE, timeout=60_000)
        for theme in ("Light", "Dark"):
            run = "window.jupyterapp.commands.execute('apputils:change-theme', {theme})"
            change = f"theme => {{ {run} }}"
            page.evaluate(change, f"JupyterLab {theme}")
            is_light = "true" if theme == "Light" else "false"
            page.wait_for_selector(f"body[data-jp-theme-light={is_light}]", state="attached")
            for number, use in enumerate((use_mixing, use_ablation, use_scrubber)):
                use(page)
                text = Explorer(page, number).output.locator("svg[role=img] text").first
                check_colors(theme, *contrast(text, "fill"))
            use_calculator(page, length={"Light": 64, "Dark": 448}[theme])
            use_ask(page)
            answer = page.locator(".widget-html-content p", has=page.locator("mark"))
            check_colors(theme, *contrast(answer))
            ink, ground = contrast(answer.locator("mark"))
            assert abs(ink - ground) > 0.5
            page.screenshot(path=tmp_path / f"{theme}.png")
        assert watcher.outside == []
        assert watcher.errors == []
