"""Lesson 2 in a real browser on a real JupyterLab: it runs, a slider is moved by its keys, and the figure changes.

Set-up: `pip install playwright`, and a Chromium: Debian's (`apt-get install chromium`), Chrome, or `playwright install
chromium`. DECA_LAB_BROWSER names the program where it lies elsewhere. Skipped, with the reason, where there is none.
"""

import secrets
import socket
import subprocess
import time
import urllib.request

import pytest

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
            yield f"http://127.0.0.1:{port}/lab/tree/notebooks/02_gossip.ipynb?reset&token={token}"
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


def test_a_slider_moved_in_lesson_2_changes_its_figure(browser, lab, tmp_path):
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.goto(lab)
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=600_000)
    page.get_by_text("Python 3", exact=False).first.wait_for(timeout=600_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    image = page.locator(".jp-OutputArea .widget-html-content img").first
    image.wait_for(timeout=600_000)
    slider = page.locator(".jp-OutputArea .widget-hslider", has_text="clients N").first
    slider.scroll_into_view_if_needed()
    before = image.get_attribute("src"), image.get_attribute("alt")
    slider.locator(".noUi-handle").focus()
    began = time.monotonic()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "alt => document.querySelector('.widget-html-content img').alt.includes(alt)",
        arg="11 clients",
        timeout=600_000,
    )
    answered = time.monotonic() - began
    assert "ring, 8 clients" in before[1]
    assert image.get_attribute("src") != before[0]
    print(f"three steps of a slider were answered within {answered:.2f} s")
    page.screenshot(path=tmp_path / "lesson_2.png")
    assert (tmp_path / "lesson_2.png").stat().st_size > 20_000
    page.close()
