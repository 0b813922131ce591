"""Faster R-CNN (Ren et al. 2015) with a feature pyramid and deformable convolution v2 (Zhu et al. 2018).

    B images, H x W px, C classes; per image N anchors, K samples and, after padding, P proposals and M boxes

The implementations of the MindSpore zoo, torchvision, mmdetection and Detectron2 differ in details, which are keys of
the configuration, so that checkpoints give the boxes that they were trained for. The defaults fit ImageNet's ResNets
and new trainings.
"""

from typing import Annotated, Literal, NamedTuple, Self

import pydantic
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from boxwright.config import BatchNormModelConfig, Fraction, NotNegative, Padding, Positive, Triple
from boxwright.config import Config as Section
from boxwright.nn.fpn import FPN
from boxwright.nn.network import Network
from boxwright.nn.resnet import ResNet, StrideIn
from boxwright.nn.roi import BoxHead, features_of
from boxwright.nn.rpn import TRAIN_NMS_ITERATIONS, Proposals, RegionProposals, anchors, base_anchors, propose
from boxwright.ops.coding import decode, encode
from boxwright.ops.iou import pairwise_iou
from boxwright.ops.losses import across_processes, was_looked_for
from boxwright.ops.sampling import match, priorities, sample_balanced
from boxwright.types import Batch, Detections

PYRAMID, HIDDEN = 256, 1024  # channels of the pyramid's maps, outputs of the head's dense layers
STRIDES = (4, 8, 16, 32, 64)  # of the pyramid; the second stage uses all but the last
Count = Annotated[int, Field(ge=1, le=20_000)]  # boxes or samples per image


class SamplesConfig(Section):
    """Sampling for the loss of one stage, per image and step."""

    samples: Count  # per image
    max_positives: Count  # at most this many of the samples are positive

    @pydantic.model_validator(mode="after")
    def _positives_are_samples(self) -> Self:
        if self.max_positives > self.samples:
            raise ValueError(f"max_positives is {self.max_positives}, of only {self.samples} samples")
        return self


class RPNConfig(SamplesConfig):
    """Settings of the first stage, the region proposal network."""

    positive_iou: Fraction = 0.7  # an anchor with at least this IoU with a box is positive
    negative_iou: Fraction = 0.3  # an anchor whose IoU with every box is below this is negative
    # the best anchor of a box is positive from this IoU on; 0: any IoU above 0 (torchvision)
    min_pos_iou: Fraction = 0.0
    # anchors that extend further beyond the canvas, in px, are ignored in the loss. null: no limit
    allowed_border: NotNegative | None = None
    samples: Count = 256  # anchors
    max_positives: Count = 128
    convs: Annotated[int, Field(ge=1, le=8)] = 1  # 3x3 convolutions before the outputs
    nms_iou: Fraction = 0.7  # proposals overlapping a better one by more than this are dropped
    train_pre_nms_top_k: Count = 2000  # best boxes of each level that enter NMS
    train_proposals: Count = 2000  # best boxes of all levels together after NMS
    test_pre_nms_top_k: Count = 1000  # train_pre_nms_top_k, for prediction
    test_proposals: Count = 1000  # train_proposals, for prediction


class RoIConfig(SamplesConfig):
    """Settings of the second stage, the box head."""

    positive_iou: Fraction = 0.5  # a proposal with at least this IoU with a box is positive
    negative_iou: Fraction = 0.5  # a proposal whose IoU with every box is below this is negative
    samples: Count = 512  # proposals
    max_positives: Count = 128
    aligned: bool = True  # pixel centers lie at half pixels (Mask R-CNN's RoI align as corrected in Detectron2)
    # RoI align samples per bin along each side; 0: a seventh of the box's side on its map (mmdetection, Detectron2)
    samples_per_bin: Annotated[int, Field(ge=0, le=8)] = 2
    convs: Annotated[int, Field(ge=0, le=8)] = 0  # 3x3 convolutions with batch norm before the dense layers
    dense: Literal[1, 2] = 2  # dense layers before the outputs


