"""Layers of .cfg files against plain loops over their numbers, written from Darknet's description of each."""

import math
import struct
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from boxwright import recipe, weights
from boxwright.darknet_cfg.layers import ACTIVATIONS
from boxwright.darknet_cfg.plan import plan
from boxwright.errors import InputError
from boxwright.models import darknet_cfg
from boxwright.nn.darknet_activations import activation
from boxwright.weights import darknet
from oracle_weights import Array

NET = "[net]\nwidth=9\nheight=7\nchannels=3\n"
FIRST = "[convolutional]\nfilters=8\nsize=1\nactivation=linear\n"


def outputs(text: str, seed: int = 0) -> list[Array]:
    """The output of each layer of a small network (C, H, W) for a random image."""
    torch.manual_seed(seed)
    model = darknet_cfg.build(darknet_cfg.Config(cfg=text)).eval()
    images = torch.rand(1, 3, *plan(text).image[1:])
    with torch.inference_mode():
        found = model.layers(images, range(len(plan(text).layers)))  # type: ignore[operator]
    return [each[0].numpy() for each in found]


def last_layer_input_and_output(section: str) -> tuple[Array, Array]:
    """Input and output of a layer behind a convolution of 8 filters."""
    before, after = outputs(NET + FIRST + section)
    return before, after


