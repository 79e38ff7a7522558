"""Random numbers of a rank's share of a minibatch, as one process would have drawn them.

All ranks begin a step with the same seed. Where a loss draws a number for each of its items, a
rank draws those of the whole minibatch and keeps its own; so the loss of n ranks is that of one,
whatever the loss draws, and no two items share their noise.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from genzoo.model import GenerativeModel
from genzoo.types import Batch, Loss, TrainState

_DRAWS = {
    "bernoulli",
    "bernoulli_",
    "cauchy_",
    "exponential_",
    "geometric_",
    "log_normal_",
    "multinomial",
    "native_dropout",
    "normal",
    "normal_",
    "poisson",
    "rand",
    "rand_like",
    "randint",
    "randint_like",
    "randn",
    "randn_like",
    "random_",
    "uniform_",
}
# Functions of Python that draw by those.
_DRAW_INSIDE = {
    "alpha_dropout",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "feature_alpha_dropout",
    "feature_dropout",
    "gumbel_softmax",
    "multi_head_attention_forward",
    "scaled_dot_product_attention",
}


class WholeMinibatch(nn.Module):
    """A model whose loss on a share of a minibatch draws as if it saw the whole."""

    def __init__(self, model: GenerativeModel, rank: int, count: int) -> None:
        """`rank` of `count` equal shares, which follow one another."""
        super().__init__()
        self.model, self.rank, self.count = model, rank, count

    def forward(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        """The model's loss."""
        with WholeDraws(len(batch.x), self.rank, self.count):
            loss: Loss = self.model(batch, phase, state)
        return loss


class WholeDraws(TorchFunctionMode):
    """Inside, a random tensor with a row for each item is cut out of that of all ranks.

    Its rows are along the first dimension that the number of items divides: images, tokens
    (items × tokens, …) and pairs of times (2, items) alike. Tensors without such a dimension are
    drawn once for the minibatch, and so are the same on all ranks. Draws with a generator of their
    own are left alone.
    """

    def __init__(self, items: int, rank: int, count: int) -> None:
        """`items` on this rank, of `count` ranks."""
        super().__init__()
        self._cut = _Cut(items, rank, count)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Do it; look closer at what may draw, which would cost too much for everything."""
        name = getattr(func, "__name__", "")
        if name in _DRAWS or name in _DRAW_INSIDE:
            with self._cut:
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class _Cut(TorchDispatchMode):
    """Does the drawing of `WholeDraws`, below autograd, where a dropout is a draw and a product."""

    def __init__(self, items: int, rank: int, count: int) -> None:
        """See `WholeDraws`."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._items, self._rank, self._count = items, rank, count

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Do it, for the whole minibatch where it is random."""
        kwargs = kwargs or {}
        if func.overloadpacket.__name__ not in _DRAWS or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        for place, argument in enumerate(args):
            if isinstance(argument, list | Tensor):
                shape = argument if isinstance(argument, list) else argument.shape
                if (rows := self._rows(shape)) is None:
                    break
                if isinstance(argument, list):
                    size = self._whole(argument, rows)
                    whole = func(*args[:place], size, *args[place + 1 :], **kwargs)
                    return self._own(whole, rows).clone()
                return self._like(func, argument, rows, args, kwargs)
        return func(*args, **kwargs)

    def _like(self, func: Any, mine: Tensor, rows: int, args: tuple[Any, ...], kwargs: Any) -> Any:
        """`func` of tensors like `mine`, as of all ranks."""
        blind = func.overloadpacket.__name__.endswith(("_", "_like"))  # to what was there before
        out = func(*(self._spread(a, mine, rows, blind and a is mine) for a in args), **kwargs)
        if func._schema.is_mutable:
            return mine.copy_(self._own(out, rows))
        if isinstance(out, tuple):
            return tuple(self._own(o, rows).clone() for o in out)
        return self._own(out, rows).clone()

    def _spread(self, value: Any, mine: Tensor, rows: int, blank: bool) -> Any:
        """Rows of all ranks, of which the others' hold what is a valid probability too."""
        if not (isinstance(value, Tensor) and value.shape == mine.shape):
            return value
        # Numbers are drawn in the order in which they lie in memory, which is kept.
        order = sorted(range(value.ndim), key=lambda d: -value.stride()[d])
        size = self._whole(value.shape, rows)
        laid = [size[d] for d in order]
        whole = (value.new_empty if blank else value.new_ones)(laid)
        whole = whole.permute([order.index(d) for d in range(value.ndim)])
        if not blank:
            self._own(whole, rows).copy_(value)
        return whole

    def _rows(self, shape: Any) -> int | None:
        return next((i for i, n in enumerate(shape) if n and n % self._items == 0), None)

    def _whole(self, shape: Any, rows: int) -> list[int]:
        return [n * self._count if i == rows else n for i, n in enumerate(shape)]

    def _own(self, whole: Tensor, rows: int) -> Tensor:
        each = whole.shape[rows] // self._count
        return whole.narrow(rows, self._rank * each, each)
