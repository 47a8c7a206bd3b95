"""Search spaces: what a file may say, every fault of it told in a line, and what is drawn from it."""

import json
import os
import re
import time
from pathlib import Path

import pytest

from mammo_mlflow.backbones import BACKBONES, PAPER_BACKBONES
from mammo_mlflow.commands.search import SEARCHED
from mammo_mlflow.errors import Faults, UserError
from mammo_mlflow.experiment import NETWORKS, TASKS, build
from mammo_mlflow.presets import PRESETS, preset_values
from mammo_mlflow.search.architectures import start_draws
from mammo_mlflow.search.parameters import architectures, idle
from mammo_mlflow.search.spaces import find_space, read_space

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "search_spaces").glob("*.yaml"))

EXAMPLE = """
family: pretrained
parameters:
  tuning_learning_rate: {low: 1e-7, high: 1e-4, log: true, when: {unfrozen_layers: {low: 1}}}
  momentum: {low: 0.5, high: 0.99, when: {optimizer: [sgd]}}
  optimizer: {choices: [adam, sgd]}
  unfrozen_layers: {low: 0, high: 3}
  class_weights: {choices: [none, balanced, 1:1.3]}
  pooling: average
"""


@pytest.fixture
def space(tmp_path):
    """A space from the text of its file, or of its parameters only."""

    def make(text, backbone="vgg16", family="pretrained"):
        path = tmp_path / "space.yaml"
        if "family:" not in text:
            text = f"family: {family}\nparameters:\n" + "".join(f"  {line}\n" for line in text.splitlines())
        path.write_text(text, encoding="utf-8")
        return read_space(path, family, backbone)

    return make


@pytest.fixture
def faults(space):
    """The faults of a file, each without the file's name."""

    def find(text, **settings):
        with pytest.raises(Faults) as raised:
            space(text, **settings)
        assert all("space.yaml: " in line and "\n" not in line for line in raised.value.faults)
        return [line.split("space.yaml: ", 1)[1] for line in raised.value.faults]

    return find


def named(space, name):
    return next(item for item in space.parameters if item.name == name)


def first(parameter):
    return parameter.low if parameter.choices is None else parameter.choices[0]


# what ships


SEARCHED_NETWORKS = [(family, name) for family in SEARCHED for name in NETWORKS[family]]


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """The shipped space of a network, found from a directory that has none."""
    monkeypatch.chdir(tmp_path)
    return lambda family, name: read_space(find_space("", family, name), family, name)


@pytest.mark.parametrize(("family", "backbone"), SEARCHED_NETWORKS)
@pytest.mark.parametrize("task", TASKS)
def test_shipped_spaces_contain_the_papers_setting(shipped, family, backbone, task):
    space = shipped(family, backbone)
    paper = preset_values("paper", backbone, task, family)
    whole = build(task, paper, family).flat()
    assert {"learning_rate", "optimizer"} <= {item.name for item in space.parameters}
    assert [item.name for item in space.parameters if item.name in paper and not item.contains(paper[item.name])] == []
    assert {"dense_layers", "dropout"} <= set(start_draws(space.architecture, whole))
    build(task, space.draw(paper, first), family)  # an experiment can be made of it