class Config(BatchNormModelConfig):
    """Config of Faster R-CNN. The defaults fit torchvision's ImageNet ResNets; recipes set those of other projects."""

    name: Literal["faster_rcnn"] = "faster_rcnn"
    depth: Literal[50, 101, 152] = 50  # layers of the ResNet
    # sampling of the deformable layers in stages 3 to 5. zoo: the MindSpore zoo's grid, one pixel further down and
    # right, with the border repeated. none: ordinary convolutions
    deform: Literal["none", "standard", "zoo"] = "standard"
    conv2_fills_deform: bool = True  # the second convolutions of an ordinary ResNet initialize deformable ones
    deform_masks: bool = True  # false: deformable convolution v1, without modulation masks
    deform_groups: Annotated[int, Field(ge=1, le=64)] = 1  # groups of channels, each with its own offsets
    deform_bias: bool = False  # bias of the layers that predict offsets and masks
    # convolution with the stride of a stage: the 3x3, or the 1x1 before it (Caffe, mmdetection, Detectron2)
    stride_in: StrideIn = "conv2"
    neck_norm: bool = False  # batch norm after each convolution of the pyramid (torchvision's second version)
    padding: Padding = "symmetric"  # padding of the max-pool: same pads bottom and right only (zoo)
    # image, as in torchvision: the canvas around the image has the mean color, and `forward` takes the images' extents
    clip_proposals_to: Literal["canvas", "image"] = "canvas"
    plus_one: bool = False  # a width is x2 - x1 + 1, in anchors, deltas, assignment, levels and RoI align (zoo)
    anchor_scale: Positive = 8.0  # side of a square anchor in strides of its level
    anchor_ratios: Annotated[tuple[Positive, ...], Field(max_length=16)] = (0.5, 1.0, 2.0)  # height / width
    round_anchors: bool = True  # to whole px (torchvision, zoo)
    # px from an anchor to the next. level: the level's stride. sides: the canvas's side // the map's side, which is
    # less if the side is not a multiple of the coarsest stride, 64 (torchvision)
    anchor_steps: Literal["level", "sides"] = "level"
    delta_stds: tuple[Positive, Positive, Positive, Positive] = (0.1, 0.1, 0.2, 0.2)  # of the box head's deltas
    # deltas never make a side less than 16 / 1000 of its reference (mmdetection, and always with `plus_one`); the upper
    # limit, 1000 / 16 times its reference, always holds
    limit_shrink: bool = False
    mean: Triple = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    rpn: RPNConfig = RPNConfig()
    roi: RoIConfig = RoIConfig()

    @pydantic.model_validator(mode="after")
    def _groups_divide_channels(self) -> Self:
        if 128 % self.deform_groups:  # channels of the first deformable layers; later layers have multiples of it
            raise ValueError(f"deform_groups is {self.deform_groups}, needed a divisor of the layers' 128 channels")
        return self

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("images", "extents") if self.clip_proposals_to == "image" else ("images",)


class Targets(NamedTuple):
    """Samples of a stage and their targets.

    Attributes:
        boxes: (B, K, 4) xyxy px, sampled anchors or proposals.
        idx: (B, K), index among all anchors or proposals.
        sampled: (B, K) bool, rows that hold a sample; others are padding.
        positive: (B, K) bool, samples matched to an object.
        matched_gt_idx: (B, K), index of the object of a positive sample.
        deltas: (B, K, 4), from its box to that object; 0 elsewhere.
    """

    boxes: Tensor
    idx: Tensor
    sampled: Tensor
    positive: Tensor
    matched_gt_idx: Tensor
    deltas: Tensor


