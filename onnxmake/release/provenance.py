"""How a release was made, as an in-toto statement with SLSA provenance 1: https://slsa.dev/spec/v1.1/provenance."""

from collections.abc import Iterator
from typing import Any

from onnxmake.build.files import canonical_json, digest_text
from onnxmake.release.facts import Facts, base_image, tool_version

STATEMENT, PREDICATE = "https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1"
BUILD, BUILDER = "urn:onnxmake:build:1", "urn:onnxmake:local"


def _resource(name: str, digest: str, **more: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": digest}} | more


def _dependencies(facts: Facts) -> Iterator[dict[str, Any]]:
    """All that went in: the checkpoint's files, the environments' locks, the image that they stand on."""
    for name, digest in facts.checkpoint.items():
        where = {"uri": f"hf://{facts.repo}@{facts.revision}/{name}"} if facts.repo else {}
        yield _resource(f"checkpoint/{name}", digest, **where)
    for environment, digest in sorted(facts.locks.items()):
        yield _resource(f"containers/{environment}/requirements.lock", digest)
    name, digest = base_image()
    yield _resource(name, digest)


def statement(facts: Facts) -> dict[str, Any]:
    """No date, no machine, no runner: two builds of the same say the same."""
    return {
        "_type": STATEMENT,
        "subject": [_resource(name, digest) for name, (digest, _) in facts.files.items()],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD,
                "externalParameters": {"target": facts.name, "version": facts.version, "definition": facts.definition},
                "internalParameters": {"steps": [*facts.steps], "origin": facts.origin},
                "resolvedDependencies": [*_dependencies(facts)],
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"onnxmake": tool_version()}},
                "metadata": {"invocationId": digest_text(canonical_json([step["key"] for step in facts.steps]))},
            },
        },
    }
