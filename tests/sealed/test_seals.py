"""Files with digests: whatever bit is changed, they are refused or read as they were written."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damages import cut, edited, flip, foreign

from knowcap.files import FileError
from knowcap.sealed import CONTENT_DIGEST, check_files, check_text, digest_of, files_of, read_result, sealed_text
from knowcap.sealed import write_result as write
from knowcap.sealed.parquet import batches, read_schema, read_table, write_table


METADATA = {b"knowcap": b'{"num_parameters": 100, "knowledge": {"name": "tiny"}}'}


def table(rows: int = 300) -> pa.Table:
    """Columns of the types of nll.parquet, with values that take all bits."""
    rng = np.random.default_rng(0)
    columns = {
        "entity": np.arange(rows),
        "attribute": ["birth_date", "employer", "name"] * (rows // 3),
        "nll": rng.exponential(5.0, rows),
        "log2_candidates": pa.array([None if i % 7 == 0 else 10.0 for i in range(rows)], pa.float64()),
        "greedy_match": rng.random(rows) < 0.5,
    }
    return pa.table(columns).replace_schema_metadata(METADATA)


def flips_seen(path: Path, count: int, compression: str) -> tuple[int, int]:
    """How many flips of one bit are refused, and how many change nothing that is read."""
    write_table(table(), path, compression=compression)
    whole, refused = path.read_bytes(), 0
    for seed in range(count):
        path.write_bytes(flip(whole, random.Random(seed)))
        try:
            assert read_table(path).equals(table()), seed
            assert read_schema(path).metadata == METADATA
        except FileError as error:
            assert str(path) in str(error) and "--overwrite" in str(error)
            refused += 1
    return refused, count - refused


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_every_flip_of_a_bit_is_refused_or_harmless(tmp_path: Path, compression: str) -> None:
    refused, harmless = flips_seen(tmp_path / "nll.parquet", 300, compression)
    assert harmless < 20 < refused  # those of the seal's own name, which is then not found


@pytest.mark.slow
def test_ten_thousand_flips(tmp_path: Path) -> None:
    refused, harmless = flips_seen(tmp_path / "nll.parquet", 10_000, "snappy")
    assert harmless < refused / 20


@pytest.mark.parametrize("seed", range(12))
def test_a_cut_or_foreign_table_is_one_message(tmp_path: Path, seed: int) -> None:
    path, rng = tmp_path / "control.parquet", random.Random(seed)
    write_table(table(30), path)
    path.write_bytes((cut if seed % 2 else foreign)(path.read_bytes(), rng))
    for read in (read_table, read_schema, lambda p: list(batches(p))):
        with pytest.raises(FileError, match="control.parquet"):
            read(path)


def test_other_readers_see_an_ordinary_file_with_checksums_of_pages(tmp_path: Path) -> None:
    path = tmp_path / "train-00000-of-00001.parquet"
    write_table(table(), path)
    assert pq.read_table(path, page_checksum_verification=True).equals(table())
    at = path.read_bytes().index(b"birth_date")
    path.write_bytes(path.read_bytes()[:at] + b"B" + path.read_bytes()[at + 1 :])
    with pytest.raises(OSError, match="CRC"):
        pq.read_table(path, page_checksum_verification=True)


def test_the_same_rows_make_the_same_bytes_and_a_file_without_a_seal_is_read(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_table(table(), tmp_path / f"{name}.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    pq.write_table(table(), tmp_path / "old.parquet")
    assert read_table(tmp_path / "old.parquet", ["nll", "entity"]).column_names == ["nll", "entity"]
    pq.write_table(
        pq.read_table(tmp_path / "one.parquet"), tmp_path / "copy.parquet"
    )  # a seal does not outlive its file
    assert read_table(tmp_path / "copy.parquet").equals(table())


def capacity() -> dict[str, Any]:
    """A result with the kinds of values that results have."""
    attributes = {"name": {"bits_per_entity": 12.5, "accuracy": None}}
    return {
        "bits_per_parameter": 0.1 + 0.2, "num_parameters": 12_448, "confidence_interval": [1e-300, None],
        "attributes": attributes, "precision": "fp32", "bound": True, "versions": {"é": "1"},
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(60))
def test_an_edited_result_is_refused_and_names_its_command(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "capacity.json"
    write(path, capacity())
    path.write_bytes(edited(path.read_bytes(), random.Random(seed)))
    content = json.loads(path.read_bytes())
    without = {key: value for key, value in content.items() if key != CONTENT_DIGEST}
    if json.dumps(without) == json.dumps(capacity()) and content.get(CONTENT_DIGEST, "") is not None:
        return  # the digest itself was removed
    with pytest.raises(FileError, match=r"capacity\.json.*(knowcap measure|run the command)"):
        read_result(path)


def test_a_result_may_be_laid_out_anew_and_an_old_one_has_no_digest(tmp_path: Path) -> None:
    path = tmp_path / "capacity.json"
    write(path, capacity())
    content = json.loads(path.read_text())
    path.write_text(json.dumps(dict(sorted(content.items(), reverse=True)), ensure_ascii=True))
    assert read_result(path) == capacity()
    path.write_text(json.dumps(capacity()))
    assert read_result(path) == capacity()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "expected a JSON object, got list"),
        ("null", "expected a JSON object, got NoneType"),
        ("{}", "lacks bits_per_parameter"),
        ('{"bits_per_parameter": "1.5"}', "bits_per_parameter is '1.5', expected a number"),
        ('{"bits_per_parameter": NaN}', "bits_per_parameter is nan, expected a number"),
        ('{"bits_per_parameter": true}', "expected a number"),
        ('{"bits_per_parameter": 1, "num_parameters": -1}', "num_parameters is -1, expected a whole number >= 0"),
        ('{"bits_per_parameter": 1, "confidence_interval": [0, "x"]}', r"confidence_interval\.1 is 'x'"),
        ('{"bits_per_parameter": 1, "attributes": []}', r"attributes is \[\], expected an object"),
        ('{"bits_per_parameter": 1, "attributes": {"name": {"accuracy": "all"}}}', r"attributes\.name\.accuracy"),
        ("[" * 100_000, "not valid JSON"),
        ("1" * 5000, "not valid JSON"),
    ],
)
def test_json_that_is_not_ours_is_one_message(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "capacity.json").write_text(content)
    with pytest.raises(FileError, match=message):
        read_result(tmp_path / "capacity.json")


def test_recorded_files_are_compared(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(range(256)))
    (tmp_path / ".hidden").write_bytes(b"")
    recorded = files_of(tmp_path)
    assert set(recorded) == {"model.safetensors"}
    check_files(tmp_path, recorded, "training.json")
    check_files(tmp_path, None, "training.json")
    for seed in range(40):
        (tmp_path / "model.safetensors").write_bytes(flip(bytes(range(256)), random.Random(seed)))
        with pytest.raises(FileError, match=r"model\.safetensors is not the file that training\.json was"):
            check_files(tmp_path, recorded, "training.json")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileError, match=r"model\.safetensors is missing"):
        check_files(tmp_path, recorded, "training.json")


def test_a_digest_is_not_remembered_beyond_a_change(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    found = set()
    for value in range(20):  # within one tick of the clock that dates files
        path.write_bytes(bytes([value]))
        found.add(digest_of(path))
    assert len(found) == 20


def test_a_text_is_held_to_its_last_line_if_it_has_one(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(sealed_text("seed: 0\nname: é\n"))
    check_text(path)
    path.write_text(path.read_text().replace("seed: 0", "seed: 1"))
    with pytest.raises(FileError, match=r"recipe\.yaml was changed .* remove the last line"):
        check_text(path)
    path.write_text("seed: 1\n")
    check_text(path)
    path.write_text("\n")
    with pytest.raises(FileError, match=r"recipe\.yaml is empty; "):
        check_text(path)
