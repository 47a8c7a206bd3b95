"""Activations come from the nearest ones at hand, and are the same from wherever they come."""

from dataclasses import replace

import numpy as np

from mammo_mlflow.jobs.cache import Cache
from mammo_mlflow.planning.activations import ensure_activations, missing_activations


class Recorded:
    """A session that notes where each activation file was computed from."""

    def __init__(self, session, cache):
        self.__dict__.update({name: getattr(session, name) for name in ("writer", "progress", "cores")}, cache=cache)
        self.starts, self._bench = [], session

    def run_one(self, job):
        self.starts.append((job.cut.index, job.start))
        return self._bench.run_one(job)


def test_each_cut_is_computed_from_the_nearest_one_and_pooled_features_from_flat_ones(laboratory, tmp_path):
    plans = [laboratory.plan(pooling=pooling) for pooling in ("average", "max", "flatten")]
    plans += [laboratory.plan(pooling="average", unfrozen_layers=unfrozen) for unfrozen in (3, 1)]
    recorded = Recorded(laboratory.session(), Cache(tmp_path / "together"))
    together = ensure_activations(recorded, [entry for plan in plans for entry in plan.activations()])
    features = plans[0].description.features.index
    inner = sorted(plan.description.tuned.index for plan in plans[3:])
    assert recorded.starts == [
        (inner[0], 0),  # from the patches, once
        (inner[1], inner[0]),
        (features, inner[1]),  # flat
        (features, features - 1),
        (features, features - 1),
    ]
    alone = Recorded(laboratory.session(), Cache(tmp_path / "alone"))
    for plan in plans[:2]:
        for key, path in ensure_activations(alone, plan.activations()).items():
            np.testing.assert_allclose(np.load(path), np.load(together[key]), rtol=1e-5, atol=1e-6)


def test_what_is_missing_counts_what_it_is_computed_from(laboratory, tmp_path):
    """The features of a trained model, which are computed from the activations of its frozen layers."""
    source = laboratory.plan()
    (below,) = source.activations()
    features = replace(below, key="features", below={"patch": below})
    cache = Cache(tmp_path / "empty")
    assert [entry.key for entry in missing_activations(cache, [features])] == [below.key, "features"]
    filled = Recorded(laboratory.session(), cache)
    ensure_activations(filled, source.activations())
    assert [entry.key for entry in missing_activations(cache, [features])] == ["features"]
