from pathlib import Path

import torch
from torch import distributed, multiprocessing, nn

from softfeat.training.ddp import share_buffers, share_of_mean


def work(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    norm = nn.BatchNorm1d(2)
    norm.running_mean += rank  # type: ignore[operator]
    share_buffers(norm)
    found = {
        "share": share_of_mean(torch.tensor([1.0, 3.0][rank])),
        "nothing": share_of_mean(torch.tensor(0)),
        "mean": norm.running_mean,
    }
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_agree(tmp_path: Path) -> None:
    multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert (first["share"], second["share"]) == (0.5, 1.5)
    assert first["nothing"] == second["nothing"] == 0
    assert torch.equal(second["mean"], torch.zeros(2))


def test_one_process_has_all() -> None:
    assert share_of_mean(torch.tensor(7)) == 1
    share_buffers(nn.BatchNorm1d(2))
