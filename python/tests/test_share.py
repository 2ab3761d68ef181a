from __future__ import annotations

import itertools

import numpy as np
import pytest

from paceline import Job


def parts(n: int, of: int, run_seed: int = 1) -> list[list[int]]:
    return [Job(part=(k, of), run_seed=run_seed).share(n).tolist() for k in range(1, of + 1)]


@pytest.mark.parametrize("n, of", [(569, 3), (10, 10), (3, 5), (0, 2), (1, 1)])
def test_the_parts_have_nothing_in_common_and_make_up_the_whole(n, of):
    assert sorted(itertools.chain(*parts(n, of))) == list(range(n))


def test_the_parts_are_of_one_size_but_for_one():
    assert sorted(map(len, parts(569, 3))) == [189, 190, 190]


def test_another_seed_of_the_run_gives_other_parts():
    assert parts(100, 3, run_seed=1) != parts(100, 3, run_seed=2)


def test_all_64_bits_of_the_seed_count():
    assert parts(100, 3, run_seed=1) != parts(100, 3, run_seed=1 + 2**32)


def test_the_seed_of_the_job_does_not_matter():
    assert (Job(part=(1, 3), seed=5).share(100) == Job(part=(1, 3), seed=6).share(100)).all()


def test_without_a_part_all_examples_are_the_nodes_own():
    assert (Job().share(100) == np.arange(100)).all()
