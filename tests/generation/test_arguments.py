"""Arguments of `generate()` of a wrong type, shape or size."""

import pytest
import torch


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention_mask": [[1]]}, "`attention_mask` is a list"),
        ({"decoder_input_ids": "x"}, "`decoder_input_ids` is a str"),
        ({"attention_mask": torch.tensor(1)}, "without dimensions"),
        ({"temperature": {}}, "`temperature` is {}; give a number or one a sample"),
        ({"top_p": ["a"]}, "`top_p` is"),
        ({"max_length": "12"}, "`max_length` is '12'; give a number"),
        ({"do_sample": torch.zeros(2)}, "`do_sample` is tensor"),
        ({"streamer": 3}, "`streamer` is 3; give a BaseStreamer"),
    ],
)
def test_what_is_no_tensor_or_number(model, options, message):
    """A wrong type ended in an unrelated error, such as "'list' object has no attribute 'ndim'"."""
    with pytest.raises(TypeError, match=message):
        model.generate(torch.tensor([[72]]), **{"max_new_tokens": 18} | options)


@pytest.mark.parametrize("shape", [(3, 3), (1, 3), (6,), (2, 1), (2, 3, 1)])
def test_a_mask_of_another_shape_than_the_prompt(model, shape):
    """It was broadcast over the prompts, or ended in a RuntimeError about the sizes of tensors deep inside."""
    decoder = model.config.decoder_config
    prompt = torch.full((2, 3, decoder.num_channels), decoder.bos_token_id)
    with pytest.raises(
        ValueError, match=r"`decoder_attention_mask` has the shape .*give a 1 or 0 for each frame: \[2, 3"
    ):
        model.generate(
            torch.tensor([[72], [73]]),
            decoder_input_ids=prompt,
            decoder_attention_mask=torch.ones(shape, dtype=torch.long),
            max_new_tokens=18,
        )


@pytest.mark.parametrize("temperature", [1e-46, 1e39, [1e39]])
def test_a_temperature_beyond_float32(model, temperature):
    """Logits became NaN, and the fast path generated token 1027."""
    with pytest.raises(ValueError, match=r"`temperature` is .*beyond float32"):
        model.generate(torch.tensor([[72]]), max_new_tokens=18, do_sample=True, temperature=temperature)
