"""`certificate.json`: what was measured while an artifact was made.

Times, memory and quality differ from run to run, so they stay outside the content that two
compiles of the same model have in common.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..artifact.manifest import Manifest
from ..passes.pipeline import PassTime


@dataclass
class Measured:
    """What the driver collected: pass times, the whole time, and quality where it was asked for."""

    passes: Sequence[PassTime] = field(default_factory=list)
    seconds: float = 0.0
    quality: dict[str, float] | None = None


def certificate(measured: Measured, manifest: Manifest) -> bytes:
    """The entry's content: readable JSON."""
    document = {
        "seconds": round(measured.seconds, 3),
        "peak_rss_mb": round(peak_rss_mb(), 1),
        "quality": measured.quality,
        "conformance_vectors": len(manifest.conformance),
        "passes": [
            {"name": p.name, "milliseconds": round(p.seconds * 1e3, 3), "nodes": p.nodes}
            for p in measured.passes
        ],
    }
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def peak_rss_mb() -> float:
    """Peak resident memory in MB: the larger of this process and of any child (the compiler)."""
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = (
        resource.getrusage(w).ru_maxrss for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return max(peaks) * unit / 1e6
