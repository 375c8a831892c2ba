"""The papers' mathematics as pure functions: fast ones, and beside them the plain references that they are tested
against."""

from segweave.ops.region_attention import jensen_shannon_divergence, line_maximum, region_attention
from segweave.ops.regions import group_regions, representative_scores

__all__ = [
    "group_regions",
    "jensen_shannon_divergence",
    "line_maximum",
    "region_attention",
    "representative_scores",
]
