"""The page in a real browser: headless Chromium without a network, by Selenium."""

import os
import shutil
import subprocess
import sys
import time
import urllib.request

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The address of a page that a process of its own serves."""
    pytest.importorskip("gradio", reason="needs gradio: pip install 'steadyflow[explore]'")
    words = ["explore", "digits-realnvp", "--no-browser", "--port", "7931"]
    process = subprocess.Popen(
        [sys.executable, "-m", "steadyflow", *words],
        cwd=tmp_path_factory.mktemp("explore"),
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    address = "http://127.0.0.1:7931/"
    try:
        _until(lambda: _answers(address), "the page is served", 120)
        yield address
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def browser(page):
    if not (CHROMIUM and DRIVER):
        pytest.skip("needs chromium and chromedriver")
    selenium = pytest.importorskip("selenium", reason="needs selenium: pip install selenium")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    assert selenium
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=1200,1000",
        "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",  # nothing but this machine
    ):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.get(page)
    yield driver
    driver.quit()


def test_drawing_follows_the_button(browser):
    _find(browser, "draw").click()
    first = _picture(browser, "drawn")
    number = _find(browser, "seed").find_element("css selector", "input")
    number.clear()
    number.send_keys("5\n")
    _find(browser, "draw").click()
    _until(lambda: _picture(browser, "drawn") != first, "other draws are shown")


def test_mixing_two_images_of_ones_own(browser, tmp_path):
    from PIL import Image

    _tab(browser, "Mix two images")
    for name, colour in (("first", 60), ("second", 200)):
        path = tmp_path / f"{name}.png"
        Image.new("RGB", (64, 64), (colour,) * 3).save(path)
        before = _picture(browser, name)
        remove = _find(browser, name).find_elements("css selector", "button[aria-label='Clear']")
        if remove:
            remove[0].click()
        upload = _until(
            lambda name=name: _find(browser, name).find_elements(
                "css selector", "input[type=file]"
            ),
            "there is a place to upload to",
        )
        upload[0].send_keys(str(path))
        _until(lambda name=name, before=before: _other(browser, name, before), "it is uploaded")
    _find(browser, "mix").click()
    assert _picture(browser, "mixed")
    assert _picture(browser, "way")


def test_moving_along_an_attribute(browser):
    _tab(browser, "Attributes")
    _find(browser, "move").click()
    assert _picture(browser, "moved-to")


def test_the_likelihood_of_an_image(browser):
    _tab(browser, "Likelihood")
    _find(browser, "judge").click()
    _until(lambda: "nats" in _find(browser, "verdict").text, "the likelihood is shown")
    assert "bound" in _find(browser, "verdict").text


def test_nothing_failed_in_the_browser(browser):
    severe = [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]
    assert not [e for e in severe if "127.0.0.1" in e["message"]], severe


def _find(browser, name):
    return _until(lambda: browser.find_elements("id", name), f"there is a #{name}")[0]


def _tab(browser, name):
    tabs = browser.find_elements("css selector", "button[role=tab]")
    next(tab for tab in tabs if tab.text == name).click()


def _picture(browser, name):
    images = _until(
        lambda: browser.find_elements("css selector", f"#{name} img[src]"),
        f"#{name} has a picture",
    )
    return images[0].get_attribute("src")


def _other(browser, name, before):
    images = browser.find_elements("css selector", f"#{name} img[src]")
    return images and images[0].get_attribute("src") != before


def _answers(address):
    try:
        return urllib.request.urlopen(address, timeout=2).status == 200
    except OSError:
        return False


def _until(true, what, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.3)
    raise AssertionError(f"waited {seconds} seconds until {what}")
