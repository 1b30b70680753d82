"""The images and containers as the engine has them: who they run as, what they may, what they carry; and no secret where anybody may look."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from tests.stack.compose import SERVICES, VERSION, Stack

READING = Path(__file__).with_name("reading.py").read_text("utf-8")
TARGETS = ("hub", "capture", "applier", "cli")
USER = "10001:10001"

SECRET_VOLUMES = ("secrets", "admin", "shop")
"""Passwords, and URLs that hold them."""


def image_of(stack: Stack, target: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(stack.docker("image", "inspect", f"subak/{target}:{VERSION}"))[0]["Config"]
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_says_what_it_is(stack: Stack, target: str) -> None:
    config = image_of(stack, target)
    labels = {name.rpartition(".")[2]: value for name, value in config["Labels"].items() if "opencontainers" in name}
    assert {"title", "description", "licenses", "version", "revision"} <= labels.keys()
    assert (labels["title"], labels["version"]) == ("Subak", VERSION)
    assert (config["User"], config["StopSignal"]) == (USER, "SIGTERM")
    assert config["Healthcheck"]["Test"][0] == ("NONE" if target == "cli" else "CMD")


def test_an_image_carries_what_its_service_needs(stack: Stack) -> None:
    def inside(target: str, script: str) -> str:
        image = f"subak/{target}:{VERSION}"
        return stack.docker("run", "--rm", "--network", "none", "--entrypoint", "sh", image, "-c", script).strip()

    found = "find / -xdev -name '*odbc*.so*' 2>/dev/null; true"
    assert inside("hub", found) == ""
    assert "libodbc.so" in inside("capture", found)
    for target in ("capture", "applier"):
        assert inside(target, "python -c 'import pyodbc; print(pyodbc.drivers())'") == "['FreeTDS']", target
    for target in TARGETS:
        assert inside(target, "id -u; touch /app/x 2>/dev/null && echo written; command -v gcc cc; true") == "10001", (
            target
        )


def test_a_container_may_do_nothing_but_its_work(stack: Stack) -> None:
    for service in ("hub", *(f"{name}-{one}" for name in stack.profiles for one in SERVICES[1:])):
        found = stack.inspect(service)
        host = found["HostConfig"]
        assert found["Config"]["User"] == USER, service
        assert host["ReadonlyRootfs"] and not host["Privileged"], service
        assert host["CapDrop"] == ["ALL"] and not host["CapAdd"], service
        assert host["SecurityOpt"] == ["no-new-privileges:true"], service
        assert host["Memory"] and host["PidsLimit"], service


def test_no_secret_stands_where_anybody_may_look(stack: Stack) -> None:
    """Not in what the engine tells of containers and images, nor in what any of them has said, jobs that have ended included."""
    volumes = [
        name
        for name in stack.docker("volume", "ls", "--quiet", "--filter", f"name={stack.project}_").split()
        if name.rpartition("_")[2].rpartition("-")[2] in SECRET_VOLUMES
    ]
    assert len(volumes) >= 2 + 2 * len(stack.profiles)
    mounts = [option for name in volumes for option in ("--volume", f"{name}:/look/{name}:ro")]
    options = ("--rm", "--network", "none", "--user", "0", "--entrypoint", "python", *mounts)
    read = stack.run("docker", "run", *options, f"subak/cli:{VERSION}", "-c", READING, "/look")
    secrets = set()
    for text in json.loads(read).values():
        secrets.add(str(make_url(text.strip()).password) if "://" in text else text.strip())
    assert len(secrets) >= 2 + 3 * len(stack.profiles) and all(len(one) >= 32 for one in secrets)

    containers = stack.compose("ps", "--all", "--quiet").split()
    places = {f"the log of {name}": stack.log_of(name) for name in containers}
    places["docker inspect"] = stack.docker("inspect", *containers)
    places["docker compose config"] = json.dumps(stack.configuration())
    for target in TARGETS:
        image = f"subak/{target}:{VERSION}"
        places[f"the history of {image}"] = stack.docker("image", "history", "--no-trunc", image)
    assert len(containers) > len(stack.services) and all(places.values())
    assert [place for place, text in places.items() if any(one in text for one in secrets)] == []
