"""AGLN: Attention guided Global enhancement and Local refinement Network.

Li, Zha, Chen, Ding, Zhang, Yu, "Attention Guided Global Enhancement and Local Refinement Network for Semantic
Segmentation", IEEE Transactions on Image Processing 2022. Equations 1 to 6 are named where they are computed. What the
text leaves open, and how we read it (the parameters and multiply-adds of Table VIII come out with this reading):

- Everything that AGLN shares with its baseline FPN is as in `segweave.networks.fpn`.
- Eq. 1 and 2: the 1x1 convolutions (phi, theta; varphi) have a bias and no batch norm.
- Eq. 4 as printed multiplies a (C, HW) by a (C, C) matrix. Its softmax runs over the encoder's channels, and each
  resampled channel is the mean of the encoder's that this weights. The affinity, a sum over pixels, is divided by
  their number by default; `affinity_scaling: none` is as printed.
- By default the encoder's map B itself is added: ``G = B + gamma F sigmoid(M)``, gamma learned from 0, as in the
  authors' release and in DANet's channel attention, which Eq. 4 is derived from. `shortcut: false` is Eq. 5 as printed.
- AGLN-minus (Tables IV and V) leaves out the refinement and nothing else: Eq. 6 with the encoder's map itself.
- Densely connected decoder (Figure 4b): every stage takes the descriptors of all stages before it, the oldest first.
- AGLN-Lite has a depthwise 3x3 and a 1x1 convolution, then batch norm and ReLU, for each 3x3 of the fusion blocks.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from segweave.networks.backbones import Backbone
from segweave.networks.fpn import DecoderHead, Laterals
from segweave.networks.layers import BatchNorm2d, ConvNormAct, resize_like
from segweave.networks.network import SegmentationNetwork, position_of

# Shapes: B images, C channels of the decoder, N semantic descriptors, h x w the size of the map that is aggregated,
# H x W the size of a decoder stage

STAGES = ("res4", "res3", "res2")
"""The encoder maps that the decoder's stages after the first take in, from coarse to fine."""
STRAIGHT_BLOCKS = (("1_1",), ("1_2",), ("1_3",))
"""The context fusion blocks of each stage in the straight decoder (Figure 4a), named as there: n_k is SAB n's k-th."""
DENSE_BLOCKS = (("1_1",), ("1_2", "2_1"), ("1_3", "2_2", "3_1"))
"""Those of the densely connected decoder (Figure 4b)."""


