"""Terms of the loss combined by their gradients instead of their values: PCGrad, CAGrad, Nash-MTL and others.

How they are weighted is TorchJD's, an optional dependency (`pip install "nnunet_mtl[aggregation]"`), but for Nash-MTL,
which is solved here. The gradients of the terms are computed here, one after another.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.losses.weighting import EqualWeights

CAGRAD_RADIUS = 0.5  # c of the paper
NEWTON_STEPS = 30
Solver = Callable[[Tensor], Tensor]


class GradientAggregationError(UserError):
    """Gradients cannot be aggregated here: a package is missing, or the training is spread over processes."""


class GradientAggregation(EqualWeights):
    """The sum of the terms, with a gradient in which the terms' own gradients g_1 ... g_m are weighted.

    Of parameters that two or more terms of the batch reach, the gradient is ``sum of w_i g_i``, where w follows from
    the inner products of the g over all of these parameters; a decoder or head that one term reaches gets its plain
    gradient. The weights do not depend on the common scale of the g, so it makes no difference that a `GradScaler`
    multiplied them, and they are such that a learning rate means about what it does with equal weights.

    What is not finite (an overflow of half precision) is not aggregated: the plain sum of the gradients is passed on,
    and the `GradScaler` skips the step. A batch whose weights cannot be solved for has equal ones.

    It holds m copies of the gradient and does m backward passes.

    Args:
        terms: Names of the terms.
        method: One of `METHODS`.

    Raises:
        GradientAggregationError: If TorchJD or a solver that the method needs is not installed.
    """

    def __init__(self, terms: Sequence[str], method: str) -> None:
        super().__init__(terms)
        self.method = method
        try:
            self._solver = METHODS[method]()
        except ImportError as error:
            raise GradientAggregationError(
                f"loss_weighting={method} needs another package ({' '.join(str(error).split())}): "
                'pip install "nnunet_mtl[aggregation]"'
            ) from None
        self._sums = dict.fromkeys(self.terms, 0.0)
        self._counts = dict.fromkeys(self.terms, 0)

    def backward(
        self,
        losses: Mapping[str, Tensor],
        present: Mapping[str, bool],
        parameters: Iterable[nn.Parameter],
        scale: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Set the gradients of the parameters; arguments and result as of `LossWeighting.backward`."""
        taught = [term for term in self.terms if present[term]]
        if len(taught) < 2:
            self._count(dict.fromkeys(taught, 1.0))
            return super().backward(losses, present, parameters, scale)
        trained = list(parameters)
        rows = _rows([scale(losses[term]) for term in taught], trained)
        inner = _inner_products(rows)
        shared = (inner.diagonal(dim1=1, dim2=2) > 0).sum(1) >= 2
        weights = self._solve(inner[shared].sum(0))
        for index, parameter in enumerate(trained):
            factors = weights if shared[index] else [1.0] * len(rows)
            parameter.grad = sum(
                (factor * row[index] for factor, row in zip(factors, rows, strict=True)), torch.zeros_like(parameter)
            )
        self._count(dict(zip(taught, weights, strict=True)))
        total: Tensor = self(losses, present)
        return total

    def weights(self) -> dict[str, float]:
        """Return the mean weight of each term's gradient over the steps of this epoch; 1 where there was none."""
        return {term: self._sums[term] / self._counts[term] if self._counts[term] else 1.0 for term in self.terms}

    def end_epoch(self, means: Mapping[str, float]) -> None:
        """Start the means of the next epoch."""
        self._sums = dict.fromkeys(self.terms, 0.0)
        self._counts = dict.fromkeys(self.terms, 0)

    def _count(self, weights: Mapping[str, float]) -> None:
        for term, weight in weights.items():
            self._sums[term] += weight
            self._counts[term] += 1

    def _solve(self, gramian: Tensor) -> list[float]:
        """Return the weights, m of them, of gradients with these inner products, (m, m)."""
        weights = torch.ones(len(gramian), dtype=gramian.dtype)
        norms = gramian.diagonal()
        active = (norms > 0).nonzero().flatten()  # some methods would give all weight to a gradient of 0
        if not gramian.isfinite().all() or len(active) < 2:
            return weights.tolist()
        gramian = gramian[active][:, active] / norms[active].mean()
        try:
            solved = self._solver(gramian)
        except (ValueError, RuntimeError):  # RuntimeError: of torch.linalg
            return weights.tolist()
        if solved.isfinite().all():
            weights[active] = solved
        return weights.tolist()


