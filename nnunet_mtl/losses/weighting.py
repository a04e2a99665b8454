"""Weights of the terms of the loss: equal, fixed, learned as uncertainties, or computed from how fast a term falls.

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

# Bound of |s|, s = log sigma^2. Without it a term that reaches 0 would send s to -infinity and exp(-s) to infinity.
LOG_VARIANCE_BOUND = 5.0
# By rounding a Dice can exceed 1, and 1 - Dice can be below 0, by this much.
ROUNDING = 1e-4


class LossWeightingError(UserError):
    """A given weight names no term of the loss or is not a number of at least 0, or a term of the loss is negative."""


class LossWeighting(nn.Module):
    """Base of every weighting: computes one scalar from K terms of the loss.

    A term is present in a batch if the batch holds an annotation for it. A term that is not present adds neither its
    loss nor its regulariser. It stays in the graph all the same, so that its parameters get a gradient of 0:
    DistributedDataParallel fails where a gradient is missing.

    Args:
        terms: Names of the terms, in the order of `loss_terms` of the trainer.
    """

    def __init__(self, terms: Sequence[str]) -> None:
        super().__init__()
        self.terms = tuple(terms)

    def forward(self, losses: Mapping[str, Tensor], present: Mapping[str, bool]) -> Tensor:
        """Return the total, a scalar.

        Args:
            losses: Terms by name, scalars of at least 0.
            present: Whether a term is present in the batch, by name; on the CPU, so that nothing waits for the device.

        Raises:
            LossWeightingError: If a term is negative. This check waits once for the device in every step.
        """
        values = torch.stack([losses[term] for term in self.terms])
        _refuse_negative(values.detach(), self.terms)
        taught = torch.tensor([float(present[term]) for term in self.terms], dtype=values.dtype)
        return (taught.to(values.device, non_blocking=True) * self.weighted(values)).sum()

    def weighted(self, values: Tensor) -> Tensor:
        """Return what the terms add to the total, (K,), from the values of the terms, (K,)."""
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
            parameters: Trained parameters; read only by weightings that change the gradients of single terms.
            scale: Function that is applied to a loss before its gradient is computed, such as that of a `GradScaler`.
        """
        total: Tensor = self(losses, present)
        torch.autograd.backward(scale(total))
        self._average_gradients()
        return total

    def _average_gradients(self) -> None:
        """Average over ranks the gradients of the weighting's own parameters, which DistributedDataParallel ignores.

        This comes before gradients are unscaled and clipped.
        """
        if process_count() > 1:
            for parameter in self.parameters():
                gradient = parameter.grad
                if gradient is not None:
                    distributed.all_reduce(gradient)
                    gradient /= process_count()

    def weights(self) -> dict[str, float]:
        """Return the factor with which the loss of every term enters the total now, by name."""
        raise NotImplementedError

    def end_epoch(self, means: Mapping[str, float]) -> None:
        """Take note of the terms' means at the end of a training epoch; the base does nothing.

        Args:
            means: Mean of every term over the batches in which it was present, the same on all ranks; NaN if there was
                no such batch.
        """


class EqualWeights(LossWeighting):
    """The default: the sum of all terms, which may be negative."""

    def __init__(self, terms: Sequence[str] = ()) -> None:
        super().__init__(terms)

    def forward(self, losses: Mapping[str, Tensor], present: Mapping[str, bool]) -> Tensor:
        """Return the sum of the terms; a term that is not present is multiplied by 0."""
        return torch.stack([loss if present[term] else 0 * loss for term, loss in losses.items()]).sum()

    def weights(self) -> dict[str, float]:
        """Return 1 for every term."""
        return dict.fromkeys(self.terms, 1.0)


class FixedWeights(LossWeighting):
    """Weights that the user gives.

    Args:
        terms: Names of the terms.
        factors: Weights by the name of the term, at least 0; a term that is missing here has the weight 1.
    """

    factors: Tensor

    def __init__(self, terms: Sequence[str], factors: Mapping[str, float]) -> None:
        super().__init__(terms)
        self.register_buffer("factors", torch.tensor([factors.get(term, 1.0) for term in self.terms]), persistent=False)

    def weighted(self, values: Tensor) -> Tensor:
        """Return the terms times their weights, (K,)."""
        return self.factors * values

    def weights(self) -> dict[str, float]:
        """Return the given weights."""
        return dict(zip(self.terms, self.factors.tolist(), strict=True))


