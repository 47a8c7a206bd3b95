import numpy as np
import pytest
from scipy.ndimage import label

from mammo_mlflow.data import phantom
from mammo_mlflow.data import phantom_images as images


def draw(function, suspicion, count=40):
    return [function(np.random.default_rng(seed), 150, suspicion, 0.25) for seed in range(count)]


def test_texture_has_the_power_law_of_breast_tissue():
    window = np.outer(np.hanning(150), np.hanning(150))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(150), np.fft.fftfreq(150)))
    band = (frequency > 0.03) & (frequency < 0.3)
    slopes = []
    for seed in range(30):
        texture = images.draw_texture(np.random.default_rng(seed), 150)
        assert texture.shape == (2, 150, 150)
        assert texture.dtype == np.float32
        power = np.abs(np.fft.fft2((texture[0] - texture[0].mean()) * window)) ** 2
        slopes.append(np.polyfit(np.log(frequency[band]), np.log(power[band]), 1)[0])
    assert -3.8 < np.median(slopes) < -2.6


@pytest.mark.parametrize("function", [images.draw_mass, images.draw_calcifications, images.draw_dust, images.draw_edge])
def test_layers_are_float32_and_finite(function):
    arguments = (1.0, 0.25) if function in (images.draw_mass, images.draw_calcifications) else ()
    layer = function(np.random.default_rng(0), 48, *arguments)
    assert (layer.shape, layer.dtype) == ((48, 48), np.float32)
    assert np.isfinite(layer).all()


def test_a_suspicious_mass_has_spicules_outside_its_outline():
    axis = (np.arange(150) - 74.5) / 150
    ring = np.abs(np.hypot(axis[None, :], axis[:, None]) - 0.36) < 0.02

    def irregularity(suspicion):
        return np.median([mass[ring].std() for mass in draw(images.draw_mass, suspicion)])

    assert irregularity(2) > 1.5 * irregularity(-2)


def test_suspicious_specks_are_more_and_finer():
    def specks(cluster):
        regions, count = label(cluster > 0.3)
        return count, (regions > 0).sum() / max(count, 1)

    benign = np.median([specks(cluster) for cluster in draw(images.draw_calcifications, -2)], axis=0)
    malignant = np.median([specks(cluster) for cluster in draw(images.draw_calcifications, 2)], axis=0)
    assert malignant[0] > 2 * benign[0]
    assert malignant[1] < 0.7 * benign[1]


def test_malignant_abnormalities_are_drawn_from_higher_suspicion():
    rows = phantom._draw_abnormalities(np.random.default_rng(0), 2_000, "P", 1)
    suspicion, kinds = np.array([row["suspicion"] for row in rows]), np.array([row["type"] for row in rows])
    for benign, malignant in ((1, 2), (3, 4)):
        won = (suspicion[kinds == malignant][:, None] > suspicion[kinds == benign][None, :]).mean()
        assert 0.96 < won < 0.999


def test_nothing_else_in_the_plan_knows_the_label():
    rows = phantom._draw_abnormalities(np.random.default_rng(0), 8_000, "P", 1)
    kinds = np.array([row["type"] for row in rows])
    for name in ("brightness", "contrast", "conspicuity", "radius", "density", "subtlety"):
        values = np.array([row[name] for row in rows], float)
        means = [values[kinds == kind].mean() for kind in range(1, 5)]
        assert np.ptp(means) < 0.15 * values.std(), name


def test_some_calcifications_lie_in_dense_tissue_and_some_masses_hold_specks():
    def share(kind, suspicion, is_mixed):
        row = {"type": kind, "suspicion": suspicion, "radius": 0.25, "conspicuity": 0.0}
        return np.mean([is_mixed(phantom._draw_lesion(np.random.default_rng(seed), 100, row)) for seed in range(150)])

    def has_specks(lesion):
        bend = 4 * lesion[1:-1, 1:-1] - lesion[:-2, 1:-1] - lesion[2:, 1:-1] - lesion[1:-1, :-2] - lesion[1:-1, 2:]
        return bend.max() > 1_200

    assert 0.25 < share(3, 0.0, lambda lesion: lesion.mean() > 300) < 0.55
    assert 0.2 < share(1, -3.0, has_specks) < 0.4
