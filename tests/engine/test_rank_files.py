"""Tensors that ranks wrote in parts are read whole, or in the parts of any other number of ranks."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from accord.engine.checkpoint import RankFiles, write_rank_file
from accord.engine.groups import axis_of
from accord.engine.team import Team


class Share:
    """What one of several ranks holds of a tensor: rows, as `torch.chunk` has them, as fully_shard does, or of experts
    that are fewer than ranks rows of each; of one copy, where ranks hold several."""

    def __init__(self, whole: Tensor, rank: int, size: int, copy: int | None = None) -> None:
        self.shape, self.dtype = whole.shape, whole.dtype
        place = [rank] if copy is None else [copy, rank]
        self.device_mesh = SimpleNamespace(get_coordinate=lambda: place, size=lambda axis: {len(place) - 1: size}[axis])
        self.placements = (SimpleNamespace(dim=(axis := axis_of(whole.shape, size))),)
        chunks = [*torch.chunk(whole, size, axis)]
        self.rows = chunks[rank] if rank < len(chunks) else whole[:0]

    def to_local(self) -> Tensor:
        return self.rows

    def full_tensor(self) -> Tensor:
        raise AssertionError("nobody needs the whole")


@given(rows=st.integers(1, 9), wrote=st.integers(1, 5), reads=st.integers(1, 5), copies=st.integers(1, 3))
def test_any_number_of_ranks_reads_what_any_number_wrote(rows: int, wrote: int, reads: int, copies: int) -> None:
    whole = {
        "matrix": torch.randn(rows, 3),
        "vector": torch.randn(rows).to(torch.bfloat16),
        "experts": torch.randn(2, 60, 3),
    }
    count = torch.tensor(7.0)

    def shares(rank: int, size: int, copy: int | None = None) -> dict[str, Share | Tensor]:
        return {name: Share(tensor, rank, size, copy) if size > 1 else tensor for name, tensor in whole.items()}

    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        for rank in range(wrote * (copies if wrote > 1 else 1)):
            patch.setattr(Team, "here", lambda rank=rank: Team(rank, wrote * (copies if wrote > 1 else 1)))
            own = shares(rank % wrote, wrote, None if copies == 1 else rank // wrote)
            file = write_rank_file(folder, "policy", {**own, "count": count})  # type: ignore[dict-item]
            assert (file is not None) == (rank < wrote)
        files = [file.name for file in folder.iterdir()]
        assert len(files) == wrote and all(load_file(folder / file) is not None for file in files)
        for rank in range(reads):
            patch.setattr(Team, "here", lambda rank=rank: Team(rank, reads))
            found = RankFiles(folder, "policy", [*files, "policy-2.safetensors", "optimizer.safetensors"])
            assert found.shapes == {"matrix": (rows, 3), "vector": (rows,), "experts": (2, 60, 3), "count": ()}
            for key, share in shares(rank, reads).items():
                expected = share.to_local() if isinstance(share, Share) else share
                assert torch.equal(found.share(key, share), expected)  # type: ignore[arg-type]
            assert torch.equal(found.share("count", shares(rank, reads)["matrix"]), count)  # type: ignore[arg-type]
