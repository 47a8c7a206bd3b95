"""Publications: what stands in them, what does not, and how `verify` finds what was changed."""

import csv
import json
import re
import shlex
import shutil
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Dataset, DatasetInput
from mlflow.tracking import MlflowClient
from support import SMALL, Pretended

from mammo_mlflow.data.phantom import PhantomSettings, make_phantom
from mammo_mlflow.errors import UserError
from mammo_mlflow.files import file_sha256
from mammo_mlflow.publication import write
from mammo_mlflow.publication.answers import ANSWERS
from mammo_mlflow.publication.checklists import fill
from mammo_mlflow.publication.manifest import METADATA_FILE
from mammo_mlflow.publication.privacy import EXAMPLES
from mammo_mlflow.publication.repeat import Comparison
from mammo_mlflow.publication.stored_values import StoredValue, phantom_settings, repeating_command, stored_values
from mammo_mlflow.tracking.lineage import lineage_of, version_under
from mammo_mlflow.tracking.registry import find_model

pytestmark = pytest.mark.usefixtures("system")  # whole commands, too slow for the quick tier

for package in ("huggingface_hub", "rocrate"):
    pytest.importorskip(package)

MODEL = "mammo-mass_calc-pretrained-vgg16"
SECRET = "hunter2"
WANTED = ("fold 1: trained again on 37 patches, its 11 predictions are the same", "24 test patches are the same")


@dataclass(frozen=True)
class Published:
    """A store with a model, and its publication."""

    where: Path
    folder: Path
    pretend: Pretended

    @cached_property
    def client(self):
        return MlflowClient(f"sqlite:///{self.where}/mlflow.db")

    @property
    def version(self):
        return self.client.get_model_version(MODEL, "1")

    def publish(self, *arguments):
        return self.pretend(self.where, *arguments, name="publish", executor=False)

    def verify(self, folder, *arguments):
        return self.pretend(self.where.parent / "elsewhere", "--publication", str(folder), *arguments, name="verify")

    def copy(self, target):
        return Path(shutil.copytree(self.folder, target))


@pytest.fixture(scope="module")
def published(tmp_path_factory, pretend):
    """A scripted model with averaged views and answer sets, whose run holds a password, published."""
    where = tmp_path_factory.mktemp("published") / "store"
    where.mkdir()
    made = pretend(where, "--task", "mass_calc", *SMALL, "--threshold", "youden", "--coverage", "0.8", "--tta", "views")
    assert made.code == 0, made.err
    found = Published(where, where.parent / "publication", pretend)
    found.client.set_tag(found.version.run_id, "mammo.weights_source", f"https://me:{SECRET}@there/weights")
    outcome = found.publish("--model", f"models:/{MODEL}@candidate", "--out", str(found.folder))
    assert outcome.code == 0, outcome.err
    return found


