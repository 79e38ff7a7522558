"""All figures of a report, by the part of the page they stand in."""

from __future__ import annotations

from dataclasses import dataclass, fields

from genzoo_reports.counts import class_histogram, mode_maps
from genzoo_reports.curves import loss_curves, sweep_curves
from genzoo_reports.figures import Drawing
from genzoo_reports.planes import precision_recall_plane, quality_planes
from genzoo_reports.tables import Table


@dataclass(frozen=True)
class Charts:
    """Figures by part; empty where nothing was recorded to draw.

    Attributes:
        quality: against cost, and precision against recall.
        classes: shares of the classes.
        modes: a map of the known modes a model.
        training: quality along the training.
        steps: quality against sampling steps.
        guidance: quality against guidance.
        losses: of each model and phase.
    """

    quality: tuple[Drawing, ...]
    classes: tuple[Drawing, ...]
    modes: tuple[Drawing, ...]
    training: tuple[Drawing, ...]
    steps: tuple[Drawing, ...]
    guidance: tuple[Drawing, ...]
    losses: tuple[Drawing, ...]

    def all(self) -> list[Drawing]:
        """In the page's order."""
        return [drawing for field in fields(self) for drawing in getattr(self, field.name)]


def charts(table: Table) -> Charts:
    """Everything that the recorded scores, sweeps and histories allow."""
    return Charts(
        quality=(*quality_planes(table), *precision_recall_plane(table)),
        classes=tuple(class_histogram(table)),
        modes=tuple(mode_maps(table)),
        training=tuple(sweep_curves(table, "training")),
        steps=tuple(sweep_curves(table, "steps")),
        guidance=tuple(sweep_curves(table, "guidance")),
        losses=tuple(loss_curves(table)),
    )
