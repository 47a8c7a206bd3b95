"""The registered models that a conditioned model is built on, found again with their folds and tails.

In fold k the features come from the benign/malignant model that was trained without fold k, and the condition is the
out-of-fold prediction of the mass/calcification model: no patch is described by a model that was trained on it. In the
refit the features come from the registered model itself.
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
from mammo_mlflow.jobs.contracts import Description, FeatureJob, LayerCut, Part
from mammo_mlflow.models.weights import NetworkWeights
from mammo_mlflow.planning.activations import ACTIVATIONS_VERSION, Activations, frozen_activations
from mammo_mlflow.planning.plan import REFIT, BaseParts, Plan
from mammo_mlflow.tracking.registry import Version


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """A registered model: its plan, the tail of each of its fits, and its out-of-fold predictions (n,)."""

    field: str
    version: Version
    plan: Plan
    tails: dict[str, Path]
    out_of_fold: np.ndarray

    @property
    def part(self) -> Part:
        """The registered model, to be built again; without a tail where its refit is not asked for."""
        return self.plan.part(tail for name, tail in self.tails.items() if name == REFIT)

    def features(self, fit: str, asked: Experiment) -> Activations:
        """What the head of a fit's model stands on, in the views of `asked`: a cache entry."""
        plan, training = self.plan, asked.training
        changes = {"views": training.views, "augmentation": training.augmentation}
        own = plan.experiment.flat()
        changed = plan.experiment.changed(**{k: v for k, v in changes.items() if k in own})
        first, second = frozen_activations(changed, plan.patch_set, plan.network, plan.weights, plan.description)
        below = second or first
        # the features of frozen layers are the same in every fold
        whose = "" if below and not second else next(one.key for one in plan.fits if one.name == fit)
        facts = {**changes, "of": [one.key for one in below.values()], "whose": whose}
        facts |= {"data": plan.patch_set.files["train_tensor.npy"], "difference": plan.experiment.model.difference}
        if not below:  # else in their keys
            facts["version"] = ACTIVATIONS_VERSION
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
        return Activations(key=key, bytes=size, line=key, pooling=None, job=job, below=below)


@dataclass(frozen=True)
class BaseModels:
    """What a conditioned model is built on; without `condition` it is given the true type.

    `as_class`: the condition is made a class, as `models.conditioned.class_of` does in the whole model.
    """

    features: BaseModel
    condition: BaseModel | None
    as_class: bool = False

    @property
    def all(self) -> tuple[BaseModel, ...]:
        """Both, or the one."""
        return (self.features,) if self.condition is None else (self.features, self.condition)

    @property
    def parts(self) -> BaseParts:
        """What a plan keeps of them."""
        sides = {name: first for source in self.all for name, first in source.plan.sides.items()}
        return BaseParts(
            features=self.features.part,
            condition=None if self.condition is None else self.condition.part,
            as_class=self.as_class,
            sides=dict(sorted(sides.items())),
            versions=tuple(source.version for source in self.all),
        )

    @property
    def weights(self) -> NetworkWeights:
        """Which registered models these are, as the identity that keys hash; random weights are said on."""
        said = [source.plan.weights.label for source in self.all]
        label = "random" if "random" in said else ", ".join(dict.fromkeys(said))
        keys = [fit.key for source in self.all for fit in source.plan.fits]
        identity = json_sha256(keys)
        named = ", ".join(str(source.version) for source in self.all)
        return NetworkWeights(kind="none", label=label, identity=identity, source=named)

    @property
    def description(self) -> Description:
        """What the head stands on: the features and, beside them, the condition."""
        (width,) = self.features.plan.description.head
        parameters = sum(source.plan.description.parameters for source in self.all)
        return Description(
            features=LayerCut(0, (width,), "float32"),
            tuned=None,
            head=(width + 1,),
            parameters=parameters,
            patches_per_second=self.features.plan.description.patches_per_second,
        )

    def constants(self, types: np.ndarray) -> dict[str, np.ndarray]:
        """The condition (n,) of each training abnormality of these types, from a model that was not trained on it."""
        if self.condition is None:
            return {CONDITION: targets(types, "mass_calc").astype(np.float32)}
        found = self.condition.out_of_fold
        return {CONDITION: (found > 0.5).astype(np.float32) if self.as_class else found}