def pool(x: Array, kind: str, size: int, stride: int, padding: int) -> Array:
    """Darknet's pools: padding in total, half of it (rounded down) at the start; outside counts for nothing."""
    channels, height, width = x.shape
    rows, columns = ((side + padding - size) // stride + 1 for side in (height, width))
    out = np.empty((channels, rows, columns), np.float32)
    for c, i, j in product(range(channels), range(rows), range(columns)):
        top, left = i * stride - padding // 2, j * stride - padding // 2
        part = x[c, max(0, top) : max(0, top + size), max(0, left) : max(0, left + size)]
        out[c, i, j] = part.max() if kind == "maxpool" else part.mean()
    return out


@pytest.mark.parametrize("kind", ["maxpool", "local_avgpool"])
def test_pooling_layers(kind: str) -> None:
    for size, stride, padding in product((2, 3, 4, 5), (1, 2, 3), (None, 0, 1, 2, 3)):
        if padding is not None and padding > 2 * (size - 1):
            continue
        text = f"[{kind}]\nsize={size}\nstride={stride}\n" + ("" if padding is None else f"padding={padding}\n")
        before, after = last_layer_input_and_output(text)
        wanted = pool(before, kind, size, stride, size - 1 if padding is None else padding)
        np.testing.assert_allclose(after, wanted, atol=1e-6, err_msg=text)


def test_antialiased_maxpool_and_maxpool_depth() -> None:
    before, after = last_layer_input_and_output("[maxpool]\nsize=2\nstride=2\nantialiasing=1\n")
    padded = np.pad(pool(before, "maxpool", 2, 1, 1), ((0, 0), (1, 1), (1, 1)))
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
    wanted = np.empty((8, 4, 5), np.float32)
    for c, i, j in product(range(8), range(4), range(5)):
        wanted[c, i, j] = (padded[c, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] * kernel).sum()
    np.testing.assert_allclose(after, wanted, atol=1e-6)
    before, after = last_layer_input_and_output("[maxpool]\nmaxpool_depth=1\nout_channels=2\n")
    np.testing.assert_array_equal(after, [before[0::2].max(0), before[1::2].max(0)])


def test_reorg_and_reorg3d_in_both_directions() -> None:
    """Index by index, as reorg_cpu does."""

    def reorg(x: Array, shape: tuple[int, int, int], stride: int, forward: bool) -> Array:
        channels, height, width = shape
        small = channels // stride**2
        out, flat = np.empty(x.size, np.float32), x.reshape(-1)
        for k, j, i in product(range(channels), range(height), range(width)):
            offset, c = divmod(k, small)
            row, column = j * stride + offset // stride, i * stride + offset % stride
            inner, outer = i + width * (j + height * k), column + width * stride * (row + height * stride * c)
            out[outer if forward else inner] = flat[inner if forward else outer]
        return out

    head = NET.replace("=9", "=8").replace("=7", "=4") + FIRST.replace("8", "32")
    for section, shape, forward, out in (
        ("[reorg3d]\nstride=2\n", (128, 2, 4), False, (128, 2, 4)),
        ("[reorg]\nstride=2\n", (32, 4, 8), False, (128, 2, 4)),
        ("[reorg]\nstride=2\nreverse=1\n", (32, 4, 8), True, (8, 8, 16)),
        ("[reorg3d]\nstride=2\nreverse=1\n", (8, 8, 16), True, (8, 8, 16)),
    ):
        before, after = outputs(head + section)
        assert after.shape == out
        np.testing.assert_array_equal(after.reshape(-1), reorg(before, shape, 2, forward), err_msg=section)


def test_upsample_crop_softmax_and_avgpool() -> None:
    before, after = last_layer_input_and_output("[upsample]\nstride=3\nscale=0.5\n")
    np.testing.assert_allclose(after, before.repeat(3, 1).repeat(3, 2) / 2)
    before, after = last_layer_input_and_output("[upsample]\nstride=-2\n")
    np.testing.assert_allclose(after, before[:, :6, :8].reshape(8, 3, 2, 4, 2).sum((2, 4)), atol=1e-6)
    before, after = last_layer_input_and_output("[crop]\ncrop_width=4\ncrop_height=4\n")
    np.testing.assert_allclose(after, 2 * before[:, 1:5, 2:6] - 1, atol=1e-6)
    before, after = last_layer_input_and_output("[crop]\ncrop_width=9\ncrop_height=6\nnoadjust=1\n")
    np.testing.assert_array_equal(after, before[:, :6])
    before, after = last_layer_input_and_output("[softmax]\ngroups=2\ntemperature=1.5\n")
    raised = np.exp(before.reshape(2, -1) / 1.5)
    np.testing.assert_allclose(after.reshape(2, -1), raised / raised.sum(1, keepdims=True), rtol=1e-5)
    before, after = last_layer_input_and_output("[avgpool]\n")
    np.testing.assert_allclose(after[:, 0, 0], before.mean((1, 2)), atol=1e-6)


def test_route_groups_select_the_same_block_of_each_input() -> None:
    text = NET + FIRST + FIRST.replace("8", "4") + "[route]\nlayers=-1,0\ngroups=2\ngroup_id=1\n"
    first, second, after = outputs(text)
    np.testing.assert_array_equal(after, np.concatenate((second[2:], first[4:])))


def test_shortcuts_with_different_channels_and_sizes() -> None:
    """Channels that another lacks add nothing, others are dropped; of a larger map every second place counts."""
    small, large = FIRST.replace("8", "5"), FIRST.replace("8", "11")
    for head, other in ((small, FIRST), (large, FIRST), (FIRST, FIRST)):
        first, second, after = outputs(NET + other + head + "[shortcut]\nfrom=0\n")
        wanted, shared = second.copy(), min(len(first), len(second))
        wanted[:shared] += first[:shared]
        np.testing.assert_allclose(after, wanted, atol=1e-6)
    even = NET.replace("=9", "=12").replace("=7", "=8")
    first, second, after = outputs(even + FIRST + small + "stride=2\n[shortcut]\nfrom=-2\nactivation=leaky\n")
    wanted = second + first[:5, ::2, ::2]
    np.testing.assert_allclose(after, np.where(wanted > 0, wanted, 0.1 * wanted), atol=1e-6)
    first, second, third, after = outputs(even + FIRST + FIRST + "stride=2\n[upsample]\n[shortcut]\nfrom=1\n")
    third = third.copy()
    third[:, ::2, ::2] += second
    np.testing.assert_allclose(after, third, atol=1e-6)


@pytest.mark.parametrize("kind", ["per_feature", "per_channel"])
@pytest.mark.parametrize("normalization", ["relu", "softmax", "none"])
def test_weighted_shortcuts(kind: str, normalization: str) -> None:
    text = NET + FIRST + FIRST + f"[shortcut]\nfrom=-2\nweights_type={kind}\nweights_normalization={normalization}\n"
    torch.manual_seed(0)
    model = darknet_cfg.build(darknet_cfg.Config(cfg=text)).eval()
    shortcut = model.layers[2]  # type: ignore[index]
    count = 8 if kind == "per_channel" else 1
    factors = np.random.default_rng(0).normal(0.5, 1, (2, count)).astype(np.float32)
    factors[0, 0] = -1
    with torch.inference_mode():
        shortcut.weights.copy_(torch.from_numpy(factors))
        first, second, after = model.layers(torch.rand(1, 3, 7, 9), [0, 1, 2])  # type: ignore[operator]
    share = {
        "relu": lambda w: np.maximum(w, 0.001) / (0.0001 + np.maximum(w, 0.001).sum(0)),
        "softmax": lambda w: np.exp(w - w.max(0)) / (0.0001 + np.exp(w - w.max(0)).sum(0)),
        "none": lambda w: w,
    }[normalization](factors)[..., None, None]
    np.testing.assert_allclose(after[0], second[0].numpy() * share[0] + first[0].numpy() * share[1], atol=1e-6)


def scalar(name: str, x: float) -> float:
    """An activation of one number, as activations.h has it."""
    whole = math.floor(x)
    return {
        "linear": lambda: x,
        "logistic": lambda: 1 / (1 + math.exp(-x)),
        "loggy": lambda: 2 / (1 + math.exp(-x)) - 1,
        "relu": lambda: x * (x > 0),
        "relu6": lambda: min(max(x, 0), 6),
        "elu": lambda: x if x >= 0 else math.exp(x) - 1,
        "selu": lambda: 1.0507 * x if x >= 0 else 1.0507 * 1.6732 * (math.exp(x) - 1),
        "gelu": lambda: 0.5 * x * (1 + math.tanh(0.797885 * x + 0.035677 * x**3)),
        "relie": lambda: x if x > 0 else 0.01 * x,
        "ramp": lambda: x * (x > 0) + 0.1 * x,
        "leaky": lambda: x if x > 0 else 0.1 * x,
        "revleaky": lambda: x if x > 0 else 0.1 * x,
        "tanh": lambda: math.tanh(x),
        "plse": lambda: 0.01 * (x + 4) if x < -4 else 0.01 * (x - 4) + 1 if x > 4 else 0.125 * x + 0.5,
        "stair": lambda: math.floor(x / 2) if whole % 2 == 0 else (x - whole) + math.floor(x / 2),
        "hardtan": lambda: min(max(x, -1), 1),
        "lhtan": lambda: 0.001 * x if x < 0 else 0.001 * (x - 1) + 1 if x > 1 else x,
        "swish": lambda: x / (1 + math.exp(-x)),
        "mish": lambda: x * math.tanh(math.log1p(math.exp(x))),
        "hard_mish": lambda: x if x > 0 else x * x / 2 + x if x > -2 else 0,
    }[name]()


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations(name: str) -> None:
    x = torch.linspace(-8.03, 8.11, 96).view(1, 4, 4, 6)
    found = activation(name)(x.clone()).numpy()
    plain = x.numpy().astype(np.float64)
    if name.startswith("normalize_channels"):
        value = {
            "normalize_channels": np.maximum(plain, 0),
            "normalize_channels_softmax": np.exp(plain),
            "normalize_channels_softmax_maxval": np.exp(plain - plain.max(1, keepdims=True)),
        }[name]
        wanted = value / (0.0001 + value.sum(1, keepdims=True))
    else:
        wanted = np.vectorize(lambda each: scalar(name, each), otypes=[float])(plain)
    np.testing.assert_allclose(found, wanted, atol=2e-5, rtol=2e-5)


def test_weights_of_batchnorm_and_connected_layers(tmp_path: Path) -> None:
    """[batchnorm] is biases, scales, mean, var; [connected] is biases, weights, scales, mean, var. Versions above 1000
    hold the weights of [connected] transposed."""
    file, cfg = tmp_path / "a.weights", tmp_path / "a.cfg"
    cfg.write_text(NET + "[batchnorm]\n[connected]\noutput=2\nbatch_normalize=1\nactivation=linear\n[softmax]\n")
    settings = recipe.of_cfg(cfg)
    draw = np.random.default_rng(0)
    bias, scale, mean = draw.normal(size=(3, 3)).astype("<f4")
    var, more = draw.uniform(0.5, 2, 3).astype("<f4"), draw.normal(size=(3, 2)).astype("<f4")
    variance, matrix = draw.uniform(0.5, 2, 2).astype("<f4"), draw.normal(size=(2, 3 * 7 * 9)).astype("<f4")
    image = draw.random((1, 3, 7, 9), dtype=np.float32)
    normal = (image[0] - mean[:, None, None]) / np.sqrt(var + 1e-5)[:, None, None]
    x = matrix @ (normal * scale[:, None, None] + bias[:, None, None]).reshape(-1)
    wanted = (x - more[2 - 1]) / np.sqrt(variance + 1e-5) * more[0] + more[2]
    for version, weight in ((0, matrix), (1001, matrix.T)):
        parts = (bias, scale, mean, var, more[2], weight, more[0], more[1], variance)
        header = struct.pack("<iiiQ", version, 2, 0, 7)
        file.write_bytes(header + b"".join(np.ascontiguousarray(part).tobytes() for part in parts))
        model = weights.build(file, settings).eval()
        with torch.inference_mode():
            (found,) = model(torch.from_numpy(image))
        np.testing.assert_allclose(found[0].numpy(), wanted, rtol=1e-4, atol=1e-4)
    darknet.write(tmp_path / "b.weights", model, header=darknet.Header(0, 2, 0, 7))
    plain = b"".join(part.tobytes() for part in (bias, scale, mean, var, more[2], matrix, more[0], more[1], variance))
    assert (tmp_path / "b.weights").read_bytes()[20:] == plain


def test_versions_above_1000_need_connected_layers(tmp_path: Path) -> None:
    file, cfg = tmp_path / "a.weights", tmp_path / "a.cfg"
    cfg.write_text(NET + FIRST)
    file.write_bytes(struct.pack("<iiiQ", 1001, 0, 0, 0) + bytes(4 * 32))
    with pytest.raises(InputError, match=r"version 1001.0.0 is of networks with \[connected\] layers"):
        weights.build(file, recipe.of_cfg(cfg))


def grid(text: str, raw: Tensor) -> tuple[Tensor, Tensor]:
    """All boxes in shares of the input, and their scores."""
    model = darknet_cfg.build(darknet_cfg.Config(cfg=text)).eval()
    boxes, scores = model.decode_padded((raw,))  # type: ignore[operator]
    _, height, width = plan(text).image
    return boxes[0, :, 0] / torch.tensor([width, height, width, height]), scores[0]


def test_head_decoding_by_hand() -> None:
    """Each number of one cell by hand, for strides that differ in x and y."""
    net = "[net]\nwidth=96\nheight=64\nchannels=3\n[convolutional]\nstride_x=32\nstride_y=16\nactivation=linear\n"
    raw = torch.from_numpy(np.random.default_rng(1).uniform(0.1, 0.9, (1, 30, 4, 3)).astype(np.float32))
    s = raw[0].double().sigmoid()
    cases = {
        "yolo": ("filters=14\n[yolo]\nnum=2\nclasses=2\nanchors=9,8, 50,40\nscale_x_y=1.1\n", 7),
        "new": ("filters=14\n[yolo]\nnum=2\nclasses=2\nanchors=9,8, 50,40\nnew_coords=1\nscale_x_y=2\n", 7),
        "region": ("filters=14\n[region]\nnum=2\nclasses=2\nanchors=1.5,2, 3,2.5\nsoftmax=1\n", 7),
        "gaussian": ("filters=22\n[Gaussian_yolo]\nnum=2\nclasses=2\nanchors=9,8, 50,40\n", 11),
    }
    for kind, (text, values) in cases.items():
        boxes, scores = grid(net + text, raw[:, : 2 * values])
        anchor, row, column = 1, 2, 1
        t, p = raw[0, values:, row, column].double(), s[values:, row, column]
        w, h = (50 / 96, 40 / 64)
        if kind == "yolo":
            x, y, objectness, classes = 1.1 * p[0] - 0.05, 1.1 * p[1] - 0.05, p[4], p[5:7]
            sides = (t[2].exp() * w, t[3].exp() * h)
        elif kind == "new":
            x, y, objectness, classes = 2 * t[0] - 0.5, 2 * t[1] - 0.5, t[4], t[5:7]
            sides = ((2 * t[2]) ** 2 * w, (2 * t[3]) ** 2 * h)
        elif kind == "region":
            x, y, objectness, classes = p[0], p[1], p[4], t[5:7].softmax(0)
            sides = (t[2].exp() * 3 / 3, t[3].exp() * 2.5 / 4)
        else:
            certain = 1 - (p[1] + p[3] + p[5] + p[7]) / 4
            x, y, objectness, classes = p[0], p[2], p[8] * certain, p[9:11]
            sides = (t[4].exp() * w, t[6].exp() * h)
        center = torch.stack(((column + x) / 3, (row + y) / 4))
        half = torch.stack(sides) / 2
        index = anchor * 12 + row * 3 + column
        corners = torch.cat((center - half, center + half))
        torch.testing.assert_close(boxes[index].double(), corners, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(scores[index].double(), objectness * classes, rtol=1e-5, atol=1e-6)


def test_input_size_mismatch_of_connected_layers_is_an_error() -> None:
    text = NET + FIRST + "[connected]\noutput=3\n[softmax]\n"
    model = darknet_cfg.build(darknet_cfg.Config(cfg=text)).eval()
    assert model(torch.zeros(1, 3, 7, 9))[0].shape == (1, 3)
    with pytest.raises(InputError, match=r"found 8 x 9 px, this \.cfg needs 7 x 9 px"):
        model(torch.zeros(1, 3, 8, 9))


def test_input_size_with_several_classifier_positions_is_an_error() -> None:
    """A 7 x 9 window has one position on 7 x 9 px, but two on 14 x 9 px, which would be 16 classes instead of 8."""
    text = NET + "[convolutional]\nfilters=8\nsize=1\n[maxpool]\nsize=7\nstride=7\npadding=0\n[softmax]\n"
    model = darknet_cfg.build(darknet_cfg.Config(cfg=text)).eval()
    assert model(torch.zeros(1, 3, 7, 9))[0].shape == (1, 8)
    with pytest.raises(InputError, match=r"found 14 x 9 px, this \.cfg needs 7 x 9 px"):
        model(torch.zeros(1, 3, 14, 9))


def test_rgb_is_converted_for_gray_networks() -> None:
    """channels=1: RGB is weighed to gray (ITU-R BT.601), and one channel is taken as it is."""
    text = NET.replace("3", "1") + FIRST
    model = darknet_cfg.build(darknet_cfg.Config(cfg=text)).eval()
    images = torch.rand(2, 3, 7, 9)
    gray = 0.299 * images[:, :1] + 0.587 * images[:, 1:2] + 0.114 * images[:, 2:]
    torch.testing.assert_close(model(images)[0], model(gray)[0])
