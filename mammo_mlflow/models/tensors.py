"""What Keras's backends compute with, by a name of its own: their types are not importable without importing them."""

from __future__ import annotations

from typing import Any

Tensor = Any
"""A tensor of any backend, symbolic or not."""
