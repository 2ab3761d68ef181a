"""A trainer, seen from its node."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from fake_node import ENVIRONMENT, PATIENCE_S

WEIGHTS = {"weight": np.ones((2, 3), np.float32), "bias": np.zeros(3, np.float32)}


def failed_with(answer: dict) -> str:
    assert answer["type"] == "failed", answer
    return answer["why"]


def test_hello_is_answered_with_the_scripts_and_the_frameworks_names(start):
    assert start().hello() == {"type": "ready", "protocol": 1, "name": f"train.py (numpy {np.__version__})"}


def test_a_name_is_cut_to_64_bytes(start):
    assert start(run="name='ü' * 40").hello()["name"] == "ü" * 32


def test_another_protocol_is_refused(start):
    assert "protocol 1, not 2" in failed_with(start(protocol=2).hello())


def test_the_initial_weights_follow_from_the_runs_seed(greeted):
    node = greeted(seed=5)
    assert node.initial() == {"type": "initialized", "id": 1}
    assert set(node.result()) == {"weight", "bias"}
    assert node.result()["weight"].dtype == np.float32
    assert (node.result()["weight"] == 5).all()


def test_training_writes_new_weights_and_tells_samples_and_loss(greeted):
    node = greeted()
    assert node.train(WEIGHTS) == {"type": "trained", "id": 1, "samples": 1437, "loss": 0.65}
    assert (node.result()["weight"] == 2).all() and (node.result()["bias"] == 1).all()


def test_a_loss_may_be_left_out(greeted):
    assert greeted("def train(weights, job): return weights, 8").train(WEIGHTS)["loss"] is None


def test_a_fit_is_as_good_as_a_tuple(greeted):
    node = greeted("def train(weights, job): return paceline.Fit(weights, samples=8, loss=0.5)")
    assert node.train(WEIGHTS) == {"type": "trained", "id": 1, "samples": 8, "loss": 0.5}


def test_weights_may_be_changed_in_place(greeted):
    node = greeted("""
        def train(weights, job):
            weights["weight"] -= 0.5
            return weights, 8
    """)
    node.train(WEIGHTS)
    assert (node.result()["weight"] == 0.5).all()


def test_metrics_are_sums_and_counts(greeted):
    assert greeted().evaluate(WEIGHTS) == {
        "type": "evaluated",
        "id": 1,
        "metrics": {"accuracy": {"sum": 131, "count": 144}, "loss": {"sum": 41.07, "count": 144}},
    }


def test_without_evaluate_there_are_no_metrics(greeted):
    assert greeted("evaluate = None").evaluate(WEIGHTS)["metrics"] == {}


def test_a_job_knows_the_run_and_the_node(greeted):
    node = greeted(
        """
        def train(weights, job):
            assert (job.run, job.node, job.part, job.threads) == ("iris", "lab-3", (1, 3), 2)
            assert (job.settings, job.train["epochs"]) == ({"hidden": 64}, 1)
            assert str(job.data) == "/mine" and job.folder.is_dir()
            assert (job.round, job.seed, job.run_seed) == (3, 2**63 + 1, 7)
            return weights, 1
        """,
        seed=7,
        data="/mine",
        threads=2,
        settings={"hidden": 64},
        node={"id": "12D3", "name": "lab-3", "part": [1, 3]},
    )
    assert node.train(WEIGHTS, round=3, seed=2**63 + 1)["type"] == "trained"


def test_evaluation_draws_from_the_runs_seed(greeted):
    node = greeted('def evaluate(weights, job): return {"seed": (job.seed, 1)}', seed=7)
    assert node.evaluate(WEIGHTS)["metrics"]["seed"]["sum"] == 7


def test_progress_is_told_with_the_jobs_id(greeted):
    node = greeted("""
        def train(weights, job):
            job.progress(12, of=100, loss=numpy.float32(0.5))
            return weights, 8
    """)
    node.train(WEIGHTS)
    assert node.progress == [{"type": "progress", "id": 1, "done": 12, "of": 100, "loss": 0.5}]


def test_a_loss_that_is_no_number_is_told_as_unknown(greeted):
    node = greeted("""
        def train(weights, job):
            job.progress(1, loss=float("nan"))
            return weights, 8
    """)
    node.train(WEIGHTS)
    assert node.progress == [{"type": "progress", "id": 1, "done": 1, "of": 0, "loss": None}]


def test_progress_at_every_step_does_not_flood_the_node(greeted):
    node = greeted("""
        import time
        def train(weights, job):
            began = time.monotonic()
            for step in range(100_000):
                job.progress(step)
            return weights, 8, time.monotonic() - began
    """)
    seconds = node.train(WEIGHTS)["loss"]
    assert 1 <= len(node.progress) <= 10 * seconds + 1


def test_progress_in_initial_shows_that_it_lives(greeted):
    node = greeted("""
        def initial(job):
            job.progress(1)
            return {"w": numpy.zeros(1)}
    """)
    node.initial()
    assert [said["done"] for said in node.progress] == [1]


UNTIL_CANCELLED = """
    def train(weights, job):
        if job.round > 1:
            return weights, 8
        while True:
            try:
                job.progress(1)
            except Exception:
                pass
