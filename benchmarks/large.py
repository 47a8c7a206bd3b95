"""What 50,000 abnormalities, 20,000 runs and 200 folds in a row cost, each beside a fraction of it.

    python benchmarks/large.py --folder DIR [--steps data,store,folds] [--parts NAME …] [--output FILE]

Every part is measured in a process of its own, at both sizes: seconds, the peak of its resident memory (VmHWM) beside
what that was before the part began, and, of commands, the requests to MLflow's client. Numbers are kept in FILE
(by default `large.json` in DIR) as they come; what stands there is not measured again, so that the benchmark can be
ended and gone on with. Ratios are of the full size to the fraction. Nothing is trained.

`data`: directories of 10,000 and 50,000 training abnormalities with their baselines (150×150 uint16, 4.5 GB), of 4,000
and 20,000 patients; patches are views of one noise tile. With less than 15 GB free on the disk there are fewer
patches, and the table says how many. The full directory is removed at the end, unless `--keep`.
`store`: SQLite stores of 2,000 and 20,000 runs. Two cross-validations of 5 folds with their final models and a study
are run on a small phantom; their runs, registered versions among them, are copied row by row in the database,
each copy under ids and keys of its own and older than the originals; in every other copy of the study every other
trial is KILLED, as a pruned one. `folds`: see `large_folds.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
SECONDS = 560
"""The longest that a part may take."""


def main() -> None:
    """Measure what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", default="data,store,folds")
    parser.add_argument("--parts", nargs="*", help="measure these alone, again where they are known")
    parser.add_argument("--keep", action="store_true", help="keep the full data directory")
    parser.add_argument("--output", type=Path, help="file for the numbers as JSON")
    parser.add_argument("--child", nargs=3, metavar=("STEP", "PART", "SIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    options.folder, output = options.folder.resolve(), (options.output or options.folder / "large.json").resolve()
    if options.child:
        step, part, size = options.child
        print(json.dumps(_steps()[step].measure(part, int(size), options.folder)))
        return
    found = json.loads(output.read_text()) if output.exists() else {}
    for name in filter(None, options.steps.split(",")):
        step = _steps()[name]
        sizes = step.make(options.folder)
        for part in step.parts:
            for size in sizes:
                key = f"{name}/{part}/{size}"
                if part in options.parts if options.parts else key not in found:
                    found[key] = _child(options.folder, name, part, size)
                    output.write_text(json.dumps(found, indent=1))
                    print(key, found[key], flush=True)
        if name == "data" and not options.keep:
            shutil.rmtree(options.folder / f"data-{max(sizes)}")
    _show(found)


class Step:
    """A step of the benchmark: its parts by name, what makes its inputs, and the sizes at which it is measured."""

    def __init__(self, parts: dict[str, Callable[..., object]], make: Callable[[Path], list[int]]) -> None:
        self.parts, self.make = parts, make

    def measure(self, part: str, size: int, folder: Path) -> dict[str, object]:
        """Prepare a part, then do it under the clock. A part returns what is to be timed."""
        timed = self.parts[part](folder, size)
        before, start = peak(), time.perf_counter()
        more = timed() or {}
        seconds = time.perf_counter() - start
        return {"seconds": round(seconds, 3), "before_mb": before, "peak_mb": peak(), **more}


def peak() -> int:
    """The peak of this process's resident memory in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


def environment(folder: Path) -> dict[str, str]:
    """The environment of what is measured: nothing is downloaded, the cache lies in the benchmark's folder."""
    own = {"PYTHONPATH": str(ROOT), "MAMMO_OFFLINE": "1", "MAMMO_CACHE_DIR": str(folder / "cache")}
    return {**os.environ, **own, "CUDA_VISIBLE_DEVICES": "-1"}


def command(store: Path, *words: str, expect: tuple[int, ...] = (0,)) -> Callable[[], dict[str, object]]:
    """A command of the product in this process, on a store; its requests to MLflow's client are counted."""
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{store}/mlflow.db"
    os.chdir(store)

    def run() -> dict[str, object]:
        from mammo_mlflow.cli import main as product

        count = counted()
        with Path(store / f"log-{words[0]}.txt").open("w") as log:
            kept = os.dup(1), os.dup(2)
            os.dup2(log.fileno(), 1), os.dup2(log.fileno(), 2)
            try:
                code = product(list(words))
            except SystemExit as ended:
                code = ended.code
            finally:
                sys.stdout.flush()
                os.dup2(kept[0], 1), os.dup2(kept[1], 2)
        if code not in expect:
            raise SystemExit(f"{words[0]} ended with {code}: see {store}/log-{words[0]}.txt")
        return {"requests": count[0]}

    return run


def counted() -> list[int]:
    """Count the calls of MlflowClient's methods from now on, those within others left out."""
    from mlflow.tracking import MlflowClient

    count, depth = [0], [0]

    def wrap(method: Callable[..., object]) -> Callable[..., object]:
        def call(*given: object, **named: object) -> object:
            count[0] += not depth[0]
            depth[0] += 1
            try:
                return method(*given, **named)
            finally:
                depth[0] -= 1

        return call

    for name, method in list(vars(MlflowClient).items()):
        if not name.startswith("_") and callable(method):
            setattr(MlflowClient, name, wrap(method))
    return count


def _steps() -> dict[str, Step]:
    from large_data import PARTS as DATA
    from large_data import make as make_data
    from large_folds import PARTS as FOLDS
    from large_folds import make as make_folds
    from large_store import PARTS as STORE
    from large_store import make as make_store

    made = {"data": (DATA, make_data), "store": (STORE, make_store), "folds": (FOLDS, make_folds)}
    return {name: Step(*one) for name, one in made.items()}


def _child(folder: Path, step: str, part: str, size: int) -> dict[str, object]:
    line = [sys.executable, __file__, "--folder", str(folder), "--child", step, part, str(size)]
    with (folder / "errors.txt").open("w") as errors:
        try:
            done = subprocess.run(
                line, env=environment(folder), stdout=subprocess.PIPE, stderr=errors, text=True, timeout=SECONDS
            )
        except subprocess.TimeoutExpired:
            return {"ended_after": SECONDS}
    if done.returncode:
        return {"failed": (folder / "errors.txt").read_text()[-300:]}
    return json.loads(done.stdout.splitlines()[-1])


def _show(found: dict[str, dict]) -> None:
    rows: dict[tuple[str, str], dict[int, dict]] = {}
    for key, one in found.items():
        step, part, size = key.split("/")
        rows.setdefault((step, part), {})[int(size)] = one
    print("| part | sizes | seconds | ratio | peak MB over what was there | requests |\n|---|---|---|---|---|---|")
    for (_, part), by_size in rows.items():
        sizes = sorted(by_size)
        seconds = [by_size[size].get("seconds") for size in sizes]
        ratio = f"{seconds[-1] / seconds[0]:.1f}" if len(sizes) > 1 and all(seconds) else ""
        over = [by_size[size].get("peak_mb", 0) - by_size[size].get("before_mb", 0) for size in sizes]
        asked = [by_size[size].get("requests", "") for size in sizes]
        told = (" / ".join(f"{size:,}" for size in sizes), " / ".join(map(_number, seconds)), ratio)
        print(f"| {part} | {' | '.join(told)} | {' / '.join(map(str, over))} | {' / '.join(map(str, asked))} |")
        for size in sizes:
            rest = {k: v for k, v in by_size[size].items() if k in ("failed", "ended_after", "told")}
            if rest:
                print(f"<!-- {part} {size}: {rest} -->")


def _number(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f}" if seconds >= 1 else f"{seconds:.2f}"


if __name__ == "__main__":
    main()
