"""Benign or malignant, given mass or calcification: chapter 8 of the paper."""

from __future__ import annotations

import keras
from keras import layers

from mammo_mlflow.experiment import ABNORMALITY_TYPE, CONDITION, FEATURES
from mammo_mlflow.models.tensors import fed


def build_conditioned(feature_shape: tuple[int, ...], head: keras.Model) -> keras.Model:
    """What is trained: a head on features (n, f) and the condition (n, 1), a calcification's probability or class."""
    inputs = {
        FEATURES: layers.Input(feature_shape, dtype="float32", name=FEATURES),
        CONDITION: layers.Input((1,), dtype="float32", name=CONDITION),
    }
    joined = layers.Concatenate(name="features_and_condition")([inputs[FEATURES], inputs[CONDITION]])
    return keras.Model(inputs, head(joined), name="tail")


def join_condition(
    features: keras.Model, condition: keras.Model | None, tail: keras.Model, image_size: int, as_class: bool = False
) -> keras.Model:
    """The whole model: patches, and baselines where one of its models sees them, in; probability out.

    Without `condition` the true type of the abnormality is an input (n, 1): 0 for a mass, 1 for a calcification. With
    it, its probability is joined, or its class.
    """
    wanted = {name for model in (features, condition) if model is not None for name in image_inputs(model)}
    inputs = {name: layers.Input((image_size, image_size, 1), dtype="float32", name=name) for name in sorted(wanted)}

    def ask(model: keras.Model, name: str) -> keras.KerasTensor:
        model.name = name
        return model(fed({one: inputs[one] for one in image_inputs(model)}))

    if condition is None:
        given = inputs[ABNORMALITY_TYPE] = layers.Input((1,), dtype="float32", name=ABNORMALITY_TYPE)
    else:
        given = ask(condition, "mass_calc")
        given = class_of(given) if as_class else given
    tail.name = "conditioned"
    answer = tail({FEATURES: ask(features, "benign_malignant_features"), CONDITION: given})
    return keras.Model(fed(inputs), answer, name="conditioned_on_type")


def class_of(probability: keras.KerasTensor) -> keras.KerasTensor:
    """1 where a probability (n, 1) is above 0.5, else 0, by layers that every saved model can hold."""
    above = layers.ReLU(threshold=0.5, dtype="float32", name="above_half")(probability)  # 0, or more than 0.5
    doubled = layers.Rescaling(2.0, dtype="float32", name="above_half_doubled")(above)  # 0, or more than 1
    return layers.ReLU(max_value=1.0, dtype="float32", name="class")(doubled)


def image_inputs(model: keras.Model) -> list[str]:
    """The names of a model's inputs."""
    return [one.name for one in model.inputs]
