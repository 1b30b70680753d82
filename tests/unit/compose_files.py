"""The compose files as Docker would read them: YAML, with `extends` followed and nothing interpolated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
Service = dict[str, Any]


def load(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    return document


def services(document: dict[str, Any], folder: Path = ROOT) -> dict[str, Service]:
    return {name: _whole(service, document, folder) for name, service in document["services"].items()}


def _whole(service: Service, document: dict[str, Any], folder: Path) -> Service:
    extends = service.get("extends")
    if extends is None:
        return service
    file = folder / extends["file"] if "file" in extends else None
    base_document = load(file) if file else document
    base = _whole(base_document["services"][extends["service"]], base_document, file.parent if file else folder)
    own = {key: value for key, value in service.items() if key != "extends"}
    merged = base | own
    for key in ("environment", "healthcheck"):
        if isinstance(base.get(key), dict) and isinstance(own.get(key), dict):
            merged[key] = base[key] | own[key]
    return merged


def outlet_of(name: str, service_names: Any) -> list[str]:
    return sorted(service for service in service_names if service.startswith(f"{name}-"))
