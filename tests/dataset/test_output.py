"""One OUTPUT holds one configuration, and says in one line why it cannot be used."""

from __future__ import annotations

import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from rtprune.dataset import Output, new_run_id
from rtprune.dataset.output import check_run_id, data_file, unit_of
from rtprune.errors import UsageError
from rtprune.store import find, get, join, put
from tests.dataset.samples import CONFIG


def test_another_configuration_is_refused_and_the_differing_settings_named(output: Output) -> None:
    with pytest.raises(UsageError) as caught:
        Output.open(output.uri, CONFIG | {"mode": "small", "prune": 0.25})
    message = str(caught.value)
    assert "mode is 'tiny' there and 'small' here" in message
    assert "prune is 'dynamic' there and 0.25 here" in message
    assert "max_output_tokens" not in message
    assert "\n" not in message


def test_a_setting_that_only_one_side_has_differs(output: Output) -> None:
    with pytest.raises(UsageError, match="revision"):
        Output.open(output.uri, CONFIG | {"revision": "abc"})


def test_the_same_configuration_opens_again_and_writes_nothing(output: Output) -> None:
    where = join(output.uri, "_rtprune", "config.json")
    before = get(where)
    again = Output.open(output.uri, dict(reversed(CONFIG.items())))
    assert again == output
    assert again.config_hash == output.config_hash
    assert find(output.uri) == [where]
    assert get(where) == before


def test_of_two_configurations_that_start_at_once_one_wins(output_uri: str) -> None:
    start = Barrier(4)

    def begin(number: int) -> Output | UsageError:
        start.wait()
        try:
            return Output.open(output_uri, {"mode": "tiny" if number % 2 else "small"})
        except UsageError as error:
            return error

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(begin, range(4)))
    assert len([result for result in results if isinstance(result, Output)]) == 2
    assert len({str(result) for result in results if isinstance(result, UsageError)}) == 1


def test_settings_of_another_schema_version_are_refused(output: Output) -> None:
    where = join(output.uri, "_rtprune", "config.json")
    content = json.loads(get(where))
    put(where, json.dumps(content | {"schema_version": 999}).encode())
    with pytest.raises(UsageError, match="999"):
        Output.open(output.uri, CONFIG)


def test_a_store_that_ignores_the_condition_is_refused(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    def overwrite(uri: str, data: bytes) -> bool:
        put(uri, data)
        return True

    monkeypatch.setattr("rtprune.dataset.output.create_if_absent", overwrite)
    with pytest.raises(UsageError, match="conditional writes"):
        Output.open(output.uri, CONFIG)
    assert Output.existing(output.uri) == output


def test_a_local_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "out"
    file.write_text("mine")
    for path in (file, file / "below"):
        with pytest.raises(UsageError, match="cannot write OUTPUT"):
            Output.open(str(path), CONFIG)
    assert file.read_text() == "mine"


def test_a_local_output_that_may_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "out"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):  # root may write anywhere: let the system refuse as it would refuse others

        def refuse(path: str, exist_ok: bool = False) -> None:
            raise PermissionError(13, "Permission denied", path)

        monkeypatch.setattr("rtprune.dataset.output.os.makedirs", refuse)
    with pytest.raises(UsageError, match="Permission denied"):
        Output.open(str(folder), CONFIG)


def test_a_control_folder_that_became_read_only_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Output.open(str(tmp_path / "out"), CONFIG)
    monkeypatch.setattr("rtprune.dataset.output.os.access", lambda path, mode: False)
    with pytest.raises(UsageError, match="permission denied"):
        Output.open(str(tmp_path / "out"), CONFIG)


def test_a_bucket_that_does_not_exist_is_named(bucket: str) -> None:
    with pytest.raises(UsageError, match=r"no such bucket.*create the bucket"):
        Output.open(f"{bucket}-not-there/out", CONFIG)


def test_reading_where_there_is_no_dataset_says_so(output_uri: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no dataset"):
        Output.existing(output_uri)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="no dataset"):
        Output.existing(str(tmp_path / "file"))


def test_a_damaged_configuration_is_named(output: Output) -> None:
    put(join(output.uri, "_rtprune", "config.json"), b"{")
    with pytest.raises(UsageError, match=r"config\.json"):
        Output.open(output.uri, CONFIG)


def test_an_output_travels_to_other_processes(output: Output) -> None:
    assert pickle.loads(pickle.dumps(output)) == output


def test_run_ids_are_new_sort_by_time_and_never_look_like_numbers() -> None:
    ids = [new_run_id() for _ in range(100)]
    assert len(set(ids)) == 100
    for run_id in ids:
        check_run_id(run_id)


def test_only_data_files_belong_to_units() -> None:
    unit_id, sha256 = "0" * 24, "a" * 64
    assert unit_of(data_file("r1", unit_id, sha256)) == unit_id
    for other in ("pages/other.parquet", f"pages/run=../u-{unit_id}-{'a' * 16}.parquet", "documents/run=r1/d-000001"):
        assert unit_of(other) is None
