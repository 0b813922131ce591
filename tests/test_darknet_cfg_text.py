"""How .cfg files are read: AlexeyAB's reading, and one line with file, section and line for what is not read."""

import subprocess
import sys
from pathlib import Path

import pytest

from boxwright import recipe
from boxwright.darknet_cfg.layers import Convolution, Head
from boxwright.darknet_cfg.plan import plan, with_classes, with_size
from boxwright.darknet_cfg.text import MAX_CFG, parse, read_cfg
from boxwright.errors import InputError

NET = "[net]\nwidth=64\nheight=64\nchannels=3\n"
CONV = "[convolutional]\nfilters=21\nsize=1\nactivation=linear\n"
YOLO = "[yolo]\nmask=0,1,2\nnum=3\nclasses=2\nanchors=1,2, 3,4, 5,6\n"


def single_convolution(lines: str) -> Convolution:
    """The one convolution of a network, with these lines in its section."""
    (layer,) = plan(f"{NET}[convolutional]\n{lines}\n").layers
    assert isinstance(layer, Convolution)
    return layer


def head(**changes: str) -> Head:
    lines = dict(line.split("=") for line in YOLO.splitlines()[1:]) | changes
    text = NET + CONV + "[yolo]\n" + "".join(f"{key}={value}\n" for key, value in lines.items())
    return plan(text).heads[0]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("filters=8", {"filters": 8, "size": 1, "stride": (1, 1), "padding": 0, "activation": "logistic"}),
        ("batch _normalize = 1\nfil ters= 8", {"norm": True, "filters": 8}),  # blanks count nowhere
        ("\tfilters\t=\t8\r", {"filters": 8}),
        ("filters=8\nfilters=4", {"filters": 8}),  # the first counts
        ("filters=\nfilters=4", {"filters": 4}),
        ("filters\nfilters=4", {"filters": 1}),
        ("filters", {"filters": 1}),
        ("size=3#three\nfilters=8", {"size": 3}),  # numbers end where their digits do
        ("filters=8.7", {"filters": 8}),
        ("filters=8\npad=x\npadding=2\nsize=5", {"padding": 2}),
        ("filters=8\npad=7\npadding=1\nsize=5", {"padding": 2}),  # any pad but 0: half the size
        ("filters=8\nactivation=leaky", {"activation": "leaky"}),
        ("filters=8\nactivation=leaky#x", {"activation": "relu"}),  # words do not
        ("filters=8\nactivation=hardswish", {"activation": "relu"}),
        ("#size=5\n;size=7\n # size=9\nsize=3", {"size": 3}),
        ("size=3\nstride=2\nstride_x=1", {"stride": (2, 1)}),
        ("cbn=1", {"norm": True}),
        ("size=1\ndilation=4", {"dilation": 1}),
        ("size=5\npad=1\ndilation=2", {"padding": 2, "shape": (1, 64, 64)}),
        ("size=2\npad=1", {"shape": (1, 65, 65)}),  # even sizes are padded alike on both sides
        ("size=3\nstride=2\npad=1\nantialiasing=2", {"shape": (1, 32, 32)}),
    ],
)
def test_values_are_parsed_like_alexeyab(lines: str, expected: dict[str, object]) -> None:
    layer = single_convolution(lines)
    assert {name: getattr(layer, name) for name in expected} == expected


def test_lists_are_parsed_like_alexeyab() -> None:
    """A comma at the end is followed by 0; masks and anchors end at #; layers do not, and words in them are 0."""
    assert head(mask="2,1,").anchors == ((5, 6), (3, 4), (1, 2))
    assert head(mask="2,0,1#,1").anchors == ((5, 6), (1, 2), (3, 4))
    assert head(anchors="1e1,.5, 3.5,4, 5,6#,7,8").anchors == ((10, 0.5), (3.5, 4), (5, 6))
    assert head(num="9", anchors="1,2,3,4,5,6,7,8", mask="3,1,3").anchors == ((7, 8), (3, 4), (7, 8))
    text = NET + CONV + CONV + "[route]\nlayers=-1,-2#a,b\n"
    assert plan(text).layers[2].inputs == (1, 0, 0)


def test_short_section_names_and_byte_order_mark() -> None:
    text = (
        "\ufeff".encode()
        + b"[network]\r\nwidth=8\r\nheight=8\r\nchannels=3\r\n[ conv ]\r\n[max]\r\n[avg]\r\n[soft]\r\n"
    )
    sections = parse(text.decode("utf-8-sig"))
    kinds = ["net", "convolutional", "maxpool", "avgpool", "softmax"]
    assert [section.kind for section in sections] == kinds
    assert [(section.index, section.line) for section in sections[:3]] == [(-1, 1), (0, 5), (1, 6)]


