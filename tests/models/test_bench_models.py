"""`emo-live bench models` and `bench gpu`: like is compared with like, figures hang together, time is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from emo_live.bench_models import compare, gpu  # noqa: E402
from emo_live.cli import main  # noqa: E402
from emo_live.errors import BadInputError, EngineError  # noqa: E402

SMALL = replace(compare.SIZES[0], side=4)


@pytest.mark.parametrize("contest", [compare.pictures, compare.frames], ids=lambda contest: contest.__name__)
@torch.inference_mode()
def test_both_networks_do_the_same_work(contest: Any) -> None:
    """The published sizes' structure; results are equal where the weights are."""
    row = compare.compared(contest(SMALL), pairs=2)
    assert row.ours_gflop == pytest.approx(row.diffusers_gflop, rel=0.01)
    assert row.ours_gflop > 0.1
    assert (row.difference is not None and row.difference < 1e-4) == (contest is compare.pictures)
    assert row.low <= row.ratio <= row.high and row.ours_ms > 0


@torch.inference_mode()
def test_unequal_work_is_not_compared() -> None:
    contest = compare.pictures(SMALL)
    other = compare.pictures(replace(SMALL, side=8))
    with pytest.raises(EngineError, match="not the same work"):
        compare.compared(replace(contest, theirs=other.theirs), pairs=2)


@torch.inference_mode()
def test_another_network_is_not_compared() -> None:
    contest = compare.pictures(SMALL)
    with pytest.raises(EngineError, match="not the same network"):
        compare.compared(replace(contest, theirs=lambda: contest.theirs() * 1.01), pairs=2)


@pytest.mark.parametrize(
    ("won", "pairs", "p"), [(0, 5, 0.0625), (5, 5, 0.0625), (10, 20, 1.0), (16, 20, 0.0118), (2, 4, 1.0)]
)
def test_sign_test(won: int, pairs: int, p: float) -> None:
    assert compare.sign_test(won, pairs) == pytest.approx(p, abs=1e-4)


def test_interval_holds_the_median_and_narrows_with_pairs() -> None:
    draws = np.random.default_rng(1).normal(1.2, 0.1, 400)
    few, many = compare.interval(draws[:20]), compare.interval(draws)
    assert few[0] < np.median(draws[:20]) < few[1]
    assert many[1] - many[0] < few[1] - few[0]


def test_pairs_are_in_changing_order() -> None:
    calls: list[str] = []
    times = compare.paired(lambda: calls.append("a"), lambda: calls.append("b"), 20)  # type: ignore[arg-type, return-value]
    assert times.shape == (20, 2) and (times >= 0).all()
    assert len(calls) == 42
    assert {tuple(calls[i : i + 2]) for i in range(0, 42, 2)} == {("a", "b"), ("b", "a")}


def test_models_from_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(compare, "SIZES", (SMALL,))
    assert main(["bench", "models", "--pairs", "5", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["network"] for row in report["denoiser_step"]] == ["tiny, pictures", "tiny, frames"]
    assert report["pairs"] == 5 and report["machine"]["cpu"]["model"]


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.slow
def test_gpu_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    """The whole path on small networks: every stage has a time, and whole windows are no faster than their steps."""
    assert main(["bench", "gpu", "--device", "cpu", "--small", "--json"]) == 0
    first, *told, last = lines_of(capsys)
    assert first["machine"]["device"] == "cpu" and first["machine"]["matmul_tflops"] > 0
    assert last == {"left_out": []}
    rows = [part["row"] for part in told]
    assert [(row["model"], row["size_px"], row["vae"], row["guidance"]) for row in rows] == [
        (case.model, case.size_px, case.vae, case.guidance) for case in gpu.plan(small=True)
    ]
    for row in rows:
        assert all(row[name] > 0 for name in ("denoise_ms", "decode_ms", "sound_ms", "fps_1", "fps_6", "roofline"))
        assert row["tflops"] == pytest.approx(row["gflop"] / row["denoise_ms"] / 2)
        assert row["mode"] == "eager"
    assert "CUDA graphs need a CUDA device" in rows[1]["why"]
    plain, guided = rows[0]["gflop"], rows[3]["gflop"]
    assert 1.5 * plain < guided <= 2 * plain


def test_gpu_keeps_its_time() -> None:
    """A case that took long is not begun again without the time for it; what is left out is named."""
    ticks = iter(range(0, 100_000, 25))  # every look at the clock is 25 s later
    told = list(gpu.measure(device="cpu", minutes=3, small=True, clock=lambda: float(next(ticks))))
    rows, left_out = [part for part in told if "row" in part], told[-1]["left_out"]
    assert 1 <= len(rows) < len(gpu.plan(small=True))
    assert len(rows) + len(left_out) == len(gpu.plan(small=True))
    assert {case["reason"] for case in left_out} == {"no time"}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
        (RuntimeError("CUDA error: no kernel image\nCompile with"), "CUDA error: no kernel image"),
    ],
)
def test_gpu_goes_on_after_a_case_that_fails(error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: object, *args: object) -> None:
        raise error

    monkeypatch.setattr(gpu._Bench, "row", failing)
    told = list(gpu.measure(device="cpu", minutes=10, small=True))
    assert [case["reason"] for case in told[-1]["left_out"]] == [reason] * len(gpu.plan(small=True))


def test_plan_begins_with_what_matters() -> None:
    cases = gpu.plan(small=False)
    assert (cases[0].model, cases[0].size_px, cases[0].mode) == ("hallo", 512, "eager")
    assert cases[1] == replace(cases[0], mode="compile+graphs")
    assert len(set(cases)) == len(cases)
    assert {case.model for case in cases} == {"hallo", "echomimic"}
    assert {case.size_px for case in cases} == {256, 512}
    assert {case.dtype for case in cases} == {"bfloat16", "float16"}
    assert {case.vae for case in cases} == {"sd", "taesd"} and {case.guidance for case in cases} == {True, False}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "torch finds none"),
        (["--device", "cuda:1"], "torch finds none"),
        (["--device", "cpu"], "add --small"),
        (["--device", "tpu", "--small"], "device must be cpu, cuda or cuda:N"),
    ],
)
def test_gpu_without_one_is_one_line(options: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "gpu", *options]) == 2
    told = capsys.readouterr()
    assert told.out == "" and says in told.err and len(told.err.strip().splitlines()) == 1


def test_gpu_shows_tables(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    case = gpu.plan(small=False)[0]
    row = gpu.Row(
        **{name: getattr(case, name) for name in ("model", "size_px", "dtype", "vae", "guidance")},
        mode="compile+graphs",
        why="a GPU",
        denoise_ms=2.0,
        decode_ms=1.0,
        motion_bank_ms=0.5,
        sound_ms=0.1,
        fps={str(steps): 100 / steps for steps in gpu.STEPS},
        gflop=1000.0,
        tflops=321.5,
        roofline=0.4,
        memory_gb=6.5,
        estimate_gb=6.9,
        ready_s=60.0,
    )
    parts = [{"machine": {"device": "a card"}}, {"row": row.as_dict()}, {"left_out": [{"size_px": 999}]}]
    monkeypatch.setattr(gpu, "measure", lambda **options: iter(parts))
    assert main(["bench", "gpu"]) == 0
    shown = capsys.readouterr().out
    for word in ("a card", "25.0 fps at 4 steps", "321.5 TFLOP/s", "fps 6", "estimate gb", "999"):
        assert word in shown


def test_devices_that_are_named_wrongly() -> None:
    with pytest.raises(BadInputError, match="device must be"):
        gpu.chosen("mps", small=True)