@pytest.mark.parametrize(
    ("preset", "family", "backbone"),
    [(preset, *key) for preset in PRESETS for key in SEARCHED_NETWORKS if (*key, TASKS[0]) in PRESETS[preset]],
)
def test_what_shipped_spaces_draw_is_an_experiment_of_every_preset(shipped, preset, family, backbone):
    space, start = shipped(family, backbone), preset_values(preset, backbone, TASKS[0], family)
    for pick in (first, lambda item: item.high if item.choices is None else item.choices[-1]):
        build(TASKS[0], space.draw(start, pick), family)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_spaces_say_what_they_search(path):
    assert path.read_text().startswith("# What a study")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_has_a_space(backbone, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = find_space("", "pretrained", backbone)
    own = ROOT / "search_spaces" / f"pretrained-{backbone}.yaml"
    assert path == (own if own.exists() else ROOT / "search_spaces" / "pretrained.yaml")
    assert read_space(path, "pretrained", backbone).architecture == "head"


def test_a_space_of_the_current_directory_comes_before_the_shipped_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces" / "pretrained.yaml").write_text(EXAMPLE)
    assert find_space("", "pretrained", "vgg16") == Path("search_spaces/pretrained.yaml")
    assert find_space("mine.yaml", "pretrained", "vgg16") == Path("mine.yaml")


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("task", TASKS)
def test_frozen_heads_are_searched_by_name(tmp_path, monkeypatch, backbone, task):
    monkeypatch.chdir(tmp_path)
    path = find_space("frozen_head", "pretrained", backbone)
    of_its_own = f"{backbone}-" if backbone in PAPER_BACKBONES else ""
    assert path == ROOT / "search_spaces" / f"pretrained-{of_its_own}frozen_head.yaml"
    space, paper = read_space(path, "pretrained", backbone), preset_values("paper", backbone, task, "pretrained")
    searched = {"optimizer", "momentum", "learning_rate", "class_weights", "dense", "dropout", "batch_norm", "epochs"}
    assert {item.name for item in space.parameters} == searched
    whole = build(task, paper, "pretrained").flat()
    of_paper = {item.name for item in space.parameters if item.contains(whole[item.name])}
    assert of_paper >= searched - {"momentum"}  # which the paper's optimizers have not
    assert len(named(space, "dense").choices) == 2
    assert named(space, "dropout").low == 0
    for pick in (first, lambda item: item.high if item.choices is None else item.choices[-1]):
        drawn = build(task, space.draw(paper | {"unfrozen_layers": 2}, pick), "pretrained")
        assert (drawn.model.unfrozen_layers, drawn.model.pooling) == (0, "average")


def test_the_space_of_the_benchmark_is_that_of_vgg16_with_its_epochs_fixed():
    shipped = read_space(find_space("frozen_head", "pretrained", "vgg16"), "pretrained", "vgg16")
    cheap = read_space(ROOT / "benchmarks" / "spaces" / "frozen_head.yaml", "pretrained", "vgg16")
    assert cheap.facts() == shipped.narrowed({"epochs": 40}).facts()


def test_a_name_finds_the_most_special_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("search_spaces")
    folder.mkdir()
    for name in ("mine", "pretrained-mine", "pretrained-vgg16-mine"):
        (folder / f"{name}.yaml").write_text(EXAMPLE)
        assert find_space("mine", "pretrained", "vgg16") == folder / f"{name}.yaml"
    assert find_space("mine", "pretrained", "resnet50") == folder / "pretrained-mine.yaml"
    assert find_space("mine", "siamese", "vgg16") == folder / "mine.yaml"
    assert find_space("pretrained", "pretrained", "vgg16") == ROOT / "search_spaces" / "pretrained.yaml"
    Path("mine").write_text(EXAMPLE)
    assert find_space("mine", "pretrained", "vgg16") == Path("mine")  # a file is a path, as ever
    for path in ("frozen_head.yaml", "./frozen_head", "search_spaces/frozen_head"):
        assert find_space(path, "pretrained", "vgg16") == Path(path)


@pytest.mark.parametrize(
    ("given", "family", "said"),
    [
        (
            "frozen_hed",
            "pretrained",
            "space: unknown 'frozen_hed', did you mean 'frozen_head'? (one of: best, frozen_head",
        ),
        ("frozen_head", "siamese", "space: unknown 'frozen_head' (one of: best, siamese)"),
        ("search_spaces", "pretrained", "space: unknown 'search_spaces' (one of: best, frozen_head, pretrained)"),
    ],
)
def test_an_unknown_name_tells_those_there_are(monkeypatch, given, family, said):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=f"^{re.escape(said)}"):
        find_space(given, family, "vgg16")


def test_the_example_of_the_documentation_reads(space):
    (example,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "search_spaces.md").read_text(), re.DOTALL)
    assert space(example).backbone == "vgg16"


# what networks have


@pytest.mark.parametrize(
    ("family", "backbone", "unused", "possible"),
    [
        ("pretrained", "vgg16", (), ("head",)),
        ("scratch", "m1", (), ("head", "scratch")),
        (
            "siamese",
            "vgg16",
            (
                "blocks",
                "convolution_batch_norm",
                "convolution_batch_norm_momentum",
                "first_pool",
                "pool_padding",
                "pool_dropout",
            ),
            ("head",),
        ),
        (
            "siamese",
            "scratch",
            ("weights", "input_scaling", "unfrozen_layers", "tuning_learning_rate", "tuning_epochs", "views"),
            ("head", "scratch"),
        ),
    ],
)
def test_what_a_network_has_no_use_for(family, backbone, unused, possible):
    assert set(idle(family, backbone)) == set(unused)
    assert architectures(family, backbone) == possible


