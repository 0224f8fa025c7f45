"""llmc: an ahead-of-time compiler for language models.

Nothing is imported here at module level: the serving machine has no torch, and a
package whose root folder is a checkout must be importable by any tool at no cost.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compiler.driver import compile
    from .runtime.api.async_engine import AsyncEngine
    from .runtime.api.model import load

__all__ = ["AsyncEngine", "compile", "load"]


def __getattr__(name: str) -> Any:
    if name == "load":
        from .runtime.api.model import load

        return load
    if name == "compile":
        from .base.failures import extras_named

        with extras_named():
            from .compiler.driver import compile

        return compile
    if name == "AsyncEngine":
        from .runtime.api.async_engine import AsyncEngine

        return AsyncEngine
    raise AttributeError(f"module 'llmc' has no attribute {name!r}")
