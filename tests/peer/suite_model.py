"""transformers' common tests of models and configurations, and our own tests of generation, on either Dia."""

import copy
import inspect
import tempfile
import unittest

import pytest
import torch
from sides import CHANNELS, EOS, PAD, DiaConfig, DiaForConditionalGeneration, DiaModel, small_config
from transformers import GenerationConfig, set_seed
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin, global_rng, ids_tensor


class ModelTester:
    """The sizes that the common tests require."""

    batch_size = 3
    seq_length = encoder_seq_length = decoder_seq_length = key_length = 9
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    is_training = True

    def get_config(self):
        return small_config()

    def prepare_config_and_inputs_for_common(self):
        config = self.get_config()
        text = ids_tensor([self.batch_size, self.seq_length], config.encoder_config.vocab_size)
        codes = ids_tensor([self.batch_size, self.decoder_seq_length, CHANNELS], EOS)
        return config, {
            "input_ids": text,
            "attention_mask": torch.ones_like(text),
            "decoder_input_ids": codes,
            "decoder_attention_mask": torch.ones(codes.shape[:2], dtype=torch.long),
        }

    prepare_config_and_inputs = prepare_config_and_inputs_for_common


class ModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (DiaModel, DiaForConditionalGeneration)
    is_encoder_decoder = True
    _is_composite = True

    def setUp(self):
        self.model_tester = ModelTester()
        self.config_tester = ConfigTester(self, config_class=DiaConfig, has_text_modality=False)
        set_seed(0)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = copy.deepcopy(inputs_dict)
        if return_labels and model_class is DiaForConditionalGeneration:
            shape = [len(inputs["decoder_input_ids"]) * CHANNELS, inputs["decoder_input_ids"].shape[1]]
            inputs["labels"] = torch.arange(shape[0] * shape[1]).view(shape) % EOS
        return inputs

    # --- configuration: each of the tester's checks is a separate test

    def test_config_common_properties(self):
        self.config_tester.create_and_test_config_common_properties()

    def test_config_to_json_string(self):
        self.config_tester.create_and_test_config_to_json_string()

    def test_config_to_json_file(self):
        self.config_tester.create_and_test_config_to_json_file()

    def test_config_save(self):
        self.config_tester.create_and_test_config_from_and_save_pretrained()

    def test_config_save_subfolder(self):
        self.config_tester.create_and_test_config_from_and_save_pretrained_subfolder()

    def test_config_save_composite(self):
        self.config_tester.create_and_test_config_from_and_save_pretrained_composite()

    def test_config_from_pretrained_with_overrides(self):
        self.config_tester.create_and_test_config_from_pretrained_custom_kwargs()

    def test_config_num_labels(self):
        self.config_tester.create_and_test_config_with_num_labels()

    def test_config_without_arguments(self):
        self.config_tester.check_config_can_be_init_without_params()

    def test_config_arguments(self):
        self.config_tester.check_config_arguments_init()

    def test_config_override_of_any_field(self):
        """Any field of a sub-config may be overridden at load, the others stay."""
        with tempfile.TemporaryDirectory() as folder:
            small_config().save_pretrained(folder)
            for part, field, value in (
                ("decoder_config", "num_hidden_layers", 1),
                ("decoder_config", "max_position_embeddings", 33),
                ("encoder_config", "hidden_act", "gelu"),
            ):
                loaded = DiaConfig.from_pretrained(folder, **{part: {field: value}})
                expected = small_config().to_dict()[part] | {field: value}
                found = getattr(loaded, part).to_dict()
                assert {name: found[name] for name in expected} == expected


