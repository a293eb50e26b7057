"""transformers' common tests of tokenizers and feature extractors, and our own tests of the processor."""

import json
import tempfile
import unittest
from pathlib import Path

import numpy as np
import pytest
import torch
from sides import SIDE, DiaFeatureExtractor, DiaProcessor, DiaTokenizer, small_codec
from transformers import AutoFeatureExtractor, AutoProcessor, AutoTokenizer
from transformers_tests.test_sequence_feature_extraction_common import SequenceFeatureExtractionTestMixin
from transformers_tests.test_tokenization_common import TokenizerTesterMixin

RATE = 44100
DELAY = 15


class TokenizerTest(TokenizerTesterMixin, unittest.TestCase):
    tokenizer_class = DiaTokenizer
    test_seq2seq = False
    test_tokenizer_from_extractor = False

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        DiaTokenizer().save_pretrained(cls.tmpdirname)

    def get_input_output_texts(self, tokenizer):
        return "[S1] Hello there.", "[S1] Hello there."

    def test_ids(self):
        assert DiaTokenizer()("[S1] Hi [S2]\t!")["input_ids"] == [1, 32, 72, 105, 32, 2, 9, 33]

    def test_added_tokens_are_kept(self):
        """An added token is one id, is counted, and is kept when saved."""
        tokenizer = DiaTokenizer()
        assert tokenizer.add_tokens(["[laugh]", "[nl]"]) == 2
        assert len(tokenizer) == 258
        expected = tokenizer("[S1] [laugh] so [nl]")["input_ids"]
        assert expected == [1, 32, 256, 32, 115, 111, 32, 257]
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            loaded = DiaTokenizer.from_pretrained(folder)
        assert len(loaded) == 258
        assert loaded("[S1] [laugh] so [nl]")["input_ids"] == expected
        assert loaded.decode(expected) == "[S1] [laugh] so [nl]"


class FeatureExtractorTester:
    """The sizes that the common tests require."""

    batch_size, min_seq_length, max_seq_length, feature_size = 3, 400, 2000, 1
    seq_length_diff = (max_seq_length - min_seq_length) // (batch_size - 1)

    def prepare_feat_extract_dict(self):
        return {"feature_size": 1, "padding_value": 0.0, "sampling_rate": RATE, "hop_length": 512}

    def prepare_inputs_for_common(self, equal_length=False, numpify=False):
        step = 0 if equal_length else self.seq_length_diff
        draw = np.random.default_rng(0)
        clips = [draw.uniform(-0.5, 0.5, self.min_seq_length + i * step).astype(np.float32) for i in range(3)]
        return clips if numpify else [clip.tolist() for clip in clips]


class FeatureExtractorTest(SequenceFeatureExtractionTestMixin, unittest.TestCase):
    feature_extraction_class = DiaFeatureExtractor

    def setUp(self):
        self.feat_extract_tester = FeatureExtractorTester()
        self.extractor = DiaFeatureExtractor(sampling_rate=RATE)

    def test_array_without_a_rate(self):
        """The extractor's own rate is used where none is given."""
        clip = np.linspace(-0.5, 0.5, 1000, dtype=np.float32)
        with pytest.warns() if SIDE == "ours" else tempfile.TemporaryDirectory():
            values = self.extractor(clip, return_tensors="np")["input_values"]
        np.testing.assert_array_equal(values[0, 0, :1000], clip)
        assert values.shape == (1, 1, 1024)

    def test_batch(self):
        clips = self.feat_extract_tester.prepare_inputs_for_common(numpify=True)
        features = self.extractor(clips, sampling_rate=RATE, return_tensors="pt")
        assert features["input_values"].shape == (3, 1, 2048)
        assert features["padding_mask"].sum(-1).tolist() == [400, 1200, 2000]

    def test_lists_and_arrays_are_alike(self):
        arrays = self.feat_extract_tester.prepare_inputs_for_common(numpify=True)
        lists = self.feat_extract_tester.prepare_inputs_for_common()
        of_arrays = self.extractor(arrays, sampling_rate=RATE, return_tensors="np")["input_values"]
        of_lists = self.extractor(lists, sampling_rate=RATE, return_tensors="np")["input_values"]
        np.testing.assert_allclose(of_arrays, of_lists, atol=1e-6)

    def test_double_precision(self):
        clip = np.random.default_rng(0).uniform(-0.5, 0.5, 700)
        values = self.extractor(clip, sampling_rate=RATE, return_tensors="np")["input_values"]
        assert values.dtype == np.float32

    def test_stereo(self):
        extractor = DiaFeatureExtractor(feature_size=2, sampling_rate=RATE)
        clip = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 700)).astype(np.float32)
        values = extractor(clip, sampling_rate=RATE, return_tensors="np")["input_values"]
        np.testing.assert_allclose(values[0, 0, :700], clip.mean(0), atol=1e-6)


