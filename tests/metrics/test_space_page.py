"""The Space's page: what its tables mean, what it refuses, and its use in a browser."""

from __future__ import annotations

import importlib
import math
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from knowcap.metrics.bits_per_parameter import bits
from knowcap.metrics.bits_per_parameter.bits import bits_per_parameter


FOLDER = Path(bits.__file__).parent
NAN = math.nan


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """app.py as the Hub runs it: with its folder's modules by their plain names."""
    monkeypatch.syspath_prepend(FOLDER)
    for name in ("app", "bits", "table_text"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("app")
    for name in ("app", "bits", "table_text"):
        monkeypatch.delitem(sys.modules, name)
    return module


def copy_space(folder: Path) -> Path:
    """The files that the page needs, by themselves."""
    for file in ("app.py", "bits.py", "table_text.py", "README.md"):
        (folder / file).write_bytes((FOLDER / file).read_bytes())
    return folder


# The page's functions


def run_alone(folder: Path, code: str, *options: str) -> str:
    """What `code` prints in a fresh interpreter that knows nothing but the folder of the Space."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout


def test_app_needs_only_its_own_folder(tmp_path: Path) -> None:
    code = "import app; print(app.measure(*app.EXAMPLE)['bits_per_parameter'])"
    assert float(run_alone(copy_space(tmp_path), code, "-W", "error")) == pytest.approx(2.0, abs=1e-6)


def test_json_tables_say_null_where_nothing_is_stated(app: ModuleType) -> None:
    results = app.measure("[[1.0, null]]", "[[4.0, null]]", 2.0)
    assert results["bits_per_parameter"] == bits_per_parameter([[1.0]], [[4.0]], 2)["bits_per_parameter"]
    with pytest.raises(ValueError, match="predictions: not JSON .*; write lists"):
        app.measure("[[1.0", "[[4.0]]", 2)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_of_any_encoding_and_separator_are_the_same(app: ModuleType, encoding: str, delimiter: str) -> None:
    data = app.TABLE.replace("entity,", "Entity ,").replace("Ada", "Adé").replace(",", delimiter).encode(encoding)
    assert app.read_table(app.decode(data)[0]) == app.read_table(app.TABLE)


def test_example_table_is_the_example_in_json(app: ModuleType) -> None:
    by_table, by_json = app.measure_table(app.TABLE, 24.0, " name "), app.measure(*app.EXAMPLE)
    assert by_table == by_json
    assert app.measure_table(app.TABLE, 24, "name", 1000.0)["num_entities"] == 1000


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_columns_are_found_by_name_and_facts_that_are_not_there_are_not_stated(
    app: ModuleType, delimiter: str
) -> None:
    lines = [
        ["log2_candidates", "entity", "nll", "note", "attribute"],
        ["8", "b", "1.5", "", "city"],
        ["", "a", "", "", "city"],
        ["20", "a", "0.5", "said, well", "name"],
    ]
    text = "\r\n".join(delimiter.join(f'"{cell}"' if "," in cell else cell for cell in line) for line in lines)
    predictions, references, attributes = app.read_table(text)
    assert attributes == ["city", "name"]
    assert repr(predictions) == repr([[1.5, NAN], [NAN, 0.5]])
    assert repr(references) == repr([[8.0, NAN], [NAN, 20.0]])


def test_renderings_of_a_fact_count_their_mean_as_in_capacity_json(app: ModuleType, tmp_path: Path) -> None:
    columns = {
        "entity": [7, 7, 9], "attribute": ["city"] * 3, "rendering": [0, 1, 0], "nll": [1.0, 2.0, 3.0],
        "log2_candidates": [8.0] * 3, "greedy_match": [True, False, False],
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "nll.parquet")
    pyarrow.csv.write_csv(pq.read_table(tmp_path / "nll.parquet"), tmp_path / "nll.csv")
    results = app.measure_table((tmp_path / "nll.csv").read_text(), 10)
    assert results == bits_per_parameter([[1.5], [3.0]], [[8.0]] * 2, 10, ["city"])


HEAD = "entity,attribute,nll,log2_candidates\n"
BAD_TABLES = {
    "empty": ("", r"table: got columns \[\], expected"),
    "head_alone": (HEAD, "references: got shape"),
    "missing_column": ("entity,attribute,nll\na,x,1\n", r"add \['log2_candidates'\]"),
    "decimal_comma": (HEAD.replace(",", ";") + "a;x;1,5;8\n", "table, line 2: nll is '1,5', expected a number"),
    "text": (HEAD + "a,x,1,8\na,y,one,8\n", "table, line 3: nll is 'one'"),
    "short": (HEAD + "a,x,1\n", "table, line 2: got more or fewer cells than 4"),
    "long": (HEAD + "a,x,1,8,9\n", "table, line 2: got more or fewer cells than 4"),
    "twice": (HEAD + "a,x,1,8\na,x,1,8\n", "table, line 3: x of a occurs twice"),
    "unscored": (HEAD + "a,x,,8\n", r"predictions\[0\]\[0\] is nan"),
    "negative": (HEAD + "a,x,-1,8\n", r"predictions\[0\]\[0\] is -1.0"),
}


@pytest.mark.parametrize(("table", "message"), BAD_TABLES.values(), ids=BAD_TABLES.keys())
def test_bad_tables_raise_an_error_with_the_fix(app: ModuleType, table: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        app.measure_table(table, 10)
    assert "; " in str(error.value)


def test_headline_has_the_number_its_maximum_and_its_interval(app: ModuleType) -> None:
    assert "R = 2 bits" in app.headline(app.measure(*app.EXAMPLE))
    assert "R_max = 2.417; 95 % interval 1.583 to 2.417. 48 of 58 bits, 2 ent" in app.headline(
        app.measure(*app.EXAMPLE)
    )
    assert "one row has no interval" in app.headline(app.measure("[[1.0]]", "[[4.0]]", 2))


# The page itself


def test_space_page_can_be_built(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason='needs gradio; pip install -e ".[space]"')
    # In a process of its own, as gradio leaves an event loop open.
    assert run_alone(copy_space(tmp_path), "import app; print(app.build().title)") == "Bits per parameter\n"


class Page:
    """The page in a browser, used by what a person sees: labels, buttons and words."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """What the condition gives as soon as it holds."""
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, 60).until(lambda _: condition(), what)

    def find(self, xpath: str) -> Any:
        """The first such element that can be seen."""

        def seen() -> Any:
            return next((e for e in self.driver.find_elements("xpath", xpath) if e.is_displayed()), None)

        return self.wait(seen, f"nothing like {xpath} to be seen")

    def field(self, label: str) -> Any:
        """The text or number field of that label."""
        return self.find(f"//label[contains(., '{label}')]//*[self::textarea or self::input]")

    def write(self, label: str, text: str) -> None:
        """Replaces what stands in a field."""
        field = self.field(label)
        field.clear()
        field.send_keys(text)

    def press(self, button: str) -> None:
        """Presses the button or tab of that name; gradio keeps a second row of tabs to measure their widths."""
        self.find(f"//button[normalize-space()='{button}' and not(@tabindex='-1')]").click()

    def shows(self, words: str) -> bool:
        """True once the words can be read on the page; an error that tells them if they never can."""
        self.wait(lambda: words in self.driver.find_element("xpath", "//body").text, f"nowhere on the page: {words}")
        return True


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The Space as the Hub runs it, opened in Debian's Chromium without a window."""
    pytest.importorskip("gradio", reason='needs gradio; pip install -e ".[browser]"')
    webdriver = pytest.importorskip("selenium.webdriver", reason='needs selenium; pip install -e ".[browser]"')
    browser, service = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or service is None:
        pytest.skip("needs Chromium; apt-get install chromium chromium-driver")
    folder = copy_space(tmp_path_factory.mktemp("space"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {"GRADIO_SERVER_PORT": url.split(":")[-1], "GRADIO_ANALYTICS_ENABLED": "False"}
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    # Chromium's sandbox refuses root; and nothing but this machine is there, so no font is waited for.
    options.add_argument("--headless=new")
    options.add_argument("--no-sandbox")
    options.add_argument("--disable-dev-shm-usage")
    options.add_argument("--window-size=1300,1100")
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    with (folder / "log").open("w") as log:
        space = subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            wait_for(url, space, folder / "log")
            driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))
            try:
                driver.get(url)
                yield Page(driver)
            finally:
                driver.quit()
        finally:
            space.terminate()
            space.wait()


def wait_for(url: str, space: subprocess.Popen[bytes], log: Path) -> None:
    """Returns when the page answers."""
    for _ in range(240):
        assert space.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url):
                return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(f"no page after two minutes; its log: {log.read_text()}")


