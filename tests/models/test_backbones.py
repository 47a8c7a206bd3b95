import pytest

<<<<<<< HEAD
from mammo_mlflow.models.backbones import BACKBONES
from mammo_mlflow.testing.backbones import BackboneContract
=======
from mammo_mlflow.backbones import BACKBONES, check_backbone
from mammo_mlflow.errors import UserError
from mammo_mlflow.models.network import build_base, convolutions
>>>>>>> roles

pytestmark = pytest.mark.usefixtures("keras")


class TestEveryBackbone(BackboneContract):
    @pytest.fixture(scope="class", params=BACKBONES)
    def name(self, request):
        return request.param
