"""Scores a training run: python -m src.evaluate run=RUN_DIR [split=test]."""

import json
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from src.utils.cli import print_table, readable_errors


def evaluate(run_dir: Path, split: str) -> dict[str, float]:
    """Tests the best checkpoint of a run, beside the baselines that need no training.

    Args:
        run_dir: of a run of `src.train`.
        split: train, val or test.

    Returns:
        What was measured, keys `<split>/...`; also written to `RUN_DIR/<split>.json`.

    Raises:
        FileNotFoundError: no such run.
    """
    checkpoint = run_dir / "checkpoints" / "best.ckpt"
    if not checkpoint.is_file():
        raise FileNotFoundError(f"no {checkpoint}: give the directory of a training, run=RUN_DIR")
    cfg: Any = OmegaConf.load(run_dir / "config.yaml")
    module = instantiate(cfg.model)
    sizes = module.extractor.level_sizes(cfg.data.image_size)
    data = instantiate(cfg.data, test_split=split, level_sizes=sizes)
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    module.load_state_dict(content["state_dict"])
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, enable_model_summary=False)
    (tested,) = trainer.test(module, data, verbose=False)
    metrics = {key.replace("test/", f"{split}/"): value for key, value in tested.items()}
    text = json.dumps(metrics, indent=1, sort_keys=True)
    (run_dir / f"{split}.json").write_text(text + "\n", encoding="utf-8")
    return metrics


@hydra.main(config_path="../conf", config_name="evaluate", version_base="1.3")
@readable_errors
def main(cfg: DictConfig) -> None:
    """Evaluates and prints a table."""
    metrics = evaluate(Path(cfg.run), cfg.split)
    print_table(f"{cfg.run}, {cfg.split} split", dict(sorted(metrics.items())))


if __name__ == "__main__":
    main()
