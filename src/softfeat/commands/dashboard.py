"""Create a W&B dashboard: python -m src.dashboard project=PROJECT [entity=ENTITY]."""

from typing import TYPE_CHECKING, Any

import wandb
from omegaconf import DictConfig

from softfeat.commands.cli import command
from softfeat.training.loggers import has_credentials

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

_STEP = "trainer/global_step"


def workspace(project: str, entity: str) -> "Workspace":
    """Create the dashboard without saving it.

    Args:
        project: W&B project, the `logger.project` of the trainings.
        entity: W&B user or team that owns the project.

    Returns:
        Dashboard with a section for each topic.

    Raises:
        ImportError: If wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise ImportError(
            "the dashboard needs the extra dashboard: pip install 'softfeat[dashboard]', or in a "
            "checkout pip install '.[dashboard]'"
        ) from error
    return ws.Workspace(
        entity=entity,
        project=project,
        name="softfeat",
        sections=[
            ws.Section(name=name, panels=panels, is_open=True) for name, panels in _panels().items()
        ],
        settings=ws.WorkspaceSettings(x_axis=_STEP),
    )


def _panels() -> dict[str, list[Any]]:
    """Create the panels of each section."""
    import wandb_workspaces.reports.v2 as wr

    def line(name: str, **options: Any) -> wr.LinePlot:
        return wr.LinePlot(title=name, x=_STEP, y=[name], **options)

    def pictures(name: str) -> wr.MediaBrowser:
        return wr.MediaBrowser(title=name, media_keys=[name], num_columns=1)

    def number(name: str) -> wr.ScalarChart:
        return wr.ScalarChart(title=name, metric=name)

    coordinates = [
        wr.ParallelCoordinatesPlotColumn(wr.Config("model.optimizer.lr"), log=True),
        wr.ParallelCoordinatesPlotColumn(wr.Config("data.superpixels.count")),
        wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric("val/pair_auc.max")),
    ]
    return {
        "Training": [
            line("train/loss"),
            line("val/loss"),
            line("train/lr"),
            line("val/pair_auc"),
            line("val/miou"),
        ],
        "Segmentation": [
            line("val/miou"),
            line("val/pixel_accuracy"),
            line("val/class_accuracy"),
            line("val/fwiou"),
            wr.LinePlot(title="IoU by class", x=_STEP, metric_regex="val/iou/.*"),
            pictures("val/confusion"),
            wr.WeavePanelSummaryTable(table_name="val/iou_table"),
            pictures("val/segmentation"),
        ],
        "Features": [pictures("val/features")],
        "System": [
            line("system/images_per_s"),
            line("system/data_wait", range_y=(0, 1)),
            number("model/parameters"),
            number("model/gflops"),
        ],
        "Sweeps": [wr.ParallelCoordinatesPlot(columns=coordinates), wr.RunComparer(diff_only=True)],
    }


@command("dashboard", text=("project", "entity"))
def main(cfg: DictConfig) -> None:
    """Save the dashboard as a new view of the project, and print its address."""
    if not has_credentials():
        raise ValueError(
            "a dashboard is stored on W&B's server, which needs credentials: run wandb login, or "
            "set WANDB_API_KEY"
        )
    try:
        entity = cfg.entity or wandb.Api().default_entity
        if not entity:
            raise ValueError("the W&B account has no default entity: give entity=USER_OR_TEAM")
        workspace(cfg.project, entity).save()
    except wandb.Error as error:
        raise ValueError(f"W&B could not save the dashboard: {error}") from error


if __name__ == "__main__":
    main()
