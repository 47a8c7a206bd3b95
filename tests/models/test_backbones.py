import pytest

from mammo_mlflow.backbones import BACKBONES
from mammo_mlflow.testing.backbones import BackboneContract

pytestmark = pytest.mark.usefixtures("keras")


class TestEveryBackbone(BackboneContract):
    @pytest.fixture(scope="class", params=BACKBONES)
    @classmethod
    def name(cls, request):
        return request.param
