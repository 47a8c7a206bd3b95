"""The base models of a conditioned model: registered models, with the tails of their folds.

In fold k the features come from the benign/malignant model that was trained without fold k, and the condition is the
out-of-fold prediction of the mass/calcification model. So neither comes from a model that was trained on the scored
patches. In the refit the features come from the registered model itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mammo_mlflow.data.patches import targets
from mammo_mlflow.experiment import (
    CONDITION,
    Experiment,
)
from mammo_mlflow.files import json_sha256
from mammo_mlflow.jobs.contracts import FeatureJob, Part
from mammo_mlflow.jobs.descriptions import Description, LayerCut
from mammo_mlflow.jobs.devices import Devices
from mammo_mlflow.models.weights import NetworkWeights
from mammo_mlflow.planning.activations import ACTIVATIONS_VERSION, Activations, frozen_activations
from mammo_mlflow.planning.plan import REFIT, BaseParts, Plan
from mammo_mlflow.tracking.registry import Version


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """A registered model: its plan, the tail of each of its fits by name, and its out-of-fold predictions, float (n,).

    `field` is the parameter that names it, `features_from` or `condition_from`.
    """

    field: str
    version: Version
    plan: Plan
    tails: dict[str, Path]
    out_of_fold: np.ndarray

    @property
    def part(self) -> Part:
        """The network, weights and tail to build the registered model from; no tail if the refit was not fetched."""
        return self.plan.part(tail for name, tail in self.tails.items() if name == REFIT)

    def features(self, fit: str, conditioned: Experiment, devices: Devices) -> Activations:
        """The cache entry of the features of a fit's model, in the views and augmentation of `conditioned`.

        `devices` are what they are computed with, which need not be what the model was trained with.
        """
        plan, training = self.plan, conditioned.training
        changes = {"views": training.views, "augmentation": training.augmentation}
        own = plan.experiment.flat()
        changed = plan.experiment.changed(**{k: v for k, v in changes.items() if k in own})
        first, second = frozen_activations(
            changed, plan.patch_set, plan.network, plan.weights, plan.description, devices
        )
        below = second or first
        # the features of frozen layers are the same in every fold
        whose = "" if below and not second else next(one.key for one in plan.fits if one.name == fit)
        facts = {**changes, "of": [one.key for one in below.values()], "whose": whose}
        facts |= {"data": plan.patch_set.files["train_tensor.npy"], "difference": plan.experiment.model.difference}
        if not below:  # otherwise the keys of `below` hold it
            facts["version"] = ACTIVATIONS_VERSION
            if devices.facts != plan.devices.facts:  # those are in the key of the fit
                facts |= devices.facts
        cut, key = LayerCut(0, plan.description.head, "float32"), json_sha256(facts)
        job = FeatureJob(
            name=f"{plan.experiment.model.backbone} features {fit}",
            tail=self.tails[fit],
            tensor=plan.patch_set.directory / "train_tensor.npy",
            sides=plan.sides,
            cut=cut,
            views=training.views,
            augmentation=training.augmentation,
        )
        size = cut.stored_bytes(len(plan.labels), training.views)
        return Activations(key=key, bytes=size, series=key, pooling=None, job=job, below=below)


@dataclass(frozen=True)
class BaseModels:
    """The base models of one conditioned model; without `condition` its input is the true type of the abnormality.

    With `as_class` the condition is a class, 0 or 1, as `models.conditioned.class_of` makes it in the whole model.
    """

    features: BaseModel
    condition: BaseModel | None
    as_class: bool = False

    @property
    def all(self) -> tuple[BaseModel, ...]:
        """All base models: that of the features and, if there is one, that of the condition."""
        return (self.features,) if self.condition is None else (self.features, self.condition)

    @property
    def parts(self) -> BaseParts:
        """The networks, weights and tails to build the base models from, as a plan keeps them."""
        sides = {name: first for base_model in self.all for name, first in base_model.plan.sides.items()}
        return BaseParts(
            features=self.features.part,
            condition=None if self.condition is None else self.condition.part,
            as_class=self.as_class,
            sides=dict(sorted(sides.items())),
            versions=tuple(base_model.version for base_model in self.all),
        )

    @property
    def weights(self) -> NetworkWeights:
        """The weights of the base models: the identity is a hash of their fits' keys, the label names random ones."""
        labels = [base_model.plan.weights.label for base_model in self.all]
        label = "random" if "random" in labels else ", ".join(dict.fromkeys(labels))
        keys = [fit.key for base_model in self.all for fit in base_model.plan.fits]
        identity = json_sha256(keys)
        named = ", ".join(str(base_model.version) for base_model in self.all)
        return NetworkWeights(kind="none", label=label, identity=identity, source=named)

    @property
    def description(self) -> Description:
        """The layer cuts and sizes of the conditioned model, whose head takes the features and the condition."""
        (width,) = self.features.plan.description.head
        parameters = sum(base_model.plan.description.parameters for base_model in self.all)
        return Description(
            features=LayerCut(0, (width,), "float32"),
            tuned=None,
            head=(width + 1,),
            parameters=parameters,
            patches_per_second=self.features.plan.description.patches_per_second,
        )

    def constants(self, types: np.ndarray) -> dict[str, np.ndarray]:
        """The condition of each training abnormality, float (n,), by input; without a model for it, of `types` (n,).

        It is an out-of-fold prediction: its model was not trained on the abnormality.
        """
        if self.condition is None:
            return {CONDITION: targets(types, "mass_calc").astype(np.float32)}
        found = self.condition.out_of_fold
        return {CONDITION: (found > 0.5).astype(np.float32) if self.as_class else found}
