"""The weights and inputs behind `tests/oracles`, made from names, so that no weight file is needed.

The rules are those of the two reference engines' notes: MindSpore parameters are drawn from the checksum of their name,
Darknet parameters from the number of their layer and the name of the field.
"""

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.darknet_cfg import layers
from boxwright.darknet_cfg.plan import Plan

ORACLES = Path(__file__).parent / "oracles"
Array = NDArray[Any]
DARKNET_HEADER = np.array([0, 2, 0], "<i4").tobytes() + np.array([12800], "<u8").tobytes()


def mindspore_recipe(params_json: Path) -> dict[str, Array]:
    """Every parameter with a recipe in a `params_network.json`: name in the bare network -> float32 array."""
    rows = json.loads(params_json.read_text())["parameters"]
    return {row["name"]: _mindspore_array(row) for row in rows if row.get("recipe")}


def _mindspore_array(row: dict[str, Any]) -> Array:
    recipe = row["recipe"]
    noise = _normal(row["recipe_name"], row["shape"])
    noise = np.abs(noise) if recipe["abs"] else noise
    return np.float32(recipe["offset"]) + np.float32(recipe["scale"]) * noise


def mindspore_input(oracle: Mapping[str, Array]) -> Array:
    """(1, 3, H, W) float32, already normalized: the original networks do not contain mean and std."""
    height, width = oracle["input_hw"].tolist()
    generator = np.random.default_rng(int(oracle["input_seed"]))
    return generator.standard_normal((1, 3, height, width)).astype(np.float32)


@dataclass(frozen=True)
class DarknetLayer:
    """One convolution of a .cfg: `number` counts all layers, as Darknet does."""

    number: int
    inputs: int  # channels a group
    outputs: int
    kernel: int
    norm: bool
    before_shortcut: bool
    before_yolo: bool

    def arrays(self) -> dict[str, Array]:
        """Field -> float32 values in the file's order."""
        n, fan_in = self.outputs, self.inputs * self.kernel**2
        arrays = {"biases": np.float32(0.1) * self._noise("biases", n)}
        if self.norm:
            damp = np.float32(0.25 if self.before_shortcut else 1)
            arrays["scales"] = (1 + np.float32(0.1) * self._noise("scales", n)) * damp
            arrays["mean"] = np.float32(0.1) * self._noise("mean", n)
            arrays["var"] = 1 + np.float32(0.1) * np.abs(self._noise("var", n))
        damp = np.float32(0.5 if self.before_yolo else 1)
        weights = self._noise("weights", n * fan_in) * np.float32(np.sqrt(2 / fan_in)) * damp
        arrays["weights"] = weights.reshape(n, self.inputs, self.kernel, self.kernel)
        return arrays

    def _noise(self, field: str, count: int) -> Array:
        return _normal(f"{self.number}:{field}", [count])