def test_byte_order_mark_and_non_utf8_bytes(tmp_path: Path) -> None:
    file = tmp_path / "net.cfg"
    file.write_bytes(b"\xef\xbb\xbf" + NET.encode() + b"# gr\xfcn\n" + CONV.encode())
    assert len(plan(read_cfg(file)).layers) == 1


def test_with_classes_needs_a_1x1_output() -> None:
    text = NET + "[convolutional]\nfilters=4\nsize=3\nstride=2\npad=1\n"
    assert plan(with_classes(text + "[avgpool]\n", 7)).classes == 7
    with pytest.raises(InputError, match="a classifier's last map is 7x1x1, here 7x32x32; is the file cut off"):
        with_classes(text, 7)


def test_utf16_file_is_rejected(tmp_path: Path) -> None:
    file = tmp_path / "net.cfg"
    file.write_text(NET + CONV, encoding="utf-16")
    with pytest.raises(InputError, match=r"net\.cfg: is UTF-16, as PowerShell writes text; save the file as UTF-8"):
        read_cfg(file)


def test_keys_without_effect_are_listed_once() -> None:
    found = plan(NET + "burn_in=3\n" + CONV + "colour=1\nlearning_rate=2\n" + CONV + "colour=2\nactivation=silu\n")
    assert found.ignored == ("burn_in", "colour", "learning_rate")
    found = plan(NET + "[convolutional]\nactivation=silu\n")
    assert [note[:15] for note in found.notes] == ["activation=silu"]