def refuse_processes(method: str) -> None:
    """Say that a training spread over processes cannot aggregate gradients.

    Raises:
        GradientAggregationError: Always: DistributedDataParallel averages the gradient of one loss, not of each term.
    """
    raise GradientAggregationError(
        f"loss_weighting={method} aggregates the gradients of the terms, which DistributedDataParallel cannot average: "
        "train on one GPU (-num_gpus 1), or set another loss_weighting"
    )


def _rows(losses: Sequence[Tensor], parameters: list[nn.Parameter]) -> list[tuple[Tensor, ...]]:
    """Return the gradient of each loss, zeros where it does not reach a parameter."""
    last = len(losses) - 1
    return [
        torch.autograd.grad(loss, parameters, retain_graph=index < last, allow_unused=True, materialize_grads=True)
        for index, loss in enumerate(losses)
    ]


def _inner_products(rows: Sequence[tuple[Tensor, ...]]) -> Tensor:
    """Return the inner products of the gradients, for each parameter by itself, (P, m, m) on the CPU."""
    flat = (torch.stack([row.flatten() for row in of_parameter]) for of_parameter in zip(*rows, strict=True))
    return torch.stack([gradients @ gradients.T for gradients in flat]).cpu().double()


def _torchjd() -> Any:
    """Return TorchJD's weights; an ImportError, here or where a solver is built, says that something is missing."""
    from torchjd import aggregation

    return aggregation


def _averaged(solver: Solver) -> Solver:
    """Multiply weights that add up to 1 where gradients agree by the number of gradients."""
    return lambda gramian: len(gramian) * solver(gramian)


def _cagrad() -> Solver:
    solver = _averaged(_torchjd().CAGradWeighting(c=CAGRAD_RADIUS))
    from cvxpy.error import SolverError

    def solve(gramian: Tensor) -> Tensor:
        try:
            return solver(gramian)
        except SolverError as error:
            raise ValueError(str(error)) from None

    return solve


def _upgrad() -> Solver:
    aggregation = _torchjd()
    aggregation.UPGradWeighting()  # names a missing solver now, not in the first step
    # preferences of 1, not of 1/m, give the sum where nothing conflicts
    return lambda gramian: aggregation.UPGradWeighting(torch.ones_like(gramian[0]))(gramian)


def _nash_weights(gramian: Tensor) -> Tensor:
    """Return the a > 0 with ``(G a)_i = 1 / a_i`` (Navon et al., ICML 2022).

    ``a'Ga`` is m then, so that of gradients whose squared lengths have mean 1 the aggregate is as long as the sum would
    be if they were orthogonal. A gradient that is all but 0 has a large weight, and takes nothing from the others.

    They minimise ``a'Ga/2 - sum of log a_i``, which is convex: Newton's method with a damped step stays where a > 0 and
    always arrives. TorchJD's solver is started outside of its own constraints where three or more gradients conflict
    strongly, and returns its start.
    """
    norms = gramian.diagonal().sqrt()
    cosines = gramian / torch.outer(norms, norms)
    bargain = torch.ones_like(norms)
    for _ in range(NEWTON_STEPS):
        slope = cosines @ bargain - 1 / bargain
        step = torch.linalg.solve(cosines + torch.diag(bargain**-2), slope)
        decrement = (slope @ step).clamp_min(0).sqrt()
        bargain = bargain - step / (1 + decrement)
    return bargain / norms


METHODS: Mapping[str, Callable[[], Solver]] = {
    "pcgrad": lambda: _torchjd().PCGradWeighting().__call__,
    "cagrad": _cagrad,
    "nash_mtl": lambda: _nash_weights,
    "upgrad": _upgrad,
    "mgda": lambda: _averaged(_torchjd().MGDAWeighting()),
    "imtl_g": lambda: _averaged(_torchjd().IMTLGWeighting()),
    "aligned_mtl": lambda: _averaged(_torchjd().AlignedMTLWeighting()),
}
