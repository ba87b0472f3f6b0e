"""A model's name leads to a folder that holds it, or to an error that says what to do."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from rtprune.errors import ModelError, RTPruneError, StoreError
from rtprune.models import FAMILIES, checkpoint, load_model
from rtprune.models.checkpoint import resolve
from rtprune.store import open_filesystem, put


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub is out of reach, whatever a test asks for; fetched checkpoints go to a folder of the test's own."""

    def refuse(*arguments: object, **options: object) -> str:
        raise OfflineModeIsEnabled("cannot reach the hub: offline mode is enabled.")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def cached(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "rtprune" / "checkpoints").iterdir())


def upload(folder: Path, prefix: str) -> None:
    for file in folder.iterdir():
        put(f"{prefix}/{file.name}", file.read_bytes())


class TestFolders:
    def test_a_local_folder_is_used_where_it_lies(self, random_checkpoint: Path) -> None:
        found = resolve(str(random_checkpoint))
        assert found.folder == random_checkpoint
        assert found.config["model_type"] == "deepseek_vl_v2"
        assert found.commit is None

    def test_a_folder_without_configuration_is_no_checkpoint(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"no config\.json"):
            resolve(str(tmp_path))

    @pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[]"])
    def test_a_damaged_configuration_is_named(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(ModelError, match=r"config\.json"):
            resolve(str(tmp_path))

    @pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "nothing", "../../x/y"])
    def test_a_folder_that_is_not_there_is_named_with_the_ways_on(self, name: str) -> None:
        with pytest.raises(ModelError, match="there is no such folder") as caught:
            resolve(name)
        assert name in str(caught.value)
        assert "--model mini" in str(caught.value)

    def test_a_model_of_an_unknown_family_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"model_type": "other"}')
        with pytest.raises(ModelError, match="calls the model 'other'") as caught:
            load_model(str(tmp_path))
        assert all(family in str(caught.value) for family in FAMILIES)


class TestBuiltIn:
    def test_mini_is_the_packaged_folder(self, random_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checkpoint, "_BUILT_IN_FOLDER", random_checkpoint)
        assert resolve("mini").folder == random_checkpoint

    def test_an_installation_without_its_weights_says_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checkpoint, "_BUILT_IN_FOLDER", tmp_path)
        with pytest.raises(ModelError, match="the built-in model is not in"):
            resolve("mini")


class TestPublished:
    @pytest.mark.parametrize(
        "failure",
        [
            LocalEntryNotFoundError("cannot find the snapshot\nand more"),
            ConnectionError("no route to host"),
            ValueError("bad name"),
        ],
    )
    def test_where_it_cannot_be_had_the_ways_on_are_named(
        self, failure: Exception, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*arguments: object, **options: object) -> str:
            raise failure

        monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
        with pytest.raises(ModelError) as caught:
            resolve("deepseek-ai/DeepSeek-OCR")
        message = str(caught.value)
        assert "'deepseek-ai/DeepSeek-OCR' cannot be had here" in message
        assert "--model mini" in message
        assert "local folder" in message
        assert "\n" not in message

    def test_configuration_and_weights_alone_are_fetched_and_the_commit_is_recorded(
        self, random_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: dict[str, object] = {}
        snapshot = tmp_path / "snapshots" / "0123abcd"
        snapshot.parent.mkdir()
        snapshot.symlink_to(random_checkpoint)

        def fetch(name: str, **options: object) -> str:
            asked.update(options, name=name)
            return str(snapshot)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
        found = resolve("deepseek-ai/DeepSeek-OCR")
        assert asked == {"name": "deepseek-ai/DeepSeek-OCR", "allow_patterns": ["*.json", "*.safetensors"]}
        assert found.commit == "0123abcd"
        assert found.config["model_type"] == "deepseek_vl_v2"


class TestObjectStore:
    def test_a_prefix_is_fetched_once_and_loads(self, random_checkpoint: Path, bucket: str, tmp_path: Path) -> None:
        upload(random_checkpoint, f"{bucket}/models/tiny")
        put(f"{bucket}/models/tiny/modeling.py", b"raise SystemExit")
        put(f"{bucket}/models/tiny/older/config.json", b"{}")
        found = resolve(f"{bucket}/models/tiny/")
        assert sorted(file.name for file in found.folder.iterdir()) == [
            "config.json",
            "model.safetensors",
            "tokenizer.json",
        ]
        assert all((found.folder / file.name).read_bytes() == file.read_bytes() for file in random_checkpoint.iterdir())
        written = (found.folder / "model.safetensors").stat().st_mtime_ns
        assert resolve(f"{bucket}/models/tiny").folder == found.folder
        assert (found.folder / "model.safetensors").stat().st_mtime_ns == written
        assert cached(tmp_path) == [found.folder]
        assert load_model(f"{bucket}/models/tiny").revision == load_model(str(random_checkpoint)).revision

    def test_a_changed_object_is_fetched_again(self, random_checkpoint: Path, bucket: str) -> None:
        upload(random_checkpoint, f"{bucket}/m")
        before = resolve(f"{bucket}/m")
        put(f"{bucket}/m/config.json", json.dumps({**before.config, "note": 1}).encode())
        after = resolve(f"{bucket}/m")
        assert after.folder != before.folder
        assert after.config["note"] == 1

    def test_an_interrupted_fetch_leaves_nothing_behind(
        self, random_checkpoint: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        upload(random_checkpoint, f"{bucket}/m")
        filesystem, _ = open_filesystem(bucket)
        fetch, fetched = filesystem.get_file, []

        def break_off(path: str, local: str) -> None:
            if fetched:
                raise TimeoutError
            fetched.append(path)
            fetch(path, local)

        with monkeypatch.context() as patch:
            patch.setattr(filesystem, "get_file", break_off)
            with pytest.raises(StoreError):
                resolve(f"{bucket}/m")
        assert cached(tmp_path) == []
        assert resolve(f"{bucket}/m").config["model_type"] == "deepseek_vl_v2"

    def test_an_object_that_came_short_is_not_kept(
        self, random_checkpoint: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        upload(random_checkpoint, f"{bucket}/m")
        filesystem, _ = open_filesystem(bucket)
        monkeypatch.setattr(filesystem, "get_file", lambda path, local: Path(local).write_bytes(b"short"))
        with pytest.raises(StoreError, match="changed while it was fetched"):
            resolve(f"{bucket}/m")
        assert cached(tmp_path) == []

    def test_an_empty_prefix_holds_no_checkpoint(self, bucket: str) -> None:
        put(f"{bucket}/m/readme.txt", b"nothing")
        for prefix in (f"{bucket}/m", f"{bucket}/other"):
            with pytest.raises(ModelError, match="holds no checkpoint"):
                resolve(prefix)

    def test_a_bucket_that_is_not_there_is_an_error_with_a_name(self, bucket: str) -> None:
        with pytest.raises(RTPruneError, match=f"{bucket}-gone"):
            resolve(f"{bucket}-gone/m")
