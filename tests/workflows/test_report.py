"""The page as a user gets it: from any store, asking for nothing, in a real browser."""

import html
import json
import re
import shlex
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from mammo_mlflow.disclosure import INTENDED_USE
from mammo_mlflow.estimate import Estimate
from mammo_mlflow.evaluation.figures import answer_sets
from mammo_mlflow.experiment import build
from mammo_mlflow.report.differences import differences
from mammo_mlflow.report.paper_tables import tables

pytestmark = pytest.mark.usefixtures("system")  # whole commands, too slow for the quick tier

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """What a page holds."""

    def __init__(self, text):
        super().__init__()
        self.text, self.images, self.ids, self.links, self.asked = text, [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if "id" in found:
            self.ids.append(found["id"])
        if tag == "img":
            self.images.append(found)
        if tag == "a":
            self.links.append(found["href"])
        if tag in ("script", "link", "img", "iframe", "source"):
            self.asked += [found[name] for name in ("src", "href") if name in found]


@pytest.fixture
def report(cli, tmp_path):
    def call(*arguments, code=0):
        outcome = cli("--out", str(tmp_path / "report"), *arguments, command="report")
        assert outcome.code == code, outcome.err
        return outcome

    return call


@pytest.fixture
def page(tmp_path):
    return lambda: Page((tmp_path / "report" / "index.html").read_text())


def finals(models):
    """The runs of the registered models of a store."""
    runs = models.client.search_runs([models.experiment])
    return [run for run in runs if "mammo.registered_name" in run.data.tags]


def row_with(page, text):
    """The rows of a page's tables that hold a text, joined."""
    return "".join(row for row in re.findall(r"<tr>.*?</tr>", page.text, re.DOTALL) if text in row)


@pytest.fixture
def model_page(tmp_path, models):
    """The page of the model of a final run."""

    def read(run):
        tags = models.client.get_run(run).data.tags
        return Page(
            (
                tmp_path / "report" / "models" / f"{tags['mammo.registered_name']}-v{tags['mammo.version']}.html"
            ).read_text()
        )

    return read


def fill(models, phantom=False, data=None, **more):
    """Both tasks, several families."""
    for task in ("mass_calc", "benign_malignant"):
        for backbone in ("vgg16", "resnet50", "inceptionv3"):
            models.model(task, backbone=backbone, phantom=phantom, data=data, **more)
            models.model(task, backbone=backbone, unfrozen=1, phantom=phantom, data=data, **more)
        models.model(task, "siamese", "scratch", phantom=phantom, data=data, **{**more, "weights": "none"})
        models.model(task, "ensemble", "pretrained", phantom=phantom, data=data, method="grid", **more)
    models.model("benign_malignant", "conditioned", "a", phantom=phantom, data=data, **more)


def test_an_empty_store_says_so_and_shows_the_commands(report, page):
    outcome = report()
    assert "The store is empty: nothing has been run yet." in outcome.out
    found = page()
    assert "The store is empty" in found.text
    rows = sum(len(table.rows) for table in tables())
    assert found.text.count("<code>python -m mammo_mlflow ") == rows
    assert found.images == [{"alt": "", "src": "data:,"}]


def test_a_store_of_failed_runs_and_of_other_projects_says_so(models, report, page, tmp_path):
    for status in ("FAILED", "KILLED"):
        models.run({"family": "pretrained", "task": "mass_calc"}, status=status)
    models.client.create_run(models.experiment, tags={"somebody": "else"})
    said = (
        "No model has been finished: 2 runs of this project, 2 of them failed or killed, and 1 run of other projects."
    )
    assert said in report().out
    assert said in page().text


def test_the_page_asks_for_nothing_its_links_lead_somewhere_and_all_is_written_and_logged(
    models, report, page, tmp_path
):
    fill(models)
    report()
    found = page()
    assert all(address.startswith("data:") for address in found.asked)
    assert "default-src 'none'" in found.text
    inside = [link[1:] for link in found.links if link.startswith("#")]
    assert inside and set(inside) <= set(found.ids)
    assert len(found.ids) == len(set(found.ids))
    shown = [image for image in found.images if image["src"] != "data:,"]
    assert len(shown) >= 20
    assert all(len(image["alt"]) > 20 for image in shown)
    runs = [link for link in found.links if "/runs/" in link]
    assert runs and all(link.startswith("http://127.0.0.1:5000/#/experiments/") for link in runs)
    folder = tmp_path / "report"
    figures = {path.stem for path in (folder / "figures").glob("*.png")}
    assert figures == {path.stem for path in (folder / "figures").glob("*.svg")}
    for name in (
        "roc_mass_calc_pretrained_models_frozen",
        "operating_benign_malignant_siamese_models",
        "cost_mass_calc",
    ):
        assert name in figures
    names = {end: {path.stem for path in (folder / "tables").glob(f"*.{end}")} for end in ("tex", "md")}
    assert len(names["tex"]) == 9 and names["md"] == names["tex"] | {"differences"}
    assert (folder / "tables" / "differences.csv").exists()
    (run,) = models.client.search_runs([models.experiment], "tags.`mammo.family` = 'report'")
    logged = {item.path for item in models.client.list_artifacts(run.info.run_id)}
    assert logged == {"index.html", "report.json", "figures", "models", "tables"}
    for run in finals(models):
        told = Estimate.read("test_roc_auc", run.data.metrics, {})
        (address,) = {
            link for link in found.links if link.startswith(f"models/{run.data.tags['mammo.registered_name']}-v")
        }
        assert f'<a href="{address}">' in row_with(found, str(told))
        own = Page((folder / address).read_text())
        assert str(told) in row_with(own, '<th scope="row">ROC AUC</th>')
        assert "../index.html" in own.links and f"/runs/{run.info.run_id}" in " ".join(own.links)
        assert all(one.startswith("data:") for one in own.asked) and len(own.ids) == len(set(own.ids))
        assert {link[1:] for link in own.links if link.startswith("#")} <= set(own.ids)
    assert len(list((folder / "models").iterdir())) == len(finals(models))


def test_the_page_says_where_it_differs_from_the_paper(report, page):
    report()
    found = page()
    assert "differences" in found.ids and "#differences" in found.links
    text = html.unescape(found.text)
    for one in differences():
        assert all(f">{said}<" in text for said in (one.subject, one.paper, one.here, one.why, one.way or "none"))


def test_phantom_data_and_random_weights_are_marked_everywhere(models, report, page, tmp_path):
    fill(models, phantom=True, weights="random")
    outcome = report()
    assert "PHANTOM DATA" in outcome.out
    found = page().text
    assert found.count('<span class="mark">random weights</span>') > 20
    whole = '<span class="mark">phantom data</span>'  # of every model, so it is said once
    assert found.count(whole) == 1 and found.index(whole) < found.index("<main>")
    for path in (tmp_path / "report" / "figures").glob("*.svg"):
        assert "phantom data: no medical result" in text_of(path), path.name
    for path in (tmp_path / "report" / "models").iterdir():
        text = path.read_text()
        assert f"Of this model: {whole}" in text and "no medical result.</p>" in text
    for path in (tmp_path / "report" / "tables").glob("table_*.md"):
        assert "PHANTOM DATA" in path.read_text()
    for path in (tmp_path / "report" / "tables").glob("pairs*.csv"):
        rows = path.read_text().splitlines()[1:]
        assert rows and all("phantom data" in row for row in rows)


def text_of(svg):
    """The words of a figure: matplotlib's SVGs keep each as a comment beside its outlines."""
    return " ".join(re.findall(r"<!-- (.*?) -->", svg.read_text(), re.DOTALL))


def test_two_data_sets_are_told_apart(models, report, page, tmp_path):
    fill(models)
    models.model(dataset=("1" * 64, "2" * 64), types={1: 20, 2: 20, 3: 20, 4: 20}, data="/somewhere")
    outcome = report()
    assert "The store holds models of 1 other data set" in outcome.out
    assert "python -m mammo_mlflow report --data " in page().text


def test_scores_by_lesion_stand_beside_those_by_patch(models, report, page):
    final = models.model("mass_calc")
    for end, value in (("", 0.8125), ("_low", 0.7), ("_high", 0.9)):
        models.client.log_metric(final, f"test_by_lesion_roc_auc{end}", value)
    report()
    assert ">test, by lesion<" in page().text
    assert "0.812 [0.700, 0.900]" in page().text


def test_calibration_stands_before_and_after_recalibration(models, report, page):
    final = models.model("mass_calc", recalibrated="by a map of the folds' models")
    parent = models.client.get_run(final).data.tags["mammo.cv_run_id"]
    for name, value in (("oof_uncalibrated_calibration_slope", 0.625), ("oof_calibration_slope", 1.125)):
        for end, apart in (("", 0), ("_low", -0.25), ("_high", 0.25)):
            models.client.log_metric(parent, f"{name}{end}", value + apart)
    report()
    assert "0.625 [0.375, 0.875]" in page().text
    assert "1.125 [0.875, 1.375]" in page().text
    assert html.escape("by a map of the folds' models", quote=False).replace("'", "&#39;") in page().text


def test_coverage_stands_beside_what_was_asked_for_with_its_figure(models, report, page, model_page):
    asked = json.dumps({"low": 0.2, "high": 0.7, "coverage": 0.85})
    models.model("mass_calc", backbone="resnet50")
    final = models.model("mass_calc", answer_sets=asked)
    parent = models.client.get_run(final).data.tags["mammo.cv_run_id"]
    for run, prefix, value in ((parent, "oof", 0.8125), (final, "test", 0.625)):
        for name, more in (("coverage_0", 0), ("coverage_1", 0.125), ("referred", -0.25)):
            for end, apart in (("", 0), ("_low", -0.0625), ("_high", 0.03125)):
                models.client.log_metric(run, f"{prefix}_{name}{end}", value + more + apart)
    curve = {
        wanted: {
            name: Estimate(value, value - 0.05, value + 0.02)
            for name, value in (("coverage_0", wanted), ("coverage_1", wanted - 0.01), ("referred", 3 * wanted - 2.1))
        }
        for wanted in (0.7, 0.85, 0.95)
    }
    models.client.log_figure(parent, answer_sets(curve, ["mass", "calcification"], "sets"), "figures/answer_sets.png")
    report()
    found = page()
    (row,) = re.findall(r"<tr>(?:(?!</tr>).)*<td class=\"n\">0\.85</td>.*?</tr>", found.text)
    cells = re.findall(r"<td class=\"n\">(.*?)</td>", row)
    assert cells[1:] == [
        "0.812 [0.750, 0.844]",
        "0.938 [0.875, 0.969]",
        "0.562 [0.500, 0.594]",
        "0.625 [0.562, 0.656]",
        "0.750 [0.688, 0.781]",
        "0.375 [0.312, 0.406]",
    ]
    shown = [image["alt"] for image in found.images]
    assert [one for one in shown if "share referred" in one and "VGG16" in one]
    (alone,) = [image["alt"] for image in model_page(final).images if image["src"] != "data:,"]
    assert alone.startswith("Coverage and share referred, out of fold of mammo-mass_calc-pretrained-vgg16 v2")
    assert not [one for one in shown if "share referred" in one and "ResNet50" in one]


def test_subgroups_and_patches_of_data_that_are_there(models, report, page, phantom, tmp_path):
    from mammo_mlflow.data.patches import read_patch_set

    found = read_patch_set(phantom)
    types = [int(kind) for kind in found.test.types]
    counts = {kind: types.count(kind) for kind in (1, 2, 3, 4)}
    models.model(
        phantom=True, dataset=(found.train_sha256, found.test_sha256), types=counts, patients=False, data=phantom
    )
    report()
    text = page().text
    assert "Training pairs that differ most" in text
    assert "Abnormalities of each class" in text
    report("--data", str(phantom))
    other = shutil.copytree(phantom, tmp_path / "other")
    (other / "train_groups.csv").unlink()
    assert "No model has been finished on" in report("--data", str(other)).out


def test_the_summary_has_every_model_beside_what_the_paper_printed(models, report, page, tmp_path):
    first = models.model()
    models.model(backbone="resnet50")
    report()
    (figure,) = [one for one in page().images if one["alt"].startswith("Test ROC AUC: ")]
    value = models.client.get_run(first).data.metrics["test_roc_auc"]
    assert f"VGG16 {value:.3f} [" in figure["alt"] and "ResNet50" in figure["alt"]
    drawn = text_of(tmp_path / "report" / "figures" / "forest_mass_calc.svg")
    assert "the paper's" in drawn and "VGG16" in drawn


def test_champions_of_a_task_stand_with_where_they_came_from_and_how_they_ended(models, report, page, model_page):
    first, second = models.model(), models.model(backbone="resnet50")
    gates = "candidate,gate,passed,figures\nmammo-mass_calc-pretrained-vgg16 v1,calibrated,False,error 0.2\n"
    mine, others = (f"mammo-mass_calc-pretrained-{name}" for name in ("vgg16 v1", "resnet50 v2"))
    for outcome, candidate, status in (
        ("kept", mine, "FINISHED"),
        ("promoted", mine, "FAILED"),  # never came to be
        ("promoted", others, "FINISHED"),
    ):
        tags = {"family": "promotion", "task": "mass_calc", "decision": outcome, "candidate": candidate}
        run = models.run(tags, status=status)
        models.client.log_text(run, gates, "gates.csv")
    name = "mammo-mass_calc"
    models.client.create_registered_model(name)
    for run, origin in ((first, "mammo-mass_calc-pretrained-vgg16 v1"), (second, "mammo-mass_calc-pretrained-x v2")):
        tags = {"mammo.promoted_from": origin, "mammo.was_champion": "true", "mammo.phantom": "false"}
        models.client.create_model_version(name, "nowhere", run, tags=tags)
    models.client.set_registered_model_alias(name, "champion", "2")
    report()
    rows = re.findall(r"<tr><th scope=\"row\">[^<]* UTC</th>.*</tr>", page().text)
    assert [re.search(r"<td>(mammo-mass_calc v\d)", one)[1] for one in rows] == [f"{name} v2", f"{name} v1"]
    assert "<td>champion</td>" in rows[0] and "pretrained-x v2" in rows[0]
    assert "<td>replaced</td>" in rows[1] and "<td>this</td>" in rows[1]
    assert f"{models.client.get_run(first).data.metrics['test_roc_auc']:.3f} [" in rows[1]
    judged, other = model_page(first), model_page(second)
    assert "<td>kept</td><td>calibrated</td><td>no</td><td>error 0.2</td>" in judged.text
    assert "<td>another was promoted</td>" in judged.text
    assert "<td>promoted</td>" not in judged.text and "<td>replaced</td>" in judged.text
    assert "brought to no gate" in other.text and "<td>champion</td>" in other.text and f"{name} v1" not in other.text


def test_a_models_page_says_what_it_is_what_it_was_chosen_among_and_how_to_make_it_again(models, report, model_page):
    settings = {name: str(value) for name, value in build("mass_calc", {"seed": 3}, "pretrained").flat().items()}
    final = models.model(params=settings)
    name = "mammo-mass_calc-pretrained-vgg16"
    models.client.create_registered_model(name)
    models.client.create_model_version(name, "nowhere", final, tags={"mammo.compared": "20"})
    gone = models.model(backbone="resnet50")
    models.client.delete_run(models.client.get_run(gone).data.tags["mammo.cv_run_id"])
    said = report().out
    assert (
        "mammo-mass_calc-pretrained-resnet50 v2 has no page of its own: model: expected one whose cross-valid" in said
    )
    text = html.unescape(model_page(final).text)
    assert "It was chosen among 20 settings" in text and INTENDED_USE in text
    assert '<th scope="row">seed</th><td>3</td>' in text
    (line,) = re.findall(r"<code>python -m mammo_mlflow (.*?)</code>", text)
    command, *words = shlex.split(line)
    given = dict(zip((word[2:].replace("-", "_") for word in words[::2]), words[1::2], strict=True))
    assert command == "pretrained" and given.pop("data") == "DIR"
    assert given == {one: value for one, value in settings.items() if one != "family"}


def test_an_earlier_report_is_replaced_and_nothing_else(models, report, page, tmp_path):
    report()
    for backbone in ("vgg16", "resnet50"):
        models.model(backbone=backbone)
    report()
    assert "has the best out-of-fold ROC AUC" in page().text
    notes = tmp_path / "report" / "my_notes.txt"
    for marker in ((tmp_path / "report" / "report.json").read_text(), '{"tests": 12}', "[]"):
        (tmp_path / "report" / "report.json").write_text(marker)
        notes.write_text("precious")
        (line,) = report(code=2).complaints
        assert "out: expected a folder that is not there yet, or an earlier report" in line
        assert notes.read_text() == "precious"
    assert not list(tmp_path.glob(".report*"))


def test_a_link_to_an_earlier_report_stays_one(cli, tmp_path):
    for name in ("far", "dangling"):
        if name == "far":
            assert cli("--out", str(tmp_path / "far"), command="report").code == 0
        (tmp_path / f"to-{name}").symlink_to(tmp_path / name)
        assert cli("--out", str(tmp_path / f"to-{name}"), command="report").code == 0
        assert (tmp_path / f"to-{name}").is_symlink() and (tmp_path / name / "index.html").exists()


def test_reports_and_the_run_they_are_started_in_are_no_runs(models, report, tmp_path, monkeypatch):
    run = models.client.create_run(models.experiment)
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    assert "The store is empty" in report().out
    assert "The store is empty" in report().out


def test_names_are_no_markup_and_no_path_is_told(models, report, page, tmp_path):
    models.model(dataset=("1" * 64, "2" * 64), data="/secret folder/<i>x<i>")
    odd = models.model(weights="<script>alert(1)</script>", intervals="<b>x</b>", data="/secret folder/y")
    models.client.set_tag(odd, "mammo.registered_name", "../../<b>x</b> 100%#")
    report()
    (own,) = (tmp_path / "report" / "models").iterdir()
    assert re.fullmatch(r"[0-9a-f]{64}\.html", own.name) and f"models/{own.name}" in page().links
    text = page().text + own.read_text()
    assert "<script>alert" not in text and "<b>x" not in text and "<i>x" not in text
    assert "(&lt;i&gt;x&lt;i&gt;)" in text
    assert "secret folder" not in text


PROBE = """<script>
const errors = []; window.addEventListener("error", (e) => errors.push(e.message));
window.addEventListener("load", () => {
  const table = document.querySelector("#tables table"); const column = 5;
  const read = () => [...table.tBodies[0].rows].map((row) => row.cells[column].textContent.trim());
  const before = read(); const button = table.tHead.rows[0].cells[column].querySelector("button");
  button.click(); const up = read(); button.click(); const down = read();
  document.querySelector("figure button").click();
  const dialog = document.querySelector("dialog"); const open = dialog.open;
  const alt = dialog.querySelector("img").alt; dialog.click();
  const said = { errors, before, up, down, open, closed: !dialog.open, alt,
    asked: performance.getEntriesByType("resource").map((one) => one.name).filter((one) => !one.startsWith("data:")),
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth };
  const place = document.createElement("pre"); place.id = "probe"; place.textContent = JSON.stringify(said);
  document.body.append(place);
});
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [1300, 500])
def test_in_a_browser(models, system, report, tmp_path, width):
    hold = {"folds": "4", "holdout": "0.3"}
    for backbone in ("m1", "m1_balanced", "m2"):
        models.model(family="scratch", backbone=backbone, params=hold, skill=len(backbone) / 5, seed=len(backbone))
    report()
    text = (tmp_path / "report" / "index.html").read_text()
    probed = tmp_path / "probed.html"
    probed.write_text(text.replace("</head>", f"{PROBE}</head>"))
    line = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--dump-dom"]
    line += [
        "--no-first-run",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    line += ["--enable-logging=stderr", f"--window-size={width},900", "--virtual-time-budget=5000", probed.as_uri()]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    said = json.loads(re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)[1].replace("&lt;", "<"))
    assert said["errors"] == [] and "CONSOLE" not in done.stderr
    assert said["asked"] == []
    numbers = [float(one.split()[0]) for one in said["up"] if one]
    assert len(numbers) == 3 and numbers == sorted(numbers)
    assert [one for one in said["down"] if one] == [one for one in said["up"] if one][::-1]
    assert said["up"][3:] == said["down"][3:] == ["", ""]
    assert said["open"] and said["closed"] and len(said["alt"]) > 20
    assert said["wide"] <= 0
