"""Faster R-CNN (Ren et al. 2015) with a feature pyramid and deformable convolution v2 (Zhu et al. 2018).

    B images, H x W px, N anchors an image, P proposals an image after padding, M boxes an image after padding,
    C classes, K samples an image

Two ways to be right differ by configuration: that of the MindSpore zoo, whose checkpoints keep their boxes, and the
standard one, which fits ImageNet's ResNets and new trainings.
"""

from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import pydantic
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from boxwright.config import ClassCount, Fraction, ModelConfig, Positive, Triple
from boxwright.config import Config as BaseConfig
from boxwright.errors import InputError
from boxwright.nn.faster_rcnn_names import (
    adapted,
    foreign_names,
    mindspore_backbone,
    mindspore_name,
    mindspore_transposed,
)
from boxwright.nn.fpn import FPN
from boxwright.nn.resnet import ResNet
from boxwright.nn.roi import BoxHead, features_of
from boxwright.nn.rpn import ROUNDS, Proposals, RegionProposals, anchors, base_anchors, propose
from boxwright.ops.coding import decode, encode
from boxwright.ops.losses import across_processes
from boxwright.ops.sampling import Matches, Samples, draw_balanced, match, priorities
from boxwright.types import Batch, Detections

__all__ = [
    "Config", "FasterRCNN", "adapted", "build", "foreign_names", "mindspore_backbone", "mindspore_name",
    "mindspore_transposed",
]  # fmt: skip

STRIDES = (4, 8, 16, 32, 64)  # of the pyramid; the second stage uses all but the last
Count = Annotated[int, Field(ge=1, le=20_000)]  # of boxes or samples an image


class SamplesConfig(BaseConfig):
    """What a stage learns from in a step."""

    samples: Count  # an image
    positives: Count  # of these at most

    @pydantic.model_validator(mode="after")
    def _positives_are_samples(self) -> Self:
        if self.positives > self.samples:
            raise ValueError(f"positives is {self.positives}, of only {self.samples} samples")
        return self


class RPNConfig(SamplesConfig):
    """The first stage. An anchor is positive from an IoU of `positive_iou` with a box on, negative below
    `negative_iou`; the best anchor of a box is positive already from `least_iou` on (0: however small, as in
    torchvision, where they touch)."""

    positive_iou: Fraction = 0.7
    negative_iou: Fraction = 0.3
    least_iou: Fraction = 0.0
    inside_only: bool = False  # anchors that reach over the edge of the canvas teach nothing
    samples: Count = 256  # anchors
    positives: Count = 128
    nms_iou: Fraction = 0.7
    train_candidates: Count = 2000  # best boxes of each level that enter suppression
    train_proposals: Count = 2000  # best boxes of all levels together that leave it
    test_candidates: Count = 1000
    test_proposals: Count = 1000


class RoIConfig(SamplesConfig):
    """The second stage. A proposal is positive from an IoU of `positive_iou` with a box on, negative below
    `negative_iou`."""

    positive_iou: Fraction = 0.5
    negative_iou: Fraction = 0.5
    samples: Count = 512  # proposals
    positives: Count = 128
    aligned: bool = True  # pixel centres lie at half pixels (Mask R-CNN's RoI align as corrected in Detectron2)


class Config(ModelConfig):
    size_step: ClassVar[int] = 32  # both sides of the input are multiples of this, px

    name: Literal["faster_rcnn"] = "faster_rcnn"
    depth: Literal[50, 101, 152] = 50
    classes: ClassCount
    # sampling of the deformable layers in stages 3 to 5: the ordinary one; the zoo's, whose grid lies one pixel further
    # down and right and which repeats the border; none: ordinary convolutions
    deform: Literal["none", "standard", "zoo"] = "standard"
    conv2_fills_deform: bool = True  # an ordinary ResNet's second convolutions are the start of the deformable ones
    padding: Literal["symmetric", "same"] = "symmetric"  # of the max-pool: same pads bottom and right only (zoo)
    # where objects may be. canvas: anywhere on it. picture, as in torchvision: proposals are cut to the picture, which
    # the mean colour surrounds; `forward` then has to be told where pictures end
    within: Literal["canvas", "picture"] = "canvas"
    plus_one: bool = False  # a width is x2 - x1 + 1, in anchors, deltas, assignment, levels and RoI align (zoo)
    anchor_scale: Positive = 8.0  # side of a square anchor in strides of its level
    anchor_ratios: Annotated[tuple[Positive, ...], Field(max_length=16)] = (0.5, 1.0, 2.0)  # height / width
    delta_stds: tuple[Positive, Positive, Positive, Positive] = (0.1, 0.1, 0.2, 0.2)  # of the second stage
    norm_eps: Positive = 1e-5  # of batch norm
    mean: Triple = (0.485, 0.456, 0.406)  # RGB, in the 0-to-1 scale
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    rpn: RPNConfig = RPNConfig()
    roi: RoIConfig = RoIConfig()