class UncertaintyWeights(LossWeighting):
    """Base of learned weights: a log variance s = log sigma^2 for each term, 0 at the start, kept in [-5, 5].

    A log variance beyond a bound is moved back to the bound before it is used. A clamp in the equation would not do:
    its gradient beyond the bound is 0, and the log variance would stay there for ever.
    """

    def __init__(self, terms: Sequence[str]) -> None:
        super().__init__(terms)
        self.log_variance = nn.Parameter(torch.zeros(len(self.terms)))

    def weighted(self, values: Tensor) -> Tensor:
        """Return the weighted terms and their regularisers, (K,)."""
        # `data` is changed so that the graph of an earlier call, which used the bounded value too, stays valid.
        self.log_variance.data.clamp_(-LOG_VARIANCE_BOUND, LOG_VARIANCE_BOUND)
        return self.factors(self.log_variance) * values + self.regulariser(self.log_variance)

    def weights(self) -> dict[str, float]:
        """Return the factors of the losses, without the regularisers."""
        with torch.no_grad():
            factors = self.factors(self.log_variance.clamp(-LOG_VARIANCE_BOUND, LOG_VARIANCE_BOUND))
        return dict(zip(self.terms, factors.tolist(), strict=True))

    def factors(self, log_variance: Tensor) -> Tensor:
        """Return the factors of the losses, (K,), from the log variances, (K,)."""
        raise NotImplementedError

    def regulariser(self, log_variance: Tensor) -> Tensor:
        """Return the terms that keep the variances from growing, (K,), from the log variances, (K,)."""
        raise NotImplementedError


class KendallWeights(UncertaintyWeights):
    """Homoscedastic uncertainty (Kendall et al.), with s = log sigma^2.

    A regression term L, `regression/...`, adds ``exp(-s)/2 L + s/2``, which is smallest at sigma^2 = L. All other terms
    are cross-entropies and overlaps of probabilities; they add ``exp(-s) L + s/2``, which is smallest at sigma^2 = 2 L.
    What a small term adds is negative.
    """

    scale: Tensor

    def __init__(self, terms: Sequence[str]) -> None:
        super().__init__(terms)
        scale = [0.5 if term.startswith("regression/") else 1.0 for term in self.terms]
        self.register_buffer("scale", torch.tensor(scale), persistent=False)

    def factors(self, log_variance: Tensor) -> Tensor:
        """Return exp(-s), for regression terms exp(-s)/2, (K,)."""
        return self.scale * torch.exp(-log_variance)

    def regulariser(self, log_variance: Tensor) -> Tensor:
        """Return s/2, (K,)."""
        return 0.5 * log_variance


class LiebelKoernerWeights(UncertaintyWeights):
    """Uncertainty whose regulariser is never negative (Liebel, Körner), of MA-MTLN and ACSNet.

    A term L adds ``L / (2 sigma^2) + log(1 + sigma^2)``, which is smallest at ``sigma^2 = (L + sqrt(L^2 + 8 L)) / 4``.
    The published parameter is sigma; here it is s = log sigma^2, so that sigma^2 cannot reach 0.
    """

    def factors(self, log_variance: Tensor) -> Tensor:
        """Return 1 / (2 sigma^2), (K,)."""
        return 0.5 * torch.exp(-log_variance)

    def regulariser(self, log_variance: Tensor) -> Tensor:
        """Return log(1 + sigma^2), (K,)."""
        return softplus(log_variance)


class DynamicWeightAverage(LossWeighting):
    """Weights computed from how fast the terms fall (Liu et al.): a term that falls more slowly gets a larger weight.

    With L(e) the mean of a term over epoch e and ``r = L(e - 1) / L(e - 2)``, the weights are ``K softmax(r / T)``,
    which add up to K. In the first two epochs all weights are 1. A term that was not present in an epoch keeps its last
    two means; until a term has two means, its r is 1. Its r is also 1 if the earlier mean is 0 or rounds to 0 beside
    the later one: such a ratio says nothing about how fast the term learns, and an infinite ratio would leave the other
    terms no weight.

    Args:
        terms: Names of the terms.
        temperature: T; a larger temperature makes the weights more equal.
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
        """Set the weights of the next epoch; arguments as in `LossWeighting.end_epoch`."""
        new = self.history.new_tensor([means[term] for term in self.terms])
        known = new.isfinite()
        self.history = torch.where(known, torch.stack([self.history[1], new]), self.history)
        before, now = self.history
        # The ratio is 1 until a term has two means (missing ones are NaN), and if the earlier mean is 0.
        ratio = torch.where(before > torch.finfo(now.dtype).eps * now, now / before, 1.0)
        self.factors = len(self.terms) * torch.softmax(ratio / self.temperature, 0)


def fixed_factors(text: str, terms: Sequence[str]) -> dict[str, float]:
    """Read weights such as "liver=1,malignancy=0.5".

    Args:
        text: NAME=WEIGHT pairs, separated by commas. NAME is a task, a question or the whole name of a term.
        terms: Names of the terms, such as `segmentation/liver`.

    Returns:
        The weights by the name of the term.

    Raises:
        LossWeightingError: If a name fits no term or several terms, a name is given twice, a weight is not a number of
            at least 0, or all weights are 0.
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
