import keras
import pytest

from mammo_mlflow.backbones import BACKBONES, check_backbone
from mammo_mlflow.errors import UserError
from mammo_mlflow.models.network import build_base, convolutions

pytestmark = pytest.mark.usefixtures("keras")


@pytest.mark.parametrize("name", BACKBONES)
def test_the_table_says_what_keras_builds(name):
    row = BACKBONES[name]
    application = getattr(keras.applications, row.application)
    assert row.parameters == application(include_top=False, weights=None).count_params()
    assert row.convolutions == len(convolutions(build_base(name, row.minimum_size, "average", "float32")))
    assert row.keras_file.endswith("notop.h5")
    assert row.keras_url.startswith("https://storage.googleapis.com/tensorflow/keras-applications/")


@pytest.mark.parametrize("name", BACKBONES)
def test_smallest_patches_and_most_unfrozen_layers(name):
    row = BACKBONES[name]
    check_backbone(name, row.minimum_size, row.convolutions)
    with pytest.raises(UserError, match=f"backbone: {name} expected patches of at least {row.minimum_size}"):
        check_backbone(name, row.minimum_size - 1, 0)
    with pytest.raises(UserError, match=f"unfrozen_layers: expected at most {row.convolutions}"):
        check_backbone(name, row.minimum_size, row.convolutions + 1)
    with pytest.raises(ValueError, match="size"):
        getattr(keras.applications, row.application)(
            include_top=False, weights=None, input_shape=(row.minimum_size - 1, row.minimum_size - 1, 3)
        )
