"""The equivariant network: one logit for all views, layers that are the group convolution of the papers, and few weights."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from sentinode.errors import UsageProblem
from sentinode.nets.forward import view
from sentinode.nets.p4m_cnn import P4MCNN, FieldConv, GroupConv, GroupNorm, LiftingBlock, SeparableBlock
from sentinode.nets.simple_cnn import SimpleCNN
from sentinode.nets.trained import NETWORKS, ModelFacts, load, save_model
from sentinode.nets.transform import Preprocessing
from sentinode.tiles.synth import synthesise

SEEDS = st.integers(0, 2**31 - 1)
WORDS = [(mirrored, turns) for mirrored in (False, True) for turns in range(4)]
"""The eight elements of the group as mirror first, then quarter turns: another notation than the views' numbers."""


def acted(word: tuple[bool, int], x: Tensor) -> Tensor:
    """Mirror and turn the last two axes."""
    mirrored, turns = word
    return torch.rot90(x.flip(-1) if mirrored else x, turns, (-2, -1))


def word_of(number: int) -> tuple[bool, int]:
    """The word that does what view `number` does, found by trying on something without symmetry."""
    probe = torch.arange(16.0).reshape(1, 4, 4, 1)
    (word,) = [w for w in WORDS if torch.equal(acted(w, probe[0, :, :, 0]), view(probe, number)[0, :, :, 0])]
    return word


def product(a: tuple[bool, int], b: tuple[bool, int]) -> tuple[bool, int]:
    """The element that acts as b, then a."""
    probe = torch.arange(16.0).reshape(4, 4)
    (word,) = [w for w in WORDS if torch.equal(acted(w, probe), acted(a, acted(b, probe)))]
    return word


def moved(number: int, maps: Tensor) -> Tensor:
    """A field [n, 8 * c, h, w] as the view of the tile makes it: maps turned, orientations permuted, in loops."""
    by = word_of(number)
    fields = maps.reshape(len(maps), 8, -1, *maps.shape[2:])
    out = torch.empty_like(fields)
    for k in range(8):
        source = [m for m in range(8) if product(by, word_of(m)) == word_of(k)]
        out[:, k] = acted(by, fields[:, source[0]])
    return out.flatten(1, 2)


def tiles_in_view(x: Tensor, number: int) -> Tensor:
    return view(x.permute(0, 2, 3, 1), number).permute(0, 3, 1, 2)


def randomised(model: nn.Module, seed: int) -> nn.Module:
    """Weights, factors and statistics as no training would leave them."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
        elif name.endswith("running_var"):
            buffer.uniform_(0.3, 3)
    return model.eval()


@settings(max_examples=8, deadline=None)
@given(SEEDS, st.sampled_from([24, 32, 48]))
def test_all_eight_views_get_one_logit(seed: int, px: int) -> None:
    model = randomised(P4MCNN(), seed)
    x = torch.randn(2, 3, px, px)
    with torch.inference_mode():
        logits = torch.stack([model(tiles_in_view(x, number)) for number in range(8)])
    assert logits.std() > 0
    scale = max(1.0, float(logits.abs().max()))
    torch.testing.assert_close(logits / scale, logits[:1].expand_as(logits) / scale, atol=1e-5, rtol=0)


def test_a_fresh_network_agrees_to_a_ten_thousandth_and_another_network_does_not() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 96, 96)

    def spread(model: nn.Module) -> float:
        with torch.inference_mode():
            logits = torch.stack([model.eval()(tiles_in_view(x, number)) for number in range(8)])
        return float((logits - logits[0]).abs().max())

    assert spread(P4MCNN()) < 1e-4 < spread(SimpleCNN())


@pytest.mark.parametrize("px", [32, 96])
def test_a_run_gives_a_tile_the_same_logit_from_all_eight_sides(tmp_path: Path, px: int) -> None:
    torch.manual_seed(1)
    facts = ModelFacts("p4m-cnn", {"dropout": 0.3}, Preprocessing((0.7, 0.5, 0.7), (0.2, 0.25, 0.2)), px, ("normal", "tumour"))
    save_model(tmp_path, P4MCNN().state_dict(), facts)
    run, tiles = load(tmp_path), torch.from_numpy(synthesise(1, 4, px=px, seed=2).tiles)
    logits = np.stack([run.logits(view(tiles, number).contiguous().numpy()) for number in range(8)])
    assert np.abs(logits - logits[0]).max() < 1e-4
    assert logits[0].std() > 0


def filter_of(layer: GroupConv) -> Tensor:
    """Return psi [c_out, c_in, h, row, column] from the layer's weights."""
    psi = layer.weight.reshape(layer.orientations, -1, *layer.weight.shape[1:]).permute(2, 3, 0, 1)
    return psi.detach().reshape(*psi.shape[:3], layer.k, layer.k)