def texts(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names_of(phantom):
    groups = [pd.read_csv(phantom / f"{stem}_groups.csv") for stem in ("train", "public_test")]
    return {str(name) for one in groups for name in one["patient_id"]}


@cache
def run_of(client, key):
    return client.get_run(key)


def look_up(client, kind, name, of):
    """Whether a store has what a checklist names as a source."""
    if kind in ("version tag", "file"):
        model, number = of.split("/")
        version = client.get_model_version(model, number)
        if kind == "version tag":
            return name in version.tags
        folder = Path(
            client.get_logged_model(version.source.removeprefix("models:/")).artifact_location.removeprefix("file://")
        )
        return (folder / name).is_file()
    run = run_of(client, of)
    held = {"metric": run.data.metrics, "parameter": run.data.params, "tag": run.data.tags}
    if kind in held:
        return name in held[kind]
    if kind == "data set":
        return all(name in json.loads(one.dataset.profile) for one in run.inputs.dataset_inputs)
    assert kind == "artifact"
    return name in [one.path for one in client.list_artifacts(of)]


def test_every_answer_of_the_checklists_has_its_sources_in_the_store(published):
    with (published.folder / "checklists" / "checklists.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 44 + 52
    answered = [row for row in rows if row["answer"]]
    assert 40 <= len(answered) <= 60
    for row in rows:
        assert bool(row["answer"]) == bool(row["sources"]), row
        assert row["answer"] or row["authors_must_say"]
    for part in {part for row in answered for part in row["sources"].split("; ")}:
        kind, names, of = re.fullmatch(
            r"(version tag|file|metric|parameter|tag|artifact|data set) (.+) of (?:run|model) (\S+)", part
        ).groups()
        assert names.split(", ") == [name for name in names.split(", ") if look_up(published.client, kind, name, of)]


def test_what_no_store_knows_is_left_to_the_authors(published):
    pages = [(published.folder / "checklists" / name).read_text() for name in ("claim_2024.md", "tripod_ai.md")]
    assert "| 34 | evaluation | trial registration | author must say |  |" in pages[0]
    assert "| 17 | methods | ethics approval | author must say |  |" in pages[1]
    assert all("check numbers and wording against the published lists" in page for page in pages)


def test_a_sentence_says_nothing_without_its_values():
    known = {"a": StoredValue("1", ())}
    assert fill("It is {a}.", known).text == "It is 1."
    assert fill("It is {a} of {b}.", known) is None
    assert fill("It is good.", known) is None
    assert all("{" in sentence for one in ANSWERS for sentence in one.sentences)


def test_no_patient_no_pixel_and_no_secret_is_in_it(published, phantom):
    found = texts(published.folder)
    patients = names_of(phantom)
    assert len(patients) > 20
    for name, content in found.items():
        assert SECRET.encode() not in content, name
        assert [one for one in patients if one.encode() in content] == [], name
    assert "figures/patches.png" not in found
    for name in EXAMPLES:
        (example,) = json.loads(found[f"model/{name}"]).values()
        assert np.shape(example) == (2, 32, 32, 1) and not np.any(example)


def test_patients_keep_their_groups_under_other_names_each_time(published, phantom, tmp_path):
    groups = pd.read_csv(phantom / "train_groups.csv")["patient_id"]
    names = pd.read_csv(published.folder / "tables" / "folds.csv")["patient"]
    assert len(set(zip(groups, names, strict=True))) == groups.nunique() == names.nunique()
    again = tmp_path / "again"
    assert published.publish("--model", f"{MODEL}/1", "--out", str(again), "--with-model", "false").code == 0
    assert not set(pd.read_csv(again / "tables" / "folds.csv")["patient"]) & set(names)
    assert not (again / "model").exists()
    assert "its files were not published" in published.verify(again).out


def test_names_and_pixels_are_in_it_where_they_are_asked_for(published, phantom, tmp_path):
    wanted = ("--identities", "true", "--pixels", "true")
    assert published.publish("--run", published.version.run_id, "--out", str(tmp_path / "all"), *wanted).code == 0
    found = pd.read_csv(tmp_path / "all" / "tables" / "test.csv")["patient"]
    assert found.tolist() == pd.read_csv(phantom / "public_test_groups.csv")["patient_id"].tolist()
    assert (tmp_path / "all" / "figures" / "patches.png").exists()
    assert np.any(*json.loads((tmp_path / "all" / "model" / EXAMPLES[0]).read_text()).values())


def test_the_card_tells_scores_with_intervals_and_what_they_are_of(published):
    card = (published.folder / "README.md").read_text()
    assert "**phantom data: no medical result; random weights**" in card
    assert re.search(r"\| roc_auc \| 0\.\d{3} \[0\.\d{3}, [01]\.\d{3}\] \| 0\.\d{3} \[", card)
    assert card.startswith("---\n") and "interval_95:" in card
    assert "--phantom-train 48 --phantom-test 24 --phantom-size 32" in card
    assert "## Attribution" not in card  # of CBIS-DDSM, which a phantom is not


def test_the_crate_lists_every_file_with_its_sha256(published):
    graph = json.loads((published.folder / METADATA_FILE).read_text())["@graph"]
    listed = {one["@id"] for one in graph if one["@type"] == "File"}
    assert listed == set(texts(published.folder)) - {METADATA_FILE}
    assert all(len(one["sha256"]) == 64 for one in graph if one["@type"] == "File")


def test_what_was_published_is_found_the_same_elsewhere(published, tmp_path):
    outcome = published.verify(published.folder)
    assert outcome.code == 0, outcome.err
    assert all(line in outcome.out for line in WANTED)
    assert "data: the same training and test data" in outcome.out
    assert not (published.where.parent / "elsewhere" / "mlruns").exists()
    (tmp_path / "latest").symlink_to(published.folder)
    assert published.verify(tmp_path / "latest").code == 0


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tables/test.csv", lambda path: path.write_text(path.read_text().replace("0.", "0.1", 1))),
        ("tables/folds.csv", lambda path: path.write_text(path.read_text() + "48,0,1,patient-0\n")),
        ("model/data/model.keras", lambda path: path.write_bytes(path.read_bytes() + b"\0")),
        ("experiment.json", lambda path: path.write_text(path.read_text().replace('"0.001"', '"0.002"'))),
        ("README.md", lambda path: path.unlink()),
        ("tables/more.csv", lambda path: path.write_text("patch\n")),
        ("model/MLmodel", lambda path: (path.rename(path.with_name("moved")), path.symlink_to("moved"))),
    ],
)
def test_a_file_that_was_changed_is_named(published, tmp_path, name, change):
    folder = published.copy(tmp_path / "changed")
    change(folder / name)
    outcome = published.verify(folder)
    assert outcome.code == 1 and outcome.complaints == []
    assert any(line.startswith(f"{name}: expected ") and ", found " in line for line in outcome.out.splitlines())
    assert "NOT as they were published; nothing of them was used" in outcome.out
    assert "trained again" not in outcome.out