class Targets(NamedTuple):
    """What a stage learns. boxes (B, K, 4) xyxy px: the sampled anchors or proposals; place (B, K): which ones of all.
    drawn (B, K) bool: rows that hold a sample. positive (B, K) bool. owner (B, K): the object of a positive one.
    deltas (B, K, 4): from its box to that object; 0 elsewhere."""

    boxes: Tensor
    place: Tensor
    drawn: Tensor
    positive: Tensor
    owner: Tensor
    deltas: Tensor


class FasterRCNN(nn.Module):
    """The detector."""

    inputs: tuple[str, ...]
    raw_names = ("proposals", "logits", "deltas", "valid")
    two_stage = True  # raw tensors are of proposals: rows in no fixed order
    mean: Tensor
    std: Tensor
    base: Tensor
    unit: Tensor
    delta_stds: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.inputs = ("images", "extents") if config.within == "picture" else ("images",)
        self.backbone = ResNet(config.depth, deform=config.deform, padding=config.padding)
        for module in self.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = config.norm_eps
        self.neck = FPN(self.backbone.channels, 256)
        self.rpn = RegionProposals(256, len(config.anchor_ratios))
        self.head = BoxHead(256, config.classes)
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1))
        # parts of the recipe, so not of the state
        base = base_anchors(STRIDES, config.anchor_scale, config.anchor_ratios, config.plus_one)
        self.register_buffer("base", base, persistent=False)  # (L, A, 4)
        self.register_buffer("unit", torch.ones(4), persistent=False)  # deviations of the first stage's deltas
        self.register_buffer("delta_stds", torch.tensor(config.delta_stds), persistent=False)

    def forward(self, images: Tensor, extents: Tensor | None = None) -> tuple[Tensor, ...]:
        """images (B, 3, H, W) float RGB in [0, 1] -> proposals (B, P, 4) xyxy px, logits (B, P, C+1) with background
        first, deltas (B, P, 4*(C+1)) from the proposal, valid (B, P) bool: rows that hold a proposal.

        extents (B, 2): height and width px of each picture, which lies at the canvas's top left; proposals are cut to
        it, and pixels beyond it become the mean colour, whatever they hold. None: pictures fill their canvases."""
        settings = self.config.rpn
        maps = self.pyramid(images, extents)
        found, *_ = self.propose(maps, images, settings.test_candidates, settings.test_proposals, extents)
        logits, deltas = self.head(self.features(maps, found.boxes))
        return found.boxes, logits, deltas, found.valid

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The terms rpn_objectness, rpn_boxes, classes, boxes. What is sampled follows from `batch.keys`.

        Learns from whole canvases, also within pictures: flips and the like have moved these away from the corner."""
        settings = self.config.rpn
        maps = self.pyramid(batch.images)
        count = settings.train_candidates, settings.train_proposals
        found, grid, objectness, deltas = self.propose(maps, batch.images, *count, rounds=ROUNDS)
        keys = batch.labels.new_zeros(len(batch.labels)) if batch.keys is None else batch.keys
        first = self.rpn_targets(batch, grid, priorities(keys, len(grid)))
        # numbers of their own for the objects: how many rows of padding they have depends on the rest of the batch
        own = [priorities(keys + i, part.shape[1]) for i, part in ((1, batch.boxes), (2, found.boxes))]
        second = self.roi_targets(batch, found, torch.cat(own, 1))
        logits, class_deltas = self.head(self.features(maps, second.boxes))
        return self.rpn_loss(first, objectness, deltas) | self.roi_loss(second, logits, class_deltas, batch.labels)

    @torch.no_grad()
    def decode(self, raw: tuple[Tensor, ...], threshold: float) -> list[Detections]:
        """Boxes of all classes with probability >= threshold, canvas px, one entry an image, before suppression."""
        proposals, logits, deltas, valid = raw
        scores = logits.float().softmax(-1)[..., 1:] * valid[..., None]  # (B, P, C)
        image, row, label = ((scores >= threshold) & valid[..., None]).nonzero(as_tuple=True)
        chosen = _by_class(deltas.float())[image, row, label + 1]
        boxes = decode(chosen, proposals[image, row], self.delta_stds, self.config.plus_one)
        counts = image.bincount(minlength=len(scores)).tolist()
        parts = (boxes, scores[image, row, label], label)
        return [Detections(*one) for one in zip(*(torch.split(part, counts) for part in parts), strict=True)]

    def dense(self, raw: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """All boxes (B, P, C, 4) and their scores (B, P, C), as `decode` has them; -1 where there is no proposal."""
        proposals, logits, deltas, valid = raw
        scores = torch.where(valid[..., None], logits.float().softmax(-1)[..., 1:], -1.0)
        of_class = _by_class(deltas.float())[:, :, 1:]
        return decode(of_class, proposals[:, :, None], self.delta_stds, self.config.plus_one), scores

    def pyramid(self, images: Tensor, extents: Tensor | None = None) -> tuple[Tensor, ...]:
        """images (B, 3, H, W), extents (B, 2) -> maps (B, 256, h, w) at STRIDES."""
        (height, width), step = images.shape[-2:], self.config.size_step
        if height % step or width % step:
            raise InputError(f"data.canvas.size: found {height} x {width} px, Faster R-CNN needs multiples of {step}")
        pixels = (images - self.mean) / self.std
        if extents is not None:
            rows, columns = (torch.arange(side, device=images.device) for side in (height, width))
            inside = (rows < extents[:, :1])[:, :, None] & (columns < extents[:, 1:])[:, None]  # (B, H, W)
            pixels = torch.where(inside[:, None], pixels, 0)
        maps: tuple[Tensor, ...] = self.neck(self.backbone(pixels))
        return maps

    def propose(
        self,
        maps: tuple[Tensor, ...],
        images: Tensor,
        candidates: int,
        proposals: int,
        extents: Tensor | None = None,
        rounds: int = 0,
    ) -> tuple[Proposals, Tensor, Tensor, Tensor]:
        """Proposals, the anchors (N, 4), and the first stage's objectness (B, N) and deltas (B, N, 4)."""
        shapes = [one.shape[-2:] for one in maps]
        objectness, deltas = self.rpn(maps)
        grid = anchors(self.base, shapes, STRIDES)
        counts = [h * w * len(self.config.anchor_ratios) for h, w in shapes]
        if extents is None:
            extents = torch.stack([deltas.new_full(deltas.shape[:1], side) for side in images.shape[-2:]], 1)
        found = propose(
            objectness.detach(),
            deltas.detach(),
            grid,
            counts,
            extents,
            candidates=candidates,
            proposals=proposals,
            iou=self.config.rpn.nms_iou,
            plus_one=self.config.plus_one,
            rounds=rounds,
        )
        return found, grid, objectness, deltas

    def features(self, maps: tuple[Tensor, ...], boxes: Tensor) -> Tensor:
        """boxes (B, R, 4) xyxy px -> (B, R, 256, 7, 7)."""
        config = self.config
        return features_of(maps[:-1], boxes, STRIDES[:-1], aligned=config.roi.aligned, plus_one=config.plus_one)

    @torch.no_grad()
    def rpn_targets(self, batch: Batch, grid: Tensor, priority: Tensor) -> Targets:
        """grid (N, 4): the anchors. priority (B, N): higher ones are drawn first."""
        settings = self.config.rpn
        usable = torch.ones_like(grid[:, 0], dtype=torch.bool)
        if settings.inside_only:
            height, width = batch.images.shape[-2:]
            usable = (grid[:, :2] >= 0).all(-1) & (grid[:, 2] <= width - 1) & (grid[:, 3] <= height - 1)
        many = len(batch.labels)
        boxes, usable = grid.expand(many, -1, -1), usable.expand(many, -1)
        matches = match(
            boxes,
            usable,
            batch.boxes,
            batch.labels >= 0,
            batch.ignore,
            positive=settings.positive_iou,
            negative=settings.negative_iou,
            least=settings.least_iou,
            plus_one=self.config.plus_one,
        )
        drawn = draw_balanced(matches, priority, settings.samples, settings.positives)
        return self._targets(batch, boxes, matches, drawn, self.unit)

    @torch.no_grad()
    def roi_targets(self, batch: Batch, found: Proposals, priority: Tensor) -> Targets:
        """The objects themselves count as proposals too, before the others. priority (B, M + P)."""
        settings = self.config.roi
        boxes = torch.cat((batch.boxes, found.boxes), 1)
        matches = match(
            boxes,
            torch.cat((batch.valid, found.valid), 1),
            batch.boxes,
            batch.labels >= 0,
            batch.ignore,
            positive=settings.positive_iou,
            negative=settings.negative_iou,
            least=settings.positive_iou,
            plus_one=self.config.plus_one,
        )
        drawn = draw_balanced(matches, priority, settings.samples, settings.positives)
        return self._targets(batch, boxes, matches, drawn, self.delta_stds)

    def _targets(
        self, batch: Batch, boxes: Tensor, matches: Matches, drawn: tuple[Samples, Samples], stds: Tensor
    ) -> Targets:
        positives, negatives = drawn
        index = torch.cat((positives.place, negatives.place), 1)
        is_positive = torch.cat((positives.drawn, torch.zeros_like(negatives.drawn)), 1)
        chosen = boxes.gather(1, index[..., None].expand(-1, -1, 4))
        owner = matches.owner.gather(1, index) * is_positive
        deltas = torch.zeros_like(chosen)
        if batch.boxes.shape[1]:
            objects = batch.boxes.gather(1, owner[..., None].expand(-1, -1, 4))
            deltas = encode(objects, chosen, stds, self.config.plus_one) * is_positive[..., None]
        return Targets(chosen, index, torch.cat([one.drawn for one in drawn], 1), is_positive, owner, deltas)

    def rpn_loss(self, targets: Targets, objectness: Tensor, deltas: Tensor) -> dict[str, Tensor]:
        """objectness (B, N), deltas (B, N, 4). Both terms are divided by the number of samples asked for."""
        logits = objectness.gather(1, targets.place)
        found = deltas.gather(1, targets.place[..., None].expand(-1, -1, 4))
        wrong = F.binary_cross_entropy_with_logits(logits, targets.positive.float(), reduction="none")
        # beta 1/9: Detectron's sigma of 3
        apart = F.smooth_l1_loss(found, targets.deltas, reduction="none", beta=1 / 9).sum(-1)
        count = self.config.rpn.samples * len(objectness)
        return {
            "rpn_objectness": (wrong * targets.drawn).sum() / count,
            "rpn_boxes": (apart * targets.positive).sum() / count,
        }

    def roi_loss(self, targets: Targets, logits: Tensor, deltas: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """logits (B, K, C+1), deltas (B, K, 4*(C+1)), labels (B, M). Both terms are divided by the samples drawn."""
        truth = torch.zeros_like(targets.owner)
        if labels.shape[1]:
            truth = torch.where(targets.positive, labels.gather(1, targets.owner) + 1, 0)
        wrong = F.cross_entropy(logits.flatten(0, 1), truth.flatten(), reduction="none").view_as(truth)
        of_class = truth[..., None, None].expand(-1, -1, 1, 4)
        found = _by_class(deltas).gather(2, of_class)[:, :, 0]
        apart = F.smooth_l1_loss(found, targets.deltas, reduction="none").sum(-1)
        count = across_processes(targets.drawn.sum().float(), least=1)
        return {
            "classes": (wrong * targets.drawn).sum() / count,
            "boxes": (apart * targets.positive).sum() / count,
        }


def _by_class(deltas: Tensor) -> Tensor:
    """(B, R, 4*(C+1)) -> (B, R, C+1, 4)."""
    return deltas.view(*deltas.shape[:2], -1, 4)


def build(config: Config) -> FasterRCNN:
    """A network with random weights; deformable layers start as ordinary convolutions of half the strength."""
    return FasterRCNN(config)
