"""Tools for tests: contract test classes for new backbones, commands and the like, and a scripted executor."""

import pytest

for _contract in ("backbones", "combiners", "commands", "engines", "executors", "samplers"):
    pytest.register_assert_rewrite(f"{__name__}.{_contract}")