@pytest.mark.parametrize(
    ("family", "backbone", "line", "words"),
    [
        ("pretrained", "vgg16", "l2: {low: 1e-5, high: 1e-3}", ["parameters: unknown 'l2'"]),
        ("scratch", "m1", "unfrozen_layers: 0", ["parameters: unknown 'unfrozen_layers'"]),
        ("scratch", "m1", "diference: subtract", ["parameters: unknown 'diference'"]),
        ("scratch", "m1", "pool_drop: 0.1", ["parameters: unknown 'pool_drop', did you mean 'pool_dropout'"]),
        ("scratch", "m1", "weights: random", ["parameters: unknown 'weights'"]),
        ("scratch", "m1", "holdout: 0.3", ["parameters.holdout: ", "--holdout"]),
        ("siamese", "vgg16", "weights: random", ["parameters.weights: ", "--weights"]),
        ("siamese", "vgg16", "diference: subtract", ["parameters: unknown 'diference', did you mean 'difference'"]),
        ("siamese", "vgg16", "difference: {choices: [subtract, sum]}", ["difference.choices: unknown 'sum'"]),
        ("siamese", "vgg16", "blocks: '16,16'", ["parameters.blocks: ", "siamese vgg16 has no use for it"]),
        ("siamese", "scratch", "blocks: {choices: ['16,16', '16;16']}", ["parameters.blocks.choices: ", "'16;16'"]),
        (
            "siamese",
            "scratch",
            "unfrozen_layers: {low: 0, high: 3}",
            ["unfrozen_layers: ", "siamese scratch has no use"],
        ),
        ("siamese", "scratch", "unfrozen_layers: 1", ["unfrozen_layers: ", "siamese scratch has no use"]),
        (
            "siamese",
            "scratch",
            "momentum: {low: 0.1, high: 0.9, when: {unfrozen_layers: {low: 1}}}",
            ["parameters.momentum.when.unfrozen_layers: expected what it can be, '0', found low 1"],
        ),
        (
            "siamese",
            "scratch",
            "momentum: {low: 0.1, high: 0.9, when: {backbone: vgg61}}",
            ["parameters.momentum.when.backbone: unknown 'vgg61', did you mean 'vgg16'"],
        ),
    ],
)
def test_a_file_lists_what_the_network_has(faults, family, backbone, line, words):
    (found,) = faults(f"{line}\nbatch_size: {{low: 1, high: 5}}", family=family, backbone=backbone)
    for word in words:
        assert word in found


@pytest.mark.parametrize(("family", "backbone"), [("pretrained", "vgg16"), ("siamese", "resnet50")])
def test_an_architecture_that_the_network_cannot_have(faults, family, backbone):
    text = f"family: {family}\narchitecture: scratch\nparameters: {{{FINE}}}"
    (found,) = faults(text, family=family, backbone=backbone)
    assert found == f"architecture: expected 'head', which {family} {backbone} can have, found 'scratch'"


def test_of_another_familys_file_only_that_is_told(faults):
    text = "family: scratch\nbackbone: m1\narchitecture: scratch\nparameters: {pool_dropout: {choices: [0, 0.1]}}"
    assert faults(text) == ["family: expected 'pretrained', which is asked for, found 'scratch'"]


def test_a_parameter_may_be_left_to_other_networks(space):
    text = f"unfrozen_layers: {{low: 0, high: 3, when: {{backbone: [vgg16, resnet50]}}}}\n{FINE}"
    for backbone, drawn in (
        ("vgg16", ["unfrozen_layers", "epochs"]),
        ("inceptionv3", ["epochs"]),
        ("scratch", ["epochs"]),
    ):
        read = space(text, family="siamese", backbone=backbone)
        assert [item.name for item in read.parameters] == drawn
        values = read.draw({"backbone": backbone}, first)
        assert ("unfrozen_layers" in values) == (backbone == "vgg16")


SEVERAL = """\
backbone: {choices: [vgg16, resnet50, inceptionv3]}
unfrozen_layers.vgg16: {low: 0, high: 3}
unfrozen_layers.resnet50: {low: 1, high: 2}
tuning_epochs: {choices: [5, 10], when: {unfrozen_layers: {low: 1}}}
batch_norm: {choices: [true, false], when: {backbone: inceptionv3}}
"""


def test_each_backbone_has_ranges_of_its_own_in_one_space(space):
    read = space(SEVERAL)
    assert read.backbones == ("vgg16", "resnet50", "inceptionv3")
    labels = ["unfrozen_layers.vgg16", "unfrozen_layers.resnet50", "tuning_epochs", "batch_norm"]
    assert [item.label for item in read.parameters] == ["backbone", *labels]
    points = read.points({"unfrozen_layers": 0})
    # of VGG16 without and with unfrozen layers; of ResNet50; of InceptionV3, which keeps the preset's number
    assert len(points) == 1 + 3 * 2 + 2 * 2 + 2
    assert {"backbone": "resnet50", "unfrozen_layers.resnet50": 2, "tuning_epochs": 5} in points
    found = read.draw({}, lambda item: "resnet50" if item.name == "backbone" else last(item))
    assert found == {"backbone": "resnet50", "unfrozen_layers": 2, "tuning_epochs": 10}


def test_joined_backbones_are_drawn_beside_others(space):
    read = space(SEVERAL.replace("inceptionv3", "vgg16+resnet50") + "dropout.vgg16+resnet50: {choices: [0, 0.5]}\n")
    assert read.backbones == ("vgg16", "resnet50", "vgg16+resnet50")
    assert read.parameters[-1].label == "dropout.vgg16_resnet50"  # as MLflow takes it
    values = read.draw({"unfrozen_layers": 0}, last)
    assert build("mass_calc", values).flat().items() >= values.items()
    assert values == {"backbone": "vgg16+resnet50", "unfrozen_layers": 0, "batch_norm": False, "dropout": 0.5}
    alone = space("family: pretrained\nbackbone: vgg16+resnet50\nparameters: {" + FINE + "}", backbone="vgg16+resnet50")
    assert alone.backbone == "vgg16+resnet50"


def last(item):
    return item.high if item.choices is None else item.choices[-1]