"""


def test_a_job_is_given_up_in_the_middle_of_training(greeted):
    node = greeted(UNTIL_CANCELLED)
    job = node.begin("train", WEIGHTS, round=1, seed=1)
    assert node.hear()["type"] == "progress"
    node.say("cancel", id=job)
    assert node.end() == {"type": "cancelled", "id": job}
    assert node.log.read_text() == ""


def test_a_trainer_works_on_after_a_cancel(greeted):
    node = greeted(UNTIL_CANCELLED)
    node.say("cancel", id=node.begin("train", WEIGHTS, round=1, seed=1))
    assert node.end()["type"] == "cancelled"
    assert node.train(WEIGHTS, round=2)["type"] == "trained"


def test_a_cancel_that_comes_too_late_is_answered_all_the_same(greeted):
    node = greeted()
    node.train(WEIGHTS)
    node.say("cancel", id=1)
    assert node.hear() == {"type": "cancelled", "id": 1}


def test_ping_is_answered(greeted):
    node = greeted()
    node.say("ping")
    assert node.hear() == {"type": "pong"}


def test_what_a_trainer_does_not_know_is_passed_over(greeted):
    node = greeted()
    node.say("dance")
    node.say("ping", to="music")
    assert node.hear() == {"type": "pong"}


def test_an_exception_fails_the_job_and_the_next_one_works(greeted):
    node = greeted("""
        def train(weights, job):
            if job.round == 1:
                raise MemoryError("lower batch\\nto 8")
            return weights, 8
    """)
    assert failed_with(node.train(WEIGHTS, round=1)) == "MemoryError: lower batch"
    assert "Traceback" in node.log.read_text()
    assert node.train(WEIGHTS, round=2)["type"] == "trained"


def test_the_paths_of_this_machine_are_not_told(greeted, tmp_path):
    node = greeted("def evaluate(weights, job): return open(job.data)", data=f"{tmp_path}/my data/table.csv")
    why = failed_with(node.evaluate(WEIGHTS))
    assert why == "FileNotFoundError: [Errno 2] No such file or directory: 'table.csv'"


def test_a_long_story_is_cut_to_256_bytes(greeted):
    why = failed_with(greeted("def train(weights, job): raise OSError('ü' * 1000)").train(WEIGHTS))
    assert why.startswith("OSError: üü") and len(why.encode()) in (255, 256)


@pytest.mark.parametrize(
    "outcome, why",
    [
        ('{**weights, "bias": [0, float("nan"), float("inf")]}, 8', "ValueError: bias: 2 of 3 values are not finite"),
        ('{**weights, "bias": numpy.full(3, 1e39)}, 8', "ValueError: bias: 3 of 3 values are not finite"),
        (
            '{**weights, "weight": weights["weight"].T}, 8',
            "ValueError: weight: its shape is [3, 2], the model's is [2, 3]",
        ),
        ('{"weight": weights["weight"]}, 8', "ValueError: missing: bias"),
        ('{**weights, "scale": numpy.ones(1)}, 8', "ValueError: not in the model: scale"),
        (
            '{**weights, "bias": numpy.zeros(3, int)}, 8',
            "TypeError: bias: holds int64; a model's tensors hold floating-point values",
        ),
        ("weights, 0", "ValueError: samples: 0, but an update weighs from 1 to 1048576"),
        ("weights, 8, float('nan')", "ValueError: loss: nan is not finite"),
        ("weights", "TypeError: train gives (weights, samples) or (weights, samples, loss), not dict"),
    ],
)
def test_rubbish_is_refused_by_name_before_anything_is_written(greeted, outcome, why):
    node = greeted(f"def train(weights, job): return {outcome}")
    assert failed_with(node.train(WEIGHTS)) == why
    assert [file.name for file in node.folder.iterdir()] == ["1-weights.safetensors"]


@pytest.mark.parametrize(
    "metrics, why",
    [
        ('{"Accuracy %": (1, 2)}', "ValueError: metric 'Accuracy %': a name has 1 to 32 of a-z, 0-9 and _"),
        ('{"accuracy": 0.9}', "TypeError: metric accuracy: (sum, count) is wanted, not 0.9"),
        ('{"loss": (float("nan"), 2)}', "ValueError: metric loss: nan is not finite"),
        ('{"loss": (1, -2)}', "ValueError: metric loss: its count is -2"),
        ("{str(n): (1, 2) for n in range(9)}", "ValueError: 9 metrics, and 8 at most can be told"),
    ],
)
def test_metrics_that_cannot_be_told_are_refused_by_name(greeted, metrics, why):
    assert failed_with(greeted(f"def evaluate(weights, job): return {metrics}").evaluate(WEIGHTS)) == why


def test_a_result_is_whole_or_not_there(greeted):
    node = greeted()
    node.train(WEIGHTS)
    assert sorted(file.name for file in node.folder.iterdir()) == ["1-result.safetensors", "1-weights.safetensors"]


def test_print_does_not_disturb_the_protocol(greeted):
    node = greeted("""
        import os, subprocess
        print("before the call")
        def train(weights, job):
            print("from Python")
            os.write(1, b"from C\\n")
            subprocess.run(["echo", "from a child"])
            return weights, 8
    """)
    assert node.train(WEIGHTS)["type"] == "trained"
    printed = node.log.read_text()
    assert all(said in printed for said in ("before the call", "from Python", "from C", "from a child")), printed


def test_reading_stdin_finds_nothing_and_takes_no_line_from_the_node(greeted):
    node = greeted("def train(weights, job): return weights, 1 + len(sys.stdin.read())")
    assert node.train(WEIGHTS)["samples"] == 1


def test_the_end_of_stdin_ends_a_trainer(greeted):
    node = greeted()
    assert node.stop() == 0
    assert node.log.read_text() == ""


def test_the_end_of_stdin_before_any_hello_ends_a_trainer(start):
    node = start()
    assert node.stop() == 0
    assert node.log.read_text() == ""


def test_stop_ends_a_trainer(greeted):
    node = greeted()
    node.say("stop")
    assert node.process.wait(PATIENCE_S) == 0


def test_the_end_of_stdin_ends_training(greeted):
    node = greeted(UNTIL_CANCELLED)
    node.begin("train", WEIGHTS, round=1, seed=1)
    assert node.hear()["type"] == "progress"
    assert node.stop() == 0
    assert node.log.read_text() == ""


def test_the_end_of_stdin_ends_training_that_never_asks(greeted):
    node = greeted("""
        def train(weights, job):
            job.progress(0)
            while True:
                pass
    """)
    node.begin("train", WEIGHTS, round=1, seed=1)
    assert node.hear()["type"] == "progress"
    assert node.stop() == 0


def test_a_node_that_no_longer_listens_ends_training(greeted):
    node = greeted(UNTIL_CANCELLED)
    node.begin("train", WEIGHTS, round=1, seed=1)
    assert node.hear()["type"] == "progress"
    node.stop_listening()
    assert node.process.wait(PATIENCE_S) == 0


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is no signal there")
def test_ctrl_c_is_left_to_the_node(greeted):
    node = greeted()
    node.process.send_signal(signal.SIGINT)
    assert node.train(WEIGHTS)["type"] == "trained"


def test_a_worker_process_that_imports_the_script_starts_no_trainer(greeted):
    node = greeted("""
        import multiprocessing, threading
        def train(weights, job):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                return weights, pool.apply(threading.active_count)
    """)
    assert node.train(WEIGHTS)["samples"] == 1


@pytest.mark.skipif(os.name == "nt", reason="there are no pseudo-terminals")
def test_in_a_terminal_it_says_how_a_trainer_is_started(tmp_path):
    script = tmp_path / "train.py"
    script.write_text("import paceline; paceline.run(initial=None, train=None)")
    terminal, stdin = os.openpty()
    try:
        ended = subprocess.run(
            [sys.executable, script],
            stdin=stdin,
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
            check=False,
            timeout=PATIENCE_S,
        )
    finally:
        os.close(terminal)
        os.close(stdin)
    assert ended.returncode == 2
    assert ended.stderr == (
        'This is a trainer; a node starts it: paceline join run.toml --trainer "python3 train.py"\n'
    )
