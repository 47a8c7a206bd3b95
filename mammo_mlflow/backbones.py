"""The table of backbones, a row each, free of Keras: the coordinator reads it, worker processes build from it.

A new backbone is one row, if `keras.applications` has it; see CONTRIBUTING.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mammo_mlflow.errors import UserError

_KERAS_URL = "https://storage.googleapis.com/tensorflow/keras-applications"


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A backbone: a convolutional network of `keras.applications` without its top, and how patches are scaled for it.

    `scale` and `offset` bring a raw 16-bit grey value to what the network saw on ImageNet, channel by channel: the
    "caffe" scaling (0-255 less the ImageNet means, BGR) for VGG16 and ResNet50, -1 to 1 for InceptionV3. They equal
    `keras.applications.*.preprocess_input` of the patch divided by 257, since 65,535 / 257 = 255. `pooling` is the
    presets' for pretrained and Siamese networks, `settings` what the preset `paper` trains a pretrained one with, where
    that differs from other backbones; what the paper does not print is marked as in `presets`.
    """

    application: str
    scale: float
    offset: tuple[float, float, float]
    minimum_size: int
    parameters: int
    convolutions: int
    keras_path: str
    keras_md5: str
    pooling: str = "average"
    settings: dict[str, str | float | bool] = field(default_factory=dict)

    @property
    def keras_file(self) -> str:
        """The name of the weights' file in Keras's own cache."""
        return self.keras_path.rsplit("/", 1)[1]

    @property
    def keras_url(self) -> str:
        """The URL from which Keras itself downloads the weights."""
        return f"{_KERAS_URL}/{self.keras_path}"


_CAFFE = (-103.939, -116.779, -123.68)

BACKBONES: dict[str, Backbone] = {
    "vgg16": Backbone(
        application="VGG16",
        scale=1 / 257,
        offset=_CAFFE,
        minimum_size=32,
        parameters=14_714_688,
        convolutions=13,
        keras_path="vgg16/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        keras_md5="6d6bbae143d832006294945121d1f1fc",
        pooling="flatten",  # not printed
        settings={
            "optimizer": "rmsprop",
            "learning_rate": 2e-6,
            "final_epochs": 50,
            "tuning_learning_rate": 1e-6,  # not printed
        },
    ),
    "resnet50": Backbone(
        application="ResNet50",
        scale=1 / 257,
        offset=_CAFFE,
        minimum_size=32,
        parameters=23_587_712,
        convolutions=53,
        keras_path="resnet/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        keras_md5="4d473c1dd8becc155b73f8504c6f6626",
        pooling="average",  # not printed
        settings={"batch_norm": True, "epochs": 50, "final_epochs": 200},
    ),
    "inceptionv3": Backbone(
        application="InceptionV3",
        scale=2 / 65535,
        offset=(-1.0, -1.0, -1.0),
        minimum_size=75,
        parameters=21_802_784,
        convolutions=94,
        keras_path="inception_v3/inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
        keras_md5="bcbd6486424b2319ff4ef7d526e38f63",
        pooling="flatten",  # not printed
        settings={
            "optimizer": "rmsprop",
            "learning_rate": 2e-6,  # 2e-5 for mass/calcification: see `presets`
            "final_epochs": 50,
            "tuning_learning_rate": 1e-6,  # not printed
        },
    ),
}


def check_backbone(name: str, image_size: int, unfrozen_layers: int) -> None:
    """Check that a backbone takes patches of `image_size` pixels a side and has `unfrozen_layers` convolutions.

    Raises `UserError`.
    """
    row = BACKBONES[name]
    if image_size < row.minimum_size:
        raise UserError(f"backbone: {name} expected patches of at least {row.minimum_size} pixels, found {image_size}")
    if unfrozen_layers > row.convolutions:
        raise UserError(
            f"unfrozen_layers: expected at most {row.convolutions}, the convolutions of {name}, found {unfrozen_layers}"
        )
