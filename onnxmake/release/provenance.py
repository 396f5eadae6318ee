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
    """All that went in: the checkpoint's files, those of datasets, the environments' locks, the image that they stand on."""
    for name, digest in facts.checkpoint.items():
        where = {"uri": f"hf://{facts.repo}@{facts.revision}/{name}"} if facts.repo else {}
        yield _resource(f"checkpoint/{name}", digest, **where)
    for name in sorted(
        {name for part in facts.parts for step in part.steps for name in step.get("datasets", {}).values()}
    ):
        yield {"name": name.rpartition("/")[2], "uri": name}  # the commit in it is the digest
    for environment, digest in sorted(facts.locks.items()):
        yield _resource(f"containers/{environment}/requirements.lock", digest)
    name, digest = base_image()
    yield _resource(name, digest)


def statement(facts: Facts) -> dict[str, Any]:
    """No date, no machine, no runner: two builds of the same say the same."""
    steps = {part.name: [*part.steps] for part in facts.parts}
    definitions = {part.name: part.definition for part in facts.parts}
    keys = [step["key"] for chain in steps.values() for step in chain]
    return {
        "_type": STATEMENT,
        "subject": [_resource(name, file.digest) for name, file in facts.files.items()],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD,
                "externalParameters": {"release": facts.name, "version": facts.version, "targets": definitions},
                "internalParameters": {"origin": facts.origin, "steps": steps},
                "resolvedDependencies": [*_dependencies(facts)],
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"onnxmake": tool_version()}},
                "metadata": {"invocationId": digest_text(canonical_json(keys))},
            },
        },
    }
