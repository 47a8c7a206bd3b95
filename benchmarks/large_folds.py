"""Part of `large.py`: 200 fits in a row, as in a long study, by one coordinator with one writer.

Twenty cross-validations of ten folds on a small phantom, each under a seed of its own, are answered by worker
processes, one a fit, and written to a SQLite store, with their figures, by one `Writer`. Activations are computed; the
answers of fits are drawn, so that what is measured is the coordinator and not how long Keras takes. Every other one
needs activations that none before it had, in a cache whose limit makes room for few of them. What is told: the
coordinator's resident memory, its open files, the size of the cache and the writer's runs after each twenty folds.
Garbage is collected before each look.
"""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

FOLDS, TIMES = 10, 20
ENTRIES = 3
"""Entries that the cache holds."""


def make(folder: Path) -> list[int]:
    """Nothing is needed before; the one size."""
    return [FOLDS * TIMES]


def _row(folder: Path, size: int) -> Callable[[], dict[str, object]]:
    import psutil
    from support_jobs import PretendedFit
    from support_laboratory import Laboratory

    from mammo_mlflow.data.phantom import PhantomSettings, make_phantom
    from mammo_mlflow.jobs.cache import _log as evicting
    from mammo_mlflow.planning.activations import missing_activations

    where = Path(tempfile.mkdtemp(dir=folder))
    phantom = make_phantom(PhantomSettings(120, 24, 32), folder / "cache")
    laboratory = Laboratory(where, phantom, where / "cache", executor="process")
    this = psutil.Process()
    evicted: list[str] = []
    evicting.setLevel("INFO")
    evicting.addFilter(lambda record: bool(evicted.append(record.getMessage())) or True)

    def run() -> dict[str, object]:
        told, session, biggest = [], laboratory.session(workers=2), 0
        writer = session.writer
        top = writer.start_run("a long row", parent=None, tags={}, params={})
        from mammo_mlflow.training.cross_validation import cross_validate

        for number in range(TIMES):
            plan = laboratory.plan(folds=FOLDS, seed=number, views=2 + number // 2, epochs=2)
            fits = tuple(replace(fit, job=PretendedFit(**vars(fit.job))) for fit in plan.fits)
            plan = replace(plan, fits=fits)
            missing = missing_activations(laboratory.cache, plan.activations())
            if not number:
                need = sum(entry.bytes for entry in missing)
                laboratory.cache.limit = int(need * (ENTRIES + 1) * 3)
            laboratory.cache.make_room(sum(entry.bytes for entry in missing), plan.scratch_bytes())
            run = writer.start_run(plan.name, parent=top, tags={"mammo.key": plan.key}, params={})
            cross_validate(session, plan, run)
            run.finish()
            writer.drain()
            laboratory.cache.release()  # as at the end of a command
            biggest = max(biggest, laboratory.cache.size())
            gc.collect()
            if number % 2:
                seen = {"folds": FOLDS * (number + 1), "rss_mb": round(this.memory_info().rss / 2**20, 1)}
                seen |= {"files": this.num_fds(), "cache_mb": round(laboratory.cache.size() / 1e6, 2)}
                told.append(seen | {"writer_runs": len(writer._open)})
        top.close()
        session.executor.close()
        shutil.rmtree(where)
        limit = round(laboratory.cache.limit / 1e6, 2)
        return {"told": told, "cache_limit_mb": limit, "cache_most_mb": biggest / 1e6, "evicted": len(evicted)}

    return run


PARTS: dict[str, Callable[[Path, int], Callable[[], object]]] = {"folds in a row": _row}
"""The parts by name: each prepares its inputs, and returns what is timed."""