def test_a_changed_file_with_its_sha256_changed_too_is_found_by_the_publications_own(published, tmp_path):
    said = published.verify(published.folder, "--fold", "2").out
    own = re.search(r"sha256 of the publication: (\w{64})", said)[1]
    folder = published.copy(tmp_path / "changed")
    file, text = folder / METADATA_FILE, (folder / METADATA_FILE).read_text()
    file.write_text(text.replace("phantom data", "real data"))
    outcome = published.verify(folder, "--sha256", own)
    assert outcome.code == 1 and f"{METADATA_FILE}: expected sha256 {own}, found " in outcome.out


def test_other_predictions_than_the_published_are_told(published, tmp_path):
    folder = published.copy(tmp_path / "other")
    table, listed = folder / "tables" / "out_of_fold.csv", folder / METADATA_FILE
    before, frame = file_sha256(table), pd.read_csv(table)
    row = frame.index[frame["fold"] == 0][0]
    frame.loc[row, "fit_probability"] = (frame.loc[row, "fit_probability"] + 0.5) % 1  # before views are averaged
    frame.to_csv(table, index=False)
    listed.write_text(listed.read_text().replace(before, file_sha256(table)))
    outcome = published.verify(folder)
    assert outcome.code == 1
    assert (
        f"predictions are NOT the same: patch {frame.loc[row, 'patch']} differs by 0.5, more than 0.01" in outcome.out
    )


def test_other_data_are_told_by_their_sha256(published, tmp_path):
    other = make_phantom(PhantomSettings(48, 24, 32, seed=1), tmp_path)
    outcome = published.verify(published.folder, "--data", str(other))
    assert outcome.code == 2
    (line,) = outcome.complaints
    assert re.search(r"data: train_tensor\.npy: expected sha256 \w{12}…, found \w{12}…; data: train_labels", line)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "model: expected a registered model, or the id of a run as run, found neither"),
        (("--model", f"{MODEL}/1", "--run", "a"), "found both"),
        (("--model", f"{MODEL}/7"), f"model: expected one of {MODEL}/1"),
        (("--run", "a1"), "run: expected the id of a run in the store, found 'a1'"),
    ],
)
def test_what_cannot_be_published_is_one_line(published, tmp_path, arguments, said):
    outcome = published.publish(*arguments, "--out", str(tmp_path / "new"))
    assert outcome.code == 2
    (line,) = outcome.complaints
    assert said in line
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_not_touched(published, tmp_path):
    (tmp_path / "kept").write_text("mine")
    for there in (tmp_path, tmp_path / "kept", published.where / "none" / "new"):
        outcome = published.publish("--model", f"{MODEL}/1", "--out", str(there))
        assert outcome.code == 2 and outcome.complaints[0].startswith("mammo_mlflow: out: expected ")
    assert (tmp_path / "kept").read_text() == "mine"


