"""The bill of materials: what an artifact was made from, as CycloneDX 1.6 JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping

from .frontend.model_source import ModelSource


def bill_of_materials(
    source: ModelSource, digests: Mapping[str, str], tools: Mapping[str, str]
) -> bytes:
    """The source model as component (with the digests of its files), the tools as metadata."""
    model = {
        "type": "machine-learning-model",
        "name": source.id,
        "version": source.revision or "",
        "components": [
            {"type": "file", "name": name, "hashes": [{"alg": "SHA-256", "content": digest}]}
            for name, digest in sorted(digests.items())
        ],
    }
    made_with = [
        {"type": "application", "name": name, "version": number}
        for name, number in sorted(tools.items())
    ]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"tools": {"components": made_with}},
        "components": [model],
    }
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()