def test_a_backbone_of_the_command_line_leaves_its_own_ranges(space):
    read = space(SEVERAL).narrowed({"backbone": "vgg16"})
    assert [item.label for item in read.parameters] == ["unfrozen_layers.vgg16", "tuning_epochs"]
    assert (read.backbones, read.fixed["backbone"]) == ((), "vgg16")


def test_the_space_best_draws_experiments_of_every_backbone(shipped):
    space = read_space(find_space("best", "pretrained", "vgg16"), "pretrained", "vgg16")
    drawn = {item.name for item in space.parameters}
    assert {"backbone", "optimizer", "schedule", "loss", "label_smoothing", "weight_average", "warm_up"} <= drawn
    for backbone in space.backbones:
        for pick in (first, last):
            values = space.draw(
                preset_values("paper", "vgg16", TASKS[0]),
                lambda item, own=backbone, pick=pick: own if item.name == "backbone" else pick(item),
            )
            assert build(TASKS[0], values).model.backbone == backbone
    stopped = space.narrowed({"early_stop": 3})
    assert "weight_average" not in {item.name for item in stopped.parameters}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SEVERAL.replace("s.vgg16", "s.vgg61"), "parameters.unfrozen_layers: unknown 'vgg61', did you mean 'vgg16'"),
        (
            SEVERAL.replace("16, r", "16+vgg16, r"),
            "parameters.backbone.choices: expected each of the joined names once",
        ),
        (f"{SEVERAL}unfrozen_layers: 1\n", "parameters.unfrozen_layers.vgg16: expected 'unfrozen_layers' either"),
        ("learning_rate.vgg16: 1e-3\nepochs: {low: 1, high: 9}", "parameters.learning_rate.vgg16: expected choices or"),
    ],
)
def test_faults_of_ranges_of_one_network(faults, text, said):
    assert faults(text)[0].startswith(said)


def test_networks_that_use_other_parameters_are_not_drawn_together(faults):
    found = faults("backbone: {choices: [vgg16, scratch]}", family="siamese")
    assert found == ["parameters.backbone.choices: expected networks that use what vgg16 uses, found 'scratch'"]


# what a file may say


def test_scalars_mean_what_they_say(space):
    read = space(EXAMPLE)
    assert named(read, "class_weights").choices == ("none", "balanced", "1:1.3")
    assert named(read, "tuning_learning_rate").low == 1e-7
    assert named(read, "unfrozen_layers").kind is int
    assert read.fixed == {"pooling": "average"}
    assert space("batch_norm: {choices: [true, False]}").parameters[0].choices == (True, False)
    assert space("views: 8\ndropout: {choices: [0, 0.5]}").fixed == {"views": 8}


def test_conditions_come_before_what_they_decide_else_as_in_the_file(space):
    assert [item.name for item in space(EXAMPLE).parameters] == [
        "optimizer",
        "momentum",
        "unfrozen_layers",
        "tuning_learning_rate",
        "class_weights",
    ]


@pytest.mark.parametrize(
    ("line", "inside", "outside"),
    [
        ("optimizer: {choices: [adam, sgd]}", ["adam", "sgd"], ["rmsprop", 1]),
        ("epochs: {low: 5, high: 11, step: 3}", [5, 8, 11, 8.0], [4, 6, 14, 6.5, True, "8"]),
        ("epochs: {low: 5, high: 11}", [5, 6, 11], [5.5, 12]),
        ("dropout: {low: 0, high: 0.5, step: 0.1}", [0, 0.1, 0.30000000000000004, 0.3, 0.5], [0.25, 0.6]),
        ("learning_rate: {low: 1e-5, high: 1e-2, log: true}", [1e-5, 2e-3, 1e-2], [1e-6, float("nan"), "1e-3"]),
    ],
)
def test_what_a_parameter_contains(space, line, inside, outside):
    (parameter,) = space(line).parameters
    assert [value for value in inside if not parameter.contains(value)] == []
    assert [value for value in outside if parameter.contains(value)] == []


# what is drawn


@pytest.mark.parametrize(
    ("answers", "drawn"),
    [
        ({"optimizer": "adam", "unfrozen_layers": 0}, set()),
        ({"optimizer": "sgd", "unfrozen_layers": 0}, {"momentum"}),
        ({"optimizer": "sgd", "unfrozen_layers": 2}, {"momentum", "tuning_learning_rate"}),
    ],
)
def test_what_is_drawn_depends_on_what_was_drawn(space, answers, drawn):
    asked = []

    def suggest(parameter):
        asked.append(parameter.name)
        return answers.get(parameter.name, first(parameter))

    values = space(EXAMPLE).draw({"folds": 3, "pooling": "max", "momentum": 0.1}, suggest)
    assert set(asked) == {"optimizer", "unfrozen_layers", "class_weights"} | drawn
    assert values["folds"] == 3
    assert values["pooling"] == "average"
    assert values["momentum"] == (0.5 if "momentum" in drawn else 0.1)