def test_a_missing_extra_is_named_in_the_form_that_works(published, tmp_path, monkeypatch):
    monkeypatch.setattr("mammo_mlflow.publication.write.PACKAGES", ("huggingface_hub", "no_such_package"))
    outcome = published.publish("--model", f"{MODEL}/1", "--out", str(tmp_path / "new"))
    (line,) = outcome.complaints
    assert outcome.code == 2 and "found no no_such_package" in line
    assert "pip install 'mammo-mlflow[publish]'" in line and "pip install -e '.[publish]'" in line


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "publication: expected a folder that `publish` wrote"),
        ("{", "publication: ro-crate-metadata.json: expected an RO-Crate"),
        ('{"@graph": [{"@id": "../x", "sha256": "0"}]}', "expected files within the folder, found '../x'"),
        ('{"@graph": []}', "expected the sha256 of files, found none"),
    ],
)
def test_what_is_no_publication_is_one_line(published, tmp_path, content, said):
    if content is not None:
        (tmp_path / METADATA_FILE).write_text(content)
    outcome = published.verify(tmp_path)
    (line,) = outcome.complaints
    assert outcome.code == 2 and said in line


def test_whose_patches_are_real_is_said_or_asked(pretend, data, tmp_path):
    (data / "phantom.json").rename(data / "prepare.json")  # which makes it a data set of films
    where = tmp_path / "store"
    where.mkdir()
    made = pretend(where, "--task", "mass_calc", "--data", str(data), *SMALL[:8])
    assert made.code == 0, made.err
    found = Published(where, tmp_path / "unknown", pretend)
    asked = ("--model", f"{MODEL}/1", "--with-model", "false", "--out")
    assert found.publish(*asked, str(found.folder)).code == 0
    card, file = (found.folder / "README.md").read_text(), found.folder / "ATTRIBUTION.txt"
    assert "author must say: whether the patches are of CBIS-DDSM" in card and "--data DIR" in card
    assert file.read_text().startswith("Where the patches are of CBIS-DDSM:") and "phantom" not in card
    assert str(tmp_path) not in "".join(map(str, texts(found.folder).values()))

    tags = {"mammo.family": "prepare", "mammo.data_sha256": found.version.tags["mammo.data_sha256"]}
    run = found.client.create_run(found.client.get_run(found.version.run_id).info.experiment_id, tags=tags)
    (tmp_path / "ATTRIBUTION.txt").write_text("Patches of CBIS-DDSM")
    found.client.log_artifact(run.info.run_id, str(tmp_path / "ATTRIBUTION.txt"))
    assert found.publish(*asked, str(tmp_path / "known")).code == 0
    card = (tmp_path / "known" / "README.md").read_text()
    assert "The patches are of CBIS-DDSM (Lee et al. 2017), CC BY 3.0." in card and "must say: whether" not in card
    crate = (tmp_path / "known" / METADATA_FILE).read_text()
    assert "https://creativecommons.org/licenses/by/3.0/" in crate

    assert found.verify(found.folder).code == 0  # where they lay when they were last used
    data.rename(tmp_path / "moved")
    outcome = found.verify(found.folder)
    assert outcome.code == 2 and "data: expected the directory of the data with sha256" in outcome.complaints[0]
    assert found.verify(found.folder, "--data", str(tmp_path / "moved")).code == 0


def test_an_ensembles_data_are_those_of_its_members(models, phantom):
    described = {"image_size": 32, "files": {"train_tensor.npy": "a"}}
    member = models.run({"task": "mass_calc", "fit": "final"})
    entry = Dataset(
        "data", "0", "local", json.dumps({"uri": f"mammo-data:/{phantom.name}"}), None, json.dumps(described)
    )
    models.client.log_inputs(member, [DatasetInput(entry, [])])
    tags = {"mammo.task": "mass_calc", "mammo.family": "ensemble", "mammo.phantom": "true"}
    joined = models.run({"task": "mass_calc", "members": "one v1", "phantom": "true"}, params={"members": "one"})
    for name, run in (("one", member), ("joined", joined)):
        models.client.create_registered_model(name)
        models.client.create_model_version(name, (models.where / name).as_uri(), run, tags=tags)
    lineage = lineage_of(models.client, find_model(models.client, "joined/1"))
    assert lineage.described.data == described
    assert phantom_settings(lineage).train == 48
    assert repeating_command(lineage).endswith("--members one --phantom-train 48 --phantom-test 24 --phantom-size 32")
    values = stored_values(lineage, models.where, None)
    assert values["image_size"].sources == ((member, "data set", "image_size"),)