class AGLN(SegmentationNetwork):
    """AGLN, Attention guided Global enhancement and Local refinement Network (Section III, Figure 2).

    By default the decoder is Table VII's dense one, the paper's best. The rows of Tables IV to VIII are options.

    Args:
        backbone: The source of res2 to res5.
        num_classes: K.
        channels: C, the width of the decoder.
        head_channels: Width of the head's 3x3 convolution.
        lateral_kernel_size: Of the convolutions on res2 to res4: 1 (Table VIII) or 3 (Section IV-A).
        descriptors: N, the number of semantic descriptors (Table IV); average pooling gives one, whatever is asked for.
        global_pooling: How descriptors are gathered: by "attention" (GEM), or one by "average" (GAP-GEM, Table IV).
        channel_resampling: Whether the encoder's maps are refined by channel resampling (CR, Table V).
        spatial_gating: Whether they are refined by spatial gating (SG, Table V). Without both it is AGLN-minus.
        learnable_alpha: Whether alpha (Eq. 3) is learned, from 0; else it is 1 (Table VI).
        learnable_beta: Whether beta (Eq. 6) is learned, from 1; else it is 1 (Table VI).
        dense: Whether the decoder is densely connected (Table VII, Figure 4b) or straight (Figure 4a).
        lite: Whether fusion blocks have depthwise separable convolutions: AGLN-Lite (Table VIII).
        affinity_scaling: What the affinity of Eq. 4 is divided by: nothing (as printed), the number of pixels ("mean"),
            or its square root.
        shortcut: Whether the encoder's map also passes beside its refinement, which then is scaled by a gamma that is
            learned from 0; else the refinement is Eq. 5 as printed.
        dropout: Probability with which the head's input channels are dropped in training.
    """

    default_output_stride: ClassVar[int] = 32
    former_names: ClassVar[Mapping[str, str]] = {
        r"aggregations\.": "sabs.",
        r"decoder\.0\.0\.": "cfbs.1_1.",
        r"decoder\.1\.0\.": "cfbs.1_2.",
        r"decoder\.1\.1\.": "cfbs.2_1.",
        r"decoder\.2\.0\.": "cfbs.1_3.",
        r"decoder\.2\.1\.": "cfbs.2_2.",
        r"decoder\.2\.2\.": "cfbs.3_1.",
        r"(cfbs\.\d_\d)\.distribution\.": r"\1.sdm.",
        r"(cfbs\.\d_\d)\.refinement\.": r"\1.lrm.",
    }

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        channels: int = 256,
        head_channels: int = 512,
        lateral_kernel_size: Literal[1, 3] = 1,
        descriptors: int = 128,
        global_pooling: Literal["attention", "average"] = "attention",
        channel_resampling: bool = True,
        spatial_gating: bool = True,
        learnable_alpha: bool = True,
        learnable_beta: bool = True,
        dense: bool = True,
        lite: bool = False,
        affinity_scaling: Literal["none", "square_root", "mean"] = "mean",
        shortcut: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(backbone=backbone, num_classes=num_classes)
        self.laterals = Laterals(backbone.channels, channels, kernel_size=lateral_kernel_size)
        if global_pooling == "average":
            descriptors = 1
        self.dense = dense
        self.sabs = nn.ModuleList(
            SemanticAggregation(channels, descriptors, global_pooling=global_pooling) for _ in range(3 if dense else 1)
        )

        def cfb() -> ContextFusion:
            return ContextFusion(
                channels,
                SemanticDistribution(channels, descriptors, learnable_alpha=learnable_alpha, lite=lite),
                LocalRefinement(
                    channel_resampling=channel_resampling,
                    spatial_gating=spatial_gating,
                    affinity_scaling=affinity_scaling,
                    shortcut=shortcut,
                ),
                learnable_beta=learnable_beta,
                lite=lite,
            )

        blocks = DENSE_BLOCKS if dense else STRAIGHT_BLOCKS
        self.cfbs = nn.ModuleDict({name: cfb() for names in blocks for name in names})
        self.head = DecoderHead(len(backbone.channels), channels, head_channels, num_classes, dropout=dropout)

    def forward(self, images: Tensor) -> Tensor:
        return resize_like(self.head(self._stages(images)), images)

    def explain(self, images: Tensor, at: tuple[int, int] | None = None) -> dict[str, Tensor]:
        """What Figures 3 and 5 show, and what it comes from.

        Returns:
            `attention_1` (and with the dense decoder `attention_2`, `attention_3`): the attention maps of the semantic
            aggregation blocks, (B, N, h, w). For each stage, of its last fusion block, with S one of res4, res3, res2:
            `decoder_S` (A), `descriptor_map_S` (M), `enhanced_S` (E), `encoder_S` (B), `refined_S` (G), and
            `gate_S` (sigmoid of M) if there is spatial gating: (B, C, H, W). With `at`, for each stage S and each
            block n whose descriptors it is given, `attention_n_at_S`: where the descriptors that the pixel is given
            were gathered, (B, 1, h, w), of sum 1: its own mixture of the attention maps, A_av (Eq. 2) over X_am
            (Eq. 1).
        """
        *encoder_maps, decoder_map = self.laterals(self.backbone(images))
        names = DENSE_BLOCKS if self.dense else STRAIGHT_BLOCKS
        descriptors, attention = [], []
        explained, looks = {}, {}
        for number, (stage, encoder_map, blocks) in enumerate(zip(STAGES, reversed(encoder_maps), names, strict=True)):
            if number < len(self.sabs):
                sab = self.sabs[number]
                assert isinstance(sab, SemanticAggregation)
                descriptors.append(sab(decoder_map))
                attention.append(sab.attention(decoder_map))  # (B, N, h, w)
                explained[f"attention_{number + 1}"] = attention[number]
            decoder_map = resize_like(decoder_map, encoder_map)
            context: dict[str, Tensor] = {}
            for block, gathered, given in zip(blocks, attention, descriptors, strict=True):
                cfb = self.cfbs[block]
                assert isinstance(cfb, ContextFusion)
                if at is not None:
                    row, column = position_of(at, images, decoder_map)
                    mixture = cfb.sdm.attention(decoder_map)[:, :, row, column]  # (B, N)
                    look = torch.einsum("bn,bnhw->bhw", mixture, gathered)
                    looks[f"attention_{block[0]}_at_{stage}"] = look[:, None]
                context = cfb.context(given, decoder_map, encoder_map)
                decoder_map = cfb.merged(context["enhanced"], context["refined"])
            explained |= {f"{name}_{stage}": x for name, x in context.items()}
        return explained | looks

    def _stages(self, images: Tensor) -> list[Tensor]:
        """The stages of the decoder from coarse to fine, (B, C, H_i, W_i)."""
        res2, res3, res4, x = self.laterals(self.backbone(images))
        return self._dense(res2, res3, res4, x) if self.dense else self._straight(res2, res3, res4, x)

    def _straight(self, res2: Tensor, res3: Tensor, res4: Tensor, x: Tensor) -> list[Tensor]:
        """Figure 4a: one SAB, whose descriptors go to every stage."""
        (sab1,), cfbs = self.sabs, self.cfbs
        d1 = sab1(x)  # (B, C, N)
        at_16 = cfbs["1_1"](d1, resize_like(x, res4), res4)
        at_8 = cfbs["1_2"](d1, resize_like(at_16, res3), res3)
        at_4 = cfbs["1_3"](d1, resize_like(at_8, res2), res2)
        return [x, at_16, at_8, at_4]

    def _dense(self, res2: Tensor, res3: Tensor, res4: Tensor, x: Tensor) -> list[Tensor]:
        """Figure 4b: a SAB on each of the first three stages, whose descriptors go to every later one."""
        (sab1, sab2, sab3), cfbs = self.sabs, self.cfbs
        d1 = sab1(x)  # (B, C, N), as d2 and d3
        at_16 = cfbs["1_1"](d1, resize_like(x, res4), res4)

        d2 = sab2(at_16)
        at_8 = cfbs["1_2"](d1, resize_like(at_16, res3), res3)
        at_8 = cfbs["2_1"](d2, at_8, res3)

        d3 = sab3(at_8)
        at_4 = cfbs["1_3"](d1, resize_like(at_8, res2), res2)
        at_4 = cfbs["2_2"](d2, at_4, res2)
        at_4 = cfbs["3_1"](d3, at_4, res2)
        return [x, at_16, at_8, at_4]