def test_conditions_look_at_the_preset_and_else_at_the_default(space):
    read = space("momentum: {low: 0.5, high: 0.9, when: {optimizer: sgd}}")
    assert read.draw({"optimizer": "sgd"}, first)["momentum"] == 0.5
    assert "momentum" not in read.draw({}, first)


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({"folds": 2}, {"optimizer", "momentum", "unfrozen_layers", "tuning_learning_rate", "class_weights"}),
        ({"optimizer": "adam"}, {"unfrozen_layers", "tuning_learning_rate", "class_weights"}),
        ({"optimizer": "sgd"}, {"momentum", "unfrozen_layers", "tuning_learning_rate", "class_weights"}),
        ({"unfrozen_layers": 0, "class_weights": "2:1"}, {"optimizer", "momentum"}),
    ],
)
def test_what_the_command_line_gives_is_not_drawn(space, given, left):
    read = space(EXAMPLE).narrowed(given)
    assert {item.name for item in read.parameters} == left
    assert read.draw({"optimizer": "rmsprop"}, first).items() >= given.items()


def test_the_command_line_comes_before_what_the_file_fixes(space):
    assert space(EXAMPLE).narrowed({"pooling": "max"}).draw({}, first)["pooling"] == "max"


def test_a_command_line_that_leaves_nothing_to_search_is_refused(space):
    read = space("optimizer: {choices: [adam, sgd]}\nmomentum: {low: 0.5, high: 0.9, when: {optimizer: sgd}}")
    assert read.narrowed({"optimizer": "sgd"}).parameters
    with pytest.raises(Faults, match="something left to search"):
        read.narrowed({"optimizer": "adam"})


def test_a_command_line_cannot_give_what_the_architecture_draws(space):
    read = space("family: pretrained\narchitecture: head\nparameters: {learning_rate: {low: 1e-5, high: 1e-3}}")
    assert read.narrowed({"learning_rate": 1e-3}).parameters == ()
    with pytest.raises(Faults) as raised:
        read.narrowed({"dense": "64", "dropout": 0.5, "epochs": 3})
    assert [line.split(":")[0] for line in raised.value.faults] == ["dense", "dropout"]


def test_points_are_every_set_of_drawn_values_once(space):
    read = space(
        "optimizer: {choices: [adam, sgd]}\nmomentum: {low: 0, high: 0.3, step: 0.1, when: {optimizer: sgd}}\n"
        "unfrozen_layers: {low: 0, high: 3, step: 2}"
    )
    points = read.points({"momentum": 0.9, "folds": 3})
    layers = [{"unfrozen_layers": number} for number in (0, 2)]
    heads = [{"optimizer": "adam"}] + [{"optimizer": "sgd", "momentum": value} for value in (0.0, 0.1, 0.2, 0.3)]
    assert sorted(points, key=str) == sorted((head | layer for head in heads for layer in layers), key=str)


@pytest.mark.parametrize(
    ("line", "limit", "number"),
    [
        ("epochs: {low: 1, high: 100}", 100, 100),
        ("epochs: {low: 1, high: 100}", 99, None),
        ("epochs: {low: 1, high: 100000}", 10_000, None),
        ("epochs: {low: 1, high: 4, log: true}", 10, 4),
        ("dropout: {low: 0, high: 0.5}", 10_000, None),
        ("learning_rate: {low: 1e-5, high: 1e-3, log: true}", 10_000, None),
        ("learning_rate: {low: 1e-5, high: 1e-3, when: {optimizer: sgd}}", 10_000, 1),  # never drawn with adam
        ("epochs: {low: 1, high: 100}\nbatch_size: {low: 1, high: 100}", 9_999, None),
    ],
)
def test_the_number_of_points(space, line, limit, number):
    points = space(line).points({}, limit)
    assert (None if points is None else len(points)) == number


def test_an_architecture_has_no_list_of_points(space):
    text = "family: pretrained\narchitecture: head\nparameters: {optimizer: {choices: [adam, sgd]}}"
    assert space(text).points({}) is None