def darknet_layers(cfg: Path) -> list[DarknetLayer]:
    """The convolutions of a .cfg in order."""
    sections = _read_cfg(cfg)
    channels: list[int] = []  # leaving each layer
    layers = []
    for k, (kind, options) in enumerate(sections):
        before = channels[-1] if channels else 3
        after = before
        if kind == "convolutional":
            after = int(options["filters"])
            following = sections[k + 1][0] if k + 1 < len(sections) else ""
            groups = int(options.get("groups", 1))
            layers.append(
                DarknetLayer(
                    number=k,
                    inputs=before // groups,
                    outputs=after,
                    kernel=int(options["size"]),
                    norm=options.get("batch_normalize") == "1",
                    before_shortcut=following == "shortcut",
                    before_yolo=following == "yolo",
                )
            )
        elif kind == "route":
            sources = [int(word) for word in options["layers"].split(",")]
            groups = int(options.get("groups", 1))
            after = sum(channels[k + s if s < 0 else s] // groups for s in sources)
        channels.append(after)
    return layers


def darknet_recipe(cfg: Path) -> bytes:
    """The complete .weights file of a .cfg."""
    parts = [array.astype("<f4").tobytes() for layer in darknet_layers(cfg) for array in layer.arrays().values()]
    return DARKNET_HEADER + b"".join(parts)


def darknet_input(height: int, width: int, seed: int) -> Array:
    """(1, 3, H, W) float32 in [0, 1)."""
    return np.random.default_rng(seed).random((1, 3, height, width), dtype=np.float32)


def sampled_pair(oracle: Mapping[str, Array], key: str, ours: Array) -> tuple[Array, Array]:
    """(the oracle's stored values of `key`, the same places of `ours`), for whole and for sampled arrays."""
    if key in oracle:
        assert oracle[key].shape == ours.shape, f"{key}: shape {ours.shape}, the oracle's is {oracle[key].shape}"
        return oracle[key].reshape(-1), ours.reshape(-1)
    shape = tuple(oracle[f"{key}.shape"].tolist())
    assert shape == ours.shape, f"{key}: shape {ours.shape}, the oracle's is {shape}"
    return oracle[f"{key}.sub"], ours.reshape(-1)[:: int(oracle[f"{key}.stride"])]


def darknet_pair(oracle: Mapping[str, Array], layer: int, ours: Array) -> tuple[Array, Array]:
    """(the oracle's stored values of a layer's CHW output, the same places of `ours` (C, H, W))."""
    stored, shape = oracle[f"layer_{layer}"], tuple(oracle[f"layer_{layer}_shape"].tolist())
    assert shape[-3:] == ours.shape, f"layer {layer}: shape {ours.shape}, the oracle's is {shape}"
    # The step is odd and not stored: the one that leaves as many values as there are.
    step = next(s for s in range(1, ours.size + 1, 2) if -(-ours.size // s) == stored.size)
    return stored.reshape(-1), ours.reshape(-1)[::step]


def sparse(oracle: Mapping[str, Array], key: str) -> Array:
    """Restore an array that is mostly zero."""
    whole = np.zeros(oracle[f"{key}.shape"], np.float32)
    whole.reshape(-1)[oracle[f"{key}.nz_index"]] = oracle[f"{key}.nz_value"]
    return whole


def _normal(text: str, shape: list[int]) -> Array:
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(text.encode())))
    return generator.standard_normal(shape, dtype=np.float32)


def _read_cfg(cfg: Path) -> list[tuple[str, dict[str, str]]]:
    """Sections after [net]; white space is dropped, and for a repeated key the first wins."""
    sections: list[tuple[str, dict[str, str]]] = []
    for line in cfg.read_text().splitlines():
        text = "".join(line.split())
        if text.startswith("["):
            sections.append((text.strip("[]"), {}))
        elif text and text[0] not in "#;":
            key, _, value = text.partition("=")
            sections[-1][1].setdefault(key, value)
    return sections[1:]


def cfg_recipe(network: Plan) -> bytes:
    """The complete .weights file of any .cfg, by the notes of the second set of networks."""
    return DARKNET_HEADER + b"".join(
        array.astype("<f4").tobytes() for index in range(len(network.layers)) for array in _cfg_arrays(network, index)
    )


def _cfg_arrays(network: Plan, index: int) -> Iterator[Array]:
    """The arrays of a layer in the file's order."""
    layer = network.layers[index]
    following = network.layers[index + 1].section.kind if index + 1 < len(network.layers) else ""

    def noise(field: str, count: int) -> Array:
        return _normal(f"{index}:{field}", [count])

    def norm(count: int) -> Iterator[Array]:
        damp = np.float32(0.25 if following == "shortcut" else 1)
        yield (1 + np.float32(0.1) * noise("scales", count)) * damp
        yield np.float32(0.1) * noise("mean", count)
        yield 1 + np.float32(0.1) * np.abs(noise("var", count))

    def weights(count: int, fan_in: int) -> Array:
        gain = {"swish": 2.8, "mish": 2.4, "logistic": 4.0}.get(layer.section.word("activation", "logistic"), 2.0)
        damp = np.float32(0.5 if following in {"yolo", "region", "Gaussian_yolo"} else 1)
        return noise("weights", count * fan_in) * np.float32(np.sqrt(gain / fan_in)) * damp

    match layer:
        case layers.Convolution(share=None):
            yield np.float32(0.1) * noise("biases", layer.filters)
            if layer.norm:
                yield from norm(layer.filters)
            yield weights(layer.filters, layer.channels // layer.groups * layer.size**2)
        case layers.Connected():
            yield np.float32(0.1) * noise("biases", layer.outputs)
            yield weights(layer.outputs, layer.size)
            if layer.norm:
                yield from norm(layer.outputs)
        case layers.Shortcut() if layer.weights[0]:
            yield np.float32(0.6) + np.float32(0.3) * noise("weights", layer.weights[0] * layer.weights[1])
