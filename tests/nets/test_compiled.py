"""A compiled network is the same network: values, names, chance; and what is said where torch cannot compile it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sentinode.errors import MachineProblem
from sentinode.nets.compiled import compile_problems, compiled
from sentinode.nets.simple_cnn import SimpleCNN


class CompilerError(RuntimeError):
    """One as torch's compiler raises them."""

    __module__ = "torch._inductor.exc"


def test_it_gives_the_same_logits_under_the_same_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as ever, but left to torch's own kernels: what a C++ compiler makes of it takes a minute."""
    real, seen = torch.compile, list[Any]()

    def traced(call: Callable[..., Any], options: dict[str, Any]) -> Any:
        seen.append(options)
        return real(call, backend="eager")

    monkeypatch.setattr("torch.compile", traced)
    torch.manual_seed(0)
    plain = SimpleCNN(dropout=0.5).train()
    ours, x = compiled(plain), torch.rand(4, 3, 16, 16)
    given = []
    for model in (plain, ours):
        torch.manual_seed(1)
        given.append(model(x))
    torch.testing.assert_close(given[1], given[0])
    assert seen == [{"fallback_random": True}]
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert plain._compiled_call_impl is None
    assert all(mine is not theirs for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True))


def test_what_the_compiler_says_has_three_parts() -> None:
    with pytest.raises(MachineProblem) as caught, compile_problems():
        raise CompilerError("InvalidCxxCompiler: No working C++ compiler\nSet TORCHDYNAMO_VERBOSE=1")
    assert "C++ compiler" in caught.value.expected
    assert caught.value.found == "CompilerError: 'InvalidCxxCompiler: No working C++ compiler'"
    assert caught.value.do == "leave --compile out"


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"), compile_problems():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_a_python_that_torch_cannot_compile_for_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise RuntimeError("torch.compile is not supported on Python 3.99+")

    monkeypatch.setattr("torch.compile", refused)
    with pytest.raises(MachineProblem, match=r"expected .*torch.compile works.*Python 3.99.*leave --compile out"):
        compiled(SimpleCNN())
