"""The same bits, however many threads a command is given."""

from support import PHANTOM, Store

SCRATCH = ["--task", "mass_calc", "--backbone", "m2", *PHANTOM, "--epochs", "1", "--holdout", "0.3", "--final", "none"]


def test_deterministic_folds_do_not_depend_on_the_number_of_threads(run_command, tmp_path, cache):
    """Convolutions that are trained by two threads end in other last bits than by one."""
    for options in (["--threads", "1"], ["--threads", "2"], ["--threads", "2", "--deterministic"]):
        arguments = [*SCRATCH, *options, "--resume", "false"]
        assert run_command(tmp_path, cache, *arguments, name="scratch").code == 0
    store = Store(tmp_path)
    one, two, deterministic = (store.frame(run, "oof.parquet")["probability"].to_numpy() for run in store.tops())
    assert (one == deterministic).all()
    assert (one != two).any()
    first, _, last = store.tops()
    assert first.data.tags["mammo.key"] == last.data.tags["mammo.key"]  # what one has finished the other finds
