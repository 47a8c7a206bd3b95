"""What tests are made of: contracts to subclass for whatever is added, and an executor whose answers are scripted."""

import pytest

for _contract in ("backbones", "combiners", "commands", "executors", "samplers"):
    pytest.register_assert_rewrite(f"{__name__}.{_contract}")
