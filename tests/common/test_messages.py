import pytest

from nnunet_mtl.common.messages import did_you_mean


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("livr", ["kidney", "liver"], " (did you mean liver?)"),
        ("Liver", ["kidney", "liver"], " (did you mean liver?)"),
        (
            "nnUNetTrainerMTLAtention",
            ["nnUNetTrainer", "nnUNetTrainerMTLAttention"],
            " (did you mean nnUNetTrainerMTLAttention?)",
        ),
        ("3d", ["2d", "3d_fullres"], " (did you mean 3d_fullres?)"),
        ("node", ["lymph node"], ' (did you mean "lymph node"?)'),
        ("heart", ["kidney", "liver"], ""),
        ("", ["kidney"], ""),
        ("liver", [], ""),
    ],
)
def test_the_name_that_is_most_like_a_wrong_one_is_named(name: str, known: list[str], expected: str) -> None:
    assert did_you_mean(name, known) == expected