@pytest.mark.slow
def test_a_table_is_entered_and_its_number_read(page: Page) -> None:
    page.press("Table")
    page.write("CSV or TSV", HEAD + "a,name,1.386294361,20\nb,name,1.386294361,20\na,city,0,8\nb,city,0,8\n")
    page.write("num_parameters", "26")
    page.write("num_entities", "4")
    page.press("Measure the table")
    assert page.shows("R = 4 bits per parameter")  # 4 (20 - 2 + 8) bits
    assert page.shows("of at most R_max = 4; 95 % interval 4 to 4. 104 of 104 bits, 4 entities.")
    assert page.shows("name\n1.3863\n18\n18\ncity\n0\n8\n8")


@pytest.mark.slow
def test_a_table_is_uploaded_and_its_number_read(page: Page, tmp_path: Path) -> None:
    (tmp_path / "facts.tsv").write_text(HEAD.replace(",", "\t") + "a\tcity\t0\t8\nb\tcity\t0\t4\n")
    page.press("Table")
    page.driver.find_element("xpath", "//input[@type='file']").send_keys(str(tmp_path / "facts.tsv"))
    page.wait(lambda: "a\tcity" in page.field("CSV or TSV").get_property("value"), "the table is not shown")
    page.write("num_parameters", "4")
    page.write("name_attribute", " ")
    page.write("num_entities", "0")
    page.press("Measure the table")
    assert page.shows("R = 3 bits per parameter")


@pytest.mark.slow
def test_json_is_typed_and_its_number_read(page: Page) -> None:
    page.press("JSON")
    page.write("predictions", "[[0.0, null], [0.0, 0.0]]")
    page.write("references", "[[8.0, null], [8.0, 5.0]]")
    page.write("attribute_names", '["birth_date", "birth_city"]')
    page.write("num_parameters", "3")
    page.write("name_attribute", " ")
    page.write("num_entities", "0")
    page.press("Measure the JSON")
    assert page.shows("R = 7 bits per parameter")


@pytest.mark.slow
def test_a_mistake_is_answered_on_the_page(page: Page) -> None:
    page.press("Table")
    page.write("CSV or TSV", HEAD + "a,city,x,8\n")
    page.press("Measure the table")
    assert page.shows("table, line 2: nll is 'x', expected a number; write it like 6.93, or leave it empty")


@pytest.mark.slow
def test_the_card_stands_below(page: Page) -> None:
    assert page.shows("Metric Card for Bits per Parameter")