class ProcessorTest(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            small_codec().save_pretrained(folder)
            codec = type(small_codec()).from_pretrained(folder)
        self.codec = codec
        self.codec_name = codec.name_or_path
        self.processor = DiaProcessor(DiaFeatureExtractor(sampling_rate=RATE), DiaTokenizer(), codec)
        draw = np.random.default_rng(0)
        self.clips = [draw.uniform(-0.5, 0.5, n).astype(np.float32) for n in (2000, 5000)]
        self.texts = ["[S1] Hi.", "[S2] Hello there."]

    def test_parts(self):
        assert isinstance(self.processor.tokenizer, DiaTokenizer)
        assert isinstance(self.processor.feature_extractor, DiaFeatureExtractor)
        assert self.processor.audio_tokenizer is self.codec

    def test_text_alone(self):
        inputs = self.processor(text=self.texts, padding=True, return_tensors="pt")
        assert inputs["decoder_input_ids"].shape == (2, 1 + DELAY, 9)
        assert inputs["decoder_attention_mask"].shape == (2, 1 + DELAY)
        expected = self.processor.tokenizer(self.texts, padding=True, padding_side="right", return_tensors="pt")
        torch.testing.assert_close(inputs["input_ids"], expected["input_ids"])

    def test_prompts_of_a_batch(self):
        inputs = self.processor(text=self.texts, audio=self.clips, sampling_rate=RATE)
        assert inputs["decoder_input_ids"].shape == (2, 1 + 10 + DELAY, 9)
        assert inputs["decoder_attention_mask"].sum(-1).tolist() == [1 + 4 + DELAY, 1 + 10 + DELAY]
        length = self.processor.get_audio_prompt_len(inputs["decoder_attention_mask"])
        assert int(length) == 1 + 10

    def test_prompt_is_the_codecs_codes(self):
        clip = np.pad(self.clips[0], (0, 2048 - 2000))
        codes = self.codec.encode(torch.from_numpy(clip)[None, None]).audio_codes[0].T
        ids = self.processor(text=self.texts[:1], audio=self.clips[:1], sampling_rate=RATE)["decoder_input_ids"][0]
        for channel, delay in enumerate([0, 8, 9, 10, 11, 12, 13, 14, 15]):
            torch.testing.assert_close(ids[1 + delay : 5 + delay, channel].long(), codes[:, channel])

    def test_training(self):
        inputs = self.processor(
            text=self.texts, audio=self.clips, sampling_rate=RATE, generation=False, output_labels=True
        )
        num_frames = 1 + 10 + 1 + DELAY - 1
        assert inputs["labels"].shape == (2 * 9, num_frames)
        assert inputs["decoder_input_ids"].shape == (2, num_frames, 9)
        labels = inputs["labels"].unflatten(0, (2, 9))
        counted = labels[1, 0][labels[1, 0] != -100]
        assert counted[-1] == 1024 and len(counted) == 11

    def test_options_by_group(self):
        inputs = self.processor(
            text=self.texts,
            text_kwargs={"padding": "max_length", "max_length": 40},
            audio_kwargs={"generation": True},
            return_tensors="pt",
        )
        assert inputs["input_ids"].shape == (2, 40)

    def test_errors(self):
        with pytest.raises(ValueError, match=r"."):
            self.processor(text=self.texts, output_labels=True)
        with pytest.raises(ValueError, match=r"."):
            self.processor(text=self.texts, generation=False)
        with pytest.raises(ValueError, match=r"."):
            self.processor(text=self.texts, audio=self.clips[:1], sampling_rate=RATE)
        with pytest.raises(ValueError, match=r"."):
            self.processor(text=self.texts, return_tensors="np")

    def test_decode(self):
        inputs = self.processor(
            text=self.texts[1:], audio=self.clips[1:], sampling_rate=RATE, generation=False, output_labels=False
        )
        waveforms = self.processor.batch_decode(inputs["decoder_input_ids"])
        clip = np.pad(self.clips[1], (0, 5120 - 5000))
        codes = self.codec.encode(torch.from_numpy(clip)[None, None]).audio_codes
        expected = self.codec.decode(audio_codes=codes).audio_values[0]
        torch.testing.assert_close(waveforms[0], expected.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(self.processor.decode(inputs["decoder_input_ids"]), waveforms[0])

    def test_save_and_load(self):
        with tempfile.TemporaryDirectory() as folder:
            self.codec.save_pretrained(Path(folder, "codec"))
            codec = type(self.codec).from_pretrained(Path(folder, "codec"))
            processor = DiaProcessor(DiaFeatureExtractor(sampling_rate=RATE), DiaTokenizer(), codec)
            processor.save_pretrained(folder)
            loaded = DiaProcessor.from_pretrained(folder)
        assert loaded.feature_extractor.to_dict() == processor.feature_extractor.to_dict()
        assert loaded.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
        configs = [one.config.to_dict() | {"_name_or_path": ""} for one in (loaded.audio_tokenizer, codec)]
        assert configs[0] == configs[1]
        inputs = {"text": self.texts, "audio": self.clips, "sampling_rate": RATE}
        for name, value in processor(**inputs).items():
            torch.testing.assert_close(loaded(**inputs)[name], value)

    def test_codec_keeps_its_name(self):
        with tempfile.TemporaryDirectory() as folder:
            name = str(Path(folder, "codec"))
            self.codec.save_pretrained(name)
            codec = type(self.codec).from_pretrained(name)
            DiaProcessor(DiaFeatureExtractor(sampling_rate=RATE), DiaTokenizer(), codec).save_pretrained(folder)
            assert DiaProcessor.from_pretrained(folder).audio_tokenizer.name_or_path == name

    def test_saved_files_name_the_processor(self):
        with tempfile.TemporaryDirectory() as folder:
            self.codec.save_pretrained(Path(folder, "codec"))
            codec = type(self.codec).from_pretrained(Path(folder, "codec"))
            DiaProcessor(DiaFeatureExtractor(sampling_rate=RATE), DiaTokenizer(), codec).save_pretrained(folder)
            files = [json.loads(path.read_text()) for path in Path(folder).glob("*.json")]
        assert any(file.get("processor_class") == "DiaProcessor" for file in files)
        assert all(file.get("processor_class", "DiaProcessor") == "DiaProcessor" for file in files)

    def test_auto_classes(self):
        with tempfile.TemporaryDirectory() as folder:
            self.codec.save_pretrained(Path(folder, "codec"))
            codec = type(self.codec).from_pretrained(Path(folder, "codec"))
            DiaProcessor(DiaFeatureExtractor(sampling_rate=RATE), DiaTokenizer(), codec).save_pretrained(folder)
            assert isinstance(AutoProcessor.from_pretrained(folder), DiaProcessor)
            assert isinstance(AutoTokenizer.from_pretrained(folder), DiaTokenizer)
            assert isinstance(AutoFeatureExtractor.from_pretrained(folder), DiaFeatureExtractor)

    def test_delay_is_built_and_reverted(self):
        """The two static functions of their processor: indices of a delay, and the delay by them."""
        frames = torch.arange(24).view(1, 8, 3)
        options = {"bsz": 1, "seq_len": 8, "num_channels": 3, "delay_pattern": [0, 1, 3]}
        delayed = DiaProcessor.apply_audio_delay(
            frames, pad_token_id=-1, bos_token_id=-2, precomputed_idx=DiaProcessor.build_indices(**options)
        )
        assert delayed[0, :4].tolist() == [[0, -2, -2], [3, 1, -2], [6, 4, -2], [9, 7, 2]]
        back = DiaProcessor.apply_audio_delay(
            delayed,
            pad_token_id=-1,
            bos_token_id=-2,
            precomputed_idx=DiaProcessor.build_indices(**options, revert=True),
        )
        torch.testing.assert_close(back[:, :5], frames[:, :5])

    def test_model_input_names(self):
        inputs = self.processor(text=self.texts, audio=self.clips, sampling_rate=RATE)
        assert set(self.processor.model_input_names) <= {
            *inputs,
            "n_quantizers",
            "input_values",
            "padding_mask",
        }

    def test_save_audio(self):
        with tempfile.TemporaryDirectory() as folder:
            paths = [str(Path(folder, name)) for name in ("a.wav", "b.wav")]
            self.processor.save_audio([torch.from_numpy(clip) for clip in self.clips], paths)
            assert all(Path(path).stat().st_size > 4000 for path in paths)
