"""One OUTPUT holds one configuration, and says in one line why it cannot be used."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from threading import Barrier

import pytest

from rtprune.dataset import Output, new_run_id
from rtprune.dataset.layout import check_run_id, compacted_file, compaction_of, unit_file, unit_of
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


@pytest.mark.parametrize("opening", [lambda uri: Output.open(uri, CONFIG), Output.existing])
def test_an_output_of_an_earlier_format_is_refused_with_the_way_on(
    output: Output, opening: Callable[[str], Output]
) -> None:
    where = join(output.uri, "_rtprune", "config.json")
    content = json.loads(get(where))
    del content["format"]
    put(where, json.dumps(content).encode())
    before = find(output.uri)
    with pytest.raises(UsageError, match=r"config\.json was made by an earlier rtprune.*name a new OUTPUT"):
        opening(output.uri)
    assert find(output.uri) == before


def test_an_output_of_a_later_format_is_refused(output: Output) -> None:
    where = join(output.uri, "_rtprune", "config.json")
    put(where, json.dumps(json.loads(get(where)) | {"format": "2.0"}).encode())
    with pytest.raises(UsageError, match=r"format 2\.0.*writes format 1\.0"):
        Output.existing(output.uri)


def test_a_store_that_ignores_the_condition_is_refused_before_anything_is_written(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overwrite(uri: str, data: bytes) -> bool:
        put(uri, data)
        return True

    monkeypatch.setattr(import_module("rtprune.store.probe"), "create_if_absent", overwrite)
    with pytest.raises(UsageError, match="conditional writes"):
        Output.open(f"{bucket}/out", CONFIG)
    assert find(bucket) == []


def test_a_store_is_probed_again_at_every_opening(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(uri: str) -> None:
        raise UsageError(f"the store of {uri} changed its ways")

    monkeypatch.setattr("rtprune.dataset.layout.probe", refuse)
    with pytest.raises(UsageError, match="changed its ways"):
        Output.open(output.uri, CONFIG)
    with pytest.raises(UsageError, match="mode is"):
        Output.open(output.uri, CONFIG | {"mode": "small"})
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

        monkeypatch.setattr("os.makedirs", refuse)
    with pytest.raises(UsageError, match="Permission denied"):
        Output.open(str(folder), CONFIG)


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


def test_a_units_file_is_known_by_its_name_and_nothing_else_is() -> None:
    unit_id = "0f" * 12
    assert unit_of(unit_file(unit_id)) == unit_id
    for other in (
        "pages/other.parquet",
        f"pages/00/{unit_id}.parquet",
        f"pages/0f/{unit_id}.parquet.part",
        f"pages/0f/../{unit_id}.parquet",
        compacted_file(1, "a" * 64),
    ):
        assert unit_of(other) is None


def test_a_compacted_file_is_known_by_its_number_and_listed_after_all_units() -> None:
    """A reader that lists keys in their order while files are replaced must not miss the new one."""
    file = compacted_file(7, "a" * 64)
    assert compaction_of(file) == 7
    assert compaction_of("pages/merged/../000001-0123456789abcdef.parquet") is None
    assert compaction_of(unit_file("f" * 24)) is None
    assert unit_file("f" * 24) < file < compacted_file(10, "0" * 64)


def test_a_run_id_that_leads_outside_names_no_file(output: Output) -> None:
    with pytest.raises(UsageError, match="cannot be a run id"):
        output.run_uri("../../r1")