class SemanticAggregation(nn.Module):
    """SAB, Semantic Aggregation Block: gathers semantic descriptors from a map by global attention pooling (Eq. 1).

    ``D = X_feat X_am^T``, with ``X_feat = phi(X)`` and ``X_am = softmax(theta(X))`` over the positions.

    Args:
        channels: C.
        descriptors: N.
        global_pooling: "attention", or "average" for global average pooling in its place (GAP-GEM, Table IV): every
            attention map is uniform, so that all descriptors are one.
    """

    def __init__(
        self, channels: int, descriptors: int, *, global_pooling: Literal["attention", "average"] = "attention"
    ) -> None:
        super().__init__()
        self.descriptors = descriptors
        self.features = nn.Conv2d(channels, channels, kernel_size=1)  # phi
        self.attend = (
            nn.Conv2d(channels, descriptors, kernel_size=1) if global_pooling == "attention" else None
        )  # theta

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, N)."""
        return self.features(x).flatten(2) @ self.attention(x).flatten(2).mT

    def attention(self, x: Tensor) -> Tensor:
        """The attention maps, each of sum 1: (B, C, h, w) -> (B, N, h, w)."""
        size = x.shape[-2:]
        if self.attend is None:
            return x.new_full((x.shape[0], self.descriptors, *size), 1 / size.numel())
        return self.attend(x).flatten(2).softmax(dim=2).unflatten(2, size)


class SemanticDistribution(nn.Module):
    """SDM, Semantic Distribution Module: gives each position its own mixture of the descriptors (Eq. 2, 3).

    ``M = D A_av`` with ``A_av = softmax(varphi(A))`` over the descriptors, and ``E = Psi(A + alpha M)``.

    Args:
        channels: C.
        descriptors: N.
        learnable_alpha: Whether alpha is learned, from 0, so that training starts without the descriptors; else it is
            1.
        lite: Whether Psi is a depthwise separable convolution.
    """

    def __init__(self, channels: int, descriptors: int, *, learnable_alpha: bool = True, lite: bool = False) -> None:
        super().__init__()
        self.attend = nn.Conv2d(channels, descriptors, kernel_size=1)  # varphi
        self.alpha: nn.Parameter | float = _scalar(0.0) if learnable_alpha else 1.0
        self.enhance = _fusion_convolution(channels, lite)  # Psi

    def forward(self, descriptors: Tensor, decoder_map: Tensor) -> tuple[Tensor, Tensor]:
        """Distributes the descriptors.

        Args:
            descriptors: D, (B, C, N).
            decoder_map: A, (B, C, H, W).

        Returns:
            The enhanced decoder map E and the semantic descriptor map M, each (B, C, H, W).
        """
        attention = self.attention(decoder_map)
        # Position by position, so that M lies in memory as the convolutions' maps do (channels last)
        descriptor_map = (attention.flatten(2).mT @ descriptors.mT).mT.unflatten(2, decoder_map.shape[-2:])
        return self.enhance(decoder_map + self.alpha * descriptor_map), descriptor_map

    def attention(self, decoder_map: Tensor) -> Tensor:
        """A_av, how much of each descriptor a position is given, of sum 1: (B, C, H, W) -> (B, N, H, W)."""
        scores: Tensor = self.attend(decoder_map)
        return scores.softmax(dim=1)


class LocalRefinement(nn.Module):
    """LRM, Local Refinement Module: an encoder map without its noise (Section III-B, Eq. 4 and 5).

    Channel resampling, ``F = softmax(E B^T) B`` over the encoder's channels, and spatial gating, ``F sigmoid(M)``; the
    result is ``G = B + gamma F sigmoid(M)``.

    Args:
        channel_resampling: Whether the first is done; else F = B.
        spatial_gating: Whether the second is done; else F takes the place of F sigmoid(M). Without both, G = B.
        affinity_scaling: What the affinity E B^T is divided by: "none", the number of pixels ("mean") or its square
            root ("square_root").
        shortcut: Whether B is added, with gamma learned from 0; else G = F sigmoid(M), as printed.
    """

    def __init__(
        self,
        *,
        channel_resampling: bool = True,
        spatial_gating: bool = True,
        affinity_scaling: Literal["none", "square_root", "mean"] = "mean",
        shortcut: bool = True,
    ) -> None:
        super().__init__()
        self.channel_resampling = channel_resampling
        self.spatial_gating = spatial_gating
        self.gamma = _scalar(0.0) if shortcut and (channel_resampling or spatial_gating) else None
        self.affinity_exponent = {"none": 1, "square_root": 0, "mean": -1}[affinity_scaling]  # of the root of HW

    def forward(self, encoder_map: Tensor, enhanced: Tensor, descriptor_map: Tensor) -> Tensor:
        """Refines B with the guidance of E and M; all of them, and the result G, are (B, C, H, W)."""
        refined = self.resample(encoder_map, enhanced) if self.channel_resampling else encoder_map
        if self.spatial_gating:
            refined = refined * descriptor_map.sigmoid()
        return refined if self.gamma is None else encoder_map + self.gamma * refined

    def resample(self, encoder_map: Tensor, enhanced: Tensor) -> Tensor:
        """Channel resampling (Eq. 4): F, (B, C, H, W)."""
        size = encoder_map.shape[-2:]
        root = size.numel() ** 0.5
        encoder_pixels = encoder_map.flatten(2).mT  # (B, HW, C)
        # Divided by the root before the sum over pixels, the affinity stays within the range of half precision
        affinity = (enhanced.flatten(2) / root) @ encoder_pixels  # (B, C of the decoder, C of the encoder)
        affinity = affinity.to(torch.promote_types(affinity.dtype, torch.float32)) * root**self.affinity_exponent
        attention = affinity.softmax(dim=2).to(encoder_pixels.dtype)
        return (encoder_pixels @ attention.mT).mT.unflatten(2, size)


class ContextFusion(nn.Module):
    """CFB, Context Fusion Block: global enhancement and local refinement of one decoder stage (Section III-C, Eq. 6).

    ``O = Phi(E + beta G)``.

    Args:
        channels: C.
        sdm: Gives E and M.
        lrm: Gives G.
        learnable_beta: Whether beta is learned, from 1; else it is 1.
        lite: Whether Phi is a depthwise separable convolution.
    """

    def __init__(
        self,
        channels: int,
        sdm: SemanticDistribution,
        lrm: LocalRefinement,
        *,
        learnable_beta: bool = True,
        lite: bool = False,
    ) -> None:
        super().__init__()
        self.sdm = sdm
        self.lrm = lrm
        self.beta: nn.Parameter | float = _scalar(1.0) if learnable_beta else 1.0
        self.fuse = _fusion_convolution(channels, lite)  # Phi

    def forward(self, descriptors: Tensor, decoder_map: Tensor, encoder_map: Tensor) -> Tensor:
        """D (B, C, N), A (B, C, H, W), B (B, C, H, W) -> O (B, C, H, W)."""
        enhanced, descriptor_map = self.sdm(descriptors, decoder_map)
        refined = self.lrm(encoder_map, enhanced, descriptor_map)
        return self.merged(enhanced, refined)

    def merged(self, enhanced: Tensor, refined: Tensor) -> Tensor:
        """Eq. 6: E and G to O, (B, C, H, W) each."""
        return self.fuse(enhanced + self.beta * refined)

    def context(self, descriptors: Tensor, decoder_map: Tensor, encoder_map: Tensor) -> dict[str, Tensor]:
        """All that Eq. 2 to 5 compute on the way to what `forward` gives, by name."""
        enhanced, descriptor_map = self.sdm(descriptors, decoder_map)
        refined = self.lrm(encoder_map, enhanced, descriptor_map)
        context = {
            "decoder": decoder_map,
            "descriptor_map": descriptor_map,
            "enhanced": enhanced,
            "encoder": encoder_map,
            "refined": refined,
        }
        if self.lrm.spatial_gating:
            context["gate"] = descriptor_map.sigmoid()
        return context


def _scalar(value: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(value))


def _fusion_convolution(channels: int, lite: bool) -> nn.Sequential:
    """The 3x3 convolution of Eq. 3 and Eq. 6, with batch norm and ReLU; depthwise separable in AGLN-Lite."""
    if not lite:
        return ConvNormAct(channels, channels, 3)
    return nn.Sequential(
        nn.Conv2d(channels, channels, kernel_size=3, padding=1, groups=channels, bias=False),
        nn.Conv2d(channels, channels, kernel_size=1, bias=False),
        BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )
