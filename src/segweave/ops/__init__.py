"""The papers' mathematics as pure functions: fast ones, and beside them the plain references that they are tested
against."""

from segweave.ops.local_mixture_of_softmaxes import dense_local_mixture_of_softmaxes, local_mixture_of_softmaxes
from segweave.ops.mixture_of_softmaxes import dense_mixture_of_softmaxes, mixture_of_softmaxes
from segweave.ops.region_attention import jensen_shannon_divergence, line_maximum, region_attention
from segweave.ops.regions import group_regions, representative_scores

__all__ = [
    "dense_local_mixture_of_softmaxes",
    "dense_mixture_of_softmaxes",
    "group_regions",
    "jensen_shannon_divergence",
    "line_maximum",
    "local_mixture_of_softmaxes",
    "mixture_of_softmaxes",
    "region_attention",
    "representative_scores",
]
