from support_models import classes_of, every_model

from mammo_mlflow.engine.backend import set_threads
from mammo_mlflow.engine.flavor import answer_example
from mammo_mlflow.tracking.vetting import CLASSES, vet


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
    assert found == {(module, one) for module in CLASSES for one in CLASSES[module]}
