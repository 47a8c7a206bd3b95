"""Tools for tests: contracts to subclass for whatever is added, and an executor with scripted answers."""

import pytest

for _contract in ("backbones", "combiners", "commands", "executors", "samplers"):
    pytest.register_assert_rewrite(f"{__name__}.{_contract}")
