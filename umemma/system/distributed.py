"""Who am I among the processes of a run, and what they tell one another.

Rank and size come from the environment: torchrun's (`torchrun --nproc-per-node 8 -m umemma ...`), else that of a Slurm
step (`srun umemma ...`), else this process is alone. Alone, every function here is free.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from umemma.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Result = TypeVar("Result")


class World(NamedTuple):
    """rank: 0..size-1; local_rank: the rank on this machine, which is also the number of its GPU."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0


def world() -> World:
    """UserError where the environment is torchrun's but makes no sense."""
    torchrun, slurm = (
        ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
        ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
    )
    for names in (
        torchrun,
        slurm,
    ):  # a batch script without srun has no SLURM_STEP_NUM_TASKS: it is alone
        if all(name in os.environ for name in names):
            try:
                found = World(*(int(os.environ[name]) for name in names))
            except ValueError:
                found = World(-1)
            if not 0 <= found.rank < found.size:
                values = ", ".join(f"{name}={os.environ[name]}" for name in names)
                raise UserError(
                    f"no rank in it: {values}", "environment", "Start it with torchrun or srun."
                )
            return found
    return World()


def is_main() -> bool:
    """Whether this is the process that writes files and speaks."""
    return world().rank == 0


def start() -> torch.device:
    """Join the other processes, and take this one's device. Once per process; alone there is nobody to join."""
    import torch
    from torch import distributed as dist

    rank, size, local_rank = world()
    cuda = torch.cuda.is_available()
    device = (
        torch.device("cuda", local_rank % torch.cuda.device_count())
        if cuda
        else torch.device("cpu")
    )
    if cuda:
        torch.cuda.set_device(device)
    if size > 1 and not dist.is_initialized():
        if (
            "MASTER_ADDR" not in os.environ
        ):  # Slurm: the first machine of the step, a port of the step's own
            os.environ["MASTER_ADDR"] = _first_host(
                os.environ.get("SLURM_STEP_NODELIST", "localhost")
            )
            step = int(os.environ.get("SLURM_JOB_ID", 0)) * 31 + int(
                os.environ.get("SLURM_STEP_ID", 0)
            )
            os.environ.setdefault("MASTER_PORT", str(20000 + step % 20000))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo", rank=rank, world_size=size
        )
    return device


def finish() -> None:
    """Part from the other processes, if there are any."""
    if _joined():
        from torch import distributed as dist

        dist.destroy_process_group()


def largest(numbers: Sequence[float]) -> Callable[[], list[float]]:
    """Ask for each number's largest value over all processes; the answer is waited for when it is called."""
    import torch
    from torch import distributed as dist

    both = torch.tensor(numbers, dtype=torch.float64)
    work = dist.all_reduce(both, dist.ReduceOp.MAX, async_op=True) if world().size > 1 else None

    def answer() -> list[float]:
        if work is not None:
            work.wait()
        return both.tolist()

    return answer


def everyone(value: Any) -> list[Any]:
    """The values of all processes, by rank. Plain data, small."""
    if world().size == 1:
        return [value]
    from torch import distributed as dist

    values: list[Any] = [None] * world().size
    dist.all_gather_object(values, value)
    return values


def rows(mine: Tensor, total: int) -> Tensor:
    """(total, ...) of all processes from the (n, ...) of each, on the CPU: of rank r come the rows r, r + size, ..."""
    size = world().size
    if size == 1:
        return mine
    import torch
    from torch import distributed as dist

    most = -(-total // size)
    padded = mine.new_zeros((most, *mine.shape[1:]))
    padded[: len(mine)] = mine
    flat = (
        padded.contiguous().view(torch.uint8).flatten()
        if padded.numel()
        else padded.new_zeros(0, dtype=torch.uint8)
    )
    parts = [torch.empty_like(flat) for _ in range(size)]
    dist.all_gather(parts, flat)
    return torch.stack([part.view(mine.dtype).view(padded.shape) for part in parts], 1).flatten(
        0, 1
    )[:total]


def spread(tensors: Iterable[Tensor]) -> None:
    """The tensors become what they are in the main process, in place."""
    if world().size > 1:
        from torch import distributed as dist

        for tensor in tensors:
            dist.broadcast(tensor, 0)


def share(total: int) -> range:
    """The rows of this process, such that `rows` puts them together again."""
    return range(world().rank, total, world().size)


def together(function: Callable[[], Result]) -> Result:
    """`function()`, and a UserError of any process becomes one of all, so that none waits for one that has gone."""
    result, error = None, None
    try:
        result = function()
    except UserError as caught:
        error = caught
    first = next((one for one in everyone(error) if one is not None), None)
    if first is not None:
        raise error or first
    return result  # type: ignore[return-value]


def first_to_say(text: str) -> bool:
    """Whether no other process has said the same yet. Processes fail alike; the user should read it once."""
    if not _joined():
        try:
            return is_main()
        except UserError:
            return True
    from torch import distributed as dist

    try:
        return int(dist.distributed_c10d._get_default_store().add(f"said: {text}", 1)) == 1
    except RuntimeError:  # the process that kept the count is gone
        return True


def _joined() -> bool:
    if "torch" not in sys.modules:
        return False
    from torch import distributed as dist

    return dist.is_initialized()


def _first_host(nodes: str) -> str:
    """The first machine of a Slurm list such as "gpu[07-09,12],login1": "gpu07"."""
    match = re.match(r"([^\[,]+)(?:\[(\w+))?", nodes)
    return (match[1] + (match[2] or "")) if match else "localhost"
