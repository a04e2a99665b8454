"""How the terms of the loss are weighted against each other: equal, fixed, learned uncertainty, or by their progress.

Kendall, Gal, Cipolla: Multi-task learning using uncertainty to weigh losses, CVPR 2018. Liebel, Körner: Auxiliary tasks
in multi-task learning, arXiv 1805.06334, 2018. Liu, Johns, Davison: End-to-end multi-task learning with attention
(dynamic weight average), CVPR 2019. Written from the equations.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import softplus

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import did_you_mean, listed, shown, spelt
from nnunet_mtl.losses.partial import process_count

# Learned uncertainties are kept where exp(-s) is finite and small: a term that reaches 0 would send s to -infinity.
LOG_VARIANCE_BOUND = 5.0
# A Dice can exceed 1 by rounding, and 1 - Dice be that much below 0.
ROUNDING = 1e-4


class LossWeightingError(UserError):
    """Weights name no term of the loss or are no weights, or a term that is to be weighted is negative."""


class LossWeighting(nn.Module):
    """Base of every weighting: terms, K of them, become one scalar, and some weights follow from what is learned.

    A term that nothing in the batch teaches adds neither its loss nor its regulariser, but stays in the graph, as do
    its parameters: their gradient is 0, not missing, which DistributedDataParallel would not stand.

    Args:
        terms: Names of the terms, in the order of `loss_terms` of the trainer.
    """

    def __init__(self, terms: Sequence[str]) -> None:
        super().__init__()
        self.terms = tuple(terms)

    def forward(self, losses: Mapping[str, Tensor], present: Mapping[str, bool]) -> Tensor:
        """Return the total, a scalar.

        Args:
            losses: The terms, scalars, at least 0.
            present: Which of them anything in the batch teaches; on the CPU, so that nothing waits for the device.

        Raises:
            LossWeightingError: If a term is negative. Finding it costs one wait for the device a step.
        """
        values = torch.stack([losses[term] for term in self.terms])
        _refuse_negative(values.detach(), self.terms)
        taught = torch.tensor([float(present[term]) for term in self.terms], dtype=values.dtype)
        return (taught.to(values.device, non_blocking=True) * self.weighted(values)).sum()

    def weighted(self, values: Tensor) -> Tensor:
        """Return what each term adds to the total, (K,), of their values, (K,)."""
        raise NotImplementedError

    def backward(
        self,
        losses: Mapping[str, Tensor],
        present: Mapping[str, bool],
        parameters: Iterable[nn.Parameter],
        scale: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Compute the gradients of a step, and return the total, a scalar.

        Args:
            losses: As in `forward`.
            present: As in `forward`.
            parameters: What is trained; not read where gradients are those of the total.
            scale: What a loss passes before its gradient is computed: that of a `GradScaler`.
        """
        total: Tensor = self(losses, present)
        torch.autograd.backward(scale(total))
        self._average_gradients()
        return total

    def _average_gradients(self) -> None:
        """Average over ranks what DistributedDataParallel does not know of, before anything is unscaled or clipped."""
        if process_count() > 1:
            for parameter in self.parameters():
                gradient = parameter.grad
                if gradient is not None:
                    distributed.all_reduce(gradient)
                    gradient /= process_count()

    def weights(self) -> dict[str, float]:
        """Return by what factor the loss of each term enters the total now."""
        raise NotImplementedError

    def end_epoch(self, means: Mapping[str, float]) -> None:
        """Learn what the terms were in an epoch of training.

        Args:
            means: Of each term over the batches that taught it, the same on all ranks; NaN where none did.
        """


class EqualWeights(LossWeighting):
    """The sum of all terms, of any sign: the default."""

    def __init__(self, terms: Sequence[str] = ()) -> None:
        super().__init__(terms)

    def forward(self, losses: Mapping[str, Tensor], present: Mapping[str, bool]) -> Tensor:
        """Return the sum; a term that nothing teaches is 0 times what it holds."""
        return torch.stack([loss if present[term] else 0 * loss for term, loss in losses.items()]).sum()

    def weights(self) -> dict[str, float]:
        """Return 1 for every term."""
        return dict.fromkeys(self.terms, 1.0)


