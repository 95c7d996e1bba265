"""The version of this package, as it is installed."""

from __future__ import annotations

from functools import cache


@cache
def installed_version() -> str:
    """`0.1.0`; `0+uninstalled` where the package runs from a source tree that was never installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("codi")
    except PackageNotFoundError:
        return "0+uninstalled"
