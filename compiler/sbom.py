"""The bill of materials: what an artifact was made from, as CycloneDX 1.6 JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping

from .frontend.model_source import ModelSource


def bill_of_materials(
    source: ModelSource, digests: Mapping[str, str], tools: Mapping[str, str]
) -> bytes:
    """Source model and adapters as components (with their files' digests), tools as metadata."""
    models = [
        _model(source.id, source.revision, digests),
        *(_model(a.id, a.revision, a.file_digests()) for a in source.adapters),
    ]
    made_with = [
        {"type": "application", "name": name, "version": number}
        for name, number in sorted(tools.items())
    ]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"tools": {"components": made_with}},
        "components": models,
    }
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def _model(id: str, revision: str | None, digests: Mapping[str, str]) -> dict[str, object]:
    return {
        "type": "machine-learning-model",
        "name": id,
        "version": revision or "",
        "components": [
            {"type": "file", "name": name, "hashes": [{"alg": "SHA-256", "content": digest}]}
            for name, digest in sorted(digests.items())
        ],
    }