BAD = {
    "no section": ("", "starts with no section, needed [net]"),
    "no [net]": (CONV, "[convolutional] in line 1, needed [net]"),
    "line before [net]": ("width=3\n" + NET, "line 1: found 'width=3', needed [net] first"),
    "no layer": (NET, "holds no layer"),
    "no size": ("[net]\nchannels=3\n" + CONV, "line 1, [net]: width=0, height=0"),
    "channels": (NET.replace("3", "4") + CONV, "channels=4: found 4 channels, needed 3"),
    "unknown layer": (NET + "[convolutionl]\n", "line 5, [convolutionl]: not a layer of Darknet; did you mean [conv"),
    "unsupported layer": (NET + CONV + "[local]\n", "line 9, [local]: layers of this kind are not supported"),
    "no suggestion": (NET + CONV + "[conv_lstm]\n", "line 9, [conv_lstm]: layers of this kind are not supported"),
    "recurrent": ("[net]\ninputs=256\n[rnn]\noutput=9\n", "line 3, [rnn]: layers of this kind are not supported"),
    "first of two unsupported keys": (
        NET + CONV + "[region]\nnum=3\nclasses=2\nmap=b\ntree=a\nanchors=1,1,2,2,3,3\n", "line 12, [region], map=b"
    ),
    "width not a multiple of the stride": (
        NET.replace("width=64", "width=60") + CONV + "[maxpool]\nstride=8\n[upsample]\nstride=8\n[route]\nlayers=0,2\n",
        "sizes 64x60, 64x64, needed equal ones; try a width and height in [net] that are multiples of 32",
    ),
    "anchors without commas": (
        NET + CONV + YOLO.replace("1,2, 3,4, 5,6", "1 2 3 4 5 6"), "there are 0 pairs; needed a pair for each, commas"
    ),
    "comment after ]": (NET + "[convolutional]#one\n", "line 5: found '[convolutional]#one'"),
    "control characters": (NET + "[\x1b[31m]\n", "\\x1b"),
    "route beyond the network": (
        NET + CONV + "[route]\nlayers=-1,-4\n", "line 10, [route], layers=-1,-4: there is no layer -4"
    ),
    "route to itself": (NET + CONV + "[route]\nlayers=1\n", "there is no layer 1"),
    "route without layers": (NET + CONV + "[route]\n", "line 9, [route]: needed layers="),
    "sizes differ": (NET + CONV + "[maxpool]\nstride=2\n[route]\nlayers=0,1\n", "sizes 64x64, 32x32"),
    "shortcut beyond the network": (NET + CONV + "[shortcut]\nfrom=-9\n", "line 10, [shortcut], from=-9"),
    "filters": (NET + CONV.replace("21", "18") + YOLO, "line 9, [yolo]: 3 anchors of 5 + 2 numbers take 21 "),
    "filters to set": (NET + CONV.replace("21", "18") + YOLO, "set its filters=21"),
    "anchors": (NET + CONV + YOLO.replace(", 5,6", ""), "anchor 2 is used, there are 2 pairs"),
    "no anchors": (NET + CONV + YOLO.replace("anchors", "x"), "anchor 0 is used, there are 0 pairs"),
    "mask": (NET + CONV + YOLO.replace("0,1,2", "0,1,9"), "anchor 9 is used"),
    "classes differ": (
        NET + CONV + YOLO + "[route]\nlayers=0\n" + CONV.replace("21", "18") + YOLO.replace("es=2", "es=1"),
        "needed classes=2",
    ),
    "xnor": (NET + CONV + "xnor=1\n", "line 9, [convolutional], xnor=1: not supported"),
    "dontload": (NET + CONV + "dontload=1\n", "dontload=1: not supported"),
    "tree": (NET + CONV + "[region]\nnum=3\nclasses=2\nanchors=1,1,2,2,3,3\ntree=a\n", "tree=a: not supported"),
    "dilation": (NET + "[convolutional]\nsize=3\npadding=2\ndilation=2\n", "dilation=2: needed pad=1"),
    "groups": (NET + "[convolutional]\ngroups=2\n", "do not divide into 2 groups"),
    "sam with mish": (NET + CONV + "[sam]\nfrom=-1\nactivation=mish\n", "[sam] cannot have this activation"),
    "blur": (NET + CONV + "antialiasing=1\n" + CONV + "[route]\nlayers=0\n", "layer 0 has antialiasing"),
    "large map": (NET + CONV + "[upsample]\nstride=900\n[upsample]\nstride=900\n", "needed a smaller one"),
    "too many filters": (NET + "[convolutional]\nfilters=99999999999999\n", "needed filters of 1 to"),
    "no number": (NET + CONV + YOLO + "scale_x_y=nan\n", "needed a decimal number"),
    "too small": (NET + "[convolutional]\nsize=99\n", "needed a larger input"),
    "total channels": (NET + "[convolutional]\nfilters=65000\nstride=64\n" * 70, "channels in all"),
    "dropout above 1": (NET + CONV + "[dropout]\nprobability=7\n", "probability=7: needed a probability of 0"),
    "dropout of 1": (NET + CONV + "[dropout]\nprobability=1\n", "needed a probability of 0 to less than 1"),
    "negative dropout": (NET + CONV + "[dropout]\nprobability=-.5\n", "line 10, [dropout], probability=-.5"),
    "sections": (NET + "[avg]\n" * 3000, "more than 2,048 sections"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_invalid_cfg_is_reported_in_one_line(case: str) -> None:
    text, expected = BAD[case]
    with pytest.raises(InputError) as error:
        plan(text, "net.cfg")
    message = str(error.value)
    assert message.startswith("net.cfg")
    assert expected in message
    assert len(message) <= 200
    assert message.isprintable()


def test_large_or_missing_file_is_rejected(tmp_path: Path) -> None:
    file = tmp_path / "net.cfg"
    with file.open("wb") as stream:
        stream.truncate(100 << 20)
    with pytest.raises(InputError, match=f"larger than {MAX_CFG:,} bytes"):
        recipe.load(file)
    with pytest.raises(InputError, match="No such file"):
        read_cfg(tmp_path / "none.cfg")
    with pytest.raises(InputError, match="cannot be read"):
        read_cfg(tmp_path)


def test_with_classes_changes_filters_and_classes() -> None:
    second = YOLO.replace("0,1,2", "0,1").replace("classes=2", "classes=2 # two")
    text = f"{NET}# mine\n{CONV}{YOLO}[route]\nlayers=0\n[convolutional]\nfilters=14\nsize=1\n{second}"
    changed = plan(with_classes(text, 7))
    assert changed.classes == 7
    assert [layer.shape[0] for layer in changed.layers] == [36, 36, 36, 24, 24]
    expected = text.replace("=21", "=36").replace("=14", "=24").replace("classes=2 # two", "classes=7")
    assert with_classes(text, 7) == expected.replace("classes=2", "classes=7")
    assert with_classes(text, 2) == text


def test_with_classes_of_a_classifier_and_with_size() -> None:
    text = NET + CONV + "[avgpool]\n[connected]\n[softmax]\n[cost]\n"
    assert plan(text).classes == 1  # outputs are 1 by default
    assert plan(with_classes(text, 5)).classes == 5
    assert plan(with_size("[net]\nchannels=3\nheight=8\n" + "width=4\n" + CONV, 32, 96)).image == (3, 32, 96)
    assert plan(with_size(text, 33, 65)).layers[0].shape == (21, 33, 65)


def test_parsing_does_not_import_torch() -> None:
    code = "import sys, boxwright.darknet_cfg.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
