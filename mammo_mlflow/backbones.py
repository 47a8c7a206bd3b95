"""The table of backbones, a row each, free of Keras: the coordinator reads it, worker processes build from it.

A new backbone is one row, if `keras.applications` has it; see CONTRIBUTING.md.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field

from mammo_mlflow.errors import UserError, expected, how_to_install

_KERAS_URL = "https://storage.googleapis.com/tensorflow/keras-applications"


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A backbone: a network of `keras.applications` without its top, or DINOv2, and how patches are scaled for it.

    `scale` and `offset` bring a raw 16-bit grey value to what the network saw on ImageNet, channel by channel: the
    "caffe" scaling (0-255 less the ImageNet means, BGR) for VGG16 and ResNet50, -1 to 1 for InceptionV3. They equal
    `keras.applications.*.preprocess_input` of the patch divided by 257, since 65,535 / 257 = 255; where Keras scales
    inside the network instead (`rescales_inside`), they take the place of its layers. `keras_hash` is MD5 or, as Keras
    has it for newer networks, SHA-256. With `hub`, the settings of keras-hub's `DINOV2Backbone`, the network is that
    one: `application` is what people call it, `parameters` are those of keras-hub's own file, `convolutions` its
    transformer blocks, `keras_path` the name of the file, which nothing downloads. `pooling` is the
    presets' for pretrained and Siamese networks, `settings` what the preset `paper` trains a pretrained one with, where
    that differs from other backbones; what the paper does not print is marked as in `presets`.
    """

    application: str
    scale: float | tuple[float, float, float]
    offset: tuple[float, float, float]
    minimum_size: int
    parameters: int
    convolutions: int
    keras_path: str
    keras_hash: str
    rescales_inside: bool = False
    hub: dict[str, int] = field(default_factory=dict)
    pooling: str = "average"
    settings: dict[str, str | float | bool] = field(default_factory=dict)

    @property
    def keras_file(self) -> str:
        """The name of the weights' file in Keras's own cache."""
        return self.keras_path.rpartition("/")[2]

    @property
    def keras_url(self) -> str:
        """The URL from which Keras itself downloads the weights."""
        return f"{_KERAS_URL}/{self.keras_path}"


_CAFFE = (-103.939, -116.779, -123.68)
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_STANDARD_SCALE = (1 / 65535 / _DEVIATION[0], 1 / 65535 / _DEVIATION[1], 1 / 65535 / _DEVIATION[2])
_STANDARD_OFFSET = (-_MEAN[0] / _DEVIATION[0], -_MEAN[1] / _DEVIATION[1], -_MEAN[2] / _DEVIATION[2])
"""Less the mean, by the deviation, of ImageNet's pixels in 0 to 1."""

OWN_SCALING = "backbone"
SCALINGS: dict[str, tuple[float | tuple[float, float, float], tuple[float, float, float]]] = {
    "caffe": (1 / 257, _CAFFE),
    "symmetric": (2 / 65535, (-1.0, -1.0, -1.0)),
    "unit": (1 / 65535, (0.0, 0.0, 0.0)),
    "standard": (_STANDARD_SCALE, _STANDARD_OFFSET),
}
"""The scale and offset of weights that were trained on other inputs than the backbone's own are, by name.

`caffe`: 0 to 255 less ImageNet's means; `symmetric`: -1 to 1; `unit`: 0 to 1; `standard`: 0 to 1, less ImageNet's mean,
by its deviation.
"""

LICENCES = {"radimagenet": "for non-commercial research alone"}
"""Weights whose licence asks to be accepted, by a word that is in their file's name, and what it says."""

