"""What a release consists of and what it was made with, as a CycloneDX 1.6 bill of materials of a machine learning model."""

import time
import uuid
from typing import Any

from onnxmake.build import gates
from onnxmake.build.files import canonical_json
from onnxmake.build.process import EPOCH
from onnxmake.release.facts import Facts, tool_version
from onnxmake.release.licence import SPDX
from onnxmake.release.part import Part


def _hashes(digest: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": digest}]


def _licences(facts: Facts) -> list[dict[str, Any]]:
    named = facts.licence["license"]
    known = {"id": SPDX[named]} if named in SPDX else {"name": facts.licence.get("license_name", named)}
    link = facts.licence.get("license_link", "")
    return [{"license": known | ({"url": link} if link.startswith("https://") else {})}]


def _card(facts: Facts, part: Part) -> dict[str, Any]:
    """The model card in the BOM's form."""
    told = part.quality or {"metrics": {}}
    metrics = [
        {"type": gates.METRICS[name][0], "value": gates.METRICS[name][1].format(value)}
        for name, value in told["metrics"].items()
    ]
    parameters = {
        "task": facts.task,
        "architectureFamily": str(facts.config.get("model_type", "unknown")),
        "modelArchitecture": ", ".join(facts.config.get("architectures") or ["unknown"]),
    }
    return {"modelParameters": parameters} | (
        {"quantitativeAnalysis": {"performanceMetrics": metrics}} if metrics else {}
    )


def _named(facts: Facts, name: str, description: str) -> dict[str, Any]:
    return {
        "type": "machine-learning-model",
        "bom-ref": name,
        "name": name,
        "version": facts.version,
        "description": description,
        "licenses": _licences(facts),
    }


def _model(facts: Facts) -> dict[str, Any]:
    """What the BOM is of: a model, or one that consists of a variant for each device."""
    models = [_named(facts, p.name, p.description) | {"modelCard": _card(facts, p)} for p in facts.parts]
    return models[0] if len(models) == 1 else _named(facts, facts.name, facts.description) | {"components": models}


def _origin(facts: Facts) -> dict[str, Any]:
    """The checkpoint."""
    found = {
        "type": "machine-learning-model",
        "bom-ref": "checkpoint",
        "name": facts.repo or facts.source,
        "licenses": _licences(facts),
        "components": [
            {"type": "file", "bom-ref": f"checkpoint/{name}", "name": name, "hashes": _hashes(digest)}
            for name, digest in facts.checkpoint.items()
        ],
    }
    pinned = {"version": facts.revision, "purl": f"pkg:huggingface/{facts.repo}@{facts.revision}"}
    return found | (pinned if facts.repo else {})


def bom(facts: Facts) -> dict[str, Any]:
    """Its number is of its content, its date the fixed one that all that is made here bears."""
    files = [
        {"type": "file", "bom-ref": name, "name": name, "hashes": _hashes(file.digest)}
        for name, file in facts.files.items()
    ]
    libraries = [
        {"type": "library", "bom-ref": f"pkg:pypi/{n}@{v}", "name": n, "version": v, "purl": f"pkg:pypi/{n}@{v}"}
        for n, v in facts.packages
    ]
    parts = [*files, _origin(facts), *libraries]
    out: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(EPOCH)),
            "tools": {"components": [{"type": "application", "name": "onnxmake", "version": tool_version()}]},
            "component": _model(facts),
        },
        "components": parts,
        "dependencies": [{"ref": facts.name, "dependsOn": sorted(part["bom-ref"] for part in parts)}],
    }
    return out | {"serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, canonical_json(out))}"}
