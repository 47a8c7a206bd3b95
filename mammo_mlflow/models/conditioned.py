"""The conditioned family: benign or malignant, given mass or calcification (chapter 8 of the paper)."""

from __future__ import annotations

import keras
from keras import layers

from mammo_mlflow.experiment import ABNORMALITY_TYPE, CONDITION, FEATURES
from mammo_mlflow.models.tensors import as_model_input


def build_conditioned(feature_shape: tuple[int, ...], head: keras.Model) -> keras.Model:
    """Build the tail: a head on features (n, f) and the condition (n, 1), probability or class of a calcification."""
    inputs = {
        FEATURES: layers.Input(feature_shape, dtype="float32", name=FEATURES),
        CONDITION: layers.Input((1,), dtype="float32", name=CONDITION),
    }
    joined = layers.Concatenate(name="features_and_condition")([inputs[FEATURES], inputs[CONDITION]])
    return keras.Model(inputs, head(joined), name="tail")


def join_condition(
    features: keras.Model, condition: keras.Model | None, tail: keras.Model, image_size: int, as_class: bool = False
) -> keras.Model:
    """Join both base models and the trained tail into the whole model, which gives probabilities (n, 1).

    Its inputs are patches (n, size, size, 1) and, where a base model takes them, baselines. Without `condition` the
    true type of the abnormality is an input (n, 1): 0 for a mass, 1 for a calcification. With it, its probability is
    the condition, or with `as_class` its class.
    """
    wanted = {name for model in (features, condition) if model is not None for name in input_names(model)}
    inputs = {name: layers.Input((image_size, image_size, 1), dtype="float32", name=name) for name in sorted(wanted)}

    def call(model: keras.Model, name: str) -> keras.KerasTensor:
        model.name = name
        return model(as_model_input({one: inputs[one] for one in input_names(model)}))

    if condition is None:
        given = inputs[ABNORMALITY_TYPE] = layers.Input((1,), dtype="float32", name=ABNORMALITY_TYPE)
    else:
        given = call(condition, "mass_calc")
        given = class_of(given) if as_class else given
    tail.name = "conditioned"
    probability = tail({FEATURES: call(features, "benign_malignant_features"), CONDITION: given})
    return keras.Model(as_model_input(inputs), probability, name="conditioned_on_type")


def class_of(probability: keras.KerasTensor) -> keras.KerasTensor:
    """Convert a probability (n, 1) to a class, 1 above 0.5, else 0, by Keras layers, which save without our code."""
    above = layers.ReLU(threshold=0.5, dtype="float32", name="above_half")(probability)  # 0, or more than 0.5
    doubled = layers.Rescaling(2.0, dtype="float32", name="above_half_doubled")(above)  # 0, or more than 1
    return layers.ReLU(max_value=1.0, dtype="float32", name="class")(doubled)


def input_names(model: keras.Model) -> list[str]:
    """The names of a Keras model's inputs."""
    return [one.name for one in model.inputs]
