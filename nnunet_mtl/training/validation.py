"""Export of the final validation, restricted to what is annotated.

nnU-Net scores every label of a validation case, also one nobody annotated there, so a correct prediction of it counts
as an error. Maps that hold only what is annotated in their case make nnU-Net's own scoring, cross-validation summary
and choice of the best configuration right. What the next stage of a cascade reads is not restricted.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from nnunetv2.evaluation.evaluate_predictions import load_summary_json
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from torch import Tensor

# Far below the threshold, and safe in half precision under the Gaussian weighting of the sliding window.
OFF = -100.0


class RestrictedExport:
    """Stands in for nnU-Net's `export_prediction_from_logits` during the final validation; pickled to its workers.

    Args:
        annotated: For each validation case, which of the R regions are annotated.
    """

    def __init__(self, annotated: Mapping[str, tuple[bool, ...]]) -> None:
        self._annotated = dict(annotated)

    def __call__(
        self,
        prediction: Tensor,
        properties: dict[str, Any],
        configuration_manager: Any,
        plans_manager: Any,
        dataset_json: dict[str, Any],
        output_file_truncated: str,
        *rest: Any,
    ) -> None:
        """Switch un-annotated regions off, in a copy, and let nnU-Net export the rest.

        Args:
            prediction: Logits, (R, *spatial).
            properties: Of the image, as nnU-Net's reader gave them.
            configuration_manager: nnU-Net's.
            plans_manager: nnU-Net's.
            dataset_json: As saved with the model.
            output_file_truncated: Path without ending; its last part is the case identifier.
            *rest: Further arguments of nnU-Net's function, passed on.
        """
        annotated = torch.tensor(self._annotated[Path(output_file_truncated).name])
        visible = annotated.view(-1, *(1,) * (prediction.ndim - 1))
        # a new tensor: the workers of the next stage read the same shared memory
        restricted = torch.where(visible, prediction, torch.full_like(prediction, OFF))
        export_prediction_from_logits(
            restricted,
            properties,
            configuration_manager,
            plans_manager,
            dataset_json,
            output_file_truncated,
            *rest,
        )


def regions_without_a_score(summary: Path, regions: Mapping[str, Any]) -> list[str]:
    """Return the regions whose mean Dice is not available in the summary of a validation.

    Args:
        summary: nnU-Net's `summary.json`.
        regions: By name, nnU-Net's key of each: the label, or the tuple of a region's labels.
    """
    means = load_summary_json(str(summary))["mean"]
    return [name for name, key in regions.items() if math.isnan(means[key]["Dice"])]
