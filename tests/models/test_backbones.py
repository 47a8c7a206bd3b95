import pytest
from support import ROOT, load_script

from mammo_mlflow.backbones import BACKBONES
from mammo_mlflow.testing.backbones import BackboneContract

pytestmark = pytest.mark.usefixtures("keras")


class TestEveryBackbone(BackboneContract):
    @pytest.fixture(scope="class", params=BACKBONES)
    @classmethod
    def name(cls, request):
        return request.param

    def test_the_page_on_networks_has_it(self, base):
        script = load_script("network_tables")
        row = script.markdown([], [script.backbone_row(base)]).splitlines()[-1]
        assert f"\n{row}\n" in (ROOT / "docs" / "networks.md").read_text()
