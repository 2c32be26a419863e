"""Lesson 2 in a real browser on a real JupyterLab: it runs, and an edge of its graph is dragged, and turned by keys.

Set-up: `pip install playwright`, and a Chromium: Debian's (`apt-get install chromium`), Chrome, or `playwright install
chromium`. DECA_LAB_BROWSER names the program where it lies elsewhere. Skipped, with the reason, where there is none.
"""

import secrets
import socket
import subprocess
import time
import urllib.request

import nbformat
import pytest
from browser import drag
from nbformat.v4 import new_code_cell, new_notebook

from deca_lab.course.place import copy_to
from deca_lab.course.server import command, server_environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]
SETTINGS = '{"windowingMode": "none"}'  # all cells are in the page, also those out of sight


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Start JupyterLab at a copy of the course and yield its address with the token."""
    place, settings, token = (
        tmp_path_factory.mktemp("course"),
        tmp_path_factory.mktemp("settings"),
        secrets.token_hex(16),
    )
    copy_to(place / "copy")
    cell = new_code_cell("from deca_lab.course.widgets import shard_picture\nfrom deca_lab.text.corpora import load\n"
                         "shard_picture(load('markov', seed=0))")  # fmt: skip
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(
        new_notebook(cells=[cell], metadata=kernel), place / "copy" / "notebooks" / "one.ipynb"
    )
    own = settings / "@jupyterlab" / "notebook-extension"
    own.mkdir(parents=True)
    (own / "tracker.jupyterlab-settings").write_text(SETTINGS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    asked = [
        *command(place / "copy", port, browser=False),
        f"--LabApp.user_settings_dir={settings}",
    ]
    with subprocess.Popen(
        asked,
        env={**server_environment(), "JUPYTER_TOKEN": token},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            _await(f"http://127.0.0.1:{port}/api/status?token={token}", server)
            yield f"http://127.0.0.1:{port}/lab/tree/notebooks/%s.ipynb?reset&token={token}"
        finally:
            server.terminate()


def _await(address, server, seconds=600):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert server.poll() is None, "JupyterLab has ended"
        try:
            urllib.request.urlopen(address, timeout=2).close()
        except OSError:
            time.sleep(0.3)
        else:
            return
    raise AssertionError("JupyterLab does not answer")


def opened(browser, lab, name):
    """A page of JupyterLab with this notebook, whose first cell has run and the others are asked to."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(600_000)  # of milliseconds: a busy machine is slow, not wrong
    page.goto(lab % name)
    first = page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt").first
    first.wait_for()
    ready = page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").first
    end = time.monotonic() + 600
    while not (prompt := first.inner_text().strip("[]: ")).isdigit():
        assert time.monotonic() < end, f"the first cell does not run: {prompt!r}"
        # JupyterLab drops what it is asked while it still connects to a kernel that it shows as idle.
        if prompt != "*" and ready.count():
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.wait_for_timeout(2000)
    return page


def test_the_arrows_move_what_has_the_focus_and_not_the_notebook(browser, lab):
    page = opened(browser, lab, "one")
    split, image = page.locator(".jp-OutputArea select"), page.locator(".jp-OutputArea img")
    handle = page.locator(".jp-OutputArea .noUi-handle").first
    for shown in (image, split, handle):  # the widgets of a box come one after the other
        shown.wait_for()
    for moved, key in ((split, "ArrowDown"), (handle, "ArrowRight")):
        before = image.get_attribute("alt")
        moved.focus()
        page.keyboard.press(key)
        page.wait_for_function(
            "alt => document.querySelector('.jp-OutputArea img').alt != alt", arg=before
        )
    page.close()


def test_an_edge_of_lesson_2_is_dragged_and_turned_by_keys(browser, lab, tmp_path):
    page = opened(browser, lab, "02_gossip")
    editor = page.locator(".deca-editor")
    editor.wait_for()
    said, last = editor.locator("p").first, editor.locator("p").last
    assert "ring, 8 clients: rho = 0.805" in said.inner_text()
    drag(page, 0, 4)
    assert "ring (edited), 8 clients: rho = 0.848" in said.inner_text()
    page.get_by_role("button", name="client 1", exact=True).focus()
    for key in ("Enter", *["ArrowDown"] * 4, "Enter"):  # keys that JupyterLab has itself
        page.keyboard.press(key)
    assert "turned: 0-4, 1-5" in last.inner_text()
    assert "rho = 0.809" in said.inner_text()
    editor.screenshot(path=tmp_path / "editor.png")
    assert (tmp_path / "editor.png").stat().st_size > 10_000
    page.close()