def test_facts_are_the_same_wherever_the_file_lies(space, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(EXAMPLE)
    facts = json.dumps(space(EXAMPLE).facts(), sort_keys=True)
    assert facts == json.dumps(read_space(other, "pretrained", "vgg16").facts(), sort_keys=True)
    assert facts != json.dumps(space(EXAMPLE.replace("0.99", "0.95")).facts(), sort_keys=True)
    assert facts != json.dumps(space(EXAMPLE).narrowed({"optimizer": "sgd"}).facts(), sort_keys=True)
    assert str(tmp_path) not in facts


# what is wrong with a file

FINE = "epochs: {low: 1, high: 5}"


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("learning_rat: 1", ["parameters: unknown 'learning_rat'", "did you mean 'learning_rate'"]),
        ("epochs: {low: 1}", ["parameters.epochs: ", "choices, or low and high", "no high"]),
        ("epochs: {high: 1}", ["parameters.epochs: ", "no low"]),
        ("epochs: {}", ["parameters.epochs: ", "no low and no high"]),
        ("epochs: {low: 5, high: 1}", ["parameters.epochs: expected low below high, found 5 and 1"]),
        ("epochs: {low: 5, high: 5}", ["parameters.epochs: ", "bare value, epochs: 5"]),
        ("epochs: {low: 1, high: 5, hgih: 6}", ["parameters.epochs: unknown 'hgih'", "did you mean 'high'"]),
        ("epochs: {low: 1.5, high: 5}", ["parameters.epochs.low: ", "whole number", "'1.5'"]),
        ("epochs: {low: one, high: 5}", ["parameters.epochs.low: ", "whole number", "'one'"]),
        ("epochs: {low: 0, high: 5}", ["parameters.epochs.low: ", "from 1 to 100000", "0"]),
        ("epochs: {low: 1, high: 5, step: 0}", ["parameters.epochs.step: ", "above 0", "0"]),
        ("epochs: {low: 1, high: 5, step: 9}", ["parameters.epochs.step: ", "at most", "4", "9"]),
        ("epochs: {low: 1, high: 5, log: yes}", ["parameters.epochs.log: ", "true or false", "'yes'"]),
        ("epochs: {low: [1], high: 5}", ["parameters.epochs.low: ", "one value", "a list"]),
        ("epochs:", ["parameters.epochs: ", "whole number"]),
        ("epochs: [1, 2]", ["parameters.epochs: ", "choices", "a list"]),
        ("dropout: {low: 0, high: 1}", ["parameters.dropout.high: ", "not including, 1"]),
        ("dropout: {low: 0, high: 0.5, log: true}", ["parameters.dropout.low: ", "above 0", "logarithmic"]),
        ("dropout: {low: 0.1, high: 0.5, log: true, step: 0.1}", ["parameters.dropout.step: ", "log"]),
        ("dropout: {low: 0.1, high: 0.5, step: nan}", ["parameters.dropout.step: ", "finite", "nan"]),
        ("dropout: {low: nan, high: 0.5}", ["parameters.dropout.low: ", "nan"]),
        ("learning_rate: {low: 1e-5, high: inf}", ["parameters.learning_rate.high: ", "inf"]),
        ("learning_rate: {low: 0, high: 1, log: true}", ["parameters.learning_rate.low: ", "above 0"]),
        ("learning_rate: fast", ["parameters.learning_rate: ", "a number", "'fast'"]),
        ("optimizer: {choices: []}", ["parameters.optimizer.choices: ", "an empty list"]),
        ("optimizer: {choices: sgd}", ["parameters.optimizer.choices: ", "'sgd'"]),
        ("optimizer: {choices: [adam, adam]}", ["parameters.optimizer.choices: ", "once", "'adam'"]),
        ("learning_rate: {choices: [1e-3, 0.001]}", ["parameters.learning_rate.choices: ", "once", "'0.001'"]),
        ("optimizer: {choices: [adam, rmsprp]}", ["parameters.optimizer.choices: ", "did you mean 'rmsprop'"]),
        ("optimizer: {choices: [adam, sgd], log: true}", ["parameters.optimizer.log: ", "beside choices"]),
        ("optimizer: {low: 1, high: 2}", ["parameters.optimizer: ", "choices", "no number"]),
        ("optimizer: adm", ["parameters.optimizer: unknown 'adm', did you mean 'adam'"]),
        ("class_weights: {choices: [none, 1:0]}", ["parameters.class_weights.choices: ", "'1:0'"]),
        ("batch_norm: {choices: [true, on]}", ["parameters.batch_norm.choices: ", "true or false", "'on'"]),
        *(
            (f"{name}: {value}", [f"parameters.{name}: ", f"--{name.replace('_', '-')}", "command line"])
            for name, value in [
                ("folds", "4"),
                ("seed", "1"),
                ("seeds", "{low: 1, high: 3}"),
                ("final", "none"),
                ("final_epochs", "{choices: [1, 2]}"),
                ("threshold", "0.5"),
                ("weights", "random"),
                ("backbone", "vgg16"),
                ("task", "mass_calc"),
            ]
        ),
        *(
            (f"{name}: {{choices: [{choices}]}}", [f"parameters.{name}: ", "fixed but not searched"])
            for name, choices in [("precision", "auto, float32"), ("threads", "1, 2"), ("views", "4, 8")]
        ),
        ("momentum: {low: 0.1, high: 0.9, when: sgd}", ["parameters.momentum.when: ", "a mapping", "'sgd'"]),
        ("momentum: {low: 0.1, high: 0.9, when: {}}", ["parameters.momentum.when: ", "an empty mapping"]),
        (
            "momentum: {low: 0.1, high: 0.9, when: {optimiser: sgd}}",
            ["parameters.momentum.when: unknown 'optimiser', did you mean 'optimizer'"],
        ),
        (
            "momentum: {low: 0.1, high: 0.9, when: {optimizer: sdg}}",
            ["parameters.momentum.when.optimizer: unknown 'sdg', did you mean 'sgd'"],
        ),
        ("momentum: {low: 0.1, high: 0.9, when: {optimizer: []}}", ["parameters.momentum.when.optimizer: ", "none"]),
        ("momentum: {low: 0.1, high: 0.9, when: {optimizer: {low: 1}}}", ["when.optimizer: ", "no number"]),
        ("momentum: {low: 0.1, high: 0.9, when: {views: {}}}", ["when.views: ", "low, high or both"]),
        ("momentum: {low: 0.1, high: 0.9, when: {views: {lo: 1, high: 2}}}", ["when.views: unknown 'lo'", "'low'"]),
        ("momentum: {low: 0.1, high: 0.9, when: {views: {low: 3, high: 2}}}", ["when.views: ", "3 and 2"]),
        ("momentum: {low: 0.1, high: 0.9, when: {momentum: 0.5}}", ["momentum.when: ", "circle: momentum → momentum"]),
    ],
)
def test_one_fault_is_one_line(faults, lines, words):
    found = faults(f"{lines}\nbatch_size: {{low: 1, high: 5}}")
    assert len(found) == 1, found
    for word in words:
        assert word in found[0]


