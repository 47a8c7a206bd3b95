"""The same bits, however many threads a command is given."""

import numpy as np
from support import PHANTOM, Store

SCRATCH = ["--task", "mass_calc", "--backbone", "m2", *PHANTOM, "--epochs", "1", "--holdout", "0.3", "--final", "none"]


def test_deterministic_folds_do_not_depend_on_the_number_of_threads(run_command, tmp_path, cache):
    """On many processors, not on all, convolutions that two threads train end in other last bits than by one."""
    for options in (["--threads", "1"], ["--threads", "2"], ["--threads", "2", "--deterministic"]):
        arguments = [*SCRATCH, *options, "--resume", "false"]
        assert run_command(tmp_path, cache, *arguments, name="scratch").code == 0
    store = Store(tmp_path)
    one, two, deterministic = (store.frame(run, "oof.parquet")["probability"].to_numpy() for run in store.tops())
    assert (one == deterministic).all()
    np.testing.assert_allclose(one, two, atol=1e-3)
    keys = [run.data.tags["mammo.key"] for run in store.tops()]
    assert keys[0] == keys[2] != keys[1]  # what one thread has finished a deterministic command finds
