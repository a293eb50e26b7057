"""Content of a speed measurement; never the speed itself."""

import math

import pytest
import torch

from dia_hf.bench import make_candidates, make_config, make_model, make_processor, measure_speed, random_inputs, speed
from dia_hf.bench.candidates import Candidate


@pytest.fixture(autouse=True)
def small_matrix(monkeypatch):
    monkeypatch.setattr(speed, "read_bandwidth", lambda device: 1e9)


@pytest.fixture(scope="module")
def toy():
    return make_model(make_config("toy"))


def measure(candidates, batch_size=1, num_frames=20, **options):
    config = candidates[0].model.config
    inputs, processor = random_inputs(config, batch_size, 12), make_processor(config, "toy")
    return measure_speed(candidates, inputs, processor, num_frames, **options)


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("do_sample", [True, False])
def test_every_figure_is_there(toy, batch_size, do_sample):
    """A column was empty because of a mistyped name, as if it did not apply."""
    report = measure(make_candidates(toy), batch_size, do_sample=do_sample, repeats=2)
    ran = [result for result in report.candidates if result.unavailable is None]
    assert (ran[0].name, ran[-1].name) == ("dia_hf", "transformers, eager")
    assert ran[-1].ratio == 1
    for result in ran:
        figures = (result.ratio, result.first_frame_ms, result.call_seconds, result.codec_seconds, result.limit_ms)
        assert all(figure > 0 and math.isfinite(figure) for figure in figures)
        assert 0 < result.step.p10 <= result.step.median <= result.step.p90
        # 20 new frames complete 4: the slowest channel begins 15 later, and the last frame is EOS.
        assert result.audio_seconds == pytest.approx(batch_size * 4 / report.frame_rate)
        assert (result.first_chunk_ms is not None) == result.name.startswith("dia_hf")
        assert result.peak_memory_bytes is None
        assert result.limit_ms == pytest.approx(result.step_bytes / 1e9 * 1e3)
    assert report.process_peak_bytes > 10e6
    assert report.settings["sampling"]["do_sample"] is do_sample


def test_candidates_alternate(toy):
    """With candidates measured one after the other, a machine that slows down makes the second look worse."""
    said = []
    baseline = Candidate("other", toy, is_ours=False)
    measure([Candidate("dia_hf", toy), baseline], repeats=2, say=said.append)
    iterations = [line for line in said if "iteration" in line or "warm" in line]
    assert iterations == [
        *("dia_hf: warm-up", "other: warm-up", "dia_hf: iteration 1 of 2", "other: iteration 1 of 2"),
        *("dia_hf: iteration 2 of 2", "other: iteration 2 of 2"),
    ]


def test_a_baseline_that_fails_is_a_result(toy):
    """A baseline configuration that fails ended the measurement of the others; a failure of ours must not be hidden."""
    failing = {"cache_implementation": "no such cache"}
    report = measure([Candidate("dia_hf", toy), Candidate("other", toy, failing, is_ours=False)], repeats=1)
    assert report.candidates[1].unavailable.startswith("failed: ")
    assert report.candidates[1].step is None
    assert report.candidates[0].ratio is None
    with pytest.raises(ValueError, match="no such cache"):
        measure([Candidate("dia_hf", toy, failing)], repeats=1)


def test_ratios_are_of_the_same_iteration():
    """A machine that is twice as slow for one iteration must not change the ratios within the iterations."""

    def iteration(*steps):
        return speed._Iteration(list(steps), 0, 0, 0, 0, None)

    theirs = [iteration(40, 40), iteration(80, 80, 80), iteration(4000)]
    ours = [iteration(10, 10), iteration(20, 20), iteration(1)]
    assert speed._ratio(theirs, ours) == 4


def test_steps_of_all_iterations_make_one_distribution():
    """Percentiles of one iteration alone ignore the spread between iterations."""
    iterations = [
        speed._Iteration([1.0, 2.0, 3.0], 5, 6, 7, 8, None),
        speed._Iteration([101.0, 102.0, 103.0], 5, 6, 7, 8, None),
    ]
    result = speed._summarize("one", iterations)
    assert result.step.median == 52
    assert result.step.p10 < 2 and result.step.p90 > 102


@pytest.mark.parametrize(("options", "match"), [({"num_frames": 19}, "at least 20"), ({"repeats": 0}, "one iteration")])
def test_too_little_to_measure(toy, options, match):
    """The median of no steps is NaN, which was printed as a figure."""
    with pytest.raises(ValueError, match=match):
        measure([Candidate("dia_hf", toy)], **options)


def test_the_global_settings_stay(toy):
    """A benchmark changed the number of threads or the default dtype for the code after it."""
    before = (torch.get_num_threads(), torch.get_default_dtype())
    measure([Candidate("dia_hf", toy)], repeats=1)
    assert (torch.get_num_threads(), torch.get_default_dtype()) == before
