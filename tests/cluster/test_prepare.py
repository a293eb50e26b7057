"""`prepare_dataset` on actors of Ray. Run by `make test-ray`."""

import numpy as np

from data.inputs import TEXT
from dia_hf import MINIATURE, DiaProcessor
from dia_hf.audio.io import write_audio
from dia_hf.data import load_prepared, prepare_dataset


def test_actors_make_the_same_dataset(tmp_path, tone):
    """Rows came in the order in which actors were ready, or errors of clips ended the run."""
    rows = []
    for number in range(20):
        write_audio(tmp_path / f"{number}.wav", tone(1.5, 16000, pitch=150 + 10 * number), 16000)
        rows.append({"audio": str(tmp_path / f"{number}.wav"), "text": TEXT})
    rows.insert(3, {"audio": str(tmp_path / "none.wav"), "text": TEXT})
    processor = DiaProcessor.from_pretrained(MINIATURE)
    reports, clips = [], []
    for name, options in (("actors", {"num_proc": 2, "use_ray": True, "device": "cpu"}), ("here", {})):
        reports.append(prepare_dataset(rows, tmp_path / name, processor, **options))
        clips.append(load_prepared(tmp_path / name)[0])
    assert [report.to_dict() for report in reports] == [reports[1].to_dict()] * 2 and len(clips[0]) == 20
    for there, here in zip(*clips, strict=True):
        assert there["id"] == here["id"] and np.array_equal(there["codes"], here["codes"])
