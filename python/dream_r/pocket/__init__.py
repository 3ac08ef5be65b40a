"""The pocket pair: a tiny trained target and draft, and the world of problems they know.

>>> from dream_r import pocket
>>> pocket.path("target"), pocket.problems.problem(seed=1, level=2).question
"""

from pathlib import Path

from dream_r.pocket import problems


def path(role: str) -> Path:
    """Folder of the weights of "target" or "draft" inside the package."""
    if role not in ("target", "draft"):
        raise ValueError(f"the pocket pair has a target and a draft, no {role!r}")
    return Path(__file__).parent / role


__all__ = ["path", "problems"]
