"""The loss against transformers' own, against a loop over labels, and against itself in chunks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from dia_hf.loss import IGNORE_INDEX, channel_sums, channel_sums_in_chunks, fused_linear_cross_entropy, weighted_sum


def gradients(model, **batch):
    model.zero_grad()
    output = model(**batch)
    output.loss.backward()
    return output, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("num_items", [None, 1000, torch.tensor(77)], ids=["mean", "a number", "a tensor"])
def test_loss_and_gradients_equal_transformers(seed, num_items):
    """Another mean, a shifted label or a wrong mask trains another model than transformers does."""
    ours = tiny.random_model(tiny.random_config(seed))
    batch = tiny.random_batch(ours.config, seed) | ({} if num_items is None else {"num_items_in_batch": num_items})
    output, mine = gradients(ours, **batch)
    expected, theirs = gradients(tiny.their_model(ours), **batch)
    torch.testing.assert_close(output.loss, expected.loss, rtol=1e-6, atol=1e-6)
    assert mine.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(mine[name], gradient, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("slice_size", [1, 5, 1000])
@pytest.mark.parametrize("weights", [None, "drawn"])
def test_slices_change_nothing(slice_size, weights):
    """A chunk left out, or recomputed with other weights, changes loss and gradients."""
    config = tiny.random_config(4)
    if weights:
        config.channel_loss_weights = torch.rand(config.decoder_config.num_channels).tolist()
    model = tiny.random_model(config)
    batch = tiny.random_batch(config)
    expected, whole = gradients(model, **batch)
    model.loss_chunk_size = slice_size
    output, sliced = gradients(model, **batch)
    assert output.logits is None
    torch.testing.assert_close(output.loss, expected.loss, rtol=1e-6, atol=1e-6)
    for name, gradient in whole.items():
        torch.testing.assert_close(sliced[name], gradient, rtol=1e-5, atol=1e-6, msg=name)
    for name in ("channel_losses", "channel_accuracies", "channel_counts"):
        torch.testing.assert_close(output[name], expected[name], rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).loss, expected.loss, rtol=1e-6, atol=1e-6)
    batch.pop("labels")
    assert model(**batch).logits is not None, "without labels nobody asks for a loss"


@pytest.mark.parametrize("slice_size", [None, 5])
def test_label_smoothing(slice_size):
    """Label smoothing over too few tokens or in evaluation falsifies the loss; in chunks it was missing."""
    model = tiny.random_model(tiny.random_config(4)).train()
    batch = tiny.random_batch(model.config)
    labels = batch["labels"]
    labels = labels if labels.ndim == 2 else labels.transpose(1, 2).flatten(0, 1)  # [B·C, T]
    plain = model(**batch)
    log_probs = plain.logits.log_softmax(-1)[labels != IGNORE_INDEX]  # [labels, V]
    right = log_probs.gather(-1, labels[labels != IGNORE_INDEX][:, None])[:, 0]
    model.label_smoothing, model.loss_chunk_size = 0.1, slice_size
    expected = -(0.9 * right + 0.1 * log_probs.mean(-1)).mean()
    torch.testing.assert_close(model(**batch).loss, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model.eval()(**batch).loss, plain.loss, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("slice_size", [None, 3])
def test_slices_keep_no_logits(slice_size):
    """Chunks whose logits autograd keeps take as much memory as all logits at once."""
    model = tiny.random_model(tiny.random_config(4))
    model.loss_chunk_size = slice_size
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one.shape) or one, lambda one: one):
        model(**tiny.random_batch(model.config))
    assert any(shape[-1:] == (model.vocab_size,) for shape in kept) == (slice_size is None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_loss_of_half_precision_is_float32(dtype):
    """Added up in bfloat16, the losses of a few hundred labels are right to two digits only."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(400, 3, 50, generator=generator).to(dtype)
    labels = torch.randint(0, 50, (400, 3), generator=generator)
    losses = channel_sums(logits, labels).losses
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, channel_sums(logits.float(), labels).losses)


@pytest.mark.parametrize(
    ("arguments", "slice_size", "message"),
    [
        ({"logits_to_keep": 1}, None, "`logits_to_keep` is 1, but a loss"),
        ({"logits_to_keep": 2}, 3, "`logits_to_keep` is 2, but a loss"),
        ({}, 0, "`loss_chunk_size` is 0; give 1 or more"),
        ({}, -2, "`loss_chunk_size` is -2; give 1 or more"),
        (
            {"labels": torch.zeros(3, 2, 12).long()},
            None,
            r"\[3, 2, 12\]; .*\[3, 12, 2\] give \[3, 12, 2\] or \[6, 12\]",
        ),
        ({"labels": torch.zeros(3, 11, 2).long()}, 3, r"`labels` has the shape \[3, 11, 2\]"),
        ({"labels": torch.zeros(72).long()}, None, r"`labels` has the shape \[72\]"),
    ],
)
def test_what_has_no_loss(arguments, slice_size, message):
    """An error of torch within a product or a loss did not name the wrong argument."""
    model = tiny.random_model(tiny.random_config(4))
    model.loss_chunk_size = slice_size
    batch = tiny.random_batch(model.config) | arguments
    with pytest.raises(ValueError, match=message):
        model(**batch)


@given(
    num_positions=st.integers(1, 9),
    num_channels=st.integers(1, 4),
    share=st.floats(0, 1),
    slice_size=st.integers(1, 12),
    weights=st.none() | st.lists(st.floats(0.1, 9), min_size=4, max_size=4),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60)
def test_sums_are_those_of_a_loop(num_positions, num_channels, share, slice_size, weights, seed):
    """Channels were mixed up, ignored labels counted, or the best logit of another token counted as correct."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_positions, num_channels, 7, generator=generator)
    labels = torch.randint(0, 7, (num_positions, num_channels), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < share] = IGNORE_INDEX
    losses, right, counts = [0.0] * num_channels, [0] * num_channels, [0] * num_channels
    for position in range(num_positions):
        for channel in range(num_channels):
            label = int(labels[position, channel])
            if label == -100:
                continue
            scores = logits[position, channel].double()
            losses[channel] += float(scores.logsumexp(0) - scores[label])
            right[channel] += int(scores.argmax()) == label
            counts[channel] += 1
    in_slices = channel_sums_in_chunks(logits, lambda states: states, labels, slice_size)
    for sums in (channel_sums(logits, labels), in_slices):
        assert sums.num_correct.tolist() == right
        assert sums.counts.tolist() == counts
        torch.testing.assert_close(sums.losses, torch.tensor(losses), rtol=1e-5, atol=1e-5)
    weights = weights and weights[:num_channels]
    mean = sum(weights) / num_channels if weights else 1
    expected = sum(loss * (weights[channel] / mean if weights else 1) for channel, loss in enumerate(losses))
    torch.testing.assert_close(weighted_sum(in_slices.losses, weights), torch.tensor(float(expected)))


@given(
    num_positions=st.integers(1, 9),
    num_channels=st.integers(1, 4),
    share=st.floats(0, 1),
    slice_size=st.integers(1, 12),
    weights=st.none() | st.lists(st.integers(1, 9), min_size=4, max_size=4),
    smoothing=st.sampled_from([0.0, 0.2]),
    is_frozen=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60)
def test_gradients_taken_at_once_are_those_of_autograd(
    num_positions, num_channels, share, slice_size, weights, smoothing, is_frozen, seed
):
    """The manual gradient missed smoothing, a weight, ignored labels or the last chunk."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(num_positions, 5, generator=generator, requires_grad=True)
    matrix = torch.randn(7 * num_channels, 5, generator=generator).requires_grad_(not is_frozen)
    labels = torch.randint(0, 7, (num_positions, num_channels), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < share] = IGNORE_INDEX
    weights = weights and weights[:num_channels]
    learned = [states] if is_frozen else [states, matrix]

    def head(slice_of_states):
        return (slice_of_states @ matrix.mT).unflatten(-1, (num_channels, 7))

    sums = channel_sums_in_chunks(states, head, labels, slice_size, smoothing)
    expected = weighted_sum(sums.losses, weights) / 3
    loss, found = fused_linear_cross_entropy(states, matrix, labels, slice_size, weights, smoothing)
    torch.testing.assert_close(loss / 3, expected)
    for ours, theirs in zip(found, sums, strict=True):
        torch.testing.assert_close(ours, theirs.detach())
    of_ours, of_theirs = torch.autograd.grad(loss / 3, learned), torch.autograd.grad(expected, learned)
    for ours, theirs in zip(of_ours, of_theirs, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_gradients_taken_at_once_follow_autocast():
    """Products in float32 under autocast take twice as long; gradients left in bfloat16 are not the weights'."""
    model = tiny.random_model(tiny.random_config(4))
    batch = tiny.random_batch(model.config)
    found = []
    for slice_size in (None, 5):
        model.loss_chunk_size = slice_size
        with torch.autocast("cpu", torch.bfloat16):
            found.append(gradients(model, **batch))
    (expected, whole), (output, sliced) = found
    torch.testing.assert_close(output.loss, expected.loss, rtol=1e-5, atol=1e-5)
    for name, gradient in whole.items():
        assert sliced[name].dtype == gradient.dtype == torch.float32
        torch.testing.assert_close(sliced[name], gradient, rtol=0.05, atol=0.02 * float(gradient.abs().max()))


def test_a_head_that_is_more_than_a_matrix_is_called():
    """An adapter on the head would be bypassed, and not trained."""
    model = tiny.random_model(tiny.random_config(4))
    batch = tiny.random_batch(model.config)
    model.loss_chunk_size = 5
    expected = model(**batch).loss

    class Head(torch.nn.Linear):
        def forward(self, states):
            return super().forward(states) * 2

    head = Head(model.logits_dense.in_features, model.logits_dense.out_features, bias=False)
    head.load_state_dict({"weight": model.logits_dense.weight / 2})
    model.logits_dense = head
    torch.testing.assert_close(model(**batch).loss, expected)


def test_weights_are_ratios():
    """Weights 4, 1, 1 that multiply the loss by four would act as a higher learning rate."""
    model = tiny.random_model(tiny.random_config(4))
    batch = tiny.random_batch(model.config)
    expected = model(**batch).loss
    for weight in (0.25, 1, 4.0):
        model.config.channel_loss_weights = [weight] * model.num_channels
        torch.testing.assert_close(model(**batch).loss, expected)


def test_a_channel_of_weight_zero_is_not_learned():
    """A weight was applied to the wrong channel."""
    model = tiny.random_model(tiny.random_config(4))
    model.config.channel_loss_weights = [0.0] + [1.0] * (model.num_channels - 1)
    gradient = gradients(model, **tiny.random_batch(model.config))[1]["logits_dense.weight"]
    by_channel = gradient.view(model.num_channels, -1).abs().sum(1)
    assert by_channel[0] == 0
    assert (by_channel[1:] > 0).all()


def test_a_channel_without_labels_is_no_nan():
    """0 / 0 in the metrics of one channel makes the mean of an epoch NaN."""
    model = tiny.random_model(tiny.random_config(4))
    batch = tiny.random_batch(model.config)
    batch["labels"].view(3, model.num_channels, -1)[:, 1] = IGNORE_INDEX
    output = model(**batch)
    assert output.loss.isfinite()
    assert (output.channel_losses[1], output.channel_accuracies[1], output.channel_counts[1]) == (0, 0, 0)
