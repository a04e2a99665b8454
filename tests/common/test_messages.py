import pytest

from nnunet_mtl.common.messages import did_you_mean, one_line


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


def test_the_place_in_the_source_of_simpleitk_is_left_out() -> None:
    error = RuntimeError(
        "Exception thrown in X:\n/tmp/itkPNGImageIO.cxx:249:\nITK ERROR: PNGImageIO(0x5): no PNG: a.png"
    )
    assert one_line(error) == "PNGImageIO(0x5): no PNG: a.png"
    assert one_line(RuntimeError("Exception thrown in X: /tmp/x.cxx:99:\nsitk::ERROR: no reader")) == "no reader"