def test_a_fold_that_was_cut_off_is_not_the_finished_one(published):
    """A trial that is taken up after a kill has a run of the fold that was cut off, and a later one."""
    lineage = lineage_of(published.client, find_model(published.client, f"{MODEL}/1"))
    tags = {"mammo.cv_run_id": lineage.cross_validation.id, "mammo.fit": "fold 1"}
    experiment = published.client.get_run(lineage.final.id).info.experiment_id
    for began, ended in ((0, "KILLED"), (None, "KILLED")):
        run = published.client.create_run(experiment, tags=tags, start_time=began)
        published.client.set_terminated(run.info.run_id, ended)
    again = lineage_of(published.client, find_model(published.client, f"{MODEL}/1"))
    assert again.folds == lineage.folds


def test_a_texture_control_is_repeated_by_controls(pretend, tmp_path):
    few = ("--phantom-train", "48", "--phantom-test", "24", "--phantom-size", "32")
    line = ("--task", "mass_calc", "--control", "texture", "--final", "refit", "--folds", "2", *few)
    made = pretend(tmp_path, *line, name="controls")
    assert made.code == 0, made.err
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    name = next(one.name for one in client.search_registered_models() if "texture" in one.name)
    words = shlex.split(repeating_command(lineage_of(client, find_model(client, name))))
    assert words[:4] == ["python", "-m", "mammo_mlflow", "controls"]
    again = pretend(tmp_path, *words[4:], name="controls")
    assert again.code == 0, again.err
    assert len(client.search_model_versions(f"name = '{name}'")) == 1  # the same model, found again


def test_an_artifact_that_does_not_come_ends_a_publication(published, tmp_path, monkeypatch):
    real = write.fetch

    def without_curves(client, run, name, to):
        return None if "roc" in name else real(client, run, name, to)

    monkeypatch.setattr(write, "fetch", without_curves)
    outcome = published.publish("--model", f"{MODEL}/1", "--out", str(tmp_path / "new"))
    assert outcome.code == 2
    (line,) = outcome.complaints
    assert "publish: expected the artifact roc" in line and "which the store lists, found none" in line
    assert list(tmp_path.iterdir()) == []


def test_a_package_without_a_name_is_left_out(published, tmp_path, monkeypatch):
    (tmp_path / "leftover-1.0.dist-info").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    outcome = published.publish("--model", f"{MODEL}/1", "--out", str(tmp_path / "new"))
    assert outcome.code == 0, outcome.err
    assert "\nmlflow==" in (tmp_path / "new" / "environment" / "requirements.txt").read_text()


def test_a_run_with_several_models_is_asked_which(models):
    parent = models.run({"family": "pretrained"})
    for backbone in ("vgg16", "resnet50"):
        final = models.model(backbone=backbone, files=False)
        above = models.client.get_run(final).data.tags["mlflow.parentRunId"]
        models.client.set_tag(above, "mlflow.parentRunId", parent)
    with pytest.raises(UserError, match=r"run: expected a run with one registered model .* found .*vgg16 v1"):
        version_under(models.client, parent)


def test_a_trained_model_is_found_the_same_by_another_process(finished, run_command, tmp_path):
    target = tmp_path / "publication"
    made = run_command(finished.where, finished.cache, "--model", f"{MODEL}/1", "--out", str(target), name="publish")
    assert made.code == 0, made.err
    outcome = run_command(tmp_path / "elsewhere", finished.cache, "--publication", str(target), name="verify")
    assert outcome.code == 0, outcome.err
    assert all(line in outcome.out for line in WANTED)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_how_a_comparison_is_said():
    patches, published = np.array([4, 7]), np.array([0.25, 0.5])
    assert Comparison.of(patches, published, published).in_words(0.01) == "the same"
    near = Comparison.of(patches, published, published + np.array([0, 3e-7]))
    assert near.within(0.01) and near.in_words(0.01).startswith("the same within 3e-07")
    far = Comparison.of(patches, published, published + np.array([0.1, 0]))
    assert not far.within(0.01) and "patch 4 differs by 0.1" in far.in_words(0.01)
    assert not Comparison.of(patches, published, np.array([0.25, np.nan])).within(1)
