from support_models import HUB, classes_of, every_model

from mammo_mlflow.engine.backend import set_threads
from mammo_mlflow.engine.flavor import answer_example
from mammo_mlflow.tracking.vetting import CLASSES, vet

OF_HUB = {(module, name) for module in CLASSES for name in CLASSES[module] if module.startswith("keras_hub.")}
OF_HUB |= {("keras.layers", name) for name in ("Cropping1D", "Resizing")}
"""The classes that no other row is made of."""


def test_a_model_of_every_row_of_every_table_is_saved_vetted_loaded_and_answers(tmp_path, keras):
    """And vetting allows what they are made of, nothing else: after a new row, `python tests/support_models.py`."""
    set_threads(1)
    found = set()
    for name, model in every_model(tmp_path):
        found |= classes_of(model)
        assert found <= {(module, one) for module in CLASSES for one in CLASSES[module]}, name
        columns = vet(model).columns
        answers = answer_example(model)
        assert set(answers) == set(columns or ["probability"]), name
        assert all(one.shape == (2,) and ((one >= 0) & (one <= 1)).all() for one in answers.values()), name
    known = {(module, one) for module in CLASSES for one in CLASSES[module]}
    assert found == {one for one in known if HUB or one not in OF_HUB}
