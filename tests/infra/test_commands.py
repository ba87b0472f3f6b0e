"""What the files of infra/ call and name exists as they call and name it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest
import yaml

from flows.ocr_corpus import ocr_corpus
from rtprune import __version__
from rtprune.cli import app
from rtprune.cli.flags import run_settings
from rtprune.settings import RunSettings
from tests.infra.described import REPOSITORY, documents, image_lines, pinned, project, services, texts, walk

COMMAND = re.compile(r"\brtprune (?:page|run|stats|models|bench)\b[^'\"`\n]*")


def commands(program: re.Pattern[str]) -> list[tuple[str, str]]:
    """(file, command line) of every call, those in comments included."""
    joined = {name: re.sub(r"\\\n#?\s*", "", text) for name, text in texts().items()}
    return [(name, found.split("  #")[0].strip()) for name, text in joined.items() for found in program.findall(text)]


def test_every_rtprune_command_line_is_accepted_by_the_parser_and_the_settings() -> None:
    found = commands(COMMAND)
    assert {name for name, _ in found} >= {"compose.yaml", "ray-aws.yaml", "rayjob.yaml"}
    for _, line in found:
        _, given, _ = app.parse_args(shlex.split(line)[1:], exit_on_error=False, print_error=False)
        run_settings({name: value for name, value in given.arguments.items() if name in RunSettings.model_fields})


def test_every_rtprune_variable_is_a_setting() -> None:
    known = {f"RTPRUNE_{name.upper()}" for name in RunSettings.model_fields}
    named = {variable for text in texts().values() for variable in re.findall(r"\bRTPRUNE_\w+", text)}
    assert named
    assert named <= known


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own
def test_every_ray_start_takes_its_options() -> None:
    from ray.scripts.scripts import start

    found = commands(re.compile(r"\bray start (?!the)[^'\"`\n&]*"))
    for service in services().values():
        line = " ".join(service.get("command", []))
        found += [("compose.yaml", one) for one in re.findall(r"\bray start [^&]*", line)]
    (cluster,) = documents("ray-aws.yaml")
    job = documents("rayjob.yaml")[1]["spec"]["rayClusterSpec"]
    for group in (job["headGroupSpec"], *job["workerGroupSpecs"]):
        parameters = " ".join(f"--{name}={value}" for name, value in group["rayStartParams"].items())
        found.append(("rayjob.yaml", f"ray start {parameters}"))
    assert len([one for one in found if one[0] == "compose.yaml"]) >= 3
    assert len(cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]) == 4
    for _, line in found:
        start.make_context("start", shlex.split(line)[2:])  # parses, and starts nothing


def test_deployments_and_parameters_that_are_run_exist() -> None:
    described = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())
    known = {f"{ocr_corpus.name}/{deployment['name']}" for deployment in described["deployments"]}
    runs = commands(re.compile(r"prefect deployment run [^'\"`\n]*"))
    assert runs
    for _, line in runs:
        arguments = shlex.split(line)
        assert arguments[3] in known
        given = {one.partition("=")[0] for one in arguments[4:] if "=" in one}
        assert set(ocr_corpus.parameters.required) <= given <= set(ocr_corpus.parameters.properties)
    pool = described["definitions"]["work_pool"]["name"]
    assert f"work-pool create {pool} --type process" in texts()["compose.yaml"]
    assert f"worker start --pool {pool}" in texts()["compose.yaml"]


def test_buckets_are_those_of_the_deployments_and_the_one_that_is_created(bucket: str) -> None:
    import boto3

    described = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())
    nightly = next(one for one in described["deployments"] if one["name"] == "nightly")["parameters"]
    named = {uri.split("/")[0] for text in texts().values() for uri in re.findall(r"s3://([\w/-]+)", text)}
    assert named == {uri.removeprefix("s3://").split("/")[0] for uri in nightly.values()}
    command = services()["bucket"]["command"]
    assert command[:2] == ["python", "-c"]
    forget = "import s3fs; s3fs.S3FileSystem.clear_instance_cache()"  # as a process that starts again does
    subprocess.run([sys.executable, "-c", f"{command[2]}\n{forget}\n{command[2]}"], check=True)
    assert named <= {one["Name"] for one in boto3.client("s3").list_buckets()["Buckets"]}


def images() -> list[tuple[str, str]]:
    stages = {rest.split(" AS ")[1] for word, rest in image_lines() if word == "FROM"}
    from_lines = [rest.split(" AS ")[0] for word, rest in image_lines() if word == "FROM"]
    found = [("Dockerfile", image) for image in from_lines if image not in stages | {"scratch"}]
    for name in ("compose.yaml", "ray-aws.yaml", "rayjob.yaml"):
        for document in documents(name):
            found += [
                (name, value) for key, value in walk(document) if key.endswith("image") and isinstance(value, str)
            ]
    return found


def test_every_image_is_pinned_to_a_release() -> None:
    found = images()
    assert {name for name, _ in found} == {"Dockerfile", "compose.yaml", "ray-aws.yaml", "rayjob.yaml"}
    for _, image in found:
        tag = image.rpartition("/")[2].partition(":")[2]
        assert re.search(r"\d+[.-]\d+[.-]\d+", tag), f"{image} can change under the same name"


def test_versions_are_those_that_are_tested() -> None:
    for _, image in images():
        name, _, tag = image.rpartition("/")[2].partition(":")
        if name == "rtprune":
            assert tag in {f"{__version__}-cpu", f"{__version__}-gpu"}
        if name == "python":
            assert tag.startswith(project()["tool"]["mypy"]["python_version"] + ".")
    assert documents("rayjob.yaml")[1]["spec"]["rayClusterSpec"]["rayVersion"] == pinned("ray")
    assert yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["prefect-version"] == pinned("prefect")
    assert f"rtprune:{__version__}-" in texts()["Dockerfile"]


def test_nothing_secret_is_written_down() -> None:
    for name, text in texts().items():
        assert not re.search(r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|eyJ[\w-]{20,}", text), name
    (compose,) = documents("compose.yaml")
    secrets = {
        key: value
        for key, value in walk(compose)
        if re.search(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY|AUTH_STRING", key) and isinstance(value, str)
    }
    assert secrets.keys() >= {"AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN", "GF_SECURITY_ADMIN_PASSWORD"}
    for key, value in secrets.items():
        assert re.search(r"\$\{\w+:\?[^}]+\}$", value), f"{key} must come from the environment, and not be left out"


def test_the_example_names_every_variable_and_no_secret() -> None:
    example = dict(re.findall(r"^(\w+)=(.*)$", texts()["env.example"], re.MULTILINE))
    used = re.findall(r"\$\{(\w+)(:\?)?", texts()["compose.yaml"])
    assert example.keys() == {name for name, _ in used}
    for name, required in used:
        assert not (required and example[name]), f"{name} would be the same secret everywhere"
    assert ".env" in (REPOSITORY / "infra" / ".gitignore").read_text().split()


@pytest.mark.parametrize("name", ["Dockerfile", "compose.yaml", "env.example"])
def test_no_package_index_is_named(name: str) -> None:
    assert not re.search(r"pypi|whl/|/simple|download\.", texts()[name])
