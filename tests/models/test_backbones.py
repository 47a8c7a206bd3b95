import pytest
from support import ROOT, load_script, needs_hub

from mammo_mlflow.backbones import BACKBONES
from mammo_mlflow.models.network import convolutions, convolves, suffix, unfreeze
from mammo_mlflow.testing.backbones import ApplicationContract, BackboneContract

pytestmark = pytest.mark.usefixtures("keras")


class OnThePage:
    """A backbone that docs/networks.md has."""

    def test_the_page_on_networks_has_it(self, base):
        script = load_script("network_tables")
        row = script.markdown([], [script.backbone_row(base)]).splitlines()[-1]
        assert f"\n{row}\n" in (ROOT / "docs" / "networks.md").read_text()


class TestEveryBackbone(OnThePage, ApplicationContract):
    @pytest.fixture(scope="class", params=[name for name, row in BACKBONES.items() if not row.hub])
    @classmethod
    def name(cls, request):
        return request.param


@needs_hub
class TestEveryBackboneOfKerasHub(OnThePage, BackboneContract):
    @pytest.fixture(scope="class", params=[name for name, row in BACKBONES.items() if row.hub])
    @classmethod
    def name(cls, request):
        return request.param

    def test_its_row_says_what_keras_hub_builds(self, name, base):
        """At 518 pixels, where a row's file has a position for each of 37 x 37 tokens, and once more as they are."""
        row, (_, high, wide, width) = BACKBONES[name], base.get_layer("token_maps").output.shape
        assert row.parameters == base.count_params() + (37 * 37 - high * wide) * width
        assert [layer.name for _, layer in convolutions(base)] == [f"layers_{i}" for i in range(row.convolutions)]
        assert convolves(suffix(base, convolutions(base)[-2][0]))

    @pytest.mark.parametrize("unfrozen", [0, 1, 2, 5])
    def test_unfreeze_takes_the_last_blocks_whole(self, base, unfrozen):
        try:
            unfreeze(base, unfrozen)
            blocks = [layer for _, layer in convolutions(base)][-unfrozen:] if unfrozen else []
            wanted = [weight.path for block in blocks for weight in block.weights]
            trained = [weight.path for layer in base.layers for weight in layer.trainable_weights]
            assert sorted(trained) == sorted(wanted)
            assert len(wanted) == 18 * unfrozen
        finally:
            base.trainable = False
