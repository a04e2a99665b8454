import torch

from nnunet_mtl.networks.classification import Features, Question
from nnunet_mtl.networks.streams.stream_heads import StreamHead

ASKED: list[Question] = [
    {"name": "malignant", "outputs": 2, "evidence": 1, "task": 0},
    {"name": "stage", "outputs": 3, "evidence": -1, "task": -1},
]


def head() -> StreamHead:
    torch.manual_seed(0)
    made = StreamHead(ASKED, [4, 8], [4], dropout=0.0).eval()
    with torch.no_grad():
        for answer in made.answers:
            answer.output.weight.normal_()
            answer.standardise.mean.normal_()
    return made


def features(streams: list[torch.Tensor]) -> Features:
    return Features([torch.full((2, 4, 4, 4), torch.nan)], torch.full((2, 4, 4, 4), torch.nan), None, streams)


def test_a_question_is_answered_from_the_mean_of_its_own_stream() -> None:
    made = head()
    streams = [torch.randn(2, 8, 4, 5), torch.randn(2, 8, 3, 4, 5)]
    for index, outputs in enumerate((2, 3)):
        expected = made.answers[index](streams[index].flatten(2).mean(2))
        answered = made(index, features(streams), None)
        assert answered.shape == (2, outputs)
        torch.testing.assert_close(answered, expected)
        shifted = [stream + (index == other) for other, stream in enumerate(streams)]
        assert not torch.allclose(made(index, features(shifted), None), answered, atol=1e-3)
        others = [stream + (index != other) for other, stream in enumerate(streams)]
        assert torch.equal(made(index, features(others), None), answered)


def test_means_are_taken_in_single_precision() -> None:
    stream = (3 + torch.randn(1, 8, 30, 30, generator=torch.Generator().manual_seed(0))).bfloat16()
    answered = head()(0, features([stream]), None)
    assert answered.dtype == torch.float32
    torch.testing.assert_close(answered, head()(0, features([stream.float()]), None), atol=1e-5, rtol=1e-5)


def test_it_asks_for_a_stream_of_every_question() -> None:
    assert StreamHead.reads_streams
    assert [question["name"] for question in head().questions] == ["malignant", "stage"]
