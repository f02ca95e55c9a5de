"""The planner's page: the same answers as the command's, alone in a Space's folder, and in a real browser."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from knowcap.cli import main
from knowcap.laws.law import LawError
from knowcap.laws.plan.page import TABS, answer
from knowcap.laws.plan.questions import ask
from knowcap.laws.plan.space import save_space


FACTS = (
    "entity,attribute,value\nFrance,capital,Paris\nFrance,continent,Europe\nPeru,capital,Lima\nPeru,continent,South\n"
)
# What a tab shows when its button is pressed first, as words of the command.
FIRST = {
    "size": "--bits 1e9 --precision int8",
    "holds": "--num_parameters 7e9",
    "train": "--num_parameters 100M --num_people 2M --gpu h100-sxm --num_gpus 1 --utilisation 0.4",
    "compute": "--flops 1e21",
    "memory": "--num_layers 24 --hidden_size 2048 --block_size 2048 --per_device_train_batch_size 8",
    "passes": "--num_parameters 100M --unique_tokens 10M --passes 16",
}


def test_fields_left_empty_are_not_given_and_numbers_are_read_as_by_the_command():
    values = {"bits": "3_000_000", "num_people": " ", "facts": None, "exposures": "100", "architecture": "moe"}
    assert answer("size", values).content() == ask("size", bits=3e6, exposures=100, architecture="moe").content()
    with pytest.raises(LawError, match="(?s)bits: got 'many', expected a number.*exposures: got 'few'"):
        answer("size", {"bits": "many", "exposures": "few"})


@pytest.fixture(scope="module")
def space(tmp_path_factory) -> Path:
    return save_space(tmp_path_factory.mktemp("spaces") / "plan")


def test_the_folder_is_a_space(space):
    _, front, card = (space / "README.md").read_text().split("---\n", 2)
    settings = yaml.safe_load(front)
    assert settings["sdk"] == "gradio" and (space / settings["app_file"]).is_file() and card.strip()
    assert len(settings["short_description"]) <= 60  # the Hub's limit
    needed = {line.split(">")[0] for line in (space / "requirements.txt").read_text().split()}
    assert needed == {"filelock", "numpy", "pyarrow", "pyyaml"}


def test_the_folder_needs_nothing_else_and_no_torch(space, tmp_path):
    (tmp_path / "facts.csv").write_text(FACTS)
    templates = ", ".join(
        f'{name}: {{candidates: 9, templates: ["{{entity}} has {name} {{value}}."]}}'
        for name in ("capital", "continent")
    )
    (tmp_path / "facts.yaml").write_text(f"attributes: {{{templates}}}\n")
    options = {"facts": str(tmp_path / "facts.csv"), "facts_templates": str(tmp_path / "facts.yaml")}
    code = (
        "import json, sys, knowcap\nfrom knowcap.laws.plan.page import build\n"
        "from knowcap.laws.plan.page import TABS, answer\nfrom knowcap.laws.plan.questions import ask\n"
        f"found = ask('size', **{options})\n"
        "texts = [answer(question, starts).text() for question, (_, _, starts) in TABS.items()]\n"
        "print(json.dumps([knowcap.__file__, 'torch' in sys.modules, found.content(), texts]))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=space, env=environment, capture_output=True, text=True, check=True
    )
    where, torch, content, texts = json.loads(done.stdout)
    assert Path(where).is_relative_to(space) and not torch
    assert texts == [answer(question, starts).text() for question, (_, _, starts) in TABS.items()]
    assert content == json.loads(json.dumps(ask("size", **options).content()))


def test_a_folder_with_something_in_it_is_refused(space, capsys):
    before = sorted(space.rglob("*"))
    with pytest.raises(LawError, match="is not an empty folder"):
        save_space(space)
    assert main(["plan", "--save_space", str(space)]) == 2
    assert "give another" in capsys.readouterr().err and sorted(space.rglob("*")) == before


def test_without_gradio_the_error_names_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["plan", "--web"]) == 2
    assert "pip install 'knowcap[space]'" in capsys.readouterr().err


# In a browser: needs gradio, selenium, and Debian's chromium and chromium-driver.


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def served(process: subprocess.Popen[str], port: int) -> str:
    """The address, once something answers there."""
    for _ in range(600):
        if process.poll() is not None:
            raise AssertionError(f"the page stopped: {process.communicate()[0]}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return f"http://127.0.0.1:{port}"
        time.sleep(0.2)
    raise AssertionError("the page did not start in two minutes")


@pytest.fixture(scope="module", params=["command", "space"])
def address(request, space):
    """The page, served by `knowcap plan --web` and by the Space's own app.py."""
    pytest.importorskip("gradio")
    port = free_port()
    environment = os.environ | {"GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False"}
    words = ["-m", "knowcap.cli", "plan", "--web", "--port", str(port)] if request.param == "command" else ["app.py"]
    if request.param == "space":
        environment.pop("PYTHONPATH", None)
    process = subprocess.Popen(
        [sys.executable, *words], cwd=space if request.param == "space" else None, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield served(process, port)
    finally:
        process.terminate()
        process.communicate()


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1600,1200"):
        options.add_argument(argument)
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()


class Page:
    """What a visitor does."""

    def __init__(self, browser, address: str) -> None:
        from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        self.browser = browser  # an answer is rendered again, so that an element found may be gone when it is read
        gone = (NoSuchElementException, StaleElementReferenceException)
        self.wait = WebDriverWait(browser, 90, ignored_exceptions=gone)
        browser.get(address)

    def open(self, question: str) -> None:
        """A tab."""
        label = TABS[question][0]
        self.wait.until(lambda b: [t for t in b.find_elements("css selector", "button[role=tab]") if t.text == label])
        [tab] = [t for t in self.browser.find_elements("css selector", "button[role=tab]") if t.text == label]
        tab.click()
        self.wait.until(lambda b: b.find_element("id", f"{question}-ask").is_displayed())

    def type(self, question: str, name: str, text: str) -> None:
        """Into a field, in place of what stands there."""
        from selenium.webdriver.common.keys import Keys

        field = self.browser.find_element("css selector", f"#{question}-{name} textarea, #{question}-{name} input")
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text or Keys.DELETE)

    def ask(self, question: str, before: str = "") -> str:
        """Presses the button; the answer, once it is another than before."""
        self.browser.find_element("id", f"{question}-ask").click()
        return self.wait.until(lambda b: self.shown(question) not in ("", before) and self.shown(question))

    def shown(self, question: str) -> str:
        found = self.browser.find_elements("css selector", f"#{question}-answer pre code")
        return found[0].get_attribute("textContent").strip("\n") if found else ""

    def error(self) -> str:
        """The message that pops up."""
        css = ".toast-body"
        return self.wait.until(lambda b: " ".join(e.text for e in b.find_elements("css selector", css)))


