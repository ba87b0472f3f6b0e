"""The compose file holds together, and nobody but this machine reaches it."""

from __future__ import annotations

from tests.infra.described import INFRA, documents, image_lines, services, words


def ray_nodes() -> set[str]:
    return {name for name, service in services().items() if "ray start" in " ".join(words(service))}


def test_ports_are_published_on_loopback_only() -> None:
    published = [port for service in services().values() for port in service.get("ports", [])]
    assert published
    for port in published:
        assert str(port).startswith("127.0.0.1:")
    assert not any("network_mode" in service or "privileged" in service for service in services().values())


def test_services_wait_for_what_exists_and_can_tell() -> None:
    for name, service in services().items():
        needed = service.get("depends_on", {})
        for other in needed:
            assert other in services(), f"{name} waits for {other}"
            condition = needed[other]["condition"] if isinstance(needed, dict) else "service_started"
            if condition == "service_healthy":
                assert "healthcheck" in services()[other], f"{name} waits for ever for {other}"
            if condition == "service_completed_successfully":
                assert "restart" not in services()[other], f"{other} never completes"


def test_health_is_asked_with_what_the_image_has() -> None:
    installed = [rest for word, rest in image_lines() if word == "RUN" and "apt-get install" in rest]
    for service in services().values():
        if "build" in service and "healthcheck" in service:
            program = service["healthcheck"]["test"][1]
            assert program == "wget"
            assert f" {program} " in installed[0]


def test_mounted_files_and_volumes_exist() -> None:
    (compose,) = documents("compose.yaml")
    for service in services().values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (INFRA / source).is_file()
                assert volume.endswith(":ro")
            else:
                assert source in compose["volumes"]


def test_every_ray_node_asks_for_the_token() -> None:
    assert ray_nodes() == {"ray-head", "ray-worker", "prefect-worker"}
    for name in ray_nodes():
        environment = services()[name]["environment"]
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")


def test_work_stays_off_the_head_and_the_drivers_node() -> None:
    idle = {name for name in ray_nodes() if "--num-cpus=0" in words(services()[name])}
    assert idle == {"ray-head", "prefect-worker"}
    assert services()["prefect-worker"]["environment"]["RTPRUNE_RAY_ADDRESS"] == "auto"


def test_whoever_reads_documents_has_the_store() -> None:
    for name in ("bucket", "ray-worker", "prefect-worker"):
        assert services()[name]["environment"]["AWS_ENDPOINT_URL"] == "http://store:9000"
    store = services()["store"]["environment"]
    reader = services()["ray-worker"]["environment"]
    assert reader["AWS_ACCESS_KEY_ID"] == store["MINIO_ROOT_USER"]
    assert reader["AWS_SECRET_ACCESS_KEY"] == store["MINIO_ROOT_PASSWORD"]


def test_prefects_clients_have_the_servers_address_and_password() -> None:
    server = services()["prefect"]
    assert "0.0.0.0" in server["command"]
    assert "4200" in server["command"]
    for name in ("deployments", "prefect-worker"):
        environment = services()[name]["environment"]
        assert environment["PREFECT_API_URL"] == "http://prefect:4200/api"
        assert environment["PREFECT_API_AUTH_STRING"] == server["environment"]["PREFECT_SERVER_API_AUTH_STRING"]


def test_object_store_of_each_ray_node_fits_into_its_shared_memory() -> None:
    for name in ray_nodes():
        (size,) = [word.split("=")[1] for word in words(services()[name]) if word.startswith("--object-store-memory=")]
        shared = services()[name]["shm_size"]
        assert shared.endswith("m")
        assert int(size) < int(shared[:-1]) * 2**20