@pytest.mark.parametrize(
    ("other", "condition"),
    [
        ("optimizer: {choices: [adam, rmsprop]}", "{optimizer: sgd}"),
        ("optimizer: {choices: [adam, rmsprop]}", "{optimizer: [adam, sgd]}"),
        ("optimizer: adam", "{optimizer: sgd}"),
        ("unfrozen_layers: {low: 0, high: 3}", "{unfrozen_layers: 4}"),
        ("unfrozen_layers: {low: 0, high: 3}", "{unfrozen_layers: {low: 4}}"),
        ("unfrozen_layers: {low: 0, high: 4, step: 2}", "{unfrozen_layers: 3}"),
        ("unfrozen_layers: {low: 0, high: 4, step: 2}", "{unfrozen_layers: {low: 3, high: 3}}"),
        ("unfrozen_layers: {choices: [1, 3]}", "{unfrozen_layers: {high: 0}}"),
        ("unfrozen_layers: 2", "{unfrozen_layers: {low: 3}}"),
        ("dropout: {low: 0.2, high: 0.5}", "{dropout: {high: 0.1}}"),
    ],
)
def test_a_condition_that_can_never_hold_is_a_fault(faults, other, condition):
    (found,) = faults(f"learning_rate: {{low: 1e-5, high: 1e-3, when: {condition}}}\n{other}")
    assert found.startswith(f"parameters.learning_rate.when.{other.split(':')[0]}: expected what it can be, ")


@pytest.mark.parametrize(
    ("other", "condition"),
    [
        ("unfrozen_layers: {low: 0, high: 4, step: 2}", "{unfrozen_layers: {low: 3}}"),
        ("unfrozen_layers: 2", "{unfrozen_layers: {low: 2}}"),
        ("unfrozen_layers: {choices: [0, 3]}", "{unfrozen_layers: {low: 1, high: 5}}"),
        ("dropout: {low: 0.2, high: 0.5}", "{dropout: {low: 0.3}}"),
        (FINE, "{backbone: vgg16, optimizer: sgd}"),
    ],
)
def test_a_condition_that_may_hold_is_none(space, other, condition):
    assert space(f"learning_rate: {{low: 1e-5, high: 1e-3, when: {condition}}}\n{other}")


def test_a_circle_of_conditions_is_a_fault(faults):
    found = faults(
        "views: 4\nepochs: {low: 1, high: 5, when: {batch_size: 4}}\nbatch_size: {low: 1, high: 5, when: {epochs: 2}}\n"
        "dropout: {low: 0.1, high: 0.5, when: {epochs: 3}}\nmomentum: {low: 0.1, high: 0.5, when: {momentum: 0.2}}"
    )
    assert len(found) == 2
    assert "parameters.epochs.when: " in found[0]
    assert "epochs → batch_size → epochs" in found[0]
    assert "momentum → momentum" in found[1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"family: pretrained\nparameter: {{}}\nparameters: {{{FINE}}}", ["unknown 'parameter'", "'parameters'"]),
        (f"family: pretraind\nparameters: {{{FINE}}}", ["family: unknown 'pretraind', did you mean 'pretrained'"]),
        (f"family: [pretrained]\nparameters: {{{FINE}}}", ["family: ", "a name", "a list"]),
        (f"parameters: {{{FINE}}} # family: none", ["family: ", "'pretrained'", "nothing"]),
        (f"family: pretrained\nbackbone: vgg61\nparameters: {{{FINE}}}", ["backbone: unknown 'vgg61'", "'vgg16'"]),
        (f"family: pretrained\nbackbone: resnet50\nparameters: {{{FINE}}}", ["backbone: expected 'vgg16'", "resnet50"]),
        (f"family: pretrained\narchitecture: heads\nparameters: {{{FINE}}}", ["architecture: unknown 'heads'", "head"]),
        ("family: pretrained", ["parameters: ", "nothing"]),
        ("family: pretrained\nparameters:", ["parameters: ", "nothing"]),
        ("family: pretrained\narchitecture: head\nparameters: {}", ["parameters: ", "an empty mapping"]),
        ("family: pretrained\nparameters: [epochs]", ["parameters: ", "a list"]),
        ("family: pretrained\nparameters: {epochs: 5}", ["parameters: ", "something to search"]),
        (
            f"family: pretrained\narchitecture: head\nparameters: {{dropout: 0, {FINE}}}",
            ["parameters.dropout: ", "architecture draws it"],
        ),
        (
            "family: pretrained\narchitecture: head\nparameters: {epochs: {low: 1, high: 5, when: {dense: 64}}}",
            ["parameters.epochs.when.dense: ", "architecture"],
        ),
        (f"family: pretrained\nfamily: pretrained\nparameters: {{{FINE}}}", ["family: ", "once", "line 2"]),
        (f"family: pretrained\nparameters: {{{FINE}, epochs: 3}}", ["parameters.epochs: ", "once", "line 2"]),
        (f"family: pretrained\nparameters: {{{FINE}, [a]: 3}}", ["parameters: ", "names as keys", "line 2"]),
        ("family: pretrained\nparameters: {epochs: {low: 1", ["YAML", "line 2, column"]),
        ("family: pretrained\nparameters: &a {epochs: *a}", ["YAML", "alias", "line 2, column 25"]),
        ("family: pretrained\n--- \nfamily: other", ["YAML", "line 2"]),
        ("family: pretrained\x07", ["YAML"]),
        ("family: " + "[" * 5000, ["YAML"]),
        ("# family: none of it", ["a mapping of family", "nothing"]),
        ("- family: pretrained", ["a mapping of family", "a list"]),
        ('"family: pretrained"', ["a mapping of family", "'family: pretrained'"]),
    ],
)
def test_one_fault_of_the_file_is_one_line(faults, text, words):
    found = faults(text)
    assert len(found) == 1, found
    for word in words:
        assert word in found[0]


