"""FILIP's objective on two gloo ranks with accumulation against one process with the whole batch."""

import os
import subprocess
import sys

import contrastive_ranks
import pytest
import torch


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += [contrastive_ranks.__file__, str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("head", contrastive_ranks.HEADS)
def test_two_ranks_with_accumulation_give_the_gradient_of_the_whole_batch(together, head):
    alone = contrastive_ranks.step(head, contrastive_ranks.PAIRS)
    names = {"scale.logit_scale", "image_projection.weight", "text_projection.weight", "image_tower.conv1.weight"}
    assert names < alone.keys()
    for rank in together:
        assert rank[head].keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(rank[head][name], value, rtol=1e-9, atol=1e-12, msg=name)