class FixedWeights(LossWeighting):
    """Weights that are given.

    Args:
        terms: Names of the terms.
        factors: Of some terms, their weight, at least 0; 1 for the others.
    """

    factors: Tensor

    def __init__(self, terms: Sequence[str], factors: Mapping[str, float]) -> None:
        super().__init__(terms)
        self.register_buffer("factors", torch.tensor([factors.get(term, 1.0) for term in self.terms]), persistent=False)

    def weighted(self, values: Tensor) -> Tensor:
        """Return the terms times their weights, (K,)."""
        return self.factors * values

    def weights(self) -> dict[str, float]:
        """Return what was given."""
        return dict(zip(self.terms, self.factors.tolist(), strict=True))


class UncertaintyWeights(LossWeighting):
    """Base of learned weights: a log variance s = log sigma^2 for each term, 0 at the start, kept in [-5, 5].

    It is kept there by moving it back before it is used, not by a clamp in the equation, whose gradient would be 0 and
    hold it at the bound for ever.
    """

    def __init__(self, terms: Sequence[str]) -> None:
        super().__init__(terms)
        self.log_variance = nn.Parameter(torch.zeros(len(self.terms)))

    def weighted(self, values: Tensor) -> Tensor:
        """Return the weighted terms and their regularisers, (K,)."""
        # by `data`: the graph of an earlier call stays valid, for which the value was moved back already
        self.log_variance.data.clamp_(-LOG_VARIANCE_BOUND, LOG_VARIANCE_BOUND)
        return self.factors(self.log_variance) * values + self.regulariser(self.log_variance)

    def weights(self) -> dict[str, float]:
        """Return the factors of the losses, without the regularisers."""
        with torch.no_grad():
            factors = self.factors(self.log_variance.clamp(-LOG_VARIANCE_BOUND, LOG_VARIANCE_BOUND))
        return dict(zip(self.terms, factors.tolist(), strict=True))

    def factors(self, log_variance: Tensor) -> Tensor:
        """Return what the losses are multiplied with, (K,)."""
        raise NotImplementedError

    def regulariser(self, log_variance: Tensor) -> Tensor:
        """Return what keeps the variances from growing, (K,)."""
        raise NotImplementedError


class KendallWeights(UncertaintyWeights):
    """Homoscedastic uncertainty (Kendall et al.), with s = log sigma^2.

    Regression terms, `regression/...`, add ``exp(-s)/2 L + s/2``, smallest at sigma^2 = L; all others, which are
    cross-entropies and overlaps of probabilities, ``exp(-s) L + s/2``, smallest at sigma^2 = 2 L. The total is negative
    where a term is small.
    """

    scale: Tensor

    def __init__(self, terms: Sequence[str]) -> None:
        super().__init__(terms)
        scale = [0.5 if term.startswith("regression/") else 1.0 for term in self.terms]
        self.register_buffer("scale", torch.tensor(scale), persistent=False)

    def factors(self, log_variance: Tensor) -> Tensor:
        """Return exp(-s), or half of it, (K,)."""
        return self.scale * torch.exp(-log_variance)

    def regulariser(self, log_variance: Tensor) -> Tensor:
        """Return s/2, (K,)."""
        return 0.5 * log_variance


class LiebelKoernerWeights(UncertaintyWeights):
    """Uncertainty whose regulariser is never negative (Liebel, Körner), of MA-MTLN and ACSNet.

    A term adds ``L / (2 sigma^2) + log(1 + sigma^2)``, smallest at ``sigma^2 = (L + sqrt(L^2 + 8 L)) / 4``. Published
    with sigma as the parameter; here it is s = log sigma^2, which cannot pass through 0.
    """

    def factors(self, log_variance: Tensor) -> Tensor:
        """Return 1 / (2 sigma^2), (K,)."""
        return 0.5 * torch.exp(-log_variance)

    def regulariser(self, log_variance: Tensor) -> Tensor:
        """Return log(1 + sigma^2), (K,)."""
        return softplus(log_variance)


