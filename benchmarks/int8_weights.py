"""What the compact int8 weights cost: the error of their features, and the AUC of a classifier on top.

    python benchmarks/int8_weights.py DATA WEIGHTS [--patches tensor.npy ...] [--backbones vgg16 resnet50] [--threads 1]

DATA is a data directory (such as `benchmarks/film_patches.py` makes), WEIGHTS a directory with the float32 files. Both
sets of weights read every training abnormality; features are the average over the last activation map. Then, for each
task, a logistic regression (standardised features, C = 0.01) in four folds by patient: the difference of the two
out-of-fold AUCs, int8 less float32, with a paired 95 % bootstrap interval over patients. `--patches` names further
arrays, (n, size, size) uint16, of which features alone are compared. Results are printed as JSON, a line a finding.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mammo_mlflow.data.patches import TASKS, read_patch_set, targets
from mammo_mlflow.data.splits import make_folds
from mammo_mlflow.evaluation.intervals import bootstrap_difference, cluster_note, metric_estimate
from mammo_mlflow.models.weights import COMPACT_DIR, NetworkWeights, find_weights

FOLDS = 4
TASK = "mass_calc"
"""Any: folds are the same for both."""


def read_features(backbone: str, weights: NetworkWeights, patches: np.ndarray) -> np.ndarray:
    """Average-pooled features of raw patches (n, size, size) uint16: float32 (n, channels)."""
    import keras

    from mammo_mlflow.models.network import build_base, load_weights

    base = build_base(backbone, patches.shape[1], "average", "float32")
    load_weights(base, weights)
    found = []
    for start in range(0, len(patches), 32):
        batch = patches[start : start + 32].astype(np.float32)[..., None]
        found.append(keras.ops.convert_to_numpy(base.predict_on_batch(batch)))
    return np.concatenate(found)


def feature_error(exact: np.ndarray, rounded: np.ndarray) -> dict[str, object]:
    """Relative errors: of all features together, the 5th and 95th percentile over patches, and less the mean patch."""
    each = np.linalg.norm(rounded - exact, axis=1) / np.linalg.norm(exact, axis=1)
    whole = np.linalg.norm(rounded - exact)
    return {
        "patches": len(exact),
        "relative_error": round(float(whole / np.linalg.norm(exact)), 5),
        "patch_percentiles_5_95": [round(float(value), 5) for value in np.quantile(each, [0.05, 0.95])],
        "relative_to_variation": round(float(whole / np.linalg.norm(exact - exact.mean(axis=0))), 5),
    }


def out_of_fold(features: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Each patch's probability from the logistic regression that has not seen its fold: float64 (n,)."""
    answer = np.empty(len(labels))
    for fold in np.unique(folds):
        held_out = folds == fold
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
        model.fit(features[~held_out], labels[~held_out])
        answer[held_out] = model.predict_proba(features[held_out])[:, 1]
    return answer


def main() -> None:
    """Compare both sets of weights, backbone by backbone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("weights", type=Path, metavar="WEIGHTS")
    parser.add_argument("--patches", type=Path, nargs="*", default=[], help="further arrays, features only")
    parser.add_argument("--backbones", nargs="+", choices=["vgg16", "resnet50"], default=["vgg16", "resnet50"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of folds and resamples")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from mammo_mlflow.engine.backend import set_threads

    set_threads(arguments.threads)
    data = read_patch_set(arguments.data)
    patients = data.train.patient_ids
    folds = make_folds(data.train.types, patients, FOLDS, arguments.seed, TASK, data.train_duplicates)
    arrays = {path.name: np.load(path, mmap_mode="r", allow_pickle=False) for path in arguments.patches}
    for backbone in arguments.backbones:
        exact = find_weights(backbone, str(arguments.weights), phantom=False)
        rounded = NetworkWeights(
            kind="int8", label="imagenet-int8", identity="", source="", path=COMPACT_DIR / f"{backbone}.npz"
        )
        features = [read_features(backbone, weights, data.train.abnormality) for weights in (exact, rounded)]
        print(
            json.dumps({"backbone": backbone, "on": "training abnormalities", **feature_error(*features)}), flush=True
        )
        for name, patches in arrays.items():
            pair = [read_features(backbone, weights, patches) for weights in (exact, rounded)]
            print(json.dumps({"backbone": backbone, "on": name, **feature_error(*pair)}), flush=True)
        for task in TASKS:
            labels = targets(data.train.types, task)
            first, second = (out_of_fold(one, labels, folds) for one in features)
            finding = {
                "backbone": backbone,
                "task": task,
                "patches": len(labels),
                "auc_float32": str(metric_estimate("roc_auc", labels, first, folds, patients)),
                "auc_int8": str(metric_estimate("roc_auc", labels, second, folds, patients)),
                "int8_less_float32": format(
                    bootstrap_difference(labels, second, first, folds, patients, seed=arguments.seed), ".4f"
                ),
                "interval": f"95 %, {cluster_note(patients)}",
                "phantom": data.phantom,
            }
            print(json.dumps(finding, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