class GenerationTest(unittest.TestCase):
    """The contract of `generate()` for any model, written anew: its mixin is not in transformers' package."""

    def setUp(self):
        set_seed(0)
        global_rng.seed(0)  # of the inputs: some seeds let a channel end early
        self.tester = ModelTester()
        self.model = DiaForConditionalGeneration(small_config()).eval()
        for parameter in self.model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.3)
        self.model.generation_config = GenerationConfig(
            max_length=24, guidance_scale=None, eos_token_id=EOS, pad_token_id=PAD, bos_token_id=PAD + 1
        )
        self.model.generation_config.do_sample = False
        _, inputs = self.tester.prepare_config_and_inputs_for_common()
        self.inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}

    def generate(self, **options):
        return self.model.generate(**self.inputs, **{"max_new_tokens": 12, **options})

    def test_greedy(self):
        codes = self.generate()
        assert codes.shape == (3, 13, CHANNELS)
        torch.testing.assert_close(codes, self.generate())

    def test_greedy_dictionary(self):
        self.model.set_attn_implementation("eager")
        out = self.generate(
            return_dict_in_generate=True,
            output_scores=True,
            output_logits=True,
            output_attentions=True,
            output_hidden_states=True,
        )
        torch.testing.assert_close(out.sequences, self.generate())
        assert len(out.scores) == len(out.logits) == len(out.decoder_attentions) == 12
        assert out.scores[0].shape == (3 * CHANNELS, 44)
        assert [len(step) for step in out.decoder_hidden_states] == [3] * 12
        assert [step[0].shape[-1] for step in out.decoder_attentions] == list(range(1, 13))
        assert out.cross_attentions[0][0].shape[:2] == (3, 4)
        assert out.encoder_hidden_states[0].shape == (3, 9, 32)

    def test_sample_repeats_with_a_seed(self):
        options = {"do_sample": True, "top_k": 20, "temperature": 1.3}
        set_seed(7)
        first = self.generate(**options)
        set_seed(7)
        torch.testing.assert_close(first, self.generate(**options))

    def test_guidance(self):
        assert self.generate(guidance_scale=3.0).shape == (3, 13, CHANNELS)

    def test_without_cache(self):
        torch.testing.assert_close(self.generate(use_cache=False), self.generate())

    def test_static_cache(self):
        static = self.generate(cache_implementation="static", disable_compile=True)
        torch.testing.assert_close(static, self.generate())

    def test_encoder_outputs(self):
        encoder_outputs = self.model.get_encoder()(**self.inputs)
        codes = self.model.generate(
            encoder_outputs=encoder_outputs, attention_mask=self.inputs["attention_mask"], max_new_tokens=12
        )
        torch.testing.assert_close(codes, self.generate())

    def test_batch_is_each_alone(self):
        codes = self.generate()
        for row in range(3):
            inputs = {name: value[row : row + 1] for name, value in self.inputs.items()}
            alone = self.model.generate(**inputs, max_new_tokens=12)[0]
            torch.testing.assert_close(alone, codes[row, : len(alone)])
            assert (codes[row, len(alone) :] == PAD).all()

    def test_max_time_and_criteria(self):
        assert self.generate(max_time=60.0).shape == (3, 13, CHANNELS)

    def test_prompt(self):
        _, inputs = self.tester.prepare_config_and_inputs_for_common()
        prompt = inputs["decoder_input_ids"].int()
        prompt[:, 0] = PAD + 1
        mask = torch.ones(prompt.shape[:2], dtype=torch.long)
        codes = self.generate(decoder_input_ids=prompt, decoder_attention_mask=mask)
        torch.testing.assert_close(codes[:, :9].int(), prompt)

    def test_prepare_inputs_forwards_arguments(self):
        """The batch size comes from the encoder's output; unknown arguments are passed to the network."""
        tokens = ids_tensor((2, 3 * CHANNELS), EOS)
        encoder_outputs = torch.randn(2, 2, 32)
        prepared = self.model.prepare_inputs_for_generation(
            tokens, encoder_outputs=encoder_outputs, output_attentions=True, dummy="kept"
        )
        assert prepared["decoder_input_ids"].shape == (2, 3, CHANNELS)
        assert prepared["dummy"] == "kept"
        assert prepared["output_attentions"]

    def test_signature(self):
        names = list(inspect.signature(self.model.forward).parameters)
        assert names[:3] == ["input_ids", "attention_mask", "decoder_input_ids"]
        assert {"cache", "past_key_values"} & set(names)

    def test_config_of_generation_is_untouched(self):
        before = self.model.generation_config.to_dict()
        self.generate(guidance_scale=2.0, do_sample=True, top_k=5)
        assert self.model.generation_config.to_dict() == before

    def test_beams_and_assistants_are_refused(self):
        with pytest.raises(ValueError, match=r"."):
            self.generate(num_beams=2)

    def test_half_precision(self):
        for dtype in (torch.float16, torch.bfloat16):
            self.model.to(dtype)
            assert self.generate().shape == (3, 13, CHANNELS)

    def test_reload(self):
        expected = self.generate()
        with tempfile.TemporaryDirectory() as folder:
            self.model.save_pretrained(folder)
            self.model = DiaForConditionalGeneration.from_pretrained(folder).eval()
        torch.testing.assert_close(self.generate(), expected)

    def test_loss(self):
        _, inputs = self.tester.prepare_config_and_inputs_for_common()
        labels = ids_tensor([3 * CHANNELS, 9], EOS)
        out = self.model(**inputs, labels=labels)
        expected = torch.nn.functional.cross_entropy(out.logits.flatten(0, 1), labels.flatten())
        torch.testing.assert_close(out.loss, expected)
        assert out.logits.shape == (3 * CHANNELS, 9, 44)
