"""marl.learner.relaxation under vmap, torch.compile and CUDA graphs."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from marl.learner import relaxation as rx

INNER = 3


def inputs(*shape: int, device: str = "cpu") -> tuple[Tensor, ...]:
    """Logits, noise, mask (absent and partly forbidden rows in it), conditional noise, arriving gradient."""
    generator = torch.Generator().manual_seed(len(shape))
    logits = 2 * torch.randn(*shape, generator=generator)
    noise = rx.gumbel(torch.rand(*shape, generator=generator))
    mask = torch.rand(*shape, generator=generator) > 0.3
    mask[..., 0, :] = False
    conditional = torch.rand(INNER, *shape, generator=generator)
    return tuple(x.to(device) for x in (logits, noise, mask, conditional, torch.randn(*shape, generator=generator)))


def value_and_gradient(estimator: str, temperature: float | Tensor) -> Callable[..., tuple[Tensor, Tensor]]:
    def both(logits: Tensor, noise: Tensor, mask: Tensor, conditional: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        def total(t: Tensor) -> tuple[Tensor, Tensor]:
            value = rx.relax(estimator, t, noise, temperature, mask, conditional)
            return (value * g).sum(), value

        gradient, value = torch.func.grad(total, has_aux=True)(logits)
        return value, gradient

    return both


def everything(logits: Tensor, noise: Tensor, mask: Tensor, conditional: Tensor, g: Tensor, temperature: Tensor):
    """One result of every function of the module."""
    out = [rx.relax(e, logits, noise, temperature, mask, conditional) for e in rx.PATHWISE]
    onehot = rx.sample_onehot(logits, noise, mask)
    out += [onehot, rx.greedy_onehot(logits, mask), rx.probabilities(logits, mask), rx.entropy(logits, mask)]
    out += [rx.reinforce_surrogate(logits, onehot, g.sum(-1), 0.5, mask), rx.exact_surrogate(logits, g, mask)]
    return [*out, rx.temperature_at(temperature, 4.0, 0.1)]


@pytest.mark.parametrize("estimator", rx.PATHWISE)
@pytest.mark.parametrize("shape", [(6, 3, 5), (6, 5), (4, 2, 64, 10)])
def test_vmap_gives_the_same_bits(shape: tuple[int, ...], estimator: str) -> None:
    logits, noise, mask, conditional, g = inputs(*shape)
    both = value_and_gradient(estimator, 0.6)
    eager = both(logits, noise, mask, conditional, g)
    mapped = torch.func.vmap(both, in_dims=(0, 0, 0, 1, 0))(logits, noise, mask, conditional, g)
    assert torch.equal(mapped[0], eager[0])
    assert torch.equal(mapped[1], eager[1])


def test_vmap_gives_the_same_bits_everywhere_else() -> None:
    logits, noise, mask, conditional, g = inputs(6, 3, 5)
    temperature = torch.tensor(0.6)
    arguments = (logits, noise, mask, conditional, g, temperature)
    eager = everything(*arguments)
    mapped = torch.func.vmap(everything, in_dims=(0, 0, 0, 1, 0, None))(*arguments)
    for a, b in zip(eager[:-1], mapped[:-1], strict=True):
        assert torch.equal(a, b)


def gumbel_st_alone(logits: Tensor, noise: Tensor, mask: Tensor, conditional: Tensor, g: Tensor, temperature: Tensor):
    return [rx.relax("gumbel_st", logits, noise, temperature, mask)]


needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="inductor needs a C++ compiler")


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # torch's own import
@pytest.mark.parametrize(
    ("function", "backend"),
    [
        pytest.param(everything, "aot_eager"),
        pytest.param(gumbel_st_alone, "inductor", marks=needs_compiler),
        pytest.param(everything, "inductor", marks=[needs_compiler, pytest.mark.slow]),  # half a minute of C++
    ],
)
def test_compiled_whole_it_makes_the_same_choices_and_close_values(function: Callable, backend: str) -> None:
    logits, noise, mask, conditional, g = inputs(2, 16, 5)
    temperature = torch.tensor(0.6)
    torch._dynamo.reset()

    def run(f: Callable) -> tuple[list[Tensor], Tensor]:
        leaf = logits.clone().requires_grad_()
        out = f(leaf, noise, mask, conditional, g, temperature)
        # weights: the sum over K of every pathwise gradient is 0
        total = [((i + 1) * x * (g if x.shape == g.shape else 1)).sum() for i, x in enumerate(out) if x.requires_grad]
        return out, torch.autograd.grad(sum(total), leaf)[0]

    eager, eager_gradient = run(function)
    fast, fast_gradient = run(torch.compile(function, fullgraph=True, backend=backend))
    for a, b in zip(eager, fast, strict=True):
        assert torch.allclose(a, b, atol=2e-6)
        if ((a == 0) | (a == 1)).all():
            assert torch.equal(a, b)
    assert torch.allclose(eager_gradient, fast_gradient, atol=2e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("estimator", rx.PATHWISE)
def test_a_cuda_graph_replays_it_with_new_noise_and_temperature(estimator: str) -> None:
    logits, noise, mask, conditional, g = inputs(2, 64, 5, device="cuda")
    temperature = torch.tensor(1.0, device="cuda")
    both = value_and_gradient(estimator, temperature)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        both(logits, noise, mask, conditional, g)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value, gradient = both(logits, noise, mask, conditional, g)
    noise.copy_(noise.flip(1))
    temperature.fill_(0.4)
    graph.replay()
    expected = both(logits, noise, mask, conditional, g)
    assert torch.equal(value, expected[0])
    assert torch.allclose(gradient, expected[1], atol=1e-6)