def convolved(x: Tensor, psi: Tensor) -> Tensor:
    """[f * psi](g) = sum over h of f(h) psi(g^-1 h), written with loops over the group: [n, h * c_in, ...] to [n, 8 * c_out, ...]."""
    c_out, c_in, orientations, k, _ = psi.shape
    result = torch.zeros(len(x), 8, c_out, *x.shape[2:])
    for g in range(8):
        for h in range(orientations):
            relative = 0
            if orientations == 8:
                (relative,) = [m for m in range(8) if product(word_of(g), word_of(m)) == word_of(h)]  # g^-1 h
            turned = acted(word_of(g), psi[:, :, relative])
            result[:, g] += functional.conv2d(x[:, h * c_in : (h + 1) * c_in], turned, padding=k // 2)
    return result.flatten(1, 2)


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 8]), st.sampled_from([1, 3, 5]))
def test_a_group_convolution_is_the_sum_over_group_and_plane(seed: int, c_in: int, c_out: int, orientations: int, k: int) -> None:
    torch.manual_seed(seed)
    layer = GroupConv(c_in, c_out, k, orientations)
    x = torch.randn(2, orientations * c_in, 8, 8)
    torch.testing.assert_close(layer(x).detach(), convolved(x, filter_of(layer)), atol=1e-5, rtol=1e-5)


@settings(max_examples=6, deadline=None)
@given(SEEDS, st.integers(1, 3), st.sampled_from([3, 5]))
def test_a_field_by_itself_is_a_group_convolution_with_weights_for_nothing_else(seed: int, c: int, k: int) -> None:
    torch.manual_seed(seed)
    layer = FieldConv(c, k)
    psi = torch.zeros(c, c, 8, k, k)
    for field in range(c):
        psi[field, field, 0] = layer.weight.detach()[:, field].reshape(k, k)
    x = torch.randn(2, 8 * c, 8, 8)
    torch.testing.assert_close(layer(x).detach(), convolved(x, psi), atol=1e-5, rtol=1e-5)


@settings(max_examples=8, deadline=None)
@given(SEEDS, st.integers(0, 7), st.booleans())
def test_every_block_turns_with_its_input(seed: int, number: int, training: bool) -> None:
    blocks = (LiftingBlock(3, 2), SeparableBlock(2, 3), SeparableBlock(3, 3, pools=False), SeparableBlock(3, 2))
    for block in blocks:
        randomised(block, seed).train(training)
    x = torch.randn(3, 3, 16, 16)
    there, moved_there = x, tiles_in_view(x, number)
    with torch.no_grad():
        for block in blocks:
            there, moved_there = block(there), block(moved_there)
            torch.testing.assert_close(moved_there, moved(number, there), atol=1e-4, rtol=1e-4)


def test_orientations_share_their_norm() -> None:
    torch.manual_seed(0)
    ours, theirs = GroupNorm(3), nn.BatchNorm2d(3)
    x = torch.randn(4, 24, 6, 6) * 3 + 1
    stacked = x.reshape(4, 8, 3, 6, 6).transpose(1, 2).flatten(2, 3)  # [n, 3, 8 * h, w]: torch's own over all orientations

    def laid_out(y: Tensor) -> Tensor:
        return y.reshape(4, 3, 8, 6, 6).transpose(1, 2).flatten(1, 2)

    torch.testing.assert_close(ours(x), laid_out(theirs(stacked)))
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
    torch.testing.assert_close(ours.eval()(x), laid_out(theirs.eval()(stacked)))


def test_it_is_small_and_known_by_name() -> None:
    assert NETWORKS["p4m-cnn"] is P4MCNN
    ours, simple = (sum(p.numel() for p in model().parameters()) for model in (P4MCNN, SimpleCNN))
    assert ours < 200_000
    assert ours <= simple / 10


def test_gradients_reach_every_weight_and_are_right() -> None:
    torch.manual_seed(0)
    model = P4MCNN()
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    x = torch.randn(1, 8, 6, 6, dtype=torch.float64)
    for layer in (GroupConv(1, 1, 3).double(), FieldConv(1, 5).double()):
        assert torch.autograd.gradcheck(lambda w, of=layer: torch.func.functional_call(of, {"weight": w}, (x,)), (layer.weight,))


def test_it_learns_synthetic_tissue() -> None:
    torch.manual_seed(0)
    tissue = synthesise(4, 12, px=32, difficulty=0.0)
    x = torch.from_numpy(tissue.tiles).permute(0, 3, 1, 2).float() / 128 - 1
    y = torch.from_numpy(tissue.labels.astype(np.float32))
    model = P4MCNN(dropout=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(25):
        loss = functional.binary_cross_entropy_with_logits(model(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("px", [25, 36, 50, 97])
def test_a_size_that_breaks_the_symmetry_is_refused(px: int) -> None:
    with pytest.raises(UsageProblem, match="multiple of 8") as caught:
        P4MCNN()(torch.zeros(1, 3, px, px))
    assert f"{px} px" in str(caught.value)
    assert "--px" in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_tracing_keeps_it_whole() -> None:
    model = randomised(P4MCNN(), 0)
    traced = torch.jit.trace(model, torch.zeros(2, 3, 32, 32))  # type: ignore[no-untyped-call]
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    x = torch.randn(5, 3, 32, 32)
    loaded = torch.jit.load(io.BytesIO(buffer.getvalue()))  # type: ignore[no-untyped-call]
    torch.testing.assert_close(loaded(x), model(x))
