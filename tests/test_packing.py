"""Attention by runs of packed rows, against one product under a mask."""

import pytest
import torch
from torch.nn import functional as F
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import tiny
from dia_hf.modeling_dia import eager_attention_forward
from dia_hf.packing import PackedRuns, attend_to_runs, find_runs

QUERIES = torch.tensor([[1, 1, 1, 2, 2, 3], [1, 1, 2, 0, 0, 0]])
KEYS = torch.tensor([[1, 1, 2, 3], [1, 2, 2, 0]])


def make_layer(is_causal, groups=2):
    """Make a layer as the attention functions see it."""
    layer = torch.nn.Module()
    layer.is_causal, layer.num_key_value_groups = is_causal, groups
    return layer


def mask_of(query_ids, key_ids, is_causal):
    """Make the additive mask `[B, 1, T, S]` by its definition, pair by pair."""
    mask = torch.full((len(query_ids), 1, query_ids.shape[1], key_ids.shape[1]), float("-inf"))
    for row, queries in enumerate(query_ids.tolist()):
        for place, own in enumerate(queries):
            for other, number in enumerate(key_ids[row].tolist()):
                if (own == number or own == 0) and (other <= place or not is_causal):
                    mask[row, 0, place, other] = 0.0
    return mask


@pytest.mark.parametrize(("keys", "is_causal"), [(QUERIES, True), (QUERIES, False), (KEYS, False)])
def test_runs_are_what_the_mask_computes(keys, is_causal):
    """A piece at a wrong place mixes clips, or trains one on its own future."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, QUERIES.shape[1], 8, generator=generator, requires_grad=True)
    key, value = (torch.randn(2, 2, keys.shape[1], 8, generator=generator, requires_grad=True) for _ in range(2))
    layer = make_layer(is_causal)
    runs = find_runs(QUERIES, keys, "sdpa")
    attended = attend_to_runs(sdpa_attention_forward, layer, query, key, value, runs, scaling=1.0)
    mask = mask_of(QUERIES, keys, is_causal)
    expected, _ = eager_attention_forward(layer, query, key, value, mask, scaling=1.0)
    is_real = QUERIES > 0
    torch.testing.assert_close(attended[is_real], expected[is_real], rtol=1e-5, atol=1e-6)
    assert not attended[~is_real].any()
    weights = torch.randn(attended.shape, generator=generator) * is_real[..., None, None]
    mine = torch.autograd.grad((attended * weights).sum(), (query, key, value))
    theirs = torch.autograd.grad((expected * weights).sum(), (query, key, value))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)  # sums of up to ten terms of size 1


def test_runs_of_rows():
    """A run that continues into the next row would join two clips of the same number."""
    runs = find_runs(torch.tensor([[1, 2, 2], [2, 2, 0]]), torch.tensor([[2, 1], [2, 0]]), "sdpa")
    assert runs == PackedRuns((1, 2, 2, 1), (1, 1, 1, 1), (1, 0, 2, None))


@pytest.mark.parametrize(
    ("queries", "keys"),
    [
        pytest.param([[1, 2, 1]], [[1, 2]], id="queries-apart"),
        pytest.param([[1, 2]], [[1, 2, 1]], id="keys-apart"),
        pytest.param([[1, 2]], [[1, 1]], id="no-keys"),
        pytest.param([[1, 0, 1]], [[1, 0]], id="padding-inside"),
    ],
)
def test_what_runs_cannot_express_stays_under_the_mask(queries, keys):
    """Each run by itself would hide the rest of its own clip, or find no keys at all."""
    assert find_runs(torch.tensor(queries), torch.tensor(keys), "sdpa") is None


def test_no_runs_without_ids_and_for_other_kernels(monkeypatch):
    """A kernel that the user has chosen or registered must run, whatever the batch."""
    assert find_runs(None, None, "sdpa") is None
    assert find_runs(QUERIES, KEYS, "flex_attention") is None
    assert find_runs(QUERIES, KEYS, "sdpa") is not None
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", lambda *args, **kwargs: None)
    assert find_runs(QUERIES, KEYS, "sdpa") is None


def test_the_model_attends_by_runs(monkeypatch):
    """Packed rows that compute every pair of positions under a mask take longer than their clips alone."""
    model = tiny.random_model(tiny.random_config(3))
    together, _ = tiny.packed_clips(model.config)
    shapes = []
    original = F.scaled_dot_product_attention

    def record(query, key, value, attn_mask=None, **kwargs):
        shapes.append((query.shape[2], key.shape[2], attn_mask))
        return original(query, key, value, attn_mask=attn_mask, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", record)
    model(**together)
    ids = (together["sequence_ids"], together["decoder_sequence_ids"])
    lengths = {int(length) for each in ids for row in each for length in row.unique_consecutive(return_counts=True)[1]}
    assert shapes
    assert all(mask is None and {queries, keys} <= lengths for queries, keys, mask in shapes)