@pytest.mark.slow
def test_every_tab_shows_in_a_browser_what_the_command_prints(browser, address, capsys):
    page = Page(browser, address)
    for question, words in FIRST.items():
        page.open(question)
        shown = page.ask(question)
        assert main(["plan", question, *words.split()]) == 0
        assert shown == capsys.readouterr().out.strip("\n")
    severe = [
        entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE" and address in entry["message"]
    ]
    assert severe == []


@pytest.mark.slow
def test_what_is_typed_is_answered_and_bad_input_is_reported(browser, address, capsys):
    page = Page(browser, address)
    page.open("size")
    first = page.ask("size")
    page.type("size", "bits", "3G")
    page.type("size", "exposures", "100")
    shown = page.ask("size", before=first)
    assert main("plan size --bits 3G --exposures 100 --precision int8".split()) == 0
    assert shown == capsys.readouterr().out.strip("\n")
    page.type("size", "bits", "many")
    browser.find_element("id", "size-ask").click()
    assert "bits: got 'many', expected a number such as 7e9" in page.error()


@pytest.mark.slow
def test_a_table_of_facts_is_uploaded(browser, address, tmp_path, capsys):
    (tmp_path / "facts.csv").write_text(FACTS)
    page = Page(browser, address)
    page.open("size")
    first = page.ask("size")
    page.type("size", "bits", "")
    browser.find_element("xpath", "//button[contains(., 'a table of facts')]").click()
    page.wait.until(lambda b: b.find_elements("css selector", "#size-facts input[type=file]"))
    browser.find_element("css selector", "#size-facts input[type=file]").send_keys(str(tmp_path / "facts.csv"))
    page.wait.until(lambda b: "facts\n.csv" in b.find_element("id", "size-facts").text)
    shown = page.ask("size", before=first)
    assert main(["plan", "size", "--facts", str(tmp_path / "facts.csv"), "--precision", "int8"]) == 0
    assert shown == capsys.readouterr().out.strip("\n")