class FasterRCNN(Network):
    """The detector: ResNet, feature pyramid, region proposal network, box head."""

    raw_names = ("proposals", "logits", "deltas", "valid")
    two_stage = True  # raw outputs are proposals, in no fixed order
    strides = STRIDES
    config: Config
    base: Tensor
    unit: Tensor
    delta_stds: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.backbone = ResNet(
            config.depth,
            deform=config.deform,
            padding=config.padding,
            masks=config.deform_masks,
            groups=config.deform_groups,
            bias=config.deform_bias,
            stride_in=config.stride_in,
        )
        self.neck = FPN(self.backbone.channels, PYRAMID, config.neck_norm)
        self.rpn = RegionProposals(PYRAMID, len(config.anchor_ratios), config.rpn.convs)
        self.head = BoxHead(PYRAMID, config.classes, config.roi.convs, config.roi.dense, HIDDEN)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = config.norm_eps, config.norm_momentum
        # determined by the recipe, so not in the state dict
        ratios, rounded = config.anchor_ratios, config.round_anchors
        base = base_anchors(STRIDES, config.anchor_scale, ratios, config.plus_one, rounded)
        self.register_buffer("base", base, persistent=False)  # (L, A, 4)
        self.register_buffer("unit", torch.ones(4), persistent=False)  # stds of the RPN's deltas
        self.register_buffer("delta_stds", torch.tensor(config.delta_stds), persistent=False)

    def forward(self, images: Tensor, extents: Tensor | None = None) -> tuple[Tensor, ...]:
        """images (B, 3, H, W) float RGB in [0, 1] -> proposals (B, P, 4) xyxy px, logits (B, P, C+1) with background
        first, deltas (B, P, 4*(C+1)) from the proposal, valid (B, P) bool: rows that hold a proposal.

        extents (B, 2): height and width px of each image, which lies at the canvas's top left; proposals are clipped to
        it, and pixels beyond it are replaced by the mean color. None: images fill their canvases."""
        settings = self.config.rpn
        maps = self.pyramid(images, extents)
        proposals, *_ = self.propose(maps, images, settings.test_pre_nms_top_k, settings.test_proposals, extents)
        logits, deltas = self.head(self.features(maps, proposals.boxes))
        return proposals.boxes, logits, deltas, proposals.valid

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Loss terms rpn_objectness, rpn_boxes, classes and boxes. `batch.keys` determines the samples.

        Proposals are always clipped to the canvas, since augmentation moves images away from the corner."""
        settings = self.config.rpn
        maps = self.pyramid(batch.images)
        count = settings.train_pre_nms_top_k, settings.train_proposals
        proposals, grid, objectness, deltas = self.propose(maps, batch.images, *count, rounds=TRAIN_NMS_ITERATIONS)
        keys = batch.labels.new_zeros(len(batch.labels)) if batch.keys is None else batch.keys
        first = self.rpn_targets(batch, grid, priorities(keys, len(grid)))
        # separate keys for the objects, since their number of padding rows depends on the rest of the batch
        priority = [priorities(keys + i, boxes.shape[1]) for i, boxes in ((1, batch.boxes), (2, proposals.boxes))]
        second = self.roi_targets(batch, proposals, torch.cat(priority, 1))
        logits, class_deltas = self.head(self.features(maps, second.boxes))
        if batch.labeled is not None:
            first = first._replace(sampled=first.sampled & self.reliable_samples(first, second, logits, batch.labeled))
        terms = self.rpn_loss(first, objectness, deltas)
        return terms | self.roi_loss(second, logits, class_deltas, batch.labels, batch.labeled, batch.class_weights)

    @torch.no_grad()
    def decode(self, raw: tuple[Tensor, ...], threshold: float) -> list[Detections]:
        """Boxes of all classes with probability >= threshold, canvas px, one entry per image, before NMS."""
        proposals, logits, deltas, valid = raw
        scores = logits.float().softmax(-1)[..., 1:] * valid[..., None]  # (B, P, C)
        image, row, label = ((scores >= threshold) & valid[..., None]).nonzero(as_tuple=True)
        chosen = _by_class(deltas.float())[image, row, label + 1]
        boxes = self.decode_boxes(chosen, proposals[image, row])
        counts = image.bincount(minlength=len(scores)).tolist()
        columns = (boxes, scores[image, row, label], label)
        return [Detections(*rows) for rows in zip(*(torch.split(column, counts) for column in columns), strict=True)]

    def decode_padded(self, raw: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """All boxes (B, P, C, 4) and their scores (B, P, C), as in `decode`; -1 where there is no proposal."""
        proposals, logits, deltas, valid = raw
        scores = torch.where(valid[..., None], logits.float().softmax(-1)[..., 1:], -1.0)
        of_class = _by_class(deltas.float())[:, :, 1:]
        return self.decode_boxes(of_class, proposals[:, :, None]), scores

    def decode_boxes(self, deltas: Tensor, proposals: Tensor) -> Tensor:
        """Deltas of the box head (..., 4), proposals (..., 4) -> boxes (..., 4) xyxy px."""
        return decode(deltas, proposals, self.delta_stds, self.config.plus_one, self.config.limit_shrink)

    def pyramid(self, images: Tensor, extents: Tensor | None = None) -> tuple[Tensor, ...]:
        """images (B, 3, H, W), extents (B, 2) -> maps (B, 256, h, w) at STRIDES."""
        pixels = self.normalize(images)
        if extents is not None:
            rows, columns = (torch.arange(side, device=images.device) for side in images.shape[-2:])
            inside = (rows < extents[:, :1])[:, :, None] & (columns < extents[:, 1:])[:, None]  # (B, H, W)
            pixels = torch.where(inside[:, None], pixels, 0)
        maps: tuple[Tensor, ...] = self.neck(self.backbone(pixels))
        return maps

    def propose(
        self,
        maps: tuple[Tensor, ...],
        images: Tensor,
        pre_nms_top_k: int,
        proposals: int,
        extents: Tensor | None = None,
        rounds: int = 0,
    ) -> tuple[Proposals, Tensor, Tensor, Tensor]:
        """Proposals, the anchors (N, 4), and the RPN's objectness (B, N) and deltas (B, N, 4)."""
        shapes = [level.shape[-2:] for level in maps]
        objectness, deltas = self.rpn(maps)
        steps: list[int | tuple[int, int]] = list(STRIDES)
        if self.config.anchor_steps == "sides":
            steps = [(images.shape[2] // h, images.shape[3] // w) for h, w in shapes]
        grid = anchors(self.base, shapes, steps)
        counts = [h * w * len(self.config.anchor_ratios) for h, w in shapes]
        if extents is None:
            extents = torch.stack([deltas.new_full(deltas.shape[:1], side) for side in images.shape[-2:]], 1)
        selected = propose(
            objectness.detach(),
            deltas.detach(),
            grid,
            counts,
            extents,
            pre_nms_top_k=pre_nms_top_k,
            proposals=proposals,
            iou=self.config.rpn.nms_iou,
            plus_one=self.config.plus_one,
            limit_shrink=self.config.limit_shrink,
            rounds=rounds,
        )
        return selected, grid, objectness, deltas

    def features(self, maps: tuple[Tensor, ...], boxes: Tensor) -> Tensor:
        """Maps of the pyramid, boxes (B, R, 4) xyxy px -> RoI features (B, R, 256, 7, 7)."""
        roi, plus_one = self.config.roi, self.config.plus_one
        return features_of(
            maps[:-1], boxes, STRIDES[:-1], aligned=roi.aligned, plus_one=plus_one, samples=roi.samples_per_bin
        )

    @torch.no_grad()
    def rpn_targets(self, batch: Batch, grid: Tensor, priority: Tensor) -> Targets:
        """Sampled anchors. grid (N, 4): all anchors. priority (B, N): higher ones are sampled first."""
        settings = self.config.rpn
        usable = torch.ones_like(grid[:, 0], dtype=torch.bool)
        if (border := settings.allowed_border) is not None:
            height, width = batch.images.shape[-2:]
            usable = (grid[:, :2] >= -border).all(-1)
            usable &= (grid[:, 2] <= width - 1 + border) & (grid[:, 3] <= height - 1 + border)
        images = len(batch.labels)
        boxes, usable = grid.expand(images, -1, -1), usable.expand(images, -1)
        return self._targets(batch, boxes, usable, priority, settings, settings.min_pos_iou, self.unit)

    @torch.no_grad()
    def roi_targets(self, batch: Batch, found: Proposals, priority: Tensor) -> Targets:
        """Sampled proposals; the objects' boxes are added in front of the proposals. priority: (B, M + P)."""
        settings = self.config.roi
        boxes = torch.cat((batch.boxes, found.boxes), 1)
        usable = torch.cat((batch.valid, found.valid), 1)
        return self._targets(batch, boxes, usable, priority, settings, settings.positive_iou, self.delta_stds)

    def _targets(
        self,
        batch: Batch,
        boxes: Tensor,
        usable: Tensor,
        priority: Tensor,
        settings: RPNConfig | RoIConfig,
        minimum: float,
        stds: Tensor,
    ) -> Targets:
        matches = match(
            boxes,
            usable,
            batch.boxes,
            batch.labels >= 0,
            batch.ignore,
            positive=settings.positive_iou,
            negative=settings.negative_iou,
            minimum=minimum,
            plus_one=self.config.plus_one,
        )
        positives, negatives = sample_balanced(matches, priority, settings.samples, settings.max_positives)
        index = torch.cat((positives.idx, negatives.idx), 1)
        is_positive = torch.cat((positives.sampled, torch.zeros_like(negatives.sampled)), 1)
        chosen = boxes.gather(1, index[..., None].expand(-1, -1, 4))
        matched = matches.matched_gt_idx.gather(1, index) * is_positive
        deltas = torch.zeros_like(chosen)
        if batch.boxes.shape[1]:
            objects = batch.boxes.gather(1, matched[..., None].expand(-1, -1, 4))
            deltas = encode(objects, chosen, stds, self.config.plus_one) * is_positive[..., None]
        sampled = torch.cat((positives.sampled, negatives.sampled), 1)
        return Targets(chosen, index, sampled, is_positive, matched, deltas)

    @torch.no_grad()
    def reliable_samples(self, anchors: Targets, proposals: Targets, logits: Tensor, labeled: Tensor) -> Tensor:
        """(B, K) bool: the RPN's samples, without background where the box head, with logits (B, K', C+1), predicts a
        class that was not looked for. The RPN does not predict classes."""
        found = proposals.sampled & ~proposals.positive & (logits.argmax(-1) > 0)
        found &= ~was_looked_for(logits[..., 1:], labeled)
        near = pairwise_iou(anchors.boxes, proposals.boxes, self.config.plus_one) >= self.config.rpn.negative_iou
        return anchors.positive | ~(near & found[:, None]).any(-1)

    def rpn_loss(self, targets: Targets, objectness: Tensor, deltas: Tensor) -> dict[str, Tensor]:
        """objectness (B, N), deltas (B, N, 4). Both terms are divided by `rpn.samples` per image."""
        logits = objectness.gather(1, targets.idx)
        predicted = deltas.gather(1, targets.idx[..., None].expand(-1, -1, 4))
        wrong = F.binary_cross_entropy_with_logits(logits, targets.positive.float(), reduction="none")
        # beta 1/9: Detectron's sigma of 3
        apart = F.smooth_l1_loss(predicted, targets.deltas, reduction="none", beta=1 / 9).sum(-1)
        count = self.config.rpn.samples * len(objectness)
        return {
            "rpn_objectness": (wrong * targets.sampled).sum() / count,
            "rpn_boxes": (apart * targets.positive).sum() / count,
        }

    def roi_loss(
        self,
        targets: Targets,
        logits: Tensor,
        deltas: Tensor,
        labels: Tensor,
        labeled: Tensor | None = None,
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """logits (B, K, C+1), deltas (B, K, 4*(C+1)), labels (B, M), labeled (B, C) and class_weights (C,) as in Batch.
        Both terms are divided by the actual number of samples; background has the weight 1."""
        truth = torch.zeros_like(targets.matched_gt_idx)
        if labels.shape[1]:
            truth = torch.where(targets.positive, labels.gather(1, targets.matched_gt_idx) + 1, 0)
        weights = None if class_weights is None else F.pad(class_weights, (1, 0), value=1.0)
        wrong = F.cross_entropy(logits.flatten(0, 1), truth.flatten(), weights, reduction="none").view_as(truth)
        of_class = truth[..., None, None].expand(-1, -1, 1, 4)
        predicted = _by_class(deltas).gather(2, of_class)[:, :, 0]
        apart = F.smooth_l1_loss(predicted, targets.deltas, reduction="none").sum(-1)
        count = across_processes(targets.sampled.sum().float(), minimum=1)
        if labeled is not None:
            wrong = wrong * (targets.positive | was_looked_for(logits[..., 1:], labeled))
        return {"classes": (wrong * targets.sampled).sum() / count, "boxes": (apart * targets.positive).sum() / count}


def _by_class(deltas: Tensor) -> Tensor:
    """(B, R, 4*(C+1)) -> (B, R, C+1, 4)."""
    return deltas.view(*deltas.shape[:2], -1, 4)


def build(config: Config) -> FasterRCNN:
    """Build the network with random weights; deformable layers start as ordinary convolutions scaled by one half."""
    return FasterRCNN(config)
