"""The PyTorch layers in DistributedDataParallel, used in unusual ways: tables do as parameters do."""

import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from rowloom.client import Adagrad, Normal, TableSpec
from rowloom.deploy import local_cluster

pytest.importorskip("torch")
STEPS = int(os.environ.get("ROWLOOM_RANK_STEPS", "12"))
OUTSIDE = ["plain", "at_step", "views many"]
UNUSED = ["unused", "unused at_step views", "static", "static at_step"]
CLIPPED = ["at_step clipped", "many at_step clipped", "unused at_step clipped", "static at_step clipped"]
KINDS = [*OUTSIDE, *UNUSED, *CLIPPED, "reentrant", "alone", "join", "join thrown"]


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What each of two ranks says of each kind; two processes for all, which take seconds to start."""
    worker = Path(__file__).parents[1] / "support/wrapped_worker.py"
    with ExitStack() as running:
        cluster = running.enter_context(local_cluster(shards=2))
        client = running.enter_context(cluster.connect())
        for n in range(len(KINDS)):
            for name in (f"a{n}", f"b{n}"):
                client.create_table(
                    TableSpec(name, 12, 4, optimizer=Adagrad(lr=0.1), initializer=Normal(std=0.3))
                )
        store, ranks = tmp_path_factory.mktemp("ranks") / "store", []
        for rank in range(2):
            command = [sys.executable, worker, str(rank), store, cluster.address, str(STEPS), *KINDS]
            ranks.append(
                running.enter_context(
                    subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                )
            )
            running.callback(ranks[-1].kill)
        yield {kind: [rank.stdout.readline().strip() for rank in ranks] for kind in KINDS}


@pytest.mark.parametrize("kind", OUTSIDE)
def test_a_forward_pass_outside_the_wrapper_once_had_each_rank_push_by_itself(said, kind):
    """Steps have one in the same loss, or to look at; the rows were 0.27 from torch's, and a rank alone waited."""
    assert said[kind] == ["done"] * 2


@pytest.mark.parametrize("kind", UNUSED)
def test_a_layer_that_one_rank_does_not_use_once_had_the_others_wait_for_it(said, kind):
    """In some steps no rank uses it, or one uses none at all."""
    assert said[kind] == ["done"] * 2


@pytest.mark.parametrize("kind", CLIPPED)
def test_each_rank_clipped_by_the_norm_of_its_own_rows_and_made_a_model_of_its_own(said, kind):
    """Also where a rank looks nothing up in a step: the others do not wait for it."""
    assert said[kind] == ["done"] * 2


def test_a_wrapper_that_awaits_more_parameters_goes_on_to_average(said):
    """Each checkpoint is a backward pass, and there the layers, called again outside the wrapper, pushed by rank."""
    assert said["reentrant"] == ["done"] * 2


def test_a_module_used_by_itself_pushes_by_itself(said):
    """So does torch: the wrapper averages nothing in a pass that it did not expect."""
    assert said["alone"] == ["done"] * 2


def test_ranks_that_may_run_out_of_batches_are_refused_unless_all_stop_then(said):
    assert all(
        re.search(r"in join\(\) of DistributedDataParallel: .* as many batches", s) for s in said["join"]
    )
    assert all(re.search("exhausted (all )?inputs", s) for s in said["join thrown"]), said["join thrown"]