BACKBONES: dict[str, Backbone] = {
    "vgg16": Backbone(
        application="VGG16",
        scale=1 / 257,
        offset=_CAFFE,
        minimum_size=32,
        parameters=14_714_688,
        convolutions=13,
        keras_path="vgg16/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        keras_hash="6d6bbae143d832006294945121d1f1fc",
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
        keras_hash="4d473c1dd8becc155b73f8504c6f6626",
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
        keras_hash="bcbd6486424b2319ff4ef7d526e38f63",
        pooling="flatten",  # not printed
        settings={
            "optimizer": "rmsprop",
            "learning_rate": 2e-6,  # 2e-5 for mass/calcification: see `presets`
            "final_epochs": 50,
            "tuning_learning_rate": 1e-6,  # not printed
        },
    ),
    "densenet121": Backbone(
        application="DenseNet121",
        scale=_STANDARD_SCALE,
        offset=_STANDARD_OFFSET,
        minimum_size=32,
        parameters=7_037_504,
        convolutions=120,
        keras_path="densenet/densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5",
        keras_hash="30ee3e1110167f948a6b9946edeeb738",
    ),
    "xception": Backbone(
        application="Xception",
        scale=2 / 65535,
        offset=(-1.0, -1.0, -1.0),
        minimum_size=71,
        parameters=20_861_480,
        convolutions=40,
        keras_path="xception/xception_weights_tf_dim_ordering_tf_kernels_notop.h5",
        keras_hash="b0042744bf5b25fce3cb969f33bebb97",
    ),
    "mobilenetv3large": Backbone(
        application="MobileNetV3Large",
        scale=2 / 65535,
        offset=(-1.0, -1.0, -1.0),
        minimum_size=32,
        parameters=2_996_352,
        convolutions=62,
        keras_path="mobilenet_v3/weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
        keras_hash="07fb09a5933dd0c8eaafa16978110389",
        rescales_inside=True,
    ),
    "efficientnetv2b0": Backbone(
        application="EfficientNetV2B0",
        scale=_STANDARD_SCALE,
        offset=_STANDARD_OFFSET,
        minimum_size=32,
        parameters=5_919_312,
        convolutions=91,
        keras_path="efficientnet_v2/efficientnetv2-b0_notop.h5",
        keras_hash="893217f2bb855e2983157299931e43ff",
        rescales_inside=True,
    ),
    "efficientnetv2s": Backbone(
        application="EfficientNetV2S",
        scale=1 / 257 / 128,
        offset=(-1.0, -1.0, -1.0),
        minimum_size=32,
        parameters=20_331_360,
        convolutions=170,
        keras_path="efficientnet_v2/efficientnetv2-s_notop.h5",
        keras_hash="af0682fb74e8c54910f2d4393339c070",
        rescales_inside=True,
    ),
    "convnexttiny": Backbone(
        application="ConvNeXtTiny",
        scale=_STANDARD_SCALE,
        offset=_STANDARD_OFFSET,
        minimum_size=32,
        parameters=27_820_128,
        convolutions=22,
        keras_path="convnext/convnext_tiny_notop.h5",
        keras_hash="d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1",
        rescales_inside=True,
    ),
    "dinov2_small": Backbone(
        application="DINOv2 ViT-S/14",
        scale=_STANDARD_SCALE,
        offset=_STANDARD_OFFSET,
        minimum_size=32,
        parameters=22_582_656,
        convolutions=12,
        keras_path="dinov2_small.weights.h5",
        keras_hash="",
        hub={"num_layers": 12, "hidden_dim": 384, "num_heads": 6, "intermediate_dim": 1536},
    ),
}

PAPER_BACKBONES = ("vgg16", "resnet50", "inceptionv3")
"""The paper's: what `all` means, and what its sets and tables hold. The others are taken by name."""


def check_backbone(name: str, image_size: int, unfrozen_layers: int) -> None:
    """Check that a backbone takes patches of `image_size` pixels a side and has `unfrozen_layers` convolutions.

    Raises `UserError`, also where its package is not installed.
    """
    row = BACKBONES[name]
    if row.hub:
        check_hub("backbone", f"'{name}'")
    if image_size < row.minimum_size:
        raise UserError(f"backbone: {name} expected patches of at least {row.minimum_size} pixels, found {image_size}")
    if unfrozen_layers > row.convolutions:
        counted = "blocks" if row.hub else "convolutions"
        raise UserError(
            f"unfrozen_layers: expected at most {row.convolutions}, the {counted} of {name}, found {unfrozen_layers}"
        )


def check_hub(option: str, needs_it: str) -> None:
    """Check that keras-hub is installed. Raises `UserError` about `option`, which says that `needs_it` does."""
    if importlib.util.find_spec("keras_hub") is None:
        wanted = f"the package keras-hub for {needs_it} ({how_to_install('mammo-mlflow[hub]')})"
        raise expected(option, wanted, "none")