class DynamicWeightAverage(LossWeighting):
    """Weights by how fast a term falls (Liu et al.): more for what learns more slowly.

    With L(e) a term's mean over epoch e, ``r = L(e - 1) / L(e - 2)`` and the weights are ``K softmax(r / T)``; 1 in the
    first two epochs. They add up to K. A term that an epoch did not teach keeps its last two means; until it has two, r
    is 1. So is r where the earlier mean is 0, or 0 to rounding beside the later one: how fast a term left zero says
    nothing of how fast it learns, and an infinite ratio would leave the other terms no weight.

    Args:
        terms: Names of the terms.
        temperature: T; the larger, the more equal.
    """

    factors: Tensor
    history: Tensor

    def __init__(self, terms: Sequence[str], temperature: float = 2.0) -> None:
        super().__init__(terms)
        self.temperature = temperature
        self.register_buffer("history", torch.full((2, len(self.terms)), math.nan))
        self.register_buffer("factors", torch.ones(len(self.terms)))

    def weighted(self, values: Tensor) -> Tensor:
        """Return the terms times their weights, (K,)."""
        return self.factors * values

    def weights(self) -> dict[str, float]:
        """Return the weights of this epoch."""
        return dict(zip(self.terms, self.factors.tolist(), strict=True))

    def end_epoch(self, means: Mapping[str, float]) -> None:
        """Set the weights of the next epoch; arguments as of `LossWeighting.end_epoch`."""
        new = self.history.new_tensor([means[term] for term in self.terms])
        known = new.isfinite()
        self.history = torch.where(known, torch.stack([self.history[1], new]), self.history)
        before, now = self.history
        # no ratio without two means, which are NaN before, and none from 0
        ratio = torch.where(before > torch.finfo(now.dtype).eps * now, now / before, 1.0)
        self.factors = len(self.terms) * torch.softmax(ratio / self.temperature, 0)


def fixed_factors(text: str, terms: Sequence[str]) -> dict[str, float]:
    """Read weights such as "liver=1,malignancy=0.5".

    Args:
        text: Names of tasks or questions, or whole names of terms, and numbers.
        terms: Names of the terms, such as `segmentation/liver`.

    Returns:
        The weight by the name of the term.

    Raises:
        LossWeightingError: Naming what is no term, names two, is given twice, or is no number of at least 0.
    """
    factors: dict[str, float] = {}
    for assignment in text.split(","):
        name, equals, number = (part.strip() for part in assignment.partition("="))
        meant = [term for term in terms if name in (term, term.partition("/")[2])]
        if not equals or len(meant) != 1:
            choice = meant or [term.partition("/")[2] or term for term in terms]
            similar = "" if meant else did_you_mean(name, choice)
            raise LossWeightingError(
                f"loss_weights: {shown(assignment)} must be NAME=WEIGHT with one of {listed(choice)}{similar}, "
                "such as liver=1,malignancy=0.5"
            )
        (term,) = meant
        if term in factors:
            raise LossWeightingError(f"loss_weights: {spelt(name)} is given twice")
        factors[term] = _weight(name, number)
    if not any(factors.get(term, 1.0) for term in terms):
        raise LossWeightingError("loss_weights: at least one term needs a weight above 0")
    return factors


def _weight(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise LossWeightingError(f"loss_weights: {spelt(name)}={shown(text)} must be a number of at least 0")
    return value


def _refuse_negative(values: Tensor, terms: Sequence[str]) -> None:
    negative = values < -ROUNDING
    if negative.any():
        index = int(negative.nonzero()[0])
        raise LossWeightingError(
            f"the loss term {terms[index]} is {float(values[index]):.4g}; weights are for terms of at least 0: "
            "nnunet_mtl plan --set loss_weighting=equal"
        )