def test_all_faults_are_told_at_once(faults):
    found = faults(
        "famly: pretrained\nfamily: pretrained\nbackbone: resnet50\nparameters:\n"
        "  optimizer: {choices: [adam, rmsprp, adm]}\n"
        "  momentum: {low: 1, high: x, stp: 2, when: {optimiser: sgd}}\n"
        "  folds: 4\n"
        "  views: {low: 1, high: 2}\n"
    )
    assert [line.split(":")[0] for line in found] == [
        "unknown 'famly', did you mean 'family'? (one of",
        "backbone",
        "parameters.optimizer.choices",
        "parameters.optimizer.choices",
        "parameters.momentum",
        "parameters.momentum.when",
        "parameters.momentum.low",
        "parameters.momentum.high",
        "parameters.folds",
        "parameters.views",
    ]


def test_a_missing_file_names_those_there_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Faults, match=r"mine\.yaml: .* nothing there .*pretrained\.yaml"):
        read_space(Path("mine.yaml"), "pretrained", "vgg16")


@pytest.mark.parametrize("content", [b"\x93NUMPY\x01\x00v\x00", "family: prétrained".encode("latin-1")])
def test_a_file_of_another_kind(tmp_path, content):
    path = tmp_path / "space.yaml"
    path.write_bytes(content)
    with pytest.raises(Faults, match=r"space\.yaml: expected UTF-8 text"):
        read_space(path, "pretrained", "vgg16")


def test_a_directory(tmp_path):
    with pytest.raises(Faults, match="expected a readable file, found Is a directory"):
        read_space(tmp_path, "pretrained", "vgg16")


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(EXAMPLE)
    path.chmod(0)
    with pytest.raises(Faults, match="expected a readable file, found Permission denied"):
        read_space(path, "pretrained", "vgg16")


WILD = {
    "laughs": "a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    "holding itself": "&a [*a]\n",
    "deep lists": "[" * 40_000,
    "deep mappings": "{a: " * 10_000,
    "deep blocks": "".join(f"{' ' * depth}a:\n" for depth in range(400)),
    "NUL": "family: \0",
    "long": "family: " + "x" * 90_000,
    "too long": "family: " + "x" * 200_000,
    "twice": "family: pretrained\nfamily: pretrained\n",
    "a tag": "!!python/object/apply:os.system [true]\n",
    **{
        f"{name} {value}": f"family: pretrained\nparameters:\n  {name}: {{low: 1, high: {value}}}\n"
        for name in ("epochs", "learning_rate", "dropout")
        for value in ("inf", ".inf", "nan", "1e999", "-1e999", "1" + "0" * 400, "9" * 5000, "0x10")
    },
}


@pytest.mark.parametrize("name", WILD)
def test_wild_files_are_faults_of_a_line_each(tmp_path, name):
    path = tmp_path / "space.yaml"
    path.write_text(WILD[name], encoding="utf-8")
    started = time.monotonic()
    with pytest.raises(Faults) as refused:
        read_space(path, "pretrained", "vgg16")
    assert time.monotonic() - started < 10
    assert all(line.startswith(str(path)) and len(line) < 1500 for line in refused.value.lines)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "space.yaml")
    with pytest.raises(Faults, match="expected a file of at most 100,000 bytes"):
        read_space(tmp_path / "space.yaml", "pretrained", "vgg16")
